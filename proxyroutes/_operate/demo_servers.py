"""The servers of ``demo``: two upstreams, and whatever else runs in its process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from attrs import define, field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typing_extensions import override

from proxyroutes.typing import ASGIApp

if TYPE_CHECKING:
    import uvicorn

__all__ = ["EVENTS", "Pace", "Running", "make_upstream", "start_server"]

EVENTS = 5
_STOP_SECONDS = 5.0


@define(eq=False)
class Pace:
    """How fast upstreams go on: by the clock for a human reader, by the reader's own progress for the script.

    Attributes:
        think: Seconds that an upstream takes for an answer.
    """

    think: float = 0.005
    read: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(0))
    received_bytes: asyncio.Queue[int] = field(factory=asyncio.Queue)


def _is_scripted(request: Request) -> bool:
    return "scripted" in request.query_params


def make_upstream(name: str, pace: Pace) -> Starlette:
    """An upstream that answers with its name, streams events, and echoes."""

    async def hello(request: Request) -> Response:
        await asyncio.sleep(pace.think)
        fields = ("host", "via", "x-forwarded-for")
        received = {field: request.headers.get(field) for field in fields}
        return JSONResponse({"upstream": name, "path": request.url.path, "received": received})

    async def health(_: Request) -> Response:
        return Response(status_code=204)

    async def count(*, scripted: bool) -> AsyncIterator[str]:
        for number in range(1, EVENTS + 1):
            yield f"id: {number}\ndata: {name} {number} of {EVENTS}\n\n"
            if number < EVENTS:
                await (pace.read.acquire() if scripted else asyncio.sleep(0.5))

    async def events(request: Request) -> Response:
        content = count(scripted=_is_scripted(request))
        return StreamingResponse(content, media_type="text/event-stream")

    async def echo(request: Request) -> Response:
        content = bytearray()
        async for block in request.stream():
            if _is_scripted(request):
                pace.received_bytes.put_nowait(len(block))
            content += block
        return Response(bytes(content), media_type=request.headers.get("content-type"))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/hello", hello),
            Route("/events", events),
            Route("/echo", echo, methods=["POST", "PUT"]),
        ]
    )


# Servers.


@define(eq=False)
class Running:
    """A server on a socket of its own."""

    port: int
    server: uvicorn.Server
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        """Break every connection, listen no more: what is left of a process that was killed."""
        for listener in self.server.servers:
            listener.close()
        for connection in list(self.server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self.stop()

    async def stop(self) -> None:
        """Stop in good order."""
        self.server.should_exit = True
        await asyncio.wait({self.task}, timeout=_STOP_SECONDS)
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=_STOP_SECONDS)


@contextlib.asynccontextmanager
async def start_server(app: ASGIApp, *, name: str, port: int = 0) -> AsyncIterator[Running]:
    """Serve an application on a port of loopback; 0 is a free one."""
    import uvicorn  # noqa: PLC0415 - an extra

    class Server(uvicorn.Server):
        @override
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            # Several servers share this process; its signals are handled in one place.
            yield

    config = uvicorn.Config(
        app,
        loop="none",
        ws="none",
        log_config=None,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    with socket.create_server(("127.0.0.1", port)) as listener:
        # Connections wait in the listener's backlog until the server has started.
        task = asyncio.create_task(server.serve(sockets=[listener]), name=f"demo: {name}")
        running = Running(listener.getsockname()[1], server, task)
        try:
            yield running
        finally:
            await running.stop()
