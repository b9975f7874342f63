"""An origin that sends exactly the bytes that a test wants, broken ones too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

from attrs import field, frozen
from typing_extensions import override

__all__ = [
    "Close",
    "HalfClose",
    "ReadBody",
    "ReadHead",
    "ReadToEnd",
    "ReadUntil",
    "Reset",
    "Script",
    "ScriptedOrigin",
    "Step",
    "Wait",
    "reset_connection",
]

_READ_BYTES = 65_536


@frozen
class ReadHead:
    """Read a request's head, up to and with the empty line."""


@frozen
class ReadBody:
    """Read so many bytes.

    Attributes:
        length: Bytes.
    """

    length: int


@frozen
class ReadUntil:
    """Read up to and with a mark, such as the last chunk of a body.

    Attributes:
        mark: The bytes to wait for.
    """

    mark: bytes = b"0\r\n\r\n"


@frozen
class ReadToEnd:
    """Read until the other side has closed its direction."""


@frozen
class Wait:
    """Do nothing, and read nothing, until an event is set.

    Attributes:
        event: What is waited for.
    """

    event: asyncio.Event = field(eq=False)


@frozen
class Close:
    """Close the connection in good order."""


@frozen
class Reset:
    """Break the connection with a TCP reset."""


@frozen
class HalfClose:
    """End the origin's direction and go on reading."""


Step: TypeAlias = (
    bytes | ReadHead | ReadBody | ReadUntil | ReadToEnd | Wait | Close | Reset | HalfClose
)
"""What an origin does next; bytes are sent."""

Script: TypeAlias = (
    Sequence[Step] | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
)
"""What happens on one connection: steps, or a function of its streams."""


class _RecordingReader(asyncio.StreamReader):
    """A reader that keeps a copy of what comes, and says when something does."""

    def __init__(self, record: bytearray, notify: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._record = record
        self._notify = notify

    @override
    def feed_data(self, data: Any) -> None:
        self._record += data
        super().feed_data(data)
        self._notify()


class ScriptedOrigin:
    r"""A real server on a port of its own that plays scripts.

    A script that begins with bytes first reads one request's head. After its last step the origin reads on, and closes
    once the other side does: for a response that is cut off, say ``Close()`` or ``Reset()``.

    ```python
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]) as origin:
        print(origin.url)
    ```

    Args:
        *scripts: One for each connection in turn; the last one is for all that follow.
        unix: Path of a Unix socket to listen on, instead of a TCP port of 127.0.0.1.
        tls: A server's context, to speak TLS on the TCP port.

    Attributes:
        requests: The bytes that came, one item for each connection.
        errors: What functions used as scripts have raised.
        connections: Connections that were accepted.
        open_connections: Those of them that are still open on either side.
    """

    def __init__(
        self,
        *scripts: Script,
        unix: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not scripts:
            raise ValueError("an origin needs at least one script")
        self.requests: list[bytearray] = []
        self.errors: list[Exception] = []
        self.connections = 0
        self.open_connections = 0
        self._scripts = scripts
        self._unix = None if unix is None else os.fspath(unix)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket.

        Raises:
            RuntimeError: If the origin was not started.
        """
        if self._server is None:
            raise RuntimeError(
                "the origin has no port before it is started: use it in `async with`"
            )
        return 0 if self._unix is not None else int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The destination's URL."""
        if self._unix is not None:
            return f"http+unix://{quote(self._unix, safe='')}"
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._unix is not None:
            self._server = await loop.create_unix_server(self._make_protocol, self._unix)
        else:
            self._server = await loop.create_server(
                self._make_protocol, "127.0.0.1", 0, ssl=self._tls
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            while self._tasks:
                await asyncio.wait(self._tasks)
            await self._server.wait_closed()

    async def wait_until(self, claim: Callable[[], bool]) -> None:
        """Wait until a claim about this origin is true; it is asked again whenever something happens.

        ```python
        await origin.wait_until(lambda: origin.open_connections == 0)
        ```
        """
        while not claim():
            self._changed.clear()
            await self._changed.wait()

    def _make_protocol(self) -> asyncio.StreamReaderProtocol:
        record = bytearray()
        reader = _RecordingReader(record, self._changed.set)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self.open_connections += 1
            self.requests.append(record)
            name = f"scripted origin, connection {self.connections}"
            task = asyncio.create_task(self._serve(script, reader, writer), name=name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._changed.set()

        return asyncio.StreamReaderProtocol(reader, accept)

    async def _serve(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if callable(script):
                await script(reader, writer)
            else:
                await _Player(reader, writer).play(script)
        except (ConnectionError, asyncio.IncompleteReadError):
            # The other side is gone. That is for the test to see in `open_connections`.
            pass
        except Exception as error:  # noqa: BLE001 - it is the test's
            self.errors.append(error)
        except asyncio.CancelledError:
            # Closing would wait for a client that does not read.
            writer.transport.abort()
            raise
        finally:
            writer.close()
            try:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            finally:
                writer.transport.abort()
                self.open_connections -= 1
                self._changed.set()


class _Player:
    """Plays the steps of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = bytearray()

    async def play(self, steps: Sequence[Step]) -> None:
        if steps and isinstance(steps[0], bytes):
            await self._read_until(b"\r\n\r\n")
        for step in steps:
            if isinstance(step, Close):
                return
            await self._take(step)
        await self._read_to_end()

    async def _take(self, step: Step) -> None:
        match step:
            case bytes():
                self._writer.write(step)
                await self._writer.drain()
            case ReadHead():
                await self._read_until(b"\r\n\r\n")
            case ReadBody(length):
                await self._read_while(lambda: len(self._unread) < length)
                del self._unread[:length]
            case ReadUntil(mark):
                await self._read_until(mark)
            case ReadToEnd():
                await self._read_to_end()
            case Wait(event):
                await event.wait()
            case HalfClose():
                self._writer.write_eof()
            case _:
                reset_connection(self._writer)

    async def _read_until(self, mark: bytes) -> None:
        await self._read_while(lambda: mark not in self._unread)
        del self._unread[: self._unread.index(mark) + len(mark)]

    async def _read_while(self, wanting: Callable[[], bool]) -> None:
        while wanting():
            received = await self._reader.read(_READ_BYTES)
            if not received:
                raise asyncio.IncompleteReadError(bytes(self._unread), None)
            self._unread += received

    async def _read_to_end(self) -> None:
        while await self._reader.read(_READ_BYTES):
            pass


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """Break a connection with a TCP reset."""
    # Linger for 0 seconds: closing sends RST instead of FIN.
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
