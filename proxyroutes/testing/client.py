"""A client of an application in the test's own process, its lifespan run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from proxyroutes.testing.gateway import run_gateway
from proxyroutes.typing import ASGIApp, Message, Receive, Scope, Send

__all__ = ["open_client", "open_socket_client"]


class _Lifespan:
    """One run of an application's lifespan, in a task of its own, as a server does it."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._asked: asyncio.Queue[str] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()

    async def _receive(self) -> Message:
        return {"type": await self._asked.get()}

    async def _send(self, message: Message) -> None:
        self._answers.put_nowait(message)

    async def ask(self, event: str, task: asyncio.Task[None]) -> None:
        """Have the application start or stop."""
        self._asked.put_nowait(f"lifespan.{event}")
        answer = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait((answer, task), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                # An application without a lifespan raises or returns: that is no failure of a start.
                if event == "shutdown" and not task.cancelled() and (error := task.exception()):
                    raise error
                return
        finally:
            answer.cancel()
        message = answer.result()
        if message["type"] == f"lifespan.{event}.failed":
            raise RuntimeError(f"the application's {event} failed: {message.get('message', '')}")

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Start, and stop at the end."""
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        coroutine = self._app(scope, self._receive, self._send)
        task = asyncio.ensure_future(coroutine)
        try:
            await self.ask("startup", task)
            supported = not task.done()
            yield
            if supported:
                await self.ask("shutdown", task)
        finally:
            if not task.done():
                # What was told to stop ends by itself, one turn later.
                await asyncio.wait({task}, timeout=1.0)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_client(app: ASGIApp, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client of an application in this process, through httpx's own ``ASGITransport``.

    The lifespan runs from the beginning of ``async with`` to its end. There are no sockets, and a response is read whole
    before the client sees it: ``open_socket_client`` is for streams, disconnects and broken connections.

    ```python
    async with open_client(app) as client:
        response = await client.get("/api/users/ann")
    ```

    Args:
        app: Any ASGI application.
        **options: Keywords of ``httpx.AsyncClient``. ``base_url`` is ``http://gateway.test`` if not given.

    Yields:
        The client.

    Raises:
        RuntimeError: If the application's start-up failed.
    """
    lifespan = _Lifespan(app)

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(lifespan.state)}, receive, send)

    transport = httpx.ASGITransport(with_state)
    options = {"base_url": "http://gateway.test", **options}
    async with lifespan.run(), httpx.AsyncClient(transport=transport, **options) as client:
        yield client


@contextlib.asynccontextmanager
async def open_socket_client(app: ASGIApp, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application as ``run_gateway`` does, and open a client of it: real sockets on loopback.

    Args:
        app: Any ASGI application.
        **options: Keywords of ``httpx.AsyncClient`` but ``base_url``. The environment's proxies are not used.

    Yields:
        The client; ``client.base_url`` has the port.

    Raises:
        ImportError: If uvicorn is not installed.
        RuntimeError: If the application's start-up failed.
    """
    async with (
        run_gateway(app) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, **options) as client,
    ):
        yield client
