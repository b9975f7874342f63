"""WebSocket load and the origin that echoes it: raw frames, so that neither side is what is measured.

Every message has the same content, which both sides know: the origin counts bytes and sends a frame made beforehand.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
import sys
import time

import uvloop

from benchmarks.load import Sample

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(size: int, *, masked: bool) -> bytes:
    """A binary message of zeros (RFC 6455 §5.2); a mask of zeros leaves them as they are."""
    mask = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", 0x82, mask | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x82, mask | 126, size)
    else:
        head = struct.pack("!BBQ", 0x82, mask | 127, size)
    return head + (bytes(4) if masked else b"") + bytes(size)


class Echo(asyncio.Protocol):
    """Answers the handshake, then each whole frame of data with one of the same size."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.open = False
        self.made: dict[int, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # a stream's transport.

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        if not self.open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._answer(bytes(buffer[:end]))
            del buffer[: end + 4]
        while (used := self._take()) > 0:
            del buffer[:used]

    def _answer(self, head: bytes) -> None:
        split = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        lines = {name.lower(): value.strip() for name, _, value in split}
        digest = hashlib.sha1(lines[b"sec-websocket-key"] + _GUID).digest()
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        self.open = True

    def _take(self) -> int:
        """Bytes of the first frame if it is whole, after it was answered; else 0."""
        buffer = self.buffer
        if len(buffer) < 2:
            return 0
        opcode, size, start = buffer[0] & 0x0F, buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return 0
            size = int.from_bytes(buffer[2:start], "big")
        end = start + 4 + size
        if len(buffer) < end:
            return 0
        if opcode == 0x8:
            self.transport.close()
        elif opcode < 0x8:
            if size not in self.made:
                self.made[size] = frame(size, masked=False)
            self.transport.write(self.made[size])
        return end


class _Client(asyncio.Protocol):
    """Sends a message, waits for all of its echo, and sends the next one."""

    def __init__(self, path: str, sent: bytes, expected: int) -> None:
        self.path = path
        self.sent = sent
        self.expected = expected
        self.left = 0
        self.head = b""
        self.count = 0
        self.failed = False
        self.stopped = False
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # a stream's transport.
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self.head += data
            if b"\r\n\r\n" in self.head:
                if self.head.startswith(b"HTTP/1.1 101"):
                    self.ready.set_result(None)
                else:
                    self.ready.set_exception(ConnectionError(self.head[:80].decode("latin-1")))
            return
        self.left -= len(data)
        if self.left <= 0:
            self.count += 1
            self.failed |= self.left < 0
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed before the handshake ended"))
        self.failed |= not self.stopped

    def send(self) -> None:
        if not self.stopped:
            self.left = self.expected
            self.transport.write(self.sent)


async def _load(port: int, path: str, connections: int, size: int, seconds: float) -> Sample:
    loop = asyncio.get_running_loop()
    sent, expected = frame(size, masked=True), len(frame(size, masked=False))
    clients: list[_Client] = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(path, sent, expected), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.wait_for(asyncio.gather(*[client.ready for client in clients]), 10)
    for client in clients:
        client.send()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    count = sum(client.count for client in clients)
    for client in clients:
        client.stopped = True
    errors = sum(client.failed for client in clients)
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0.05)
    return Sample(count / took, errors)


def messages(port: int, path: str, connections: int, size: int, seconds: float) -> Sample:
    """Messages a second that come back, over all connections."""
    return uvloop.run(_load(port, path, connections, size, seconds))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
