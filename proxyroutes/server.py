"""What a gateway wants of the server in front of it: protocols for uvicorn that do the plain and frequent at once.

uvicorn writes the head of a response and its content one after the other, and current event loops hand each write to the
system: two calls and two segments for what fits into one. ``uvicorn --http proxyroutes.server:HttpProtocol`` writes what
one turn of the event loop has made in one piece. And its engine of WebSockets takes each message through a dozen calls and
four copies, which ``--ws proxyroutes.server:WebSocketProtocol`` spares those of one plain frame. ``proxyroutes run`` has both.
Only how bytes get to and from the socket may live here: whatever is to be decided about HTTP and WebSockets is uvicorn's.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, cast

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from proxyroutes.transports._websocket_frames import (
    BINARY,
    TEXT,
    FrameFollower,
    make_header,
    writes_pieces,
)
from proxyroutes.typing import Message

__all__ = ["HttpProtocol", "WebSocketProtocol"]

_MOST_GATHERED = 64 * 1024
_MOST_JOINED = 4 * 1024
_BLOCK_BYTES = 1024 * 1024


class _GatheringTransport:
    """A transport that keeps what it is given until the event loop's next turn, and writes it then.

    No more than 64 KiB are kept, so that whoever writes without end within one turn is told to wait as ever.

    Args:
        transport: The real one.
        loop: The event loop of both.
    """

    __slots__ = (
        "_gathered",
        "_loop",
        "_size",
        "get_extra_info",
        "is_closing",
        "pause_reading",
        "resume_reading",
        "set_protocol",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self._loop = loop
        self._gathered: list[bytes] = []
        self._size = 0
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.set_protocol = transport.set_protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it in this turn of the event loop, or at the beginning of the next."""
        # Whoever gave it may change what can be changed before it is written.
        content = data if type(data) is bytes else bytes(data)
        self._size += len(content)
        if self._size > _MOST_GATHERED:
            self.flush()
            self.transport.write(content)
            return
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(content)

    def flush(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, []
        self._size = 0
        if gathered and not self.transport.is_closing():
            self.transport.write(b"".join(gathered))

    def close(self) -> None:
        """Write what was gathered, and close."""
        self.flush()
        self.transport.close()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol of ``httptools``, with a response's head and content in one write.

    Given to uvicorn as ``--http proxyroutes.server:HttpProtocol``, or as ``http=HttpProtocol`` of ``uvicorn.Config``. A head
    whose content is not there yet is written in the same turn of the event loop. Needs uvicorn and httptools.
    """

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's.
        gathering = _GatheringTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", gathering))

    @override
    def handle_websocket_upgrade(self) -> None:
        # Messages are written one by one: each is whole, and somebody waits for it.
        gathering = cast("_GatheringTransport", self.transport)
        gathering.flush()
        self.transport = gathering.transport
        super().handle_websocket_upgrade()


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc keep up to 2 MiB of what was freed; once in a process.

    It gives memory back to the system as soon as 128 KiB at the heap's end are free, and takes it again page by page: with
    messages of 64 KiB that happened for each, and took as long as all the rest. Once a block was freed that is larger than
    those it has the system map, it keeps twice as much (mallopt(3), ``M_MMAP_THRESHOLD``). Elsewhere this does nothing.
    """
    bytearray(_BLOCK_BYTES)


class _WholeMessage:
    """What uvicorn reads of an engine's frame, for one that is a whole message."""

    __slots__ = ("data",)

    fin = True

    def __init__(self, data: bytes) -> None:
        self.data = data


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol ``websockets-sansio``, where a message of one plain frame passes the engine by.

    Given to uvicorn as ``--ws proxyroutes.server:WebSocketProtocol``, or as ``ws=WebSocketProtocol`` of ``uvicorn.Config``.
    Everything else is the engine's: handshakes, control frames, fragments, compressed messages, and whatever is not as it
    should be. So is all of a session that begins while the logger ``uvicorn.error`` is at ``DEBUG``, which shows every
    frame. Needs uvicorn.

    Source:
        RFC 6455 §5.2.
    """

    _follower: FrameFollower | None = None
    _passes_engine = False
    _writes_pieces = False

    @override
    def data_received(self, data: bytes) -> None:
        follower = self._follower
        if follower is None:
            # uvicorn gives the handshake first, whole. Were it not, its rest is no frame, and the engine gets all that comes.
            _keep_freed_memory()
            self._follower = FrameFollower(self.config.ws_max_size)
            self._follower.follow(data.partition(b"\r\n\r\n")[2])
        elif (
            self._passes_engine
            and self.conn.state is State.OPEN
            and (taken := follower.take_lone(data)) is not None
        ):
            first, content = taken
            take = self.handle_text if first == TEXT else self.handle_bytes
            take(cast("Any", _WholeMessage(content)))
            return
        else:
            follower.follow(data)
        super().data_received(data)

    @override
    async def send(self, message: Message) -> None:  # type: ignore[override]  # uvicorn has a type for each message.
        kind = message["type"]
        if kind == "websocket.send" and self._may_write() and self._write_message(message):
            return
        await super().send(cast("Any", message))
        if kind == "websocket.accept":
            # There is nothing to pass by if messages are compressed, or if the engine is to log them.
            self._passes_engine = not self.conn.extensions and not self.conn.debug
            self._writes_pieces = writes_pieces(self.transport)

    def _may_write(self) -> bool:
        return (
            self._passes_engine
            and self.conn.state is State.OPEN
            and self.writable.is_set()
            and not self.transport.is_closing()
        )

    def _write_message(self, message: Message) -> bool:
        """Write it as one frame (RFC 6455 §5.2); whether it was one."""
        first, content = BINARY, message.get("bytes")
        if content is None:
            text = message.get("text")
            if text is None:
                return False
            first, content = TEXT, text.encode()
        header = make_header(len(content), first)
        # What waits is written from where it is, and who gave it may change what can be changed.
        if self._writes_pieces and len(content) > _MOST_JOINED and type(content) is bytes:
            self.transport.writelines((header, content))
        else:
            self.transport.write(header + content)
        return True
