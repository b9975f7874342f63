"""Origins and networks that fail as they are told: what a gateway must live with, on demand."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections import deque
from collections.abc import Iterable
from random import Random
from types import TracebackType
from typing import Any, Self

import h11
from attrs import frozen

from proxyroutes._state.clock import SystemClock
from proxyroutes.testing.origin import ScriptedOrigin, reset_connection
from proxyroutes.typing import Clock

__all__ = ["Fault", "FaultProxy", "FaultyOrigin", "NetworkFaults"]

_READ_BYTES = 65_536
_CLOSE_SECONDS = 1.0


class Fault(enum.Enum):
    """What an origin does instead of answering well."""

    CLOSE = "close"
    """It closes without an answer."""
    RESET = "reset"
    """It resets the connection without an answer."""
    HANG = "hang"
    """It never answers."""
    GARBAGE = "garbage"
    """It sends what is no response."""
    UNAVAILABLE = "unavailable"
    """It answers 503."""
    CUT = "cut"
    """It closes in the middle of the content."""
    RESET_IN_CONTENT = "reset in content"
    """It resets the connection in the middle of the content."""
    STALL = "stall"
    """It sends half of the content, and nothing more."""
    SURPLUS = "surplus"
    """It answers, and sends another response that nobody asked for."""


class FaultyOrigin(ScriptedOrigin):
    """An origin that answers every request with the same content, and fails as told.

    ```python
    async with FaultyOrigin(b"hello") as origin:
        origin.fail_next(Fault.RESET, Fault.UNAVAILABLE)
        origin.ratio = 0.05  # after these two, one request in twenty
    ```

    Args:
        content: What it answers with, of two bytes at least.
        faults: What is drawn from for ``ratio``.
        ratio: Share of the requests that fail, from 0 to 1.
        random: What draws; give a seeded one for the same faults each time.

    Attributes:
        ratio: The same, which may be changed at any time.
        answered: Requests that were answered well.
        failed: Faults that happened, in order.

    Raises:
        ValueError: If the content is too short to be cut, or the ratio out of its range.
    """

    def __init__(
        self,
        content: bytes = b"ok",
        *,
        faults: Iterable[Fault] = tuple(Fault),
        ratio: float = 0.0,
        random: Random | None = None,
    ) -> None:
        super().__init__(self._answer_all)
        if len(content) < 2:
            raise ValueError(f"the content must have two bytes to be cut between: {content!r}")
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio is a share from 0 to 1: {ratio!r}")
        self.content = content
        self.ratio = ratio
        self.answered = 0
        self.failed: list[Fault] = []
        self._faults = tuple(faults)
        self._next: deque[Fault] = deque()
        self._random = random or Random()  # noqa: S311 - it draws faults, not secrets.

    def fail_next(self, *faults: Fault) -> None:
        """Fail the next requests like this, one each, before anything is drawn."""
        self._next.extend(faults)

    def _draw(self) -> Fault | None:
        if self._next:
            return self._next.popleft()
        if self._faults and self._random.random() < self.ratio:
            return self._random.choice(self._faults)
        return None

    async def _answer_all(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**17)
        while (method := await _read_request(connection, reader)) is not None:
            fault = self._draw()
            if fault is None:
                self.answered += 1
                writer.write(self._response(method))
            else:
                self.failed.append(fault)
                if not await self._fail(fault, method, writer):
                    return
            await writer.drain()
            connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()

    def _response(self, method: bytes, status: bytes = b"200 OK") -> bytes:
        head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(self.content))
        return head if method == b"HEAD" else head + self.content

    async def _fail(self, fault: Fault, method: bytes, writer: asyncio.StreamWriter) -> bool:
        """Do it; true if the connection lives on."""
        whole = self._response(method)
        half = whole[: -(len(self.content) // 2)]
        match fault:
            case Fault.RESET:
                reset_connection(writer)
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.GARBAGE:
                writer.write(b"\x16\x03\x01 this is no response\r\n\r\n")
            case Fault.UNAVAILABLE:
                writer.write(self._response(method, b"503 Service Unavailable"))
                return True
            case Fault.CUT:
                writer.write(half)
            case Fault.RESET_IN_CONTENT:
                writer.write(half)
                await writer.drain()
                reset_connection(writer)
            case Fault.STALL:
                writer.write(half)
                await writer.drain()
                await asyncio.Event().wait()
            case Fault.SURPLUS:
                writer.write(whole + self._response(b"GET", b"200 Surplus"))
                return True
            case _:
                pass
        return False


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes | None:
    """Read one whole request; its method, or None at the end of the connection."""
    method = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.ConnectionClosed):
            return None
        elif isinstance(event, h11.Request):
            method = event.method
    return method


@frozen(kw_only=True)
class NetworkFaults:
    """What a network does to bytes in one direction. The default does nothing.

    Attributes:
        latency: Seconds that each piece is held back.
        jitter: Seconds that a piece is held back longer at most, drawn for each.
        slice_bytes: Largest piece that is passed on; None leaves pieces as they come.
        bytes_per_second: Most that is passed on in a second; None is no limit.
        limit_bytes: Bytes after which the connection is closed; None is no limit.
        black_hole: Whether bytes are taken and never passed on.

    Raises:
        ValueError: If a number is out of its range.
    """

    latency: float = 0.0
    jitter: float = 0.0
    slice_bytes: int | None = None
    bytes_per_second: float | None = None
    limit_bytes: int | None = None
    black_hole: bool = False

    def __attrs_post_init__(self) -> None:
        if self.latency < 0 or self.jitter < 0:
            raise ValueError("latency and jitter are seconds of at least 0")
        if self.slice_bytes is not None and self.slice_bytes < 1:
            raise ValueError(f"slice_bytes must be at least 1: {self.slice_bytes!r}")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0:
            raise ValueError(f"bytes_per_second must be greater than 0: {self.bytes_per_second!r}")
        if self.limit_bytes is not None and self.limit_bytes < 0:
            raise ValueError(f"limit_bytes must be at least 0: {self.limit_bytes!r}")

    def pieces(self, content: bytes) -> list[bytes]:
        """The pieces in which bytes are passed on."""
        size = self.slice_bytes or len(content) or 1
        return [content[start : start + size] for start in range(0, len(content), size)]

    def delay(self, size: int, random: Random) -> float:
        """Seconds that a piece of so many bytes is held back."""
        seconds = self.latency + (random.uniform(0, self.jitter) if self.jitter else 0.0)
        return seconds if self.bytes_per_second is None else seconds + size / self.bytes_per_second


class FaultProxy:
    """A TCP proxy that is a bad network between a gateway and an origin, or between a client and a gateway.

    It knows nothing of HTTP. Both directions may be changed at any time; what is on its way goes on as it began.

    ```python
    async with FaultyOrigin() as origin, FaultProxy(origin.port) as network:
        network.to_client = NetworkFaults(latency=0.05, slice_bytes=7)
        pool = UpstreamPool("users", [network.url])
    ```

    Args:
        port: Port on 127.0.0.1 that connections are passed on to.
        clock: What it waits with.
        random: What draws jitter; give a seeded one for the same each time.

    Attributes:
        to_origin: What happens to bytes on their way to the origin.
        to_client: What happens to bytes on their way back.
        connections: Connections that were accepted.
        lost_bytes: What went into a black hole.
    """

    def __init__(
        self, port: int, *, clock: Clock | None = None, random: Random | None = None
    ) -> None:
        self.to_origin = NetworkFaults()
        self.to_client = NetworkFaults()
        self.connections = 0
        self.lost_bytes = 0
        self._origin_port = port
        self._clock = clock or SystemClock()
        self._random = random or Random()  # noqa: S311 - it draws delays, not secrets.
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pairs: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}

    @property
    def port(self) -> int:
        """The TCP port, the same for as long as it is used.

        Raises:
            RuntimeError: If it was not started.
        """
        if not self._port:
            raise RuntimeError(
                "the proxy has no port before it is started: use it in `async with`"
            )
        return self._port

    @property
    def url(self) -> str:
        """The URL of a destination behind it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """Connections that are open on both sides."""
        return len(self._pairs)

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.go_down()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def go_down(self) -> None:
        """Refuse new connections, and break those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()

    async def come_back(self) -> None:
        """Accept connections, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self._port, limit=_READ_BYTES
            )
            self._port = int(self._server.sockets[0].getsockname()[1])

    def reset(self) -> None:
        """Break every open connection on both sides, with a TCP reset."""
        for client, origin in tuple(self._pairs.items()):
            reset_connection(client)
            reset_connection(origin)

    def half_close(self) -> None:
        """End the direction to the client of every open connection; the other one goes on."""
        for client in tuple(self._pairs):
            with contextlib.suppress(OSError):
                client.write_eof()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        name = f"fault proxy, connection {self.connections}"
        task = asyncio.create_task(self._connect(reader, writer), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        origin: asyncio.StreamWriter | None = None
        try:
            from_origin, origin = await asyncio.open_connection("127.0.0.1", self._origin_port)
            self._pairs[writer] = origin
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pass(reader, origin, answers=False))
                directions.create_task(self._pass(from_origin, writer, answers=True))
        except* (OSError, _LimitReachedError):
            # One side is gone: so is the other.
            pass
        finally:
            self._pairs.pop(writer, None)
            for one in (writer, origin):
                if one is not None:
                    await _finish(one)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        passed = 0
        while content := await reader.read(_READ_BYTES):
            faults = self.to_client if answers else self.to_origin
            if faults.black_hole:
                self.lost_bytes += len(content)
                continue
            for piece in faults.pieces(content):
                if faults.limit_bytes is not None and passed + len(piece) > faults.limit_bytes:
                    writer.write(piece[: faults.limit_bytes - passed])
                    await writer.drain()
                    raise _LimitReachedError
                delay = faults.delay(len(piece), self._random)
                if delay:
                    await self._clock.sleep(delay)
                writer.write(piece)
                await writer.drain()
                passed += len(piece)
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _finish(writer: asyncio.StreamWriter) -> None:
    """Close, with what was written still sent, unless the other side does not take it."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


class _LimitReachedError(Exception):
    """As many bytes as are let through have passed."""
