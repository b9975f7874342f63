"""An ASGI application as an upstream: in process, streaming both ways, without sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from proxyroutes.exceptions import (
    GatewayError,
    Side,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
)
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.transports._asgi_session import BoundASGISessions
from proxyroutes.transports._head import check_head, compose_fields
from proxyroutes.typing import (
    ASGIApp,
    Attempt,
    Body,
    BoundTransport,
    Clock,
    Endpoint,
    Fields,
    ForwardedHead,
    Message,
    Scope,
    UpstreamResponse,
)

__all__ = ["ASGITransport", "BoundASGI"]

_logger = logging.getLogger("proxyroutes.transports")

_ASGI = {"version": "3.0", "spec_version": "2.3"}

_HANDSHAKE: Fields = [
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
]

_GRACE = 5.0
"""Seconds for tasks to end at each of the two steps of closing."""

_BODILESS_STATUSES = frozenset({204, 304})


@frozen(kw_only=True)
class ASGITransport:
    """Forward to an application in the same process.

    The application runs in a task of its own and sees what a server would show it. It writes at most one piece ahead
    of the reader. When the exchange is cut, it gets ``http.disconnect`` and its task is cancelled.

    Attributes:
        app: An ASGI 3 application.
        raise_app_exceptions: Whether what the application raises comes out as it is, as tests want it, instead of as
            an ``UpstreamProtocolError``. After a complete response it is logged in any case.
        lifespan: Whether the application's lifespan runs from the pool's first request until the pool is closed.
    """

    app: ASGIApp = field(kw_only=False)
    raise_app_exceptions: bool = False
    lifespan: bool = False

    def bind(self, *, clock: Clock, tls: TLS | None) -> BoundTransport:  # noqa: ARG002 - the protocol's
        """Make the transport of one pool on the running event loop.

        Args:
            clock: Not needed.
            tls: Not needed: nothing leaves the process.
        """
        return BoundASGI(self)


class _Lifespan:
    """One run of an application's lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._supported = False
        self._failure: str | None = None
        self._asked = False

    async def start(self) -> None:
        """Start the application once, and wait until it is up.

        Raises:
            UpstreamConnectError: If the application says that it failed.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="proxyroutes: asgi lifespan")
        await self._started.wait()
        if self._failure is not None:
            raise UpstreamConnectError(f"the application did not start: {self._failure}")

    async def stop(self) -> None:
        """Let the application shut down, if it had started."""
        if self._task is None:
            return
        self._stopping.set()
        if not self._started.is_set():
            self._task.cancel()
        await _end([self._task])

    async def _run(self) -> None:
        scope: Scope = {"type": "lifespan", "asgi": dict(_ASGI), "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            if self._supported:
                _logger.exception("asgi_lifespan_failed")
            else:
                # ASGI, lifespan: "the server must continue but not send any lifespan events"
                _logger.info("asgi_lifespan_unsupported error=%r", error)
        finally:
            self._started.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        self._supported = True
        if message["type"] == "lifespan.startup.failed":
            self._failure = message.get("message", "") or "no reason given"
        self._started.set()


class BoundASGI:
    """One application for one pool."""

    def __init__(self, recipe: ASGITransport) -> None:
        self._app = recipe.app
        self._raises = recipe.raise_app_exceptions
        self._lifespan = _Lifespan(recipe.app) if recipe.lifespan else None
        self._exchanges: dict[asyncio.Task[None], _Exchange] = {}

    async def send(
        self,
        head: ForwardedHead,
        body: Body | None,
        destination: Endpoint,
        timeouts: Timeouts,  # noqa: ARG002 - there is no time-out of its own
        attempt: Attempt,
    ) -> UpstreamResponse:
        """Run the application for one request; see ``BoundTransport.send``."""
        state = await self._started(destination)
        scope = _make_scope(head, compose_fields(head, body, destination), destination, state)
        exchange = _Exchange(
            body,
            destination.origin,
            attempt,
            bodiless=head.method == b"HEAD",
            raises=self._raises,
        )
        self._start(exchange, scope)
        try:
            await exchange.wait_for_head()
        except BaseException:
            exchange.abort()
            raise
        return exchange

    def _start(self, exchange: _Exchange, scope: Scope) -> None:
        attempt = exchange.attempt
        attempt.connected = attempt.sent = True
        attempt.connected_at = monotonic()
        attempt.enter(Stage.RESPONSE_HEAD)
        name = f"proxyroutes: asgi {scope['method']} {scope['path']}"
        exchange.task = asyncio.create_task(self._run(exchange, scope), name=name)
        self._exchanges[exchange.task] = exchange
        exchange.task.add_done_callback(self._conclude)

    async def _run(self, exchange: _Exchange, scope: Scope) -> None:
        await self._app(scope, exchange.receive, exchange.send)

    def _conclude(self, task: asyncio.Task[None]) -> None:
        self._exchanges.pop(task).conclude(task)

    def bind_sessions(self) -> BoundASGISessions:
        """Make the sessions of the same application, for the same pool."""
        return BoundASGISessions(self._app, self._session_scope)

    async def _session_scope(
        self, head: ForwardedHead, destination: Endpoint, subprotocols: Sequence[str]
    ) -> Scope:
        state = await self._started(destination)
        fields = compose_fields(head, None, destination)
        fields += _HANDSHAKE
        if subprotocols:
            fields.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("ascii")))
        scope = _make_scope(head, fields, destination, state)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if destination.secure else "ws"
        scope["subprotocols"] = list(subprotocols)
        scope["extensions"] = {"websocket.http.response": {}}
        return scope

    async def _started(self, destination: Endpoint) -> dict[str, Any] | None:
        """Wait until the application is up, where that is asked for; its state then."""
        if self._lifespan is None:
            return None
        try:
            await self._lifespan.start()
        except UpstreamConnectError as error:
            error.at(destination=destination.origin, sent=False)
            raise
        return self._lifespan.state.copy()

    async def aclose(self) -> None:
        """End every exchange, and the application where its lifespan is ours."""
        for exchange in self._exchanges.values():
            exchange.abort()
        await _end(self._exchanges)
        if self._lifespan is not None:
            await self._lifespan.stop()


class _Exchange:
    """One request and its response: the application's side as ``receive`` and ``send``, ours as a response."""

    def __init__(
        self,
        body: Body | None,
        destination: str,
        attempt: Attempt,
        *,
        bodiless: bool,
        raises: bool,
    ) -> None:
        self.status = 0
        self.reason = b""
        self.fields: Fields = []
        self.trailers: Fields = []
        self.attempt = attempt
        self.task: asyncio.Task[None] | None = None
        self._body = body
        self._destination = destination
        self._bodiless = bodiless
        self._raises = raises
        self._reading: asyncio.Task[bytes] | None = None
        self._chunk = b""
        self._left: int | None = None
        self._received_all = False
        self._finished = False
        self._released = False
        self._failure: BaseException | None = None
        # The head or a failure is there; something can be read; the piece was taken; nothing more comes of the request.
        self._headed = asyncio.Event()
        self._readable = asyncio.Event()
        self._taken = asyncio.Event()
        self._gone = asyncio.Event()

    # The application's side.

    async def receive(self) -> Message:
        """Give the application the next piece of the request, and then that the client is gone."""
        if self._received_all:
            await self._gone.wait()
        chunk = None if self._gone.is_set() else await self._read_body()
        if chunk is None:
            return {"type": "http.disconnect"}
        self._received_all = not chunk
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def _read_body(self) -> bytes | None:
        if self._body is None:
            return b""
        self.attempt.body_consumed = True
        self._enter(Stage.REQUEST_BODY)
        # A task, because the end of the response ends the reading of the request.
        self._reading = asyncio.create_task(_read(self._body), name="proxyroutes: asgi body")
        try:
            chunk = await self._reading
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._gone.is_set() or (task is not None and task.cancelling()):
                raise
            return None
        except Exception as error:  # noqa: BLE001 - it comes out of our `send` as it was raised
            self._fail(error)
            return None
        self.attempt.progress += 1
        if not chunk:
            self._enter(Stage.RESPONSE_HEAD)
        return chunk

    def _enter(self, stage: Stage) -> None:
        if not self.status and self.attempt.stage is not stage:
            self.attempt.enter(stage)

    async def send(self, message: Message) -> None:
        """Take the next piece of the response; wait while the one before was not read."""
        kind = message["type"]
        if self._released:
            # ASGI: a no-op once the client is gone. The turn lets the task's cancellation in.
            await asyncio.sleep(0)
        elif kind == "http.response.start" and not self.status:
            self._start_response(message)
        elif kind == "http.response.body" and self.status and not self._finished:
            await self._write(message)
        else:
            raise RuntimeError(f"unexpected ASGI message: {kind!r}")

    def _start_response(self, message: Message) -> None:
        status: int = message["status"]
        fields = [
            (bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())
        ]
        try:
            check_head(status, fields)
            self._left = _find_length(fields)
        except UpstreamProtocolError as error:
            self._fail(error.at(destination=self._destination, sent=True))
            return
        if self._bodiless or status in _BODILESS_STATUSES:
            self._bodiless = True
            self._left = None
        self.status = status
        self.fields = fields
        self.attempt.enter(Stage.RESPONSE_BODY)
        self._headed.set()

    async def _write(self, message: Message) -> None:
        chunk = bytes(message.get("body", b""))
        if chunk and not self._bodiless:
            while self._chunk:
                self._taken.clear()
                await self._taken.wait()
            if self._released:
                return
            self._chunk = chunk
            if self._left is not None:
                self._left -= len(chunk)
        ended = not message.get("more_body", False)
        if self._left is not None and (self._left < 0 or (ended and self._left)):
            self._chunk = b"" if self._left < 0 else self._chunk
            self._fail(self._describe("the body is not as long as Content-Length says"))
        elif ended:
            self._finished = True
            self._let_go()
        self._readable.set()

    # Our side.

    async def wait_for_head(self) -> None:
        """Wait for the response's head."""
        await self._headed.wait()
        if not self.status and self._failure is not None:
            raise self._failure

    strict = False

    @property
    def complete(self) -> bool:
        """Whether the application has written the whole body."""
        return self._finished

    def take(self) -> bytes:
        """Give the piece that the application wrote, if there is one, and let it write the next."""
        chunk, self._chunk = self._chunk, b""
        if chunk:
            self.attempt.progress += 1
            self._taken.set()
        return chunk

    async def read(self) -> bytes:
        """Give the next piece of the body; ``b""`` is its end."""
        while True:
            chunk = self.take()
            if not chunk and self._failure is not None:
                raise self._failure
            if chunk or self._finished:
                return chunk
            self._readable.clear()
            await self._readable.wait()

    def abort(self) -> None:
        """Let go: the application's task is cancelled, unless it has written its whole response."""
        if self._released or (self._finished and not self._chunk):
            return
        self._released = True
        self._chunk = b""
        error = self._describe("the response was let go before its end")
        error.side = Side.GATEWAY
        self._fail(error)
        if self.task is not None and not self._finished:
            self.task.cancel()

    def conclude(self, task: asyncio.Task[None]) -> None:
        """Take note that the application has ended."""
        error = None if task.cancelled() else task.exception()
        comes_out = self._raises and self._failure is None and not self._finished
        if error is not None and not comes_out:
            _logger.error("asgi_application_failed upstream=%s", self._destination, exc_info=error)
        if self._finished or self._failure is not None:
            return
        failure: BaseException
        if error is not None and self._raises:
            failure = error
        else:
            failure = self._describe("the application ended before its response did")
            failure.__cause__ = error
        self._fail(failure)

    def _describe(self, detail: str) -> GatewayError:
        stage = Stage.RESPONSE_BODY if self.status else Stage.RESPONSE_HEAD
        return UpstreamProtocolError(detail, stage=stage, sent=True, destination=self._destination)

    def _fail(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        self._headed.set()
        self._readable.set()
        self._taken.set()
        self._let_go()

    def _let_go(self) -> None:
        """End the request's side: the application is told that the client is gone."""
        self._gone.set()
        if self._reading is not None:
            self._reading.cancel()


async def _read(body: Body) -> bytes:
    return await body.read()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for tasks, cancel those that take too long, and say so of those that go on all the same."""
    pending = set(tasks)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=_GRACE)
    for task in pending:
        task.cancel()
    if pending:
        _, pending = await asyncio.wait(pending, timeout=_GRACE)
    if pending:
        _logger.error("asgi_tasks_left count=%d", len(pending))


def _make_scope(
    head: ForwardedHead, fields: Fields, destination: Endpoint, state: dict[str, Any] | None
) -> Scope:
    path, _, query = (destination.base_path + head.target).partition(b"?")
    scope: Scope = {
        "type": "http",
        "asgi": dict(_ASGI),
        "http_version": "1.1",
        "method": head.method.decode("latin-1"),
        "scheme": "https" if destination.secure else "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": fields,
        "client": ("127.0.0.1", 0),
        "server": (destination.host, destination.port),
        "extensions": {},
    }
    if destination.socket_path is not None:
        scope["server"] = (destination.socket_path, None)
    if state is not None:
        scope["state"] = state
    return scope


def _find_length(fields: Fields) -> int | None:
    """Read ``Content-Length``.

    Raises:
        UpstreamProtocolError: If it is not one number.
    """
    lengths = {value for name, value in fields if name == b"content-length"}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not length.isdigit():
        raise UpstreamProtocolError("Content-Length is not one number")
    return int(length)
