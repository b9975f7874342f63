"""Mirrors on the way of a request: a copy is kept while the upstream reads, and sent in a task of the mirror's pool.

Nothing here waits for the mirror: a copy is dropped rather than waited for, and whatever becomes of it is counted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Coroutine
from typing import Any

from attrs import evolve

from proxyroutes._serve.body import BufferedBody
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.http import attempts
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.relay import Answer
from proxyroutes._serve.steps.messages import outgoing
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import GatewayError
from proxyroutes.policies.mirrors import ComparedResponse, Comparison, Mirror
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Body, Fields, ForwardedHead, Message, UpstreamResponse

__all__ = ["MARK", "MirrorStep", "RecordedResponse", "Shadow", "TeedBody"]

MARK = b"x-proxyroutes-shadow"
"""The field that a copy carries."""

_logger = logging.getLogger("proxyroutes.mirror")


class MirrorStep:
    """One mirror of a proxy; every route that was given the same ``Mirror`` has the same one of these.

    Attributes:
        recipe: What was declared.
        timeouts: Time-outs of copies, where the mirror's pool has none.
        in_flight: Copies that are kept or sent now.
    """

    __slots__ = ("_monitor", "in_flight", "recipe", "timeouts")

    def __init__(
        self, recipe: Mirror[UpstreamPool], timeouts: Timeouts, monitor: HealthMonitor
    ) -> None:
        self.recipe = recipe
        self._monitor = monitor
        self.timeouts = timeouts
        self.in_flight = 0

    def copy(
        self, exchange: Exchange, plan: Plan, head: ForwardedHead, body: Body | None
    ) -> Shadow | None:
        """Begin a copy of a request, or none: it is not one of the share, or must be dropped."""
        recipe = self.recipe
        if recipe.share < 1.0 and self._monitor.state().random.random() >= recipe.share:
            return None
        length = None if body is None else body.content_length
        too_large = length is not None and length > recipe.max_body_bytes
        if too_large or self.in_flight >= recipe.max_in_flight:
            recipe.counts.dropped += 1
            return None
        return Shadow(self, exchange, plan, head, body)


class Shadow:
    """One copy: its content while it is kept, then the task that sends it.

    Attributes:
        body: What the upstream reads instead of the request's content, so that it is kept.
    """

    def __init__(
        self,
        step: MirrorStep,
        exchange: Exchange,
        plan: Plan,
        head: ForwardedHead,
        body: Body | None,
    ) -> None:
        step.in_flight += 1
        self._step: MirrorStep | None = step
        self._recipe = step.recipe
        self._exchange = exchange
        self._plan = plan
        # The head that goes to the upstream may still change, from attempt to attempt.
        fields: Fields = [field for field in head.fields if field[0] != MARK]
        self._head = evolve(head, fields=[*fields, (MARK, b"1")])
        self._chunks: list[bytes] = []
        self._size = 0
        self._primary: asyncio.Future[ComparedResponse | None] | None = None
        if self._recipe.compare is not None:
            self._primary = exchange.loop.create_future()
        self.body = body
        if body is None:
            self._start(None)
        elif isinstance(body, BufferedBody):
            self._start(BufferedBody(body.content))
        else:
            self.body = TeedBody(body, self)

    # The copy, while it is kept.

    def keep(self, chunk: bytes) -> None:
        """Keep what the upstream has read; nothing is the end."""
        if self._step is None:
            return
        if chunk:
            self._size += len(chunk)
            if self._size > self._recipe.max_body_bytes:
                self._drop()
                return
            self._chunks.append(chunk)
        if not chunk or self._size == self._head.content_length:
            self._start(BufferedBody(b"".join(self._chunks)))

    def _drop(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            self._chunks = []
            step.in_flight -= 1
            self._recipe.counts.dropped += 1

    def _start(self, body: BufferedBody | None) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        self._chunks = []
        if body is not None:
            self._head.content_length = body.content_length
        try:
            pool = self._recipe.to.state()
        except Exception:
            # A pool that cannot be opened is the mirror's trouble, not the request's.
            _logger.exception("a mirror's pool failed")
            step.in_flight -= 1
            self._recipe.counts.failed += 1
            return
        sending = pool.spawn(self._send(step, body), "mirror")
        # It is called also where the task is cancelled before it has begun.
        sending.add_done_callback(lambda task: _end(step, task))

    # The request itself.

    async def follow(self, asking: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for the request's own answer, and have it compared."""
        try:
            answer = await asking
        except BaseException:
            self.give_up()
            raise
        # What the upstream has answered before it read all of it is not copied: half a request is none.
        self._drop()
        if self._primary is not None:
            seconds = self._exchange.head - self._exchange.started
            answer.upstream = RecordedResponse(answer.upstream, self, seconds)
        return answer

    def give_up(self) -> None:
        """There will be no answer: a copy that is still kept is dropped, and one that is sent has nothing to compare."""
        self.tell(None)
        self._drop()

    @property
    def max_body_bytes(self) -> int:
        """Bytes of each content that are kept."""
        return self._recipe.max_body_bytes

    def tell(self, response: ComparedResponse | None) -> None:
        """The request's own answer is known, or None where there is none to compare."""
        if self._primary is not None and not self._primary.done():
            self._primary.set_result(response)

    # The copy, while it is sent.

    async def _send(self, step: MirrorStep, body: BufferedBody | None) -> None:
        counts = self._recipe.counts
        state = self._recipe.to.state()
        timeouts = evolve(state.timeouts or step.timeouts, total=self._recipe.timeout)
        own = self._exchange
        # No observer: what the shadows do is not what clients got.
        exchange = Exchange(own.route, own.method, _nobody, timeouts, state.sweeper, ())
        exchange.attach()
        answer: Answer | None = None
        response: ComparedResponse | None = None
        counts.sent += 1
        try:
            # The route's filters, and the rules of the mirror's own pool: those of the other one are not its business.
            head, content = outgoing(exchange, self._plan, state, self._head, body)
            answer = await attempts(exchange, state, head, content, timeouts)
            response = await self._read(exchange, answer)
        except asyncio.CancelledError:
            if exchange.settle() is None:
                raise
            _log(exchange, exchange.interruption, state.name)
        except (GatewayError, ClientLeft) as error:
            _log(exchange, error, state.name)
        finally:
            exchange.leave()
            if answer is not None:
                answer.close()
            exchange.end()
            counts.answered += response is not None
            counts.failed += response is None
        if response is not None and self._primary is not None:
            await self._compare(self._primary, response)

    async def _read(self, exchange: Exchange, answer: Answer) -> ComparedResponse:
        """Read what the shadow answers, up to the limit; the rest is not waited for."""
        upstream = answer.upstream
        record = _Record(upstream, self.max_body_bytes, exchange.head - exchange.started)
        exchange.enter()
        while not record.ended:
            record.keep(await upstream.read())
        return record.response()

    async def _compare(
        self, primary: asyncio.Future[ComparedResponse | None], shadow: ComparedResponse
    ) -> None:
        recipe, exchange = self._recipe, self._exchange
        try:
            async with asyncio.timeout(recipe.timeout):
                known = await primary
        except TimeoutError:
            # A stream that goes on; it is not waited for.
            return
        if known is None or recipe.compare is None:
            return
        comparison = Comparison(
            route=exchange.route,
            method=self._head.method.decode("ascii"),
            target=self._head.target.decode("latin-1"),
            primary=known,
            shadow=shadow,
        )
        try:
            async with asyncio.timeout(recipe.timeout):
                seen = recipe.compare(comparison)
                if inspect.isawaitable(seen):
                    await seen
        except Exception:
            _logger.exception("a comparison failed: route=%s", exchange.route)
            return
        recipe.counts.compared += 1


async def _nobody() -> Message:
    return {"type": "http.disconnect"}


def _end(step: MirrorStep, task: asyncio.Task[None]) -> None:
    step.in_flight -= 1
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("a copy failed", exc_info=error)


def _log(exchange: Exchange, reason: BaseException | None, pool: str) -> None:
    _logger.info(
        "a copy was not answered: route=%s pool=%s reason=%s", exchange.route, pool, reason
    )


class TeedBody:
    """The request's content, kept as the upstream reads it.

    Attributes:
        content_length: Bytes, or None where the length is unknown.
        resumable: A read that is cancelled takes nothing away.
    """

    __slots__ = ("_inner", "_shadow", "content_length", "resumable")

    def __init__(self, inner: Body, shadow: Shadow) -> None:
        self._inner = inner
        self._shadow = shadow
        self.content_length = inner.content_length
        self.resumable: bool = getattr(inner, "resumable", False)

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end."""
        chunk = await self._inner.read()
        self._shadow.keep(chunk)
        return chunk


class _Record:
    """What is kept of a response while it is read."""

    __slots__ = ("_chunks", "_limit", "_seconds", "_upstream", "complete", "ended")

    def __init__(self, upstream: UpstreamResponse, limit: int, seconds: float) -> None:
        self._upstream = upstream
        self._limit = limit
        self._seconds = seconds
        self._chunks = b""
        self.ended = self.complete = False

    def keep(self, chunk: bytes) -> None:
        if not chunk:
            self.ended = self.complete = True
            return
        left = self._limit - len(self._chunks)
        self._chunks += chunk[:left]
        self.ended = len(chunk) > left

    def response(self) -> ComparedResponse:
        upstream = self._upstream
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in upstream.fields
        ]
        return ComparedResponse(
            status=upstream.status,
            headers=tuple(headers),
            body=self._chunks,
            complete=self.complete,
            seconds=self._seconds,
        )


class RecordedResponse:
    """The request's own response, of which a part is kept for a comparison while it is relayed."""

    __slots__ = ("_inner", "_record", "_shadow")

    def __init__(self, inner: UpstreamResponse, shadow: Shadow, seconds: float) -> None:
        self._inner = inner
        self._shadow = shadow
        self._record = _Record(inner, shadow.max_body_bytes, seconds)

    def __getattr__(self, name: str) -> Any:
        # Status, fields, trailers and whatever else a transport's response has.
        return getattr(self._inner, name)

    def _keep(self, chunk: bytes) -> None:
        if not self._record.ended:
            self._record.keep(chunk)
            if self._record.ended:
                self._shadow.tell(self._record.response())

    def take(self) -> bytes:
        """What of the body is here already."""
        content = self._inner.take()
        if content:
            self._keep(content)
        if self._inner.complete:
            self._keep(b"")
        return content

    async def read(self) -> bytes:
        """The next bytes of the body; ``b""`` is its end."""
        chunk = await self._inner.read()
        self._keep(chunk)
        return chunk

    def abort(self) -> None:
        """Let go; a content that was cut off is not compared."""
        self._shadow.tell(None)
        self._inner.abort()
