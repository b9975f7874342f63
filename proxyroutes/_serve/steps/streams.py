"""Filtered contents on the way of an exchange: what their failures are for it, and when they are closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from proxyroutes._serve.body import lost_content
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.guard import refuse
from proxyroutes.exceptions import FilterError, GatewayError, Stage, UpstreamProtocolError
from proxyroutes.filters import StreamError, StreamFacts, StreamFilter
from proxyroutes.filters._codings import known_codings, open_decoders
from proxyroutes.filters._pipeline import Pipeline
from proxyroutes.typing import Fields, UpstreamResponse

__all__ = ["FilteredBody", "FilteredResponse", "Stream"]

EAGER_BYTES = 65_536
"""Filtered content up to this size whose source is here whole is sent with its length."""


class Stream:
    """One content of an exchange on its way through filters; closed at the exchange's end.

    Args:
        exchange: Its exchange.
        source: Gives the next bytes of the content, ``b""`` at its end.
        codings: Values of its ``Content-Encoding``.
        filters: What it passes, in this order.
        facts: What they may know.
        limit: Bytes that it may have before it is filtered; None for no limit.

    Raises:
        GatewayError: If it cannot be filtered.
    """

    def __init__(
        self,
        exchange: Exchange,
        source: Callable[[], Awaitable[bytes]],
        codings: Sequence[bytes],
        filters: Sequence[StreamFilter],
        facts: StreamFacts,
        limit: int | None = None,
    ) -> None:
        self._facts = facts
        try:
            self._pipeline = Pipeline(source, open_decoders(codings), filters, facts, limit)
        except GatewayError:
            raise
        except Exception as error:
            raise self._reason(error) from error
        exchange.held = (*exchange.held, self)

    async def read(self) -> bytes:
        """The next filtered bytes; ``b""`` is the end.

        Raises:
            GatewayError: If the content, or a filter, is broken.
            ClientLeft: If the client left.
        """
        if self._pipeline.cut:
            raise lost_content()
        try:
            return await self._pipeline.read()
        except (GatewayError, ClientLeft):
            raise
        except Exception as error:
            raise self._reason(error) from error

    def _reason(self, error: Exception) -> GatewayError:
        if isinstance(error, StreamError):
            return _refuse_content(self._facts, error)
        of_request = self._facts.side == "request"
        return FilterError(
            f"a filter of the {self._facts.side} failed: {error!r}",
            stage=Stage.REQUEST_BODY if of_request else Stage.RESPONSE_BODY,
        )

    def release(self, exchange: Exchange) -> None:
        """The exchange has ended: have every stage closed, so that what filters clean up is cleaned up now."""
        if not exchange.loop.is_closed():
            exchange.spawn(self._pipeline.aclose(), "filters")


def _refuse_content(facts: StreamFacts, error: StreamError) -> GatewayError:
    """The failure of an exchange whose content cannot be filtered."""
    if facts.side == "response":
        return UpstreamProtocolError(str(error), stage=Stage.RESPONSE_BODY, sent=True)
    if error.too_large:
        return refuse(str(error), 413, "Content too large")
    if not error.unsupported:
        return refuse(str(error))
    refused = refuse(str(error), 415, "Unsupported media type")
    # RFC 9110 §15.5.16: what is understood is named.
    refused.fields = ((b"accept-encoding", b", ".join(sorted(known_codings()))),)
    return refused


class FilteredBody:
    """A request's content behind its filters; its length is not known."""

    content_length: int | None = None

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end."""
        return await self._stream.read()


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
