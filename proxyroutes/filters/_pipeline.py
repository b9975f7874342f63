"""One content on its way: decoded, cut, filtered and put together again.

Everything is pulled by who sends it on, so that a slow reader slows the other side down as it does without filters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from proxyroutes.filters._codings import Decoder
from proxyroutes.filters._filter import StreamFacts, StreamFilter
from proxyroutes.filters._framing import StreamError

__all__ = ["Pipeline"]

_logger = logging.getLogger("proxyroutes.filters")


class Pipeline:
    """A content with all that it passes.

    Args:
        source: Gives the next bytes of the content, ``b""`` at its end.
        decoders: What is undone first.
        filters: What it passes, in this order.
        facts: What they may know.
        limit: Bytes that it may have before it is filtered; None for no limit.

    Attributes:
        cut: Whether who read it was cancelled: what is left of it is lost.

    Raises:
        Exception: What a filter raises when it is called.
    """

    def __init__(
        self,
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
        self._ended = False
        self.cut = False
        self._lock = asyncio.Lock()
        self._stages: list[AsyncIterator[Any]] = [self._read_source()]
        for one in filters:
            self._stages.extend(one.open(self._stages[-1], facts))

    async def _read_source(self) -> AsyncIterator[bytes]:
        total = 0
        while True:
            try:
                chunk = await self._source()
                for piece in self._undo(chunk, 0):
                    total += len(piece)
                    self._check_total(total)
                    yield piece
            except GeneratorExit:
                raise
            except BaseException as error:
                # Whatever a filter makes of it: a content that was cut off must not end cleanly.
                self._failure = error
                raise
            if not chunk:
                return

    def _check_total(self, total: int) -> None:
        if self._limit is not None and total > self._limit:
            raise StreamError(f"the content is larger than {self._limit} bytes", too_large=True)

    def _undo(self, chunk: bytes, number: int) -> Iterator[bytes]:
        """Pieces of what a chunk unfolds to; an empty one is the end."""
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

    async def read(self) -> bytes:
        """The next filtered bytes; ``b""`` is the end.

        Raises:
            Exception: What the source has raised, whatever filters made of it; else what a filter raises.
        """
        async with self._lock:
            if self._ended:
                return b""
            try:
                while True:
                    chunk = await anext(self._stages[-1])
                    if not isinstance(chunk, bytes | bytearray | memoryview):
                        raise TypeError(f"a filter of chunks yields bytes, not {chunk!r}")  # noqa: TRY301 - it ends the stream as any other failure.
                    if len(chunk):
                        return bytes(chunk)
            except StopAsyncIteration:
                self._ended = True
                if self._failure is not None:
                    raise self._failure from None
                return b""
            except asyncio.CancelledError:
                # A filter ends where it is cancelled.
                self._ended = self.cut = True
                raise
            except Exception as error:
                self._ended = True
                if self._failure is not None and self._failure is not error:
                    raise self._failure from error
                raise

    async def aclose(self) -> None:
        """Close every stage, the last first, once nobody reads."""
        async with self._lock:
            self._ended = True
            for stage in reversed(self._stages):
                close = getattr(stage, "aclose", None)
                if close is None:
                    continue
                try:
                    await close()
                except Exception:
                    _logger.exception("a filter failed while it was closed: %s", self._facts.route)
