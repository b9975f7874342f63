"""WebSocket peers of raw frames on both sides, so that no library decides what a test may send or sees."""

import asyncio
import base64
import contextlib
import hashlib
import os
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from attrs import define, field
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.policies import RoundRobin
from proxyroutes.testing import RunningGateway, ScriptedOrigin, run_gateway
from tests.integration.support import DEADLINE, eventually

SERVERS = [
    *("websockets-sansio", "wsproto", "websockets"),
    pytest.param("proxyroutes.server:WebSocketProtocol", id="ours"),
]
"""uvicorn's implementations of WebSockets, and ours for it."""
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY.decode()}",
    "Sec-WebSocket-Version: 13",
)


def accept_key(key: bytes) -> bytes:
    """What a server makes of a client's key."""
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def value_of(head: bytes, name: bytes) -> bytes | None:
    """The first value of a field of a head."""
    for line in head.split(b"\r\n")[1:]:
        known, _, value = line.partition(b":")
        if known.lower() == name:
            return value.strip()
    return None


def values_of(head: bytes, name: bytes) -> list[bytes]:
    """Every value of a field of a head."""
    pairs = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return [value.strip() for known, _, value in pairs if known.lower() == name]


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = False
) -> bytes:
    """The bytes of one frame, whether or not it is a good one."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    stream = (mask * (len(payload) // 4 + 1))[: len(payload)]
    whole = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + mask + whole.to_bytes(len(payload), "big")


def closing(code: int | None = None, reason: str = "") -> bytes:
    """The content of a Close frame."""
    return b"" if code is None else struct.pack("!H", code) + reason.encode()


@define
class Frame:
    """A frame as it came."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int
    masked: bool

    @property
    def code(self) -> int | None:
        """The code of a Close frame."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None

    @property
    def reason(self) -> str:
        """The reason of a Close frame."""
        return self.payload[2:].decode()


@define(eq=False)
class Peer:
    """One side of a session, in raw frames.

    Attributes:
        head: The head that it got: an origin's the request's, a client's the response's.
        body: Content of a response that is no 101.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    masks: bool
    head: bytes = b""
    body: bytes = b""
    released: asyncio.Event = field(factory=asyncio.Event)

    @property
    def status(self) -> int:
        """The status of the response's head."""
        return int(self.head.split(b" ")[1])

    async def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        """Send a frame."""
        options.setdefault("masked", self.masks)
        await self.send_raw(frame(opcode, payload, **options))

    async def send_raw(self, sent: bytes) -> None:
        """Send bytes."""
        self.writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def read(self) -> Frame | None:
        """Read the next frame, pings and pongs too; None is the end of the connection."""
        try:
            async with asyncio.timeout(DEADLINE):
                first, second = await self.reader.readexactly(2)
                length = second & 0x7F
                if length == 126:
                    (length,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif length == 127:
                    (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
                mask = await self.reader.readexactly(4) if second & 0x80 else b""
                payload = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if mask:
            payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7, bool(mask))

    async def message(self) -> tuple[int, bytes]:
        """Read the next message, whatever its fragments."""
        got = await self.read()

        assert got is not None
        opcode, payload = got.opcode, got.payload
        while not got.fin:
            got = await self.read()

            assert got is not None and got.opcode == CONTINUATION
            payload += got.payload
        return opcode, payload

    async def closed(self) -> tuple[int | None, str]:
        """Read to the Close frame, answer it, and give its code and reason; 1006 is an end without one."""
        while got := await self.read():
            if got.opcode == CLOSE:
                with contextlib.suppress(ConnectionError):
                    await self.send(CLOSE, got.payload[:2])
                self.leave_gently()
                return got.code, got.reason
        return 1006, ""

    async def close(self, code: int | None = None, reason: str = "") -> None:
        """Close: an origin begins the closing handshake, a client goes through it to its end."""
        await self.send(CLOSE, closing(code, reason))
        if self.masks:
            while await self.read():
                pass
            self.leave_gently()

    def leave_gently(self) -> None:
        """Close the connection in good order."""
        self.writer.close()
        self.released.set()

    def leave(self) -> None:
        """Break the connection with a reset."""
        self.writer.transport.abort()
        self.released.set()


Answer = Callable[[bytes], bytes]


def accept(head: bytes, *lines: bytes, key: bytes | None = None) -> bytes:
    """A good answer to a handshake, with further field lines."""
    own = key or accept_key(value_of(head, b"sec-websocket-key") or b"")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (own, b"".join(line + b"\r\n" for line in lines))
    )


class SessionOrigin(ScriptedOrigin):
    """An origin whose sessions the test plays, one after the other.

    Args:
        answer: Makes the answer to a handshake of its head.
    """

    def __init__(self, answer: Answer = accept, **options: Any) -> None:
        super().__init__(self._serve_session, **options)
        self.answer = answer
        self.sessions: asyncio.Queue[Peer] = asyncio.Queue()

    async def _serve_session(self, reader: Any, writer: Any) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        peer = Peer(reader, writer, masks=False, head=head)
        answer = self.answer(head)
        if answer:
            writer.write(answer)
            await writer.drain()
        self.sessions.put_nowait(peer)
        if not answer or answer.startswith(b"HTTP/1.1 101"):
            await peer.released.wait()

    async def session(self) -> Peer:
        """The next session."""
        async with asyncio.timeout(DEADLINE):
            return await self.sessions.get()


async def dial(
    port: int,
    target: str,
    *lines: str,
    upgrade: tuple[str, ...] = UPGRADE,
    surplus: bytes = b"",
    method: str = "GET",
    known: list[Peer] | None = None,
) -> Peer:
    """Ask for a session and read the answer's head, and its content where it is a refusal.

    ``known`` gets the peer before it has an answer.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: gateway.test", *upgrade, *lines])
    writer.write(head.encode("latin-1") + b"\r\n\r\n" + surplus)
    peer = Peer(reader, writer, masks=True)
    if known is not None:
        known.append(peer)
    try:
        async with asyncio.timeout(DEADLINE):
            peer.head = await reader.readuntil(b"\r\n\r\n")
            if peer.status != 101:
                length = value_of(peer.head, b"content-length")
                peer.body = await (
                    reader.read(-1) if length is None else reader.readexactly(int(length))
                )
    except BaseException:
        peer.leave()
        raise
    return peer


@define(eq=False)
class Sessions:
    """A running gateway of WebSocket routes.

    Attributes:
        running: The server.
        pool: The pool of its route.
        records: Records of ended sessions.
        state: The pool's state from the start, which its end does not replace.
    """

    running: RunningGateway
    pool: UpstreamPool
    proxy: Proxy
    records: list[Any]
    state: Any
    peers: list[Peer] = field(factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.running.port

    async def dial(
        self,
        target: str = "/live",
        *lines: str,
        upgrade: tuple[str, ...] = UPGRADE,
        surplus: bytes = b"",
        method: str = "GET",
    ) -> Peer:
        """Ask for a session and read the answer's head, and its content where it is a refusal."""
        return await dial(
            self.port,
            target,
            *lines,
            upgrade=upgrade,
            surplus=surplus,
            method=method,
            known=self.peers,
        )

    async def open(
        self, origin: SessionOrigin, target: str = "/live", *lines: str
    ) -> tuple[Peer, Peer]:
        """Open a session: the client's side and the origin's."""
        client = await self.dial(target, *lines)

        assert 101 == client.status, client.head + client.body
        return client, await origin.session()

    async def record(self, count: int = 1) -> Any:
        """Wait until so many sessions have ended, and give the last one's record."""
        await eventually(lambda: len(self.records) >= count)
        return self.records[-1]

    def is_idle(self) -> bool:
        """Whether nothing of any session is left."""
        state = self.state
        return (
            not state.in_flight
            and not len(state.websockets)
            and not len(state.sweeper)
            and not len(state.monitor.sessions)
        )


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Ends without a task of ours and without an unhandled exception."""
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    yield
    await eventually(
        lambda: (
            not [one for one in asyncio.all_tasks() if one.get_name().startswith("proxyroutes")]
        )
    )
    assert [] == unhandled


@contextlib.asynccontextmanager
async def open_sessions(
    *upstreams: str,
    ws: str = "websockets-sansio",
    lane: str = "router",
    path: str = "/<path>",
    prefix: str = "",
    declare: Callable[[Proxy, UpstreamPool], None] | None = None,
    proxy: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    **route: Any,
) -> AsyncIterator[Sessions]:
    """Serve one WebSocket route over one pool; ends by waiting until nothing of it is left."""
    records: list[Any] = []
    upstream = UpstreamPool("pool", upstreams, balancing=RoundRobin(), **(pool or {}))
    own = Proxy(**{"on_exchange": records.append, **(proxy or {})})
    if declare is not None:
        declare(own, upstream)
    else:

        @own.websocket(path, upstream=upstream, **route)
        async def live() -> None:
            """Relay everything."""

    app: Any
    if lane == "app":
        app = own.build_app()
    else:
        app = FastAPI(openapi_url=None)
        app.include_router(own.build_router(), prefix=prefix)
    async with run_gateway(app, ws=ws, **{"proxy_headers": False, **(server or {})}) as running:
        sessions = Sessions(running, upstream, own, records, upstream.state())
        try:
            yield sessions
        finally:
            for peer in sessions.peers:
                peer.leave()
        await eventually(sessions.is_idle)
