"""The content of one message on its way through filters: coded content is decoded, cut, filtered and put together again.

Everything is pulled by who sends it on, so that a slow reader slows the other side down as it does without filters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from proxyroutes._serve.body import too_large
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.guard import refuse
from proxyroutes._serve.steps.own_content import lost_content
from proxyroutes.exceptions import (
    FilterError,
    GatewayError,
    Stage,
    UpstreamProtocolError,
)
from proxyroutes.filters import StreamError, StreamFacts, StreamFilter
from proxyroutes.filters._codings import Decoder, known_codings
from proxyroutes.typing import Body, Fields, UpstreamResponse

__all__ = ["FilteredBody", "FilteredResponse", "RepeatableBody", "Stream", "refuse_content"]

_logger = logging.getLogger("proxyroutes.filters")

EAGER_BYTES = 65_536
"""Filtered content up to this size whose source is here whole is sent with its length."""


class Stream:
    """One content on its way through its filters.

    Args:
        exchange: Its exchange; closes the stream at its end.
        source: Gives the next bytes of the content, ``b""`` at its end.
        decoders: What is undone first.
        filters: What it passes, in this order.
        facts: What they may know.
        limit: Bytes that it may have before it is filtered; None for no limit.
    """

    def __init__(
        self,
        exchange: Exchange,
        source: Callable[[], Awaitable[bytes]],
        decoders: Sequence[Decoder],
        filters: Sequence[StreamFilter],
        facts: StreamFacts,
        limit: int | None = None,
    ) -> None:
        self._source = source
        self._decoders = decoders
        self._facts = facts
        self._limit = limit
        self._failure: BaseException | None = None
        self._ended = self._cut = False
        self._lock = asyncio.Lock()
        stages: list[AsyncIterator[Any]] = [self._read_source()]
        self._stages = stages
        self._exchange = exchange
        exchange.closers = (*exchange.closers, self.close)
        try:
            for one in filters:
                stages.extend(one.open(stages[-1], facts))
        except Exception as error:
            raise self._reason(error) from error

    async def _read_source(self) -> AsyncIterator[bytes]:
        total = 0
        while True:
            try:
                chunk = await self._source()
            except BaseException as error:
                # Whatever a filter makes of it: a content that was cut off must not end cleanly.
                self._failure = error
                raise
            for piece in self._decode(chunk):
                total += len(piece)
                if self._limit is not None and total > self._limit:
                    self._failure = too_large(self._limit)
                    raise self._failure
                yield piece
            if not chunk:
                return

    def _decode(self, chunk: bytes) -> Any:
        if not self._decoders:
            return (chunk,) if chunk else ()
        return self._undo(chunk, 0)

    def _undo(self, chunk: bytes, number: int) -> Any:
        """Pieces of what a chunk unfolds to; an empty one is the end."""
        try:
            if number == len(self._decoders):
                if chunk:
                    yield chunk
                return
            decoder = self._decoders[number]
            if not chunk:
                decoder.finish()
                yield from self._undo(b"", number + 1)
                return
            for piece in decoder.feed(chunk):
                yield from self._undo(piece, number + 1)
        except StreamError as error:
            self._failure = refuse_content(self._facts, error)
            raise self._failure from error

    async def read(self) -> bytes:
        """The next filtered bytes; ``b""`` is the end.

        Raises:
            GatewayError: If the content, or a filter, is broken.
            ClientLeft: If the client left.
        """
        async with self._lock:
            if self._ended:
                return self._over()
            try:
                while True:
                    chunk = await anext(self._stages[-1])
                    if not isinstance(chunk, bytes | bytearray | memoryview):
                        raise TypeError(f"a filter of chunks yields bytes, not {chunk!r}")  # noqa: TRY301 - mapped below.
                    if len(chunk):
                        return bytes(chunk)
            except StopAsyncIteration:
                self._ended = True
                if self._failure is not None:
                    raise self._failure from None
                return b""
            except asyncio.CancelledError:
                # A filter ends where it is cancelled.
                self._ended = self._cut = True
                raise
            except Exception as error:
                self._ended = True
                reason = self._reason(error)
                if reason is error:
                    raise
                raise reason from error

    def _over(self) -> bytes:
        if self._cut:
            raise lost_content()
        return b""

    def _reason(self, error: Exception) -> GatewayError | ClientLeft:
        """What a failure is for the exchange; that of the source comes before what a filter made of it."""
        failure = self._failure
        if isinstance(failure, GatewayError | ClientLeft):
            return failure
        if isinstance(error, GatewayError | ClientLeft):
            return error
        if isinstance(error, StreamError):
            return refuse_content(self._facts, error)
        return FilterError(
            f"a filter of the {self._facts.side} failed: {error!r}",
            stage=Stage.REQUEST_BODY if self._facts.side == "request" else Stage.RESPONSE_BODY,
        )

    def close(self) -> None:
        """Have every stage closed, so that what filters clean up is cleaned up now."""
        if self._exchange.loop.is_closed():
            return
        self._exchange.spawn(self.aclose(), "filters")

    async def aclose(self) -> None:
        """Close every stage, the last first, once nobody reads."""
        async with self._lock:
            self._ended = True
            stages, self._stages = self._stages, self._stages[:1]
            for stage in reversed(stages):
                close = getattr(stage, "aclose", None)
                if close is None:
                    continue
                try:
                    await close()
                except Exception:
                    _logger.exception("a filter failed while it was closed: %s", self._facts.route)


def refuse_content(facts: StreamFacts, error: StreamError) -> GatewayError:
    """The failure of an exchange whose content cannot be filtered."""
    if facts.side == "response":
        return UpstreamProtocolError(str(error), stage=Stage.RESPONSE_BODY, sent=True)
    if error.too_large:
        return refuse(str(error), 413, "Content too large")
    refused = refuse(str(error))
    if error.unsupported:
        # RFC 9110 §15.5.16: what is understood is named.
        refused = refuse(str(error), 415, "Unsupported media type")
        refused.fields = ((b"accept-encoding", b", ".join(sorted(known_codings()))),)
    return refused


class FilteredBody:
    """A request's content behind its filters; its length is not known."""

    content_length: int | None = None

    def __init__(self, body: Body, make: Callable[[Body], Stream]) -> None:
        self._body = body
        self._make = make
        self._stream = make(body)

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end."""
        return await self._stream.read()


class RepeatableBody(FilteredBody):
    """The same for a content that is here whole: it is filtered anew for each attempt."""

    def rewind(self) -> None:
        """Begin again."""
        body: Any = self._body
        body.rewind()
        self._stream.close()
        self._stream = self._make(body)


class FilteredResponse:
    """An upstream's response whose content passes filters.

    Attributes:
        complete: Whether all of the filtered content is here.
        here: What of it is here.
        fields: Field lines, those that were of the unfiltered content left out.
    """

    def __init__(self, upstream: UpstreamResponse, stream: Stream, fields: Fields) -> None:
        self._upstream = upstream
        self._stream = stream
        self.here = b""
        self.fields = fields
        self.complete = False

    @property
    def status(self) -> int:
        """The status."""
        return self._upstream.status

    @property
    def reason(self) -> bytes:
        """The reason phrase."""
        return self._upstream.reason

    @property
    def trailers(self) -> Fields:
        """Trailer fields, once the body has ended."""
        return self._upstream.trailers

    @property
    def strict(self) -> bool:
        """Whether its parser has refused what nobody may send on."""
        return self._upstream.strict

    async def begin(self) -> None:
        """Filter a short content that is here whole, so that a filter's failure is answered and not a broken relay.

        Raises:
            GatewayError: If the content, or a filter, is broken.
        """
        if not self._upstream.complete:
            return
        pieces: list[bytes] = []
        size = 0
        while size < EAGER_BYTES:
            piece = await self._stream.read()
            if not piece:
                self.complete = True
                break
            pieces.append(piece)
            size += len(piece)
        self.here = b"".join(pieces)

    def take(self) -> bytes:
        """What is here already."""
        here, self.here = self.here, b""
        return here

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end.

        Raises:
            GatewayError: If the content, or a filter, is broken.
        """
        if self.here:
            return self.take()
        if self.complete:
            return b""
        return await self._stream.read()

    def abort(self) -> None:
        """Let go at once."""
        self._upstream.abort()
