"""Back-pressure: a gateway keeps little of a stream, however long it is and however slow its reader."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from tests.integration.support import RawClient, eventually, make_request

pytestmark = [
    pytest.mark.requirement("E-06"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"),
    pytest.mark.parametrize("transport", ["Http1Transport", "HttpxTransport"]),
]

GIB = 2**30
PIECE = bytes(2**18)
LIMIT = 32 * 2**20


@contextlib.asynccontextmanager
async def gateway_process(transport, url):
    """A gateway in a process of its own: its number and its port."""
    command = ["-m", "tests.integration.gateway_process", transport, "httptools", "router", url]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=pipe, stdout=pipe
    )
    try:
        yield process.pid, int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


def memory_of(pid, name):
    """A figure of a process's memory in bytes: ``VmRSS`` is resident now, ``VmHWM`` was at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def forget_peak(pid):
    """Begin to measure the most that is resident anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def stalls(count):
    """Wait until a counter has moved and then stood still for a while, and give what it came to."""
    await eventually(count)
    still, before = 0, -1
    while still < 10:
        await asyncio.sleep(0.02)
        still = still + 1 if count() == before else 0
        before = count()
    return before


class Origin:
    """Plain streams: what it sends or takes is counted, and it reads only when it is told to."""

    def __init__(self):
        self.sent = self.received = 0
        self.may_read = asyncio.Event()

    async def serve(self, reader, writer):
        """Answer one request, with a gibibyte or after taking one."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /small"):
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                )
            elif head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
                while self.sent < GIB:
                    writer.write(PIECE)
                    await writer.drain()
                    self.sent += len(PIECE)
            else:
                await self.take(reader)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    async def take(self, reader):
        """Read a chunked body, once it may."""
        await self.may_read.wait()
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            part = await reader.read(2**20)
            assert part, "the upload was cut off"
            self.received += len(part)
            tail = (tail + part)[-7:]


@contextlib.asynccontextmanager
async def running(transport):
    """An origin, a gateway in front of it, and a client; the gateway has served before."""
    origin = Origin()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, limit=2**20)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, gateway_process(transport, url) as (pid, port):
        for _ in range(20):
            warm = await RawClient.connect(port)
            await warm.ask(make_request("/small"))
            await warm.close()
        client = await RawClient.connect(port)
        yield origin, pid, client
        await client.close()


@pytest.mark.timeout(120)
async def test_a_download_of_one_gibibyte_is_not_kept(transport, capsys):
    """A client that does not read stalls the upstream, and one that reads again gets every byte."""
    async with running(transport) as (origin, pid, client):
        forget_peak(pid)
        before = memory_of(pid, "VmRSS")
        client.writer.transport.pause_reading()
        await client.send(make_request())
        stalled_at = await stalls(lambda: origin.sent)
        client.writer.transport.resume_reading()
        await client.read_head()
        received = 0
        while received < GIB:
            part = await client.reader.read(2**20)
            assert part, "the download was cut off"
            received += len(part)
        grown = memory_of(pid, "VmHWM") - before
        with capsys.disabled():
            print(
                f"\nmemory {grown / 2**20:5.1f} MiB  download  {transport}  stalled at {stalled_at / 2**20:.1f} MiB"
            )

        assert GIB == received
        assert stalled_at < LIMIT
        assert grown < LIMIT


@pytest.mark.timeout(120)
async def test_an_upload_of_one_gibibyte_is_not_kept(transport, capsys):
    """An upstream that does not read stalls the client, and one that reads again gets every byte."""
    async with running(transport) as (origin, pid, client):
        forget_peak(pid)
        before = memory_of(pid, "VmRSS")
        sent = 0

        async def send():
            nonlocal sent
            await client.send(make_request("/", "Transfer-Encoding: chunked", method="POST"))
            piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
            while sent < GIB:
                await client.send(piece)
                sent += len(PIECE)
            await client.send(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        stalled_at = await stalls(lambda: sent)
        origin.may_read.set()
        await sending
        reply = await client.read_reply()
        grown = memory_of(pid, "VmHWM") - before
        with capsys.disabled():
            print(
                f"\nmemory {grown / 2**20:5.1f} MiB  upload    {transport}  stalled at {stalled_at / 2**20:.1f} MiB"
            )

        assert 200 == reply.status
        assert origin.received > GIB
        assert stalled_at < LIMIT
        assert grown < LIMIT
