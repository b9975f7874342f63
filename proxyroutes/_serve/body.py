"""The content of a received request, streamed or buffered, as the transport reads it.

A body ends cleanly only where the client ended it: a client that leaves in the middle raises, so that a cut upload never
looks complete to the upstream (RFC 9112 §8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import cast

from proxyroutes._serve.exchange import ClientLeft, Exchange, client_stalled
from proxyroutes._serve.guard import refuse
from proxyroutes.exceptions import ClientRequestError, Stage, UpstreamProtocolError
from proxyroutes.typing import Message, Receive

__all__ = [
    "BodyRecorder",
    "BufferedBody",
    "IteratedBody",
    "ReceivedBody",
    "check_length",
    "lost_content",
    "too_large",
]

_logger = logging.getLogger("proxyroutes.serve")


def too_large(limit: int) -> ClientRequestError:
    """The refusal of a content over its limit (RFC 9110 §15.5.14)."""
    return refuse(f"the content is larger than {limit} bytes", 413, "Content too large")


def check_length(content_length: int | None, limit: int | None) -> None:
    """Refuse a declared length over the limit before anything is read."""
    if limit is not None and content_length is not None and content_length > limit:
        raise too_large(limit)


class ReceivedBody:
    """The client's content, read as the upstream takes it.

    Attributes:
        content_length: Bytes, or None where the length is unknown.
        resumable: A read that is cancelled takes nothing away: the next one gives what it would have given.
    """

    resumable = True

    __slots__ = (
        "_ended",
        "_exchange",
        "_first",
        "_limit",
        "_listener",
        "_wanted",
        "content_length",
    )

    def __init__(
        self,
        exchange: Exchange,
        content_length: int | None,
        limit: int | None,
        first: Message | None = None,
        *,
        expects_continue: bool = False,
    ) -> None:
        self._exchange = exchange
        # Listening is receiving, which a server takes for the wish to read: it would send the 100 (RFC 9110 §10.1.1).
        self._wanted = not expects_continue
        self.content_length = content_length
        self._limit = limit
        self._ended = False
        self._first = first
        self._listener: asyncio.Task[None] | None = None
        # Whoever reads this hears a client that leaves; two readers of one channel would steal from each other.
        exchange.may_watch = False
        exchange.body = self

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end.

        Raises:
            ClientLeft: If the client left before the end.
            ClientRequestError: If there is more than is allowed.
        """
        exchange = self._exchange
        self._wanted = True
        while not self._ended:
            message = self._first or await self._receive()
            self._first = None
            if message["type"] == "http.disconnect":
                # Not by an interruption: that would cancel the task that is about to close the upstream's connection.
                raise ClientLeft
            if not message.get("more_body", False):
                self._ended = True
                exchange.may_watch = True
            chunk: bytes = message.get("body", b"")
            if chunk:
                exchange.request_bytes += len(chunk)
                if self._limit is not None and exchange.request_bytes > self._limit:
                    raise too_large(self._limit)
                return chunk
        return b""

    async def _receive(self) -> Message:
        exchange = self._exchange
        exchange.client_stalls = True
        try:
            listener = self._listener
            if listener is None:
                return await exchange.receive()
            # The next message is on its way to whoever has listened; it is taken from there.
            await asyncio.wait((listener,))
            self._listener = None
            return self._first or await exchange.receive()
        finally:
            exchange.client_stalls = False

    def hand_over(self, exchange: Exchange) -> ReceivedBody | None:
        """The same content for the next exchange; None if some of it is gone, or its own exchange goes on."""
        own = self._exchange
        if own.request_bytes or not own.ended:
            return None
        body = ReceivedBody(
            exchange,
            self.content_length,
            self._limit,
            self._first,
            expects_continue=not self._wanted,
        )
        # Nobody will read it any more, and hear a client that leaves.
        body._ended = exchange.may_watch = self._ended
        return body

    def listen(self) -> asyncio.Task[None] | None:
        """Take one message while nobody reads, so that a client that leaves is heard.

        Returns:
            The task that does so, or None if there is no need for one.
        """
        if (
            not self._wanted
            or self._ended
            or self._first is not None
            or self._listener is not None
        ):
            return None
        self._listener = self._exchange.spawn(self._listen(), "listen")
        return self._listener

    async def _listen(self) -> None:
        exchange = self._exchange
        try:
            message = await exchange.receive()
        except Exception as error:  # noqa: BLE001 - a receive channel that fails has no client behind it.
            _logger.debug("the receive channel failed: %r", error)
            message = {"type": "http.disconnect"}
        self._first = message
        if message["type"] == "http.disconnect":
            exchange.interrupt(ClientLeft())
        elif not message.get("more_body", False):
            # The channel has nothing more of the content: the watch may have it.
            exchange.may_watch = True


class BufferedBody:
    """Content that is here already, and can be sent more than once."""

    __slots__ = ("_content", "_given", "content_length")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._given = False
        self.content_length: int | None = len(content)

    @property
    def content(self) -> bytes:
        """All of it, however much was read."""
        return self._content

    def rewind(self) -> None:
        """Begin again."""
        self._given = False

    async def read(self) -> bytes:
        """All of it, then ``b""``."""
        if self._given:
            return b""
        self._given = True
        return self._content


class BodyRecorder:
    """A receive channel for user code: what is read from it is kept, so that it can still be forwarded.

    Args:
        receive: The client's channel.
        limit: Bytes that are kept.
        idle: Seconds to wait for the next ones; None for ever.
        refuse_with: Makes what is raised of a refusal.

    Attributes:
        touched: Whether something was read.
    """

    __slots__ = ("_chunks", "_ended", "_idle", "_limit", "_receive", "_refuse", "_size", "touched")

    def __init__(
        self,
        receive: Receive,
        limit: int,
        idle: float | None,
        refuse_with: Callable[[ClientRequestError], Exception],
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._idle = idle
        self._refuse = refuse_with
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self.touched = False

    async def __call__(self) -> Message:
        """The next message, kept.

        Raises:
            Exception: What ``refuse_with`` makes, at the first byte over the limit, or when none has come for long.
        """
        message = await self._next()
        if message["type"] == "http.request":
            self.touched = True
            chunk: bytes = message.get("body", b"")
            self._size += len(chunk)
            if self._size > self._limit:
                raise self._refuse(too_large(self._limit))
            self._chunks.append(chunk)
            self._ended = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        if self._ended:
            # Whoever reads on waits for the client to leave, which is no stall.
            return await self._receive()
        try:
            async with asyncio.timeout(self._idle) as waiting:
                return await self._receive()
        except TimeoutError:
            if not waiting.expired():
                raise
            raise self._refuse(client_stalled(cast("float", self._idle))) from None

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
