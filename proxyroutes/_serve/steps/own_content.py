"""Content that passes through the application's hands: what it reads on the way, and what it makes itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes.exceptions import Stage, UpstreamProtocolError
from proxyroutes.typing import Message, Receive

__all__ = ["BodyRecorder", "IteratedBody", "lost_content"]


class BodyRecorder:
    """A receive channel for user code: what is read from it is kept, so that it can still be forwarded.

    Attributes:
        touched: Whether something was read.
    """

    __slots__ = ("_chunks", "_ended", "_limit", "_receive", "_refuse", "_size", "touched")

    def __init__(
        self, receive: Receive, limit: int, refuse_with: Callable[[int], Exception]
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._refuse = refuse_with
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self.touched = False

    async def __call__(self) -> Message:
        """The next message, kept.

        Raises:
            Exception: What ``refuse_with`` makes, at the first byte over the limit.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self.touched = True
            chunk: bytes = message.get("body", b"")
            self._size += len(chunk)
            if self._size > self._limit:
                raise self._refuse(self._limit)
            self._chunks.append(chunk)
            self._ended = not message.get("more_body", False)
        return message

    async def content(self) -> bytes:
        """All of the content, whoever read it.

        Raises:
            ClientLeft: If the client left before the end.
        """
        while not self._ended:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientLeft
        return b"".join(self._chunks)


def lost_content() -> UpstreamProtocolError:
    """What a further read of a generator raises that was cancelled: it has ended, and must not look complete."""
    return UpstreamProtocolError(
        "the content was lost with the connection that took it",
        stage=Stage.REQUEST_BODY,
        sent=True,
    )


class IteratedBody:
    """Content that the application makes."""

    __slots__ = ("_chunks", "_cut", "_exchange", "content_length")

    def __init__(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._cut = False
        self._exchange = exchange
        self.content_length: int | None = None
        # It may be made of what the client sends: the watch would steal from it.
        exchange.may_watch = False

    async def read(self) -> bytes:
        """The next bytes that are not empty; ``b""`` is the end.

        Raises:
            UpstreamProtocolError: If an earlier read was cancelled.
        """
        if self._cut:
            raise lost_content()
        try:
            async for chunk in self._chunks:
                if chunk:
                    return bytes(chunk)
        except asyncio.CancelledError:
            self._cut = True
            raise
        self._exchange.may_watch = True
        return b""
