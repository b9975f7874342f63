"""One HTTP/1.1 connection to an upstream: an asyncio protocol around llhttp.

llhttp decides what a response is; this module decides what of it is accepted. A connection carries one exchange at a time.
It may be used again only after a complete keep-alive response to a completely sent request; any byte that comes while it
is idle, any byte after the end of a message, and every failed or abandoned exchange closes it, so that a response can
never reach another request (RFC 9112 §6.3, §9.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from typing_extensions import override

from proxyroutes.exceptions import GatewayError, Side, Stage, UpstreamProtocolError
from proxyroutes.transports._auth import authorizes_connection, challenges_connection
from proxyroutes.transports._head import MAX_FIELDS, MAX_HEAD_BYTES
from proxyroutes.typing import Attempt, Field, Fields

__all__ = ["Http1Connection", "Http1Response"]

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
HIGH_WATER_BYTES = 128 * 1024
"""Bytes of a body that are kept before reading from the upstream is paused."""
MAX_INFORMATIONAL = 16
"""Interim responses before the final one; more is an attack (CONFORMANCE H-31)."""


def _size(fields: Fields) -> int:
    return sum([len(name) + len(value) for name, value in fields])


def _says_close(fields: Fields) -> bool:
    return any(name == b"connection" and b"close" in value.lower() for name, value in fields)


class Http1Response:
    """A response on its way: what came of it so far, and who waits for more."""

    # Class attributes are what a response begins with.
    status = 0
    reason = b""
    overhead_bytes = 0
    informational = 0
    # The final head is complete.
    started = False
    # No byte of a response has come: a request that may be repeated was perhaps never seen.
    untouched = True
    length_known = False
    chunked = False
    ended = False
    error: BaseException | None = None
    pump: asyncio.Task[None] | None = None
    # Lists are made when there is something to keep: many responses are waited for at a time.
    # A tuple until a message begins: nothing can be added to what all share.
    fields: Fields = cast("Fields", ())
    _chunks: list[bytes] | None = None
    _trailers: Fields | None = None
    _size = 0
    _waiter: asyncio.Future[None] | None = None

    def __init__(
        self,
        connection: Http1Connection,
        attempt: Attempt,
        is_head: bool,
    ) -> None:
        # None once the connection belongs to somebody else.
        self.connection: Http1Connection | None = connection
        self.attempt = attempt
        self.is_head = is_head
        self.head_waiter: asyncio.Future[None] = connection.loop.create_future()

    # For who relays it.

    strict = True

    @property
    def complete(self) -> bool:
        """Whether the whole body is here."""
        return self.ended and self.error is None

    @property
    def trailers(self) -> Fields:
        """Trailer fields, once the body has ended."""
        return self._trailers or []

    def take(self) -> bytes:
        """What is here, without waiting."""
        chunks = self._chunks
        if not chunks:
            return b""
        content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = None
        self._size = 0
        if self.connection is not None:
            self.connection.resume_reading()
        return content

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end.

        Raises:
            UpstreamProtocolError: If the body is cut off or malformed.
        """
        while not self._chunks:
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            connection = self.connection
            if connection is None:
                raise UpstreamProtocolError(
                    "the exchange was abandoned",
                    stage=Stage.RESPONSE_BODY,
                    side=Side.GATEWAY,
                    sent=True,
                )
            self._waiter = connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def abort(self) -> None:
        """Let go: the connection is closed unless everything was read and it is back in its pool."""
        connection = self.connection
        if connection is not None:
            connection.abandon(self)
            self.connection = None
            self.wake()

    # For the connection.

    def feed(self, chunk: bytes) -> bool:
        """Keep a piece of the body; true if that is enough for now."""
        if self._chunks is None:
            self._chunks = [chunk]
        else:
            self._chunks.append(chunk)
        self._size += len(chunk)
        self.attempt.progress += 1
        if self._waiter is not None:
            self.wake()
        return self._size >= HIGH_WATER_BYTES

    def add_trailer(self, field: Field) -> None:
        """Keep a trailer field."""
        if self._trailers is None:
            self._trailers = []
        if len(self._trailers) > MAX_FIELDS:
            raise UpstreamProtocolError(f"more than {MAX_FIELDS} trailer fields")
        self._trailers.append(field)

    def wake(self) -> None:
        """Wake who waits for the body."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End it with an error; the first one counts."""
        if self.error is None and not (self.ended and self.head_waiter.done()):
            self.error = error
            if not self.head_waiter.done():
                self.head_waiter.set_exception(error)
            self.wake()


class Http1Connection(asyncio.Protocol):
    """A connection: idle in its pool, or serving one response."""

    __slots__ = (
        "_bound",
        "_closed",
        "_drain",
        "_on_idle",
        "_on_lost",
        "_parser",
        "_reading_paused",
        "_request_sent",
        "_response",
        "_reusable",
        "_surplus",
        "_transport",
        "_write",
        "_writing_paused",
        "adopted",
        "created_at",
        "expires_at",
        "is_closing",
        "loop",
        "requests",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[Http1Connection], None],
        on_lost: Callable[[Http1Connection], None],
    ) -> None:
        self.loop = loop
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._response: Http1Response | None = None
        self._request_sent = True
        self._reusable = True
        # One client was authenticated on it: nobody else may use it.
        self._bound = False
        self._surplus = False
        self._closed = False
        self._reading_paused = False
        self._writing_paused = False
        self._drain: asyncio.Future[None] | None = None
        self.created_at = loop.time()
        # Set by the pool when it is idle.
        self.expires_at = 0.0
        self.requests = 0
        # Set by the pool when it has it. One that is lost while it is still being opened was never counted as open:
        # whoever opens it gives the place back.
        self.adopted = False

    @property
    def closed(self) -> bool:
        """Whether it can carry nothing more."""
        return self._closed or self.is_closing()

    # Requests.

    def begin(
        self,
        head: bytes,
        attempt: Attempt,
        is_head: bool,
        has_body: bool,
    ) -> Http1Response:
        """Send the head of a request and expect its response."""
        self.requests += 1
        self._response = response = Http1Response(self, attempt, is_head)
        self._request_sent = not has_body
        attempt.sent = True
        if b"\r\nauthorization: " in head:
            self._bound = authorizes_connection(head)
        self._write(head)
        return response

    def write(self, content: bytes) -> None:
        """Send a part of the request's body."""
        if not self._closed:
            self._write(content)

    async def drain(self) -> None:
        """Wait until what was written is mostly gone."""
        while self._writing_paused and not self._closed:
            self._drain = self.loop.create_future()
            try:
                await self._drain
            finally:
                self._drain = None

    def request_sent(self, response: Http1Response) -> None:
        """The request is sent whole."""
        if self._response is not response:
            return
        self._request_sent = True
        if response.ended:
            self._finish(response)
        elif not response.started:
            response.attempt.enter(Stage.RESPONSE_HEAD)

    def abandon(self, response: Http1Response) -> None:
        """Whoever had the exchange wants no more of it."""
        if response.pump is not None:
            response.pump.cancel()
        if self._response is response:
            self.close()

    def resume_reading(self) -> None:
        """Take more from the upstream, if that was paused."""
        if self._reading_paused and not self._closed:
            self._reading_paused = False
            cast("asyncio.Transport", self._transport).resume_reading()

    def close(self) -> None:
        """Close at once."""
        if self._closed:
            return
        self._closed = True
        response = self._response
        self._response = None
        if response is not None:
            response.connection = None
        if self._transport is not None:
            self._transport.abort()
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._on_lost(self)

    # asyncio's side.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write
        self.is_closing = self._transport.is_closing

    @override
    def pause_writing(self) -> None:
        self._writing_paused = True

    @override
    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    @override
    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None or response.ended:
            # Nobody asked for it: neither this nor what follows belongs to anybody.
            self.close()
            return
        response.untouched = False
        progress = response.attempt.progress
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not response.ended:
                cause = error.__context__
                self._fail(cause if isinstance(cause, GatewayError) else error)
                return
            self._surplus = True
        if response.attempt.progress == progress and not response.ended:
            # Neither a head nor content came of it: a head, a chunk extension or a trailer that does not end.
            response.overhead_bytes += len(data)
            if response.overhead_bytes > MAX_HEAD_BYTES:
                self._fail(
                    UpstreamProtocolError(f"more than {MAX_HEAD_BYTES} bytes without content")
                )
                return
        if (
            len(data) > MAX_HEAD_BYTES
            and not response.head_waiter.done()
            and _size(response.fields) > MAX_HEAD_BYTES
        ):
            self._fail(
                UpstreamProtocolError(f"more than {MAX_HEAD_BYTES} bytes of response fields")
            )
            return
        if response.ended:
            if response.is_head and not data.endswith(b"\r\n\r\n"):
                self._surplus = True
            self._finish(response)
        if response.started and not response.head_waiter.done():
            response.head_waiter.set_result(None)

    @override
    def eof_received(self) -> None:
        """Nothing more comes; the connection is closed and ``connection_lost`` says so."""

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        response = self._response
        if response is not None and not self._closed:
            if (
                response.started
                and not response.length_known
                and not response.chunked
                and exc is None
            ):
                # RFC 9112 §6.3: without a length the content ends with the connection.
                response.ended = True
                response.wake()
            else:
                self._fail(exc or ConnectionResetError("the upstream closed the connection"))
        self.close()

    # llhttp's side.

    def on_message_begin(self) -> None:
        """A message begins; after the end of ours it is somebody else's."""
        response: Any = self._response
        if response.ended:
            self._surplus = True
            raise UpstreamProtocolError("bytes after the end of a response")
        response.fields = []

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        response: Any = self._response
        response.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field, or a trailer field where the body has begun."""
        response: Any = self._response
        if response.started:
            response.add_trailer((name.lower(), value.rstrip(b" \t")))
        else:
            response.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is there: decide what it is and how its content is framed."""
        response: Any = self._response
        status: int = self._parser.get_status_code()
        if status < 200:
            self._interim(response, status)
            return
        if status > 599:
            raise UpstreamProtocolError(f"status {status} is not a final status")
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise UpstreamProtocolError("not an HTTP/1 response")
        if len(response.fields) > MAX_FIELDS:
            raise UpstreamProtocolError(f"more than {MAX_FIELDS} response fields")
        response.status = status
        response.started = True
        for name, value in response.fields:
            if name not in _FRAMING:
                continue
            if name == b"transfer-encoding":
                if response.chunked or value.lower() != b"chunked":
                    raise UpstreamProtocolError("Transfer-Encoding is not chunked alone")
                response.chunked = True
            else:
                response.length_known = True
        if response.is_head:
            response.ended = True
            self._reusable = version == "1.1" and not _says_close(response.fields)
        else:
            # RFC 9112 §6.1: a coding in HTTP/1.0 is faulty framing; the connection is closed after it.
            faulty = response.chunked and version == "1.0"
            self._reusable = self._parser.should_keep_alive() and not faulty
        self._bound |= status == 401 and challenges_connection(status, response.fields)
        attempt = response.attempt
        attempt.stage = Stage.RESPONSE_BODY
        attempt.progress += 1

    def on_body(self, chunk: bytes) -> None:
        """Keep a piece of content."""
        response: Any = self._response
        if response.is_head:
            # RFC 9110 §9.3.2: there is none; what comes belongs to nobody.
            self._surplus = True
        elif response.feed(chunk) and not self._reading_paused:
            self._reading_paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def on_message_complete(self) -> None:
        """The response is there whole, unless it was an interim one."""
        response: Any = self._response
        if response.started:
            response.ended = True

    # What follows from it.

    def _interim(self, response: Http1Response, status: int) -> None:
        # RFC 9110 §7.8: a server must not switch protocols that were not asked for.
        if status == 101:
            raise UpstreamProtocolError("101 that was not asked for")
        response.informational += 1
        if response.informational > MAX_INFORMATIONAL:
            raise UpstreamProtocolError(f"more than {MAX_INFORMATIONAL} interim responses")
        response.reason = b""

    def _finish(self, response: Http1Response) -> None:
        """The response has ended: give the connection back, or close it."""
        if not self._request_sent and not self._surplus and response.pump is not None:
            # RFC 9112 §9.5: the upstream has answered and may want no more of the request.
            response.pump.cancel()
        reusable = self._reusable and self._request_sent and not self._surplus and not self._closed
        response.wake()
        if not reusable or self._bound:
            self.close()
            return
        self._response = response.connection = None
        if response.is_head:
            # llhttp does not know the request: after HEAD it waits for content that never comes.
            self._parser = httptools.HttpResponseParser(self)
        if self._reading_paused:
            self.resume_reading()
        self._on_idle(self)

    def _fail(self, error: BaseException) -> None:
        response = self._response
        if response is not None:
            if isinstance(error, GatewayError):
                failure: BaseException = error
            else:
                failure = UpstreamProtocolError(
                    str(error) or type(error).__name__, stage=response.attempt.stage, sent=True
                )
                failure.__cause__ = error
            response.fail(failure)
            if response.pump is not None:
                response.pump.cancel()
        self.close()
