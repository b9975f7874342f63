"""Sessions with an ASGI application in the same process: what ``_websocket_connection`` is for sockets.

The application runs in a task of its own and sees what a server would show it. A few messages may wait in either
direction; then who sends waits too, so that no side fills the memory of the other one.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from proxyroutes.exceptions import Side, Stage, UpstreamConnectError, UpstreamProtocolError
from proxyroutes.transports._head import check_head
from proxyroutes.transports._websocket_connection import HIGH_WATER_BYTES
from proxyroutes.transports._websocket_ending import LOST, NO_CODE, Ending, may_send_code, size_of
from proxyroutes.transports._websocket_handshake import MAX_REFUSAL_BYTES
from proxyroutes.transports.websocket import SessionSettings
from proxyroutes.typing import (
    ASGIApp,
    Attempt,
    Endpoint,
    Fields,
    ForwardedHead,
    Message,
    Scope,
)

__all__ = ["ASGISession", "BoundASGISessions"]

_logger = logging.getLogger("proxyroutes.transports")

# RFC 9110 §5.1 and §5.5: a token, and a value without control bytes.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BAD = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_MESSAGE_BYTES = 256
"""What a waiting message counts besides its content."""


class _Queue:
    """Messages that wait for the other side, up to a number of bytes.

    Attributes:
        taken_bytes: Bytes of the message that was taken last.
    """

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self.taken_bytes = 0
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether who sends has to wait."""
        return not self._room.is_set()

    def put(self, message: Any, size: int) -> None:
        """Add a message; who cares for the limit waits for room before."""
        self._waiting.append((message, size))
        self._bytes += size + _MESSAGE_BYTES
        if self._bytes >= HIGH_WATER_BYTES:
            self._room.clear()
        self._filled.set()

    async def wait_for_room(self) -> None:
        """Wait until the other side has taken enough."""
        await self._room.wait()

    async def wait_for_message(self) -> None:
        """Wait until there may be something to take."""
        await self._filled.wait()

    def take(self) -> Any:
        """The next message, or None."""
        if not self._waiting:
            self._filled.clear()
            return None
        message, size = self._waiting.popleft()
        self.taken_bytes = size
        self._bytes -= size + _MESSAGE_BYTES
        if self._bytes < HIGH_WATER_BYTES:
            self._room.set()
        return message

    def wake(self) -> None:
        """Have whoever waits on either end look again."""
        self._filled.set()
        self._room.set()

    def clear(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
        self._bytes = 0
        self.wake()


class ASGISession:
    """One session with an application: its handshake under way, accepted, or refused.

    Args:
        settings: The route's.
        subprotocols: What the client offers.
        on_lost: Called once the application has ended.

    Attributes:
        status: Status of the handshake's answer.
        fields: Its field lines.
        body: Content of a refusal.
        subprotocol: What the application chose, or None.
        activity: Raised by one whenever the application sends.
        stop: Called once if the gateway shuts the session down.
    """

    # Its fields are checked here, as they come.
    strict = True

    def __init__(
        self,
        settings: SessionSettings,
        subprotocols: Sequence[str],
        on_lost: Callable[[ASGISession], None],
    ) -> None:
        self.status = 0
        self.fields: Fields = []
        self.body = b""
        self.subprotocol: str | None = None
        self.activity = 0
        self.stop: Callable[[Ending], None] | None = None
        self._settings = settings
        self._offered = tuple(subprotocols)
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._to_app = _Queue()
        self._to_client = _Queue()
        self._told_connect = False
        self._closed_with: tuple[int, str] | None = None
        self._ending: Ending | None = None
        self._denied: tuple[int, Fields] | None = None
        self._refusal = bytearray()
        self._failure: BaseException | None = None
        self._answered = asyncio.Event()
        self._lost = asyncio.Event()
        self._abort_timer: asyncio.TimerHandle | None = None

    # The handshake.

    async def open(self, app: ASGIApp, scope: Scope, attempt: Attempt) -> None:
        """Start the application and wait for its answer.

        Raises:
            UpstreamProtocolError: If there is none, or it cannot be accepted.
        """
        attempt.sent = True
        attempt.enter(Stage.RESPONSE_HEAD)
        self._task = self._loop.create_task(
            self._run(app, scope), name=f"proxyroutes: asgi session {scope['path']}"
        )
        self._task.add_done_callback(self._conclude)
        await self._answered.wait()
        if self._failure is not None:
            raise self._failure

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._app_receive, self._app_send)

    def _conclude(self, task: asyncio.Task[None]) -> None:
        """Take note that the application has ended."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _logger.error("asgi_application_failed upstream=%s", "session", exc_info=error)
        if not self.status:
            failure = UpstreamProtocolError("the application ended without an answer", sent=True)
            failure.__cause__ = error
            self._fail(failure)
        if self._ending is None:
            # As servers do it: an application that returns has closed, one that raised is lost.
            code = LOST if error is not None or task.cancelled() else 1000
            self._ending = Ending(Side.UPSTREAM, code)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._lost.set()
        self._to_app.clear()
        self._to_client.wake()
        self._on_lost(self)

    def _fail(self, failure: UpstreamProtocolError) -> None:
        if self._failure is None and not self._answered.is_set():
            self._failure = failure
        self._answered.set()

    # The application's side.

    async def _app_receive(self) -> Message:
        """Give the application the next event."""
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        while True:
            message = self._to_app.take()
            if message is not None:
                return dict(message)
            if self._closed_with is not None:
                code, reason = self._closed_with
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            await self._to_app.wait_for_message()

    async def _app_send(self, message: Message) -> None:
        """Take the application's next event."""
        kind = message["type"]
        self.activity += 1
        if self._closed_with is not None:
            # ASGI: what is sent after the end goes nowhere. The turn lets a cancellation in.
            await asyncio.sleep(0)
        elif self.status == 101 and kind in {"websocket.send", "websocket.close"}:
            await self._converse(kind, message)
        elif not self.status and kind == "websocket.accept" and self._denied is None:
            self._accept(message)
        elif not self.status and kind == "websocket.close" and self._denied is None:
            # ASGI: "the server should close the connection with a HTTP 403".
            self._answer(403, [], b"")
        elif not self.status and kind.startswith("websocket.http.response."):
            self._refuse(kind, message)
        else:
            raise RuntimeError(f"unexpected ASGI message: {kind!r}")

    def _accept(self, message: Message) -> None:
        chosen = message.get("subprotocol")
        if chosen is not None and chosen not in self._offered:
            self._fail(UpstreamProtocolError(f"a subprotocol that was not offered: {chosen!r}"))
            self.abort()
            return
        self.subprotocol = chosen
        self._answer(101, _fields_of(message), b"")

    def _refuse(self, kind: str, message: Message) -> None:
        if kind == "websocket.http.response.start" and self._denied is None:
            if message["status"] == 101:
                self._fail(UpstreamProtocolError("a refusal with status 101"))
                self.abort()
                return
            self._denied = (message["status"], _fields_of(message))
        elif kind == "websocket.http.response.body" and self._denied is not None:
            self._refusal += message.get("body", b"")
            if len(self._refusal) > MAX_REFUSAL_BYTES:
                self._fail(
                    UpstreamProtocolError(f"a refusal of more than {MAX_REFUSAL_BYTES} bytes")
                )
                self.abort()
            elif not message.get("more_body", False):
                self._answer(*self._denied, bytes(self._refusal))
        else:
            raise RuntimeError(f"unexpected ASGI message: {kind!r}")

    def _answer(self, status: int, fields: Fields, body: bytes) -> None:
        try:
            # RFC 6455 §4.1: a 101 is the one status that is no final one here.
            check_head(200 if status == 101 else status, fields)
            if any(not _NAME.fullmatch(name) or _BAD.search(value) for name, value in fields):
                raise UpstreamProtocolError("a field that cannot be sent on")  # noqa: TRY301 - one answer to all of them.
        except UpstreamProtocolError as error:
            self._fail(error)
            self.abort()
            return
        self.status, self.fields, self.body = status, fields, body
        if status != 101:
            self._closed_with = (LOST, "")
            self._to_app.wake()
            self._expect_end()
        self._answered.set()

    async def _converse(self, kind: str, message: Message) -> None:
        if kind == "websocket.close":
            code = message.get("code", 1000)
            code = code if may_send_code(code) else NO_CODE
            self._end(Ending(Side.UPSTREAM, code, message.get("reason") or ""))
            return
        text = message.get("text")
        content: str | bytes = bytes(message.get("bytes") or b"") if text is None else text
        size = size_of(content)
        limit = self._settings.max_message_bytes
        if limit is not None and size > limit:
            self._end(Ending(Side.UPSTREAM, 1009, "", faulty=True))
            return
        self._to_client.put(content, size)
        await self._to_client.wait_for_room()

    def _end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            # The application's own view of its close: nothing more comes.
            self._closed_with = (ending.code, ending.reason)
            self._to_app.wake()
            self._to_client.wake()
            self._expect_end()

    # The gateway's side.

    @property
    def writing_paused(self) -> bool:
        """Whether what was sent waits for the application to take it."""
        return self._to_app.full

    @property
    def received_bytes(self) -> int:
        """Bytes of the message that was taken last."""
        return self._to_client.taken_bytes

    @property
    def hears(self) -> bool:
        """Whether the application can be heard, rather than held back because the client does not read."""
        return not self._to_client.full

    async def receive(self) -> str | bytes | Ending:
        """The next message, or how the session ended once all of them were taken."""
        while True:
            message: str | bytes | None = self._to_client.take()
            if message is not None:
                return message
            if self._ending is not None:
                return self._ending
            await self._to_client.wait_for_message()

    def send(self, content: bytes, *, is_text: bool) -> None:
        """Send a message; once either side closes it goes nowhere."""
        if self._closed_with is not None or self._lost.is_set():
            return
        event: Message = {"type": "websocket.receive"}
        event["text" if is_text else "bytes"] = content.decode() if is_text else content
        self._to_app.put(event, len(content))

    def ping(self) -> None:
        """The application lives in this very process: there is no silence to fear."""
        self.activity += 1

    async def drain(self) -> None:
        """Wait until the application has taken enough of what was sent."""
        await self._to_app.wait_for_room()

    def close(self, code: int | None, reason: str = "") -> None:
        """Tell the application that the client has closed; what comes from now on is dropped.

        Args:
            code: The client's code; None was none.
            reason: Its reason.
        """
        self._to_client.clear()
        if self._closed_with is None:
            self._closed_with = (NO_CODE if code is None else code, reason)
        self._to_app.wake()
        self._expect_end()

    def _expect_end(self) -> None:
        """The application is not waited for without end."""
        if self._abort_timer is None and not self._lost.is_set():
            self._abort_timer = self._loop.call_later(self._settings.close_timeout, self.cut)

    async def wait_closed(self) -> None:
        """Wait until the application has ended."""
        await self._lost.wait()

    def shut_down(self) -> None:
        """The gateway stops: end the session with 1001 on both sides."""
        ending = Ending(Side.GATEWAY, 1001, "the gateway stops")
        if self.stop is not None:
            self.stop(ending)
        elif self._ending is None:
            self._ending = ending
            self._to_client.wake()

    def abort(self) -> None:
        """Let go at once: the application's task is cancelled. May be called twice.

        One that has refused is over for the client, and may tidy up until ``close_timeout``, as behind a server.
        """
        if self._closed_with is None:
            self._closed_with = (LOST, "")
        self._to_client.clear()
        self._to_app.wake()
        if self.status in {0, 101}:
            self.cut()

    def cut(self) -> None:
        """Cancel the application's task, whatever it does."""
        if self._task is not None and not self._task.done():
            self._task.cancel()


class BoundASGISessions:
    """The sessions of one application for one pool.

    Args:
        app: The application.
        make_scope: Makes a session's scope; waits until the application is up.
    """

    def __init__(
        self,
        app: ASGIApp,
        make_scope: Callable[[ForwardedHead, Endpoint, Sequence[str]], Awaitable[Scope]],
    ) -> None:
        self._app = app
        self._make_scope = make_scope
        self._sessions: set[ASGISession] = set()
        self._empty = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._sessions)

    def forget(self, destination: Endpoint) -> None:
        """Nothing is known of one: the application is the same for all."""
        del destination

    async def connect(
        self,
        head: ForwardedHead,
        destination: Endpoint,
        attempt: Attempt,
        settings: SessionSettings,
        subprotocols: Sequence[str] = (),
    ) -> ASGISession:
        """Ask the application for a session; as ``BoundWebSockets.connect``.

        Raises:
            UpstreamConnectError: If the application is not up, or the pool is closed.
            UpstreamProtocolError: If its answer is none.
        """
        scope = await self._make_scope(head, destination, subprotocols)
        if self._closed:
            raise UpstreamConnectError("the pool is closed")
        attempt.connected = True
        attempt.connected_at = monotonic()
        session = ASGISession(settings, subprotocols, self._forget)
        self._sessions.add(session)
        try:
            await session.open(self._app, scope, attempt)
        except BaseException:
            session.abort()
            raise
        return session

    def _forget(self, session: ASGISession) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._empty.set()

    async def aclose(self, grace: float = 3.0) -> None:
        """End every session with 1001, and after the grace time without.

        Args:
            grace: Seconds for the sessions to end, and for the application after that.
        """
        self._closed = True
        for session in tuple(self._sessions):
            session.shut_down()
        for end in (ASGISession.cut, None):
            if not self._sessions:
                return
            self._empty.clear()
            waiting = asyncio.ensure_future(self._empty.wait())
            await asyncio.wait({waiting}, timeout=grace)
            waiting.cancel()
            if end is not None:
                for session in tuple(self._sessions):
                    end(session)
        if self._sessions:
            _logger.error("asgi_sessions_left count=%d", len(self._sessions))


def _fields_of(message: Message) -> Fields:
    return [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
