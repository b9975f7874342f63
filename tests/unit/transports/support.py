"""What the tests of transports share: requests, bodies, and upstreams that speak through sockets or ASGI."""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from attrs import define, field, frozen

from proxyroutes.exceptions import GatewayError, Stage
from proxyroutes.settings import Destination, Timeouts
from proxyroutes.testing import ScriptedOrigin
from proxyroutes.transports import ASGITransport, Http1Transport, HttpxTransport
from proxyroutes.typing import Attempt, BoundTransport, Fields, ForwardedHead, Transport

FRAMING = {b"content-length", b"transfer-encoding"}


class SystemClock:
    """The clock of the system."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


def any_frame(first: int, content: bytes, *, key: bytes | None = None, form: int = 0) -> bytes:
    """A WebSocket frame, masked if there is a key; ``form`` is the shortest way of writing its length that is used."""
    size, mask = len(content), 0 if key is None else 0x80
    if size < 126 and form == 0:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65_536 and form <= 1:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    if key is None:
        return head + content
    whole = (key * (size // 4 + 1))[:size]
    return head + key + bytes(a ^ b for a, b in zip(content, whole, strict=True))


@frozen
class Place:
    """An endpoint."""

    secure: bool
    host: str
    port: int
    socket_path: str | None
    authority: bytes
    base_path: bytes
    origin: str


def make_place(url: str) -> Place:
    """Make the endpoint of a destination's URL."""
    declared = Destination(url)
    return Place(
        declared.scheme == "https",
        declared.host,
        declared.port,
        declared.socket_path,
        declared.authority.encode(),
        declared.base_path.encode(),
        declared.origin,
    )


def make_head(
    method: bytes = b"GET",
    target: bytes = b"/",
    fields: Fields | None = None,
    *,
    host: bytes | None = None,
    content_length: int | None = None,
) -> ForwardedHead:
    """Make a request's head."""
    return ForwardedHead(method, target, fields or [], host, content_length)


class Content:
    """A body that counts how often it was read; an exception among its chunks is raised, an event waited for."""

    def __init__(self, *chunks: bytes | Exception | asyncio.Event, length: int | None = None):
        self.content_length = length
        self.reads = 0
        self.attempt: Attempt | None = None
        self.connected: list[bool] = []
        self.waiting = asyncio.Event()
        self._chunks = list(chunks)

    async def read(self) -> bytes:
        """Give the next chunk."""
        self.reads += 1
        if self.attempt is not None:
            self.connected.append(self.attempt.connected)
        chunk = self._chunks.pop(0) if self._chunks else b""
        if isinstance(chunk, asyncio.Event):
            self.waiting.set()
            await chunk.wait()
            return await self.read()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk


class StageLog(Attempt):
    """An attempt that keeps the stages that it has entered."""

    __slots__ = ("stages",)

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[Stage] = []

    def enter(self, stage: Stage) -> None:
        """Begin a stage."""
        super().enter(stage)
        if self.stages[-1:] != [stage]:
            self.stages.append(stage)


class Peer:
    """One exchange as the upstream sees it."""

    method: bytes
    target: bytes
    fields: Fields

    async def read(self) -> bytes:
        """Give the next piece of the request's body; ``b""`` is its end."""
        raise NotImplementedError

    async def start(self, status: int = 200, fields: Fields | None = None) -> None:
        """Send the head of the response."""
        raise NotImplementedError

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the response's body."""
        raise NotImplementedError

    async def end(self) -> None:
        """End the response."""
        raise NotImplementedError

    async def break_off(self) -> None:
        """Break the exchange."""
        raise NotImplementedError

    async def gone(self) -> None:
        """Wait until the other side is gone."""
        raise NotImplementedError

    async def read_all(self) -> bytes:
        """Read the request's body to its end."""
        received = b""
        while chunk := await self.read():
            received += chunk
        return received


PeerScript = Callable[[Peer], Awaitable[None]]


class SocketPeer(Peer):
    """An exchange on a connection."""

    def __init__(self, reader, writer, raw_head: bytes, cut: asyncio.Event) -> None:
        line, *lines = raw_head[:-4].split(b"\r\n")
        self.method, self.target, _ = line.split(b" ")
        self.fields = [tuple(each.split(b": ", 1)) for each in lines]
        self._reader = reader
        self._writer = writer
        self._cut = cut
        framing = {name.lower(): value for name, value in self.fields}
        self._left = int(framing.get(b"content-length", b"0"))
        self._chunked = b"transfer-encoding" in framing
        self._chunks = False
        self._reset = False

    async def read(self) -> bytes:
        if self._chunked:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            self._chunked = bool(size)
            return (await self._reader.readexactly(size + 2))[:-2]
        chunk = await self._reader.read(min(self._left, 65_536))
        self._left -= len(chunk)
        return chunk

    async def start(self, status=200, fields=None) -> None:
        fields = list(fields or [])
        names = {name.lower() for name, _ in fields}
        if not names & FRAMING and self.method != b"HEAD" and status not in {204, 304}:
            self._chunks = True
            fields.append((b"Transfer-Encoding", b"chunked"))
        lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
        self._writer.write(b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, lines))
        await self._writer.drain()

    async def write(self, chunk: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunks else chunk)
        await self._writer.drain()

    async def end(self) -> None:
        if self._chunks:
            self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()

    async def break_off(self) -> None:
        self._writer.transport.abort()

    async def gone(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass
        self._cut.set()


class ASGIPeer(Peer):
    """An exchange of an application."""

    def __init__(self, scope, receive, send, cut: asyncio.Event) -> None:
        self.method = scope["method"].encode()
        query = scope["query_string"]
        self.target = scope["raw_path"] + (b"?" + query if query else b"")
        self.fields = scope["headers"]
        self._receive = receive
        self._send = send
        self._cut = cut

    async def read(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._cut.set()
            raise ConnectionError
        return message["body"]

    async def start(self, status=200, fields=None) -> None:
        await self._send(
            {"type": "http.response.start", "status": status, "headers": fields or []}
        )

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body"})

    async def break_off(self) -> None:
        raise ConnectionError("broken off")

    async def gone(self) -> None:
        try:
            while True:
                await self.read()
        except (ConnectionError, asyncio.CancelledError):
            self._cut.set()
            raise


@define
class Upstream:
    """A running upstream and the transport to it.

    Attributes:
        cut: Set once a peer that waits for it has seen the other side go.
    """

    bound: BoundTransport
    place: Place
    cut: asyncio.Event = field(factory=asyncio.Event)
    origin: ScriptedOrigin | None = None
    attempt: Attempt = field(factory=Attempt)

    async def send(self, head: ForwardedHead | None = None, body: Content | None = None):
        """Send a request; ``attempt`` has its facts."""
        self.attempt = StageLog()
        if body is not None:
            body.attempt = self.attempt
        try:
            return await self.bound.send(
                head or make_head(), body, self.place, Timeouts(), self.attempt
            )
        except GatewayError as error:
            # As the attempt loop does it; a transport may have said it before.
            error.at(destination=self.place.origin, sent=self.attempt.sent)
            raise


@frozen
class Subject:
    """A transport under test.

    Attributes:
        make: Makes the recipe; of an application where it is not for sockets.
        gaps: What it cannot do, with the reason.
    """

    name: str
    make: Callable[..., Transport]
    sockets: bool = True
    gaps: dict[str, str] = field(factory=dict)

    @contextlib.asynccontextmanager
    async def serve(self, script: PeerScript, *, base: str = "") -> AsyncIterator[Upstream]:
        """Run an upstream that plays a script for each exchange."""
        cut = asyncio.Event()
        if self.sockets:
            async with (
                ScriptedOrigin(_connection_of(script, cut)) as origin,
                connect(self.make(), origin.url + base, cut, origin) as upstream,
            ):
                yield upstream
            assert [] == origin.errors
        else:

            async def app(scope, receive, send):
                with contextlib.suppress(ConnectionError):
                    await script(ASGIPeer(scope, receive, send, cut))

            async with connect(self.make(app), "http://asgi.test" + base, cut) as upstream:
                yield upstream

    @contextlib.asynccontextmanager
    async def play(self, *scripts) -> AsyncIterator[Upstream]:
        """Run an origin that plays scripts of raw bytes, one for each connection."""
        async with (
            ScriptedOrigin(*scripts) as origin,
            connect(self.make(), origin.url, asyncio.Event(), origin) as upstream,
        ):
            yield upstream


def _connection_of(script: PeerScript, cut: asyncio.Event):
    async def serve(reader, writer):
        try:
            while True:
                raw_head = await reader.readuntil(b"\r\n\r\n")
                await script(SocketPeer(reader, writer, raw_head, cut))
        except asyncio.IncompleteReadError:
            pass
        except ConnectionError:
            # The other side was gone while this one still wrote.
            cut.set()

    return serve


@contextlib.asynccontextmanager
async def connect(transport, url, cut=None, origin=None) -> AsyncIterator[Upstream]:
    """Bind a transport, and close it."""
    bound = transport.bind(clock=SystemClock(), tls=None)
    try:
        yield Upstream(bound, make_place(url), cut or asyncio.Event(), origin)
    finally:
        await bound.aclose()


async def read_all(response) -> bytes:
    """Read a response's body to its end."""
    received = [response.take()]
    while chunk := await response.read():
        received.append(chunk)
    return b"".join(received)


async def settle(count: Callable[[], int]) -> int:
    """Let everything run until a count stands still, and give it."""
    seen, still = count(), 0
    while still < 200:
        await asyncio.sleep(0)
        still = still + 1 if count() == seen else 0
        seen = count()
    return seen


HTTPX_GAPS = {
    "early_response": "httpcore writes the whole request before it reads",
    "trailers": "httpx drops trailers",
    "informational": "httpcore drops interim responses without a limit",
    "head_limit_before_parsing": "h11 has a limit of 100 KiB of its own",
}

SUBJECTS = [
    Subject("http1", Http1Transport),
    Subject("httpx", HttpxTransport, gaps=HTTPX_GAPS),
    Subject("asgi", ASGITransport, sockets=False),
]
