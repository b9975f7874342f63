"""The way of a session: guard → head → lease → dial → accept → relay → close both sides.

The client is accepted only after the upstream has accepted (RFC 6455 §4), with what the upstream chose; until then every
failure is an HTTP answer. How messages are carried is ``transports``' part.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import frozen
from typing_extensions import override

from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.fields import has_bad_name
from proxyroutes._serve.guard import refuse
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.http import attempts, fail, timeouts_of
from proxyroutes._serve.match import Found, path_parameters
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.relay import Answer
from proxyroutes._serve.steps.answering import choose_answer, handlers_of
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.steps.messages import edit_for_pool
from proxyroutes._state.pools import PoolState, UpstreamPool
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.exceptions import (
    ClientRequestError,
    GatewayError,
    RelayInterruptedError,
    Side,
    Stage,
)
from proxyroutes.settings import Timeouts
from proxyroutes.transports._websocket_connection import WebSocketConnection
from proxyroutes.transports._websocket_ending import LOST, Ending
from proxyroutes.transports._websocket_tunnel import Tunnel, client_close, upstream_close
from proxyroutes.transports.websocket import Dialler, SessionSettings
from proxyroutes.typing import BoundTransport, Fields, ForwardedHead, Message, Receive, Scope, Send

__all__ = ["SessionPlan", "SessionRecord", "SessionSide", "deny"]

_MOST_DENIAL_BYTES = 1024 * 1024
"""Bytes of the answer to a handshake that is refused."""


@frozen(kw_only=True, eq=False)
class SessionPlan(Plan):
    """One compiled WebSocket route.

    Attributes:
        settings: What the route says of its sessions.
        allowed_origins: Origins in lower case that a page may have; None for every one.
    """

    settings: SessionSettings
    allowed_origins: frozenset[bytes] | None


class SessionRecord(Exchange):
    """One session, as observers get it at its end. ``status`` is 101 where it was open.

    Attributes:
        request_messages: Messages that went to the upstream; ``request_bytes`` is what they held.
        response_messages: Messages that went to the client; ``response_bytes`` is what they held.
        ending: How it ended, or None where it was never open.
        subprotocol: What the upstream chose, or None.
    """

    request_messages = response_messages = 0
    ending: Ending | None = None
    subprotocol: str | None = None

    @property
    @override
    def cause(self) -> str | None:
        """As of an exchange; a client that vanished from an open session has left, too."""
        ending = self.ending
        if ending is not None and ending.side is Side.CLIENT and ending.code == LOST:
            return "client-left"
        return super().cause

    def dialled_with(self, timeouts: Timeouts, sweeper: Sweeper) -> None:
        """The pool is known now, and with it the time-outs of the handshake and who looks at the time."""
        self.timeouts = timeouts
        if sweeper is not self._sweeper:
            self._sweeper.discard(self)
            self._sweeper = sweeper
            # The clock may be another one.
            self._progress = -1
            sweeper.add(self)

    def opened(self) -> None:
        """The handshake is over: the sessions' own sweeper looks at the time from here on."""
        self.leave()
        self._sweeper.discard(self)


class _Dialling:
    """A pool's state whose attempts are handshakes: one that was sent is never tried again."""

    retry = None

    def __init__(self, state: PoolState, dialler: BoundTransport) -> None:
        self._state = state
        self.transport = dialler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


class SessionSide:
    """One session from its handshake to its end; who makes it calls ``finish``, whatever happens.

    Args:
        plan: The route.
        found: Where it fits the path.
        scope: The received handshake.
        receive: The client's channel.
        send: To the client.
        pool: Which pool; None for the route's.
        edit: Changes the head before it is forwarded.
        subprotocols: What is offered instead of what the client offers.
        connected: Whether somebody has taken the channel's first event already.

    Attributes:
        record: Its record, once it has one.
        tunnel: Both directions, once it is open.
    """

    def __init__(
        self,
        plan: SessionPlan,
        found: Found,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        pool: UpstreamPool | None = None,
        edit: Callable[[ForwardedHead], None] | None = None,
        subprotocols: Sequence[str] | None = None,
        connected: bool = False,
    ) -> None:
        self.plan = plan
        self.found = found
        # What an HTTP request has and a WebSocket's scope has not; to the upstream, its handshake is one.
        scheme = "https" if scope.get("scheme") in {"wss", "https"} else "http"
        self.scope = {**scope, "method": "GET", "scheme": scheme}
        self.record: SessionRecord | None = None
        self.tunnel: Tunnel | None = None
        self._receive = receive
        self._send = send
        self._pool = pool
        self._edit = edit
        offered = scope.get("subprotocols", ()) if subprotocols is None else subprotocols
        self._subprotocols = [one for one in offered if one]
        self._connected = connected
        self._answer: Answer | None = None
        self._head: ForwardedHead | None = None
        self._early: Message | None = None
        self._watch: asyncio.Task[None] | None = None
        self._sessions: Sweeper | None = None

    # The handshake.

    def head(self) -> ForwardedHead:
        """The head that is forwarded; made once, so that edits stay.

        Raises:
            ClientRequestError: If the handshake must not be forwarded.
        """
        if self._head is None:
            scope, plan = self.scope, self.plan
            received = read_request(scope, plan, self.found)
            _check_handshake(scope, self._subprotocols)
            if received.content_length or received.chunked:
                raise refuse("a handshake has no content")
            _check_origin(plan, scope)
            self._head = make_head(scope, plan, self.found, received)
            self._head.content_length = None
            if self._edit is not None:
                self._edit(self._head)
        return self._head

    def forwarded(self) -> ForwardedRequest:
        """The handshake as it will be forwarded."""
        client = self.scope.get("client")
        return ForwardedRequest(
            self.head(),
            route=self.plan.name,
            client=tuple(client) if client else None,
            scheme=self.scope["scheme"],
            path_params=path_parameters(self.found),
            received_host=next((v for n, v in self.scope["headers"] if n == b"host"), b"").decode(
                "latin-1"
            ),
        )

    async def open(self) -> bool:
        """Dial, and accept or refuse the client; whether the session is open."""
        record = self._begin()
        try:
            await self._hear_of_client()
            answer = self._answer = await self._dial(record)
            answer.prepare(self.plan, self.found, filtered=False)
            await self._answer_client(record, answer)
        except GatewayError as error:
            await self._refuse(record, error)
        except ClientLeft:
            record.status = 499
        return self.tunnel is not None

    async def refuse(self, error: GatewayError | None = None) -> None:
        """Refuse the client without asking the upstream, and end; None is the stub's doing."""
        record = self._begin()
        try:
            await self._refuse(record, error or refuse("refused by the stub", 403, "Forbidden"))
        finally:
            record.end()

    def _begin(self) -> SessionRecord:
        plan = self.plan
        sweeper = plan.monitor.state().sweeper
        record = self.record = SessionRecord(
            plan.name, "GET", self._receive, plan.timeouts, sweeper, plan.observers
        )
        record.pool = None if plan.pool is None else plan.pool.name
        record.scope = self.scope
        record.attach()
        return record

    async def _refuse(self, record: SessionRecord, error: GatewayError) -> None:
        fail(record, error)
        await self._stop_watching()
        pool = self._pool or self.plan.pool
        handlers = handlers_of(self.plan, pool)
        answer = await choose_answer(error, handlers, self.found, self.scope)
        if not isinstance(answer, tuple):
            answer = await _run_as_http(answer, self.scope, self._receive)
        await deny(self.scope, self._send, *answer)

    async def _hear_of_client(self) -> None:
        if not self._connected and (await self._receive())["type"] == "websocket.disconnect":
            raise ClientLeft

    async def _dial(self, record: SessionRecord) -> Answer:
        plan = self.plan
        head = self.head()
        if plan.steps is not None:
            for admission in plan.steps.admissions:
                await admission(record, plan, self.found, head)
        pool = self._pool or plan.pool
        if pool is None and plan.split is not None:
            pool = plan.split(plan, self.found, self.scope, head)
        elif pool is None:
            pool = await cast("Any", plan.choose)(self.forwarded())
        self._pool = pool
        state = pool.state()
        record.pool = state.name
        if state.transforms is not None:
            head = edit_for_pool(state, head)
        timeouts = timeouts_of(plan, state)
        record.dialled_with(timeouts, state.sweeper)
        self._sessions = state.monitor.sessions
        dialler: Any = Dialler(state.websockets, plan.settings, self._subprotocols)
        if state.telemetry is not None:
            # A session's span is that of its handshake.
            dialler = state.telemetry.wrap(dialler, to_the_end=False)
        record.body = self
        try:
            dialling = cast("PoolState", _Dialling(state, dialler))
            return await attempts(record, dialling, head, None, timeouts)
        finally:
            record.body = None

    def listen(self) -> asyncio.Task[None] | None:
        """Hear whether the client leaves while the upstream is dialled; the sweeper asks for it."""
        if self._watch is None:
            self._watch = cast("SessionRecord", self.record).spawn(self._watch_client(), "watch")
        return self._watch

    async def _watch_client(self) -> None:
        self._early = await self._receive()
        if self._early["type"] == "websocket.disconnect":
            cast("SessionRecord", self.record).interrupt(ClientLeft())

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})

    async def _receive_early(self) -> Message:
        early, self._early = self._early, None
        return await self._receive() if early is None else early

    async def _answer_client(self, record: SessionRecord, answer: Answer) -> None:
        await self._stop_watching()
        # What has interrupted it meanwhile holds: its destination may be drained.
        record.enter()
        record.opened()
        connection = cast("WebSocketConnection", answer.upstream)
        fields = _without_handshake(answer.fields)
        record.status = answer.status
        if answer.status != 101:
            await deny(self.scope, self._send, answer.status, fields, connection.body)
            record.whole = True
            return
        record.subprotocol = chosen = connection.subprotocol
        receive = self._receive if self._early is None else self._receive_early
        tunnel = Tunnel(receive, self._send, connection, self.plan.settings, record)
        # Before anything is waited for: a session in no sweeper would be overlooked by a drain.
        cast("Sweeper", self._sessions).add(tunnel)
        self.tunnel = tunnel
        accept = {"type": "websocket.accept", "subprotocol": chosen, "headers": fields}
        try:
            await self._send(accept)
        except Exception as error:
            # Each server has an exception of its own for a client that is gone.
            cast("Sweeper", self._sessions).discard(tunnel)
            self.tunnel = None
            raise ClientLeft from error

    # The end.

    async def finish(self, otherwise: Ending, *, at_once: bool) -> None:
        """Close both sides and let go of everything.

        Args:
            otherwise: How the session ends, where nobody has ended it.
            at_once: Whether nothing may be waited for.
        """
        record, answer, tunnel = self.record, self._answer, self.tunnel
        if record is None:
            return
        try:
            if tunnel is not None:
                cast("Sweeper", self._sessions).discard(tunnel)
                tunnel.end(otherwise)
                record.ending = cast("Ending", tunnel.ending)
                record.whole = not at_once
                _note(record, record.ending)
                await self._close(cast("Answer", answer), record.ending, at_once=at_once)
        finally:
            if answer is not None:
                answer.close()
            record.end()

    async def _close(self, answer: Answer, ending: Ending, *, at_once: bool) -> None:
        connection = cast("WebSocketConnection", answer.upstream)
        lost = ending.side is Side.UPSTREAM and ending.code == LOST
        if not lost:
            connection.close(*upstream_close(ending))
        if lost or at_once:
            connection.abort()
        if ending.side is not Side.CLIENT:
            # A task of its own: some servers wait for the client here, whatever is cancelled, and a client that does not
            # read must not hold the upstream's side.
            closing = cast("SessionRecord", self.record).spawn(self._close_client(ending), "close")
            timeout = 0 if at_once else self.plan.settings.close_timeout
            await asyncio.wait({closing}, timeout=timeout)
            closing.cancel()
        if not at_once:
            await connection.wait_closed()

    async def _close_client(self, ending: Ending) -> None:
        code, reason = client_close(ending)
        with contextlib.suppress(Exception):
            await self._send({"type": "websocket.close", "code": code, "reason": reason})


def _note(record: SessionRecord, ending: Ending) -> None:
    """Enter a session that its upstream broke into the record, and log it."""
    if ending.side is Side.UPSTREAM and (ending.faulty or ending.code == LOST):
        detail = ending.reason or ("protocol broken" if ending.faulty else "connection lost")
        fail(
            record,
            RelayInterruptedError(
                detail, stage=Stage.SESSION, sent=True, destination=record.destination
            ),
        )


def _check_handshake(scope: Scope, subprotocols: Sequence[str]) -> None:
    versions = [value for name, value in scope["headers"] if name == b"sec-websocket-version"]
    if versions not in ([], [b"13"]):
        # RFC 6455 §4.4: the versions that are understood are named.
        raise ClientRequestError(
            "not WebSocket version 13",
            status_code=426,
            title="Upgrade required",
            fields=((b"sec-websocket-version", b"13"),),
        )
    if any(has_bad_name(one.encode("utf-8", "surrogateescape")) for one in subprotocols):
        raise refuse("a subprotocol is not a token")


def _check_origin(plan: SessionPlan, scope: Scope) -> None:
    """Refuse the pages of other sites (RFC 6455 §10.2); who sends no Origin is no page."""
    if plan.allowed_origins is None:
        return
    origins = [value.lower() for name, value in scope["headers"] if name == b"origin"]
    if len(origins) > 1 or not plan.allowed_origins.issuperset(origins):
        raise refuse("the origin is not allowed", 403, "Origin not allowed")


def _without_handshake(fields: Fields) -> Fields:
    """What of the upstream's answer is not of its own handshake or framing."""
    return [
        field
        for field in fields
        if field[0] != b"content-length" and not field[0].startswith(b"sec-websocket-")
    ]


async def _run_as_http(answer: Any, scope: Scope, receive: Receive) -> tuple[int, Fields, bytes]:
    """Have an application that knows HTTP answer a handshake; in one piece, because some servers take no other answer."""
    status, fields, body = 500, cast("Fields", []), b""

    async def receive_http() -> Message:
        left = (await receive())["type"] == "websocket.disconnect"
        return {"type": "http.disconnect" if left else "http.request"}

    async def send_http(message: Message) -> None:
        nonlocal status, fields, body
        status, fields = message.get("status", status), message.get("headers", fields)
        body += message.get("body", b"")
        if len(body) > _MOST_DENIAL_BYTES:
            raise RuntimeError(f"an answer to a handshake has at most {_MOST_DENIAL_BYTES} bytes")

    # Without the server's version of ASGI: what it says of sending does not hold here.
    await answer({**scope, "type": "http", "asgi": {}}, receive_http, send_http)
    return status, fields, body


async def deny(scope: Scope, send: Send, status: int, fields: Fields, body: bytes) -> None:
    """Refuse a handshake with an HTTP response, or with a close before accept where the server knows no other way."""
    with contextlib.suppress(Exception):
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            await send({"type": "websocket.close", "code": 1008 if status < 500 else 1011})
            return
        fields = [field for field in fields if field[0] != b"content-length"]
        if status not in {204, 304}:
            fields.append((b"content-length", b"%d" % len(body)))
        await send({"type": "websocket.http.response.start", "status": status, "headers": fields})
        await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
