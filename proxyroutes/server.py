"""What a gateway wants of the server in front of it: a protocol for uvicorn that writes a response at once.

uvicorn writes the head of a response and its content one after the other, and current event loops hand each write to the
system: two calls and two segments for what fits into one. ``uvicorn --http proxyroutes.server:HttpProtocol`` writes what
one turn of the event loop has made in one piece; ``proxyroutes run`` does so by itself. Only how bytes get to the socket may
live here: whatever is HTTP is uvicorn's.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HttpProtocol"]

_MOST_GATHERED = 64 * 1024


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
