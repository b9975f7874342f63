"""A real server around a gateway, in the event loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal

from attrs import define

from proxyroutes.typing import ASGIApp

if TYPE_CHECKING:
    import uvicorn

__all__ = ["RunningGateway", "run_gateway"]

_GRACE = 3.0
"""Seconds for running requests to end, and again for what was cancelled."""

# As uvicorn's own loop, which dates its responses by it.
_TICK = 0.1
_TICKS_A_DAY = 864_000


@define(eq=False)
class RunningGateway:
    """A gateway that is served.

    Attributes:
        port: Its TCP port on 127.0.0.1.
        server: The ``uvicorn.Server``.
    """

    port: int
    server: uvicorn.Server

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def run_gateway(
    app: ASGIApp,
    *,
    http: str | type[asyncio.Protocol] = "httptools",
    lifespan: Literal["auto", "on", "off"] = "on",
    **uvicorn_config: Any,
) -> AsyncIterator[RunningGateway]:
    """Serve an application with uvicorn on a free port of 127.0.0.1, in the running event loop.

    It accepts connections when the body of ``async with`` begins. At its end the server is stopped as on a signal;
    what has not ended after a few seconds is cancelled. No signal handlers are set.

    ```python
    async with run_gateway(app) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        response = await client.get("/api/users")
    ```

    Args:
        app: Any ASGI application.
        http: uvicorn's parser of requests, or a protocol such as ``proxyroutes.server.HttpProtocol``.
        lifespan: Whether the application's lifespan is run.
        **uvicorn_config: Further settings of ``uvicorn.Config``, such as ``ws`` for its WebSockets.

    Yields:
        The running gateway.

    Raises:
        ImportError: If uvicorn is not installed.
        RuntimeError: If the application's start-up failed.
    """
    uvicorn = _import_uvicorn()
    settings: dict[str, Any] = {
        # The test's own logging stays as it is.
        "log_config": None,
        "log_level": "warning",
        "access_log": False,
        "timeout_graceful_shutdown": int(_GRACE),
        **uvicorn_config,
    }
    config = uvicorn.Config(app, http=http, loop="none", lifespan=lifespan, **settings)
    config.load()
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio does so for sockets that it makes itself; else a body that follows its head waits 40 ms for an ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        await _start(server, listener)
        stopping = asyncio.Event()
        task = asyncio.create_task(_serve(server, listener, stopping), name=f"gateway :{port}")
        try:
            yield RunningGateway(port, server)
        finally:
            server.should_exit = True
            stopping.set()
            await _stop(server, task)


def _import_uvicorn() -> Any:
    try:
        import uvicorn  # noqa: PLC0415 - an extra, that the rest of this package does without
    except ImportError as error:
        raise ImportError("run_gateway needs uvicorn: install proxyroutes[standard]") from error
    return uvicorn


# What follows is `uvicorn.Server.serve` in its public parts, without the signal handlers.


async def _start(server: uvicorn.Server, listener: socket.socket) -> None:
    server.lifespan = server.config.lifespan_class(server.config)
    # How newer releases say that the lifespan failed; the others only leave `started` as it was.
    with contextlib.suppress(SystemExit):
        await server.startup(sockets=[listener])
    if not server.started:
        raise RuntimeError("the application did not start: its lifespan failed, see the log")


async def _serve(server: uvicorn.Server, listener: socket.socket, stopping: asyncio.Event) -> None:
    ticks = 0
    while not await server.on_tick(ticks):
        ticks = (ticks + 1) % _TICKS_A_DAY
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _TICK)
    await server.shutdown(sockets=[listener])


async def _stop(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    # uvicorn's own time for running requests, and as much for the lifespan.
    await asyncio.wait({task}, timeout=2 * _GRACE)
    server.force_exit = True
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
    requests = set(server.server_state.tasks)
    for request in requests:
        request.cancel()
    if requests:
        await asyncio.wait(requests, timeout=_GRACE)
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    if not task.cancelled():
        task.result()
