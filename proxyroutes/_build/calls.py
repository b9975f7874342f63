"""One request in FastAPI's hands: what was matched and read, what is asked of upstreams, and what is let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, cast
from weakref import ref

from starlette.exceptions import HTTPException

from proxyroutes._build.responses import GoneResponse, RelayResponse
from proxyroutes._serve.body import (
    BodyRecorder,
    BufferedBody,
    IteratedBody,
    ReceivedBody,
    check_length,
)
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.fields import ReceivedFields
from proxyroutes._serve.head import make_head
from proxyroutes._serve.http import (
    ask,
    fail,
    may_have_content,
    open_exchange,
    read_body,
    timeouts_of,
)
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.content import ClientChannel
from proxyroutes._serve.steps.forwarded import ForwardedRequest, forwarded_request
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import ClientRequestError, GatewayError, StubError
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Body, ForwardedHead, Message, Receive, Scope

__all__ = ["CALL", "BodyRefusedError", "Call", "FindPool", "Own", "refuse_to_read", "stub_receive"]

CALL = "proxyroutes.call"
"""The key of a scope under which the running call, or the side of a session, is found."""

FindPool = Callable[[Any, Callable[[], ForwardedRequest]], Awaitable[tuple[UpstreamPool, bytes]]]
"""Gives the pool of an ``upstream=`` that is named at a request, and the base path of its URL."""

Own = bytes | AsyncIterable[bytes]
"""Content that the application gives."""


class BodyRefusedError(HTTPException):
    """Carries a refusal through FastAPI's body reading, which would turn any other exception into a 400."""

    def __init__(self, refusal: ClientRequestError) -> None:
        super().__init__(status_code=refusal.status_code, detail=refusal.title)
        self.refusal = refusal


class Call:
    """One request in FastAPI's hands.

    Args:
        plan: The route.
        found: Where it fits the path.
        scope: The request.
        received: Its fields.
        receive: The client's channel.
        wraps: Whether the stub may forward more than once.
        find_pool: Finds a pool that the stub names.

    Attributes:
        pool: The pool that was asked last, or None.
        misread: That the body was read without leave.
        asked: Whether the stub has asked the route's own upstream.
    """

    def __init__(
        self,
        plan: Plan,
        found: Found,
        scope: Scope,
        received: ReceivedFields,
        receive: Receive,
        *,
        wraps: bool,
        find_pool: FindPool,
    ) -> None:
        self.plan = plan
        self.found = found
        self.scope = scope
        self.received = received
        self.channel = ClientChannel(receive) if wraps else None
        self.receive = receive if self.channel is None else self.channel.read
        self.find_pool = find_pool
        self.recorder: BodyRecorder | None = None
        self.pool: UpstreamPool | None = None
        self.misread: StubError | None = None
        self.asked = False
        self.ended = False
        self._head: ForwardedHead | None = None
        self._reading: asyncio.Lock | None = None
        self._streamed: ReceivedBody | None = None
        self._is_empty = False
        self._running: set[Exchange] = set()
        self._responses: list[ref[RelayResponse]] = []

    def forwarded_head(self) -> ForwardedHead:
        """The head that is forwarded; made once, so that edits stay."""
        if self._head is None:
            self._head = make_head(self.scope, self.plan, self.found, self.received)
        return self._head

    def forwarded(self) -> ForwardedRequest:
        """The request as it will be forwarded."""
        return forwarded_request(self.scope, self.found, self.forwarded_head())

    async def choose_pool(self) -> UpstreamPool:
        """The pool of the route, or the one chosen for this request."""
        plan = self.plan
        if plan.choose is not None:
            return await plan.choose(self.forwarded())
        if plan.split is not None:
            return plan.split(plan, self.found, self.scope, self.forwarded_head())
        # A plan has one of the two.
        return cast("UpstreamPool", plan.pool)

    async def forward(self) -> RelayResponse | GoneResponse:
        """Forward the request as it is and give its response, body still to come."""
        try:
            pool = self.plan.pool or await self.choose_pool()
            return await self.send(self.forwarded_head(), pool)
        except ClientLeft:
            return GoneResponse()

    async def send(
        self,
        head: ForwardedHead,
        pool: UpstreamPool,
        *,
        own: Own | None = None,
        plan: Plan | None = None,
        timeouts: Timeouts | None = None,
    ) -> RelayResponse:
        """Send one request and give its response.

        Args:
            head: What is sent.
            pool: Who is asked.
            own: Content instead of the client's.
            plan: The route, where it is not quite the declared one.
            timeouts: Time-outs of this exchange; None takes those of the route or the pool.

        Raises:
            GatewayError: If the exchange failed; it is in its record then.
            ClientLeft: If the client left.
        """
        plan = plan or self.plan
        state = pool.state()
        self.pool = pool
        exchange = open_exchange(
            plan, state, self.scope["method"], self.receive, timeouts, self.scope
        )
        exchange.attach()
        self._running.add(exchange)
        try:
            body: Body | None = None
            if own is not None:
                body = self._own_body(exchange, own)
            elif self._may_have_content():
                body = await self._body(exchange)
            else:
                exchange.may_watch = True
            if own is not None or self._head is not head:
                head.content_length = None if body is None else body.content_length
            answer = await ask(
                exchange, plan, self.found, state, head, body, timeouts or timeouts_of(plan, state)
            )
        except BaseException as error:
            if isinstance(error, GatewayError):
                fail(exchange, error)
            elif isinstance(error, BodyRefusedError):
                fail(exchange, error.refusal)
            elif isinstance(error, ClientLeft):
                exchange.status = 499
            exchange.end()
            raise
        finally:
            self._running.discard(exchange)
        response = RelayResponse(
            answer,
            received=self.scope["method"],
            forwarded=head.method,
            found=self.found,
            pool=pool,
        )
        self._responses.append(ref(response))
        return response

    def _may_have_content(self) -> bool:
        """Whether ``_body`` has to be asked; where nobody else reads the channel, the head may tell."""
        if self.channel is not None or (self.recorder is not None and self.recorder.touched):
            return True
        return may_have_content(self.scope, self.received)

    async def _body(self, exchange: Exchange) -> Body | None:
        """The client's content, as often as it can be had.

        Raises:
            StubError: If it was streamed to an upstream already.
        """
        channel, recorder = self.channel, self.recorder
        if channel is None:
            if recorder is None or not recorder.touched:
                return await read_body(exchange, self.plan, self.scope, self.received)
        else:
            exchange.receive = channel.watch
            if recorder is None:
                return await self._stream(exchange, channel)
        return await self._buffered(exchange, recorder)

    async def _buffered(self, exchange: Exchange, recorder: BodyRecorder) -> Body | None:
        # Asked for by few: most requests are not read by two at once.
        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            content = await recorder.content()
        exchange.request_bytes = len(content)
        exchange.may_watch = True
        received = self.received
        if not content and received.content_length is None and not received.chunked:
            return None
        return BufferedBody(content)

    async def _stream(self, exchange: Exchange, channel: ClientChannel) -> Body | None:
        if self._streamed is not None:
            again = self._streamed.hand_over(exchange)
            if again is None:
                raise StubError(
                    f"route {self.plan.name!r} has forwarded the client's body already, as a stream: "
                    "say max_body_bytes=… at its decorator to keep it, or give body=… to this one"
                )
            exchange.receive = channel.read
            self._streamed = again
            return again
        if self._is_empty:
            exchange.may_watch = True
            return None
        exchange.receive = channel.read
        body = await read_body(exchange, self.plan, self.scope, self.received)
        if isinstance(body, ReceivedBody):
            self._streamed = body
        elif body is None:
            self._is_empty = True
        return body

    def _own_body(self, exchange: Exchange, own: Own) -> Body:
        if self.channel is not None:
            exchange.receive = self.channel.watch
        if isinstance(own, bytes):
            exchange.may_watch = True
            return BufferedBody(own)
        body = IteratedBody(exchange, aiter(own))
        # Who only watches steals nothing from what it may be made of.
        exchange.may_watch = self.channel is not None
        return body

    def end(self) -> None:
        """Let go of what the stub has asked for and not returned; the request is over."""
        self.ended = True
        for known in self._responses:
            response = known()
            if response is not None:
                response.close()
        for exchange in list(self._running):
            exchange.interrupt(ClientLeft())


def stub_receive(call: Call) -> Receive:
    """The receive channel that user code gets.

    With ``max_body_bytes`` what is read is kept and forwarded; without, reading would steal from the upstream.
    """
    limit = call.plan.max_body_bytes
    check_length(call.received.content_length, limit)
    if limit is not None:
        call.recorder = BodyRecorder(
            call.receive, limit, call.plan.timeouts.idle, BodyRefusedError
        )
        return call.recorder

    def keep(error: StubError) -> None:
        call.misread = error

    return refuse_to_read(call.plan.name, keep)


def refuse_to_read(name: str, keep: Callable[[StubError], None] | None = None) -> Receive:
    """A channel for user code of which nobody has said that it reads: what it took would be missing upstream.

    Args:
        name: The route.
        keep: Is given the error that is raised.
    """

    async def unannounced() -> Message:
        error = StubError(f"route {name!r} reads the body: say max_body_bytes=… at its decorator")
        if keep is not None:
            keep(error)
        raise error

    return unannounced
