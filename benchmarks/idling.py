"""What silent WebSocket sessions cost: ``python -m benchmarks.idling``.

Five thousand of them, opened through the gateway to an echo server, and then nothing: resident memory of the gateway for
each session, and the share of a core that it uses meanwhile. The peer is measured the same way where it is installed.
Needs open files for two sockets a session; says so and ends well where it cannot have them.
"""

import asyncio
import base64
import os
import resource
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks.servers import LOAD_CORE, Server, free_port, pinned, raise_open_files, running
from benchmarks.subjects import ROOT, SUBJECTS, Place

SESSIONS = 5000
AT_ONCE = 100
SECONDS = 10
NAMES = ("proxyroutes router", "proxyroutes app", "fastapi-reverse-proxy")


def resident_bytes(pid: int) -> int:
    """What a process has in memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_seconds(pid: int) -> float:
    """What a process has used of a core so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def open_session(port: int) -> asyncio.StreamWriter:
    """One handshake, and nothing after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(head[:80].decode("latin-1"))
    return writer


async def measure(port: int, pid: int) -> tuple[float, float]:
    """KiB for one session, and the share of a core while all are silent."""
    for writer in [await open_session(port) for _ in range(AT_ONCE)]:
        writer.transport.abort()
    await asyncio.sleep(1)
    before = resident_bytes(pid)
    writers: list[asyncio.StreamWriter] = []
    for _ in range(SESSIONS // AT_ONCE):
        writers += await asyncio.gather(*[open_session(port) for _ in range(AT_ONCE)])
    await asyncio.sleep(2)
    each = (resident_bytes(pid) - before) / SESSIONS / 1024
    used = cpu_seconds(pid)
    await asyncio.sleep(SECONDS)
    share = (cpu_seconds(pid) - used) / SECONDS
    for writer in writers:
        writer.transport.abort()
    return each, share


def main() -> None:
    """Measure and print."""
    if raise_open_files() < 2 * SESSIONS + 1000:
        print(f"skipped: {SESSIONS} sessions need {2 * SESSIONS + 1000} open files")
        return
    os.sched_setaffinity(0, pinned(LOAD_CORE))
    with tempfile.TemporaryDirectory(prefix="proxyroutes-bench-") as name:
        folder, echo_port = Path(name), free_port()
        command = [sys.executable, "-m", "benchmarks.sockets", str(echo_port)]
        echo = Server("echo", command, echo_port, {"PYTHONPATH": str(ROOT)}, folder, LOAD_CORE)
        with running([echo]):
            for subject in SUBJECTS:
                if subject.name not in NAMES:
                    continue
                if subject.find() is None:
                    print(f"{subject.name:24s} absent, needs {subject.needs}")
                    continue
                server = subject.start(Place(free_port(), echo_port, echo_port, echo_port, folder))
                with running([server]):
                    each, share = uvloop.run(measure(server.port, server.process.pid))
                print(f"{subject.name:24s} {each:8.1f} KiB a session {share:8.1%} of a core")


if __name__ == "__main__":
    main()
