"""Real servers in processes of their own: what stands in front of a gateway is not ours, its verdicts are."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from attrs import define

CHECKOUT = Path(__file__).parent.parent.parent
START_SECONDS = 30.0

APP = "tests.conformance.server_app:app"


def _uvicorn(http: str) -> list[str]:
    return ["uvicorn", APP, "--http", http, "--no-access-log", "--log-level", "warning"]


COMMANDS = {
    "uvicorn-h11": [*_uvicorn("h11"), "--port", "{port}"],
    "uvicorn-httptools": [*_uvicorn("httptools"), "--port", "{port}"],
    "uvicorn-ours": [
        *_uvicorn("proxyroutes.server:HttpProtocol"),
        *("--ws", "proxyroutes.server:WebSocketProtocol", "--port", "{port}"),
    ],
    "uvicorn-zttp": [*_uvicorn("zttp"), "--port", "{port}"],
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "granian": ["granian", APP, "--interface", "asgi", "--port", "{port}"],
}
"""How each server is started, as a module of Python."""

MODULES = {"hypercorn": "hypercorn", "granian": "granian", "uvicorn-zttp": "zttp"}
"""What must be installed for the servers that are not of the core."""


@define(eq=False)
class ServerProcess:
    """A server in a process of its own.

    Attributes:
        name: Which one.
        port: Where it listens.
        process: The process.
        log: What it has printed.
    """

    name: str
    port: int
    process: asyncio.subprocess.Process
    log: Path

    def terminate(self) -> None:
        """Ask it to stop, as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def accepts(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until a port is listened on."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.returncode is None, "the server did not start"
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serve_in_process(
    name: str, origin: str, *, arguments: Sequence[str] = (), **environment: str
) -> AsyncIterator[ServerProcess]:
    """Run a server with the gateway in front of an origin, until the block ends.

    Args:
        name: Which server.
        origin: The URL of the destination.
        arguments: Further arguments of its command.
        environment: Further variables of its environment.
    """
    port = free_port()
    with tempfile.NamedTemporaryFile(delete=False) as printed:
        log = Path(printed.name)
    command = [part.format(port=port) for part in COMMANDS[name]]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *command,
            *arguments,
            cwd=CHECKOUT,
            env={**os.environ, "PROXYROUTES_TEST_ORIGIN": origin, **environment},
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            # Some servers have workers: all of them are one group.
            start_new_session=True,
        )
    try:
        await accepts(process, port)
        yield ServerProcess(name, port, process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        log.unlink()
