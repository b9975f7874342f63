"""An upstream that reads whole uploads and answers then: nginx would answer before it has read them."""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sink(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(1024 * 1024)
        self.head = b""
        self.left: int | None = None
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = memoryview(self.buffer)[:nbytes]
        if self.left is None:
            self.head += bytes(data)
            head, found, rest = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            length = _LENGTH.search(head)
            # Chunked content ends with its last chunk; nothing else of it is looked at.
            self.left = -1 if length is None else int(length[1])
            self.tail = b""
            data = memoryview(rest)
        if self.left < 0:
            self.tail = (self.tail + bytes(data[-8:]))[-8:]
            ended = self.tail.endswith(b"0\r\n\r\n")
        else:
            self.left -= len(data)
            ended = self.left <= 0
        if ended:
            self.head, self.left = b"", None
            self.transport.write(_ANSWER)  # type: ignore[attr-defined]  # A stream's transport.


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
