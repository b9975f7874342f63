"""One WebSocket connection to an upstream: an asyncio protocol around ``websockets``' sans-I/O engine.

The engine decides what a frame is and what breaks the protocol (RFC 6455 §5); this module decides how much of what has
come is kept. Only plain data frames, of which nothing is to be decided, pass it by (``_websocket_frames``). Frames are taken
one by one, and none while the messages of earlier ones wait, so that neither a flood of large messages nor one of tiny
frames grows without bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State

from proxyroutes.exceptions import Side, Stage, UpstreamProtocolError
from proxyroutes.transports._websocket_ending import LOST, Ending
from proxyroutes.transports._websocket_frames import (
    BINARY,
    ENDLESS,
    TEXT,
    FrameReader,
    make_frame,
    writes_pieces,
)
from proxyroutes.transports._websocket_handshake import Handshake
from proxyroutes.typing import Attempt, Fields

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WebSocketConnection"]

HIGH_WATER_BYTES = 256 * 1024
"""Bytes of waiting messages above which nothing more is read from the upstream."""
_MESSAGE_BYTES = 256
"""What a waiting message counts besides its content."""
_SLICE_BYTES = 32 * 1024
_TEXT, _BINARY, _CONTINUATION, _CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.CLOSE


class WebSocketConnection(asyncio.Protocol):
    """A connection whose handshake is under way, was accepted, or was refused.

    Attributes:
        status: Status of the handshake's answer.
        fields: Its field lines.
        body: Content of a refusal.
        activity: Raised by one whenever bytes come.
        received_bytes: Bytes of the message that was taken last.
        stop: Called once if the gateway shuts the connection down.
        writing_paused: Whether what was sent waits for the upstream to read.
    """

    __slots__ = (
        "_abort_timer",
        "_answer",
        "_attempt",
        "_close_timeout",
        "_closed",
        "_closing",
        "_drained",
        "_ending",
        "_engine",
        "_engine_answers",
        "_handshake",
        "_loop",
        "_lost",
        "_messages",
        "_on_lost",
        "_partial",
        "_partial_is_text",
        "_passes_engine",
        "_pong",
        "_reader",
        "_reading_paused",
        "_transport",
        "_unread",
        "_waiter",
        "_waiting_bytes",
        "_writes_pieces",
        "activity",
        "body",
        "fields",
        "received_bytes",
        "status",
        "stop",
        "writing_paused",
    )

    strict = True

    def __init__(
        self,
        engine: ClientProtocol,
        close_timeout: float,
        on_lost: Callable[[WebSocketConnection], None],
        max_message_bytes: int | None,
    ) -> None:
        self.activity = 0
        self.received_bytes = 0
        self.writing_paused = False
        self.stop: Callable[[Ending], None] | None = None
        self.status = 0
        self.fields: Fields = []
        self.body = b""
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._close_timeout = close_timeout
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._handshake: Handshake | None = Handshake(engine)
        self._attempt: Attempt | None = None
        self._answer: asyncio.Future[None] | None = None
        # No deque, which takes 760 bytes while it is empty; no more than a thousand messages wait.
        self._messages: list[tuple[str | bytes, int]] = []
        self._waiting_bytes = 0
        self._unread = b""
        self._reader = FrameReader(max_message_bytes)
        self._engine_answers = False
        self._passes_engine = False
        self._writes_pieces = False
        self._reading_paused = False
        self._partial: bytearray | None = None
        self._partial_is_text = False
        self._pong = b""
        self._ending: Ending | None = None
        self._closing = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None
        # An event, because a stub's own messages wait beside those of the pump.
        self._drained: asyncio.Event | None = None
        self._closed: asyncio.Future[None] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    # The handshake.

    async def open(self, raw: bytes, attempt: Attempt) -> None:
        """Send the handshake's request and wait for its answer, a refusal's content included.

        Raises:
            UpstreamProtocolError: If there is none, or it cannot be accepted.
        """
        self._attempt = attempt
        self._answer = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            raise UpstreamProtocolError("the upstream closed the connection at once")
        attempt.sent = True
        attempt.enter(Stage.RESPONSE_HEAD)
        self._transport.write(raw)
        try:
            await self._answer
        finally:
            self._answer = None
            self._attempt = None

    @property
    def subprotocol(self) -> str | None:
        """What the upstream chose."""
        return self._engine.subprotocol

    def _shake(self, handshake: Handshake, received: bytes) -> None:
        if self._attempt is not None:
            self._attempt.progress += 1
        try:
            surplus = handshake.feed(received)
        except UpstreamProtocolError as error:
            self._fail_handshake(error)
            return
        if handshake.complete:
            self._answered(handshake)
            if surplus and self.status == 101:
                self._feed(surplus)

    def _answered(self, handshake: Handshake) -> None:
        self._handshake = None
        self.status, self.fields = handshake.status, handshake.fields
        self.body = bytes(handshake.body)
        if self.status == 101:
            self._choose_reader()
        else:
            self.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _fail_handshake(self, error: UpstreamProtocolError) -> None:
        self._handshake = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()

    # asyncio's side.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._writes_pieces = writes_pieces(transport)

    @override
    def data_received(self, data: bytes) -> None:
        self.activity += 1
        if (
            self._partial is None
            and not self._unread
            and self._waiting_bytes < HIGH_WATER_BYTES
            and (message := self._reader.take_lone(data)) is not None
        ):
            self._put(message)
            self._wake_reader()
            return
        if self._handshake is not None:
            self._shake(self._handshake, data)
        elif self._unread:
            # One more read may come after a pause.
            self._unread += data
        else:
            self._feed(data)

    @override
    def pause_writing(self) -> None:
        self.writing_paused = True

    @override
    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._pong:
            self._write((self._pong,))
            self._pong = b""
        self._wake_writers()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._transport = None
        self.writing_paused = False
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        handshake = self._handshake
        if handshake is not None:
            if exc is None and handshake.end():
                self._answered(handshake)
            else:
                problem = UpstreamProtocolError(
                    str(exc) if exc else "the upstream closed the connection", sent=True
                )
                problem.__cause__ = exc
                self._fail_handshake(problem)
        for waiter in (self._waiter, self._closed):
            _wake(waiter)
        self._wake_writers()
        self._on_lost(self)

    # Reading.

    def _choose_reader(self) -> None:
        """Have plain frames pass the engine by, unless there is an extension or it is to log them."""
        self._passes_engine = not self._engine.extensions and not self._engine.debug
        if self._passes_engine:
            self._reader.owed = 0

    def _feed(self, received: bytes) -> None:
        """Take the frames that were received, as many as may be kept; the engine is given those that are not plain."""
        reader = self._reader
        received = reader.resume(received)
        start, size = 0, len(received)
        while start < size:
            if self._waiting_bytes >= HIGH_WATER_BYTES and not self._closing:
                self._unread = received[start:]
                break
            if reader.owed and not reader.missing:
                start = self._give_engine(received, start)
                continue
            content, start = reader.take(received, start, fragmented=self._partial is not None)
            if content is not None and not self._closing and self._ending is None:
                self._keep(content, is_text=reader.is_text)
        if self._engine_answers:
            self._answer_engine()
        if self._messages or self._ending is not None:
            self._wake_reader()

    def _wake_reader(self) -> None:
        """Hand over what waits, and read no more while too much of it does."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._waiting_bytes >= HIGH_WATER_BYTES and not self._closing:
            self._pause_reading()

    def _give_engine(self, received: bytes, start: int) -> int:
        """Give the engine bytes of the frame that it is owed; where they end."""
        reader = self._reader
        end = min(start + min(reader.owed, _SLICE_BYTES), len(received))
        reader.owed -= end - start
        self._engine.receive_data(received[start:end])
        self._engine_answers = True
        self._take_frames()
        return end

    def _answer_engine(self) -> None:
        """Send what the engine answers to all that was received."""
        self._engine_answers = False
        engine = self._engine
        answers = engine.data_to_send()
        if answers:
            if self.writing_paused and engine.state is State.OPEN:
                # RFC 6455 §5.5.3: a Pong may be sent "for only the most recently processed Ping frame".
                self._pong = answers[-1]
            else:
                self._write(answers)

    def _take_frames(self) -> None:
        engine = self._engine
        for frame in cast("Iterable[Any]", engine.events_received()):
            opcode = frame.opcode
            if opcode is _CLOSE:
                close: Any = engine.close_rcvd
                self._end(Ending(Side.UPSTREAM, close.code, close.reason))
                self._expect_end()
            elif self._ending is not None or self._closing:
                continue
            elif opcode is _TEXT or opcode is _BINARY:
                if frame.fin:
                    self._keep(frame.data, is_text=opcode is _TEXT)
                else:
                    self._partial = bytearray(frame.data)
                    self._partial_is_text = opcode is _TEXT
            elif opcode is _CONTINUATION:
                partial = cast("bytearray", self._partial)
                partial += frame.data
                if frame.fin:
                    self._partial = None
                    self._keep(partial, is_text=self._partial_is_text)
        if engine.parser_exc is not None and self._ending is None:
            told: Any = engine.close_sent
            code = LOST if told is None else told.code
            self._end(Ending(Side.UPSTREAM, code, "", faulty=True))
            self._expect_end()

    def _keep(self, content: bytes | bytearray | memoryview, *, is_text: bool) -> None:
        message: str | bytes
        try:
            message = str(content, "utf-8") if is_text else bytes(content)
        except UnicodeDecodeError:
            # RFC 6455 §8.1: the connection MUST be failed.
            self._engine.fail(1007, "invalid UTF-8")
            self._engine_answers = True
            self._end(Ending(Side.UPSTREAM, 1007, "", faulty=True))
            self._expect_end()
            return
        self._put((message, len(content)))

    def _put(self, message: tuple[str | bytes, int]) -> None:
        self._messages.append(message)
        self._waiting_bytes += message[1] + _MESSAGE_BYTES

    def _end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            self._reader.owed = ENDLESS

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    @property
    def hears(self) -> bool:
        """Whether what the upstream sends is read, rather than held back because nobody takes it."""
        return not self._reading_paused

    async def receive(self) -> str | bytes | Ending:
        """The next message, or how the connection ended once all of them were taken."""
        while not self._messages:
            if self._unread:
                unread, self._unread = self._unread, b""
                self._feed(unread)
                continue
            if self._ending is not None:
                return self._ending
            if self._lost:
                return Ending(Side.UPSTREAM, LOST)
            if self._reading_paused:
                self._resume_reading()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, self.received_bytes = self._messages.pop(0)
        self._waiting_bytes -= self.received_bytes + _MESSAGE_BYTES
        return message

    # Writing.

    def _write(self, pieces: Iterable[bytes]) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(pieces))

    def send(self, content: bytes, *, is_text: bool) -> None:
        """Send a message; once either side closes it goes nowhere."""
        engine, transport = self._engine, self._transport
        if transport is None or engine.state is not State.OPEN:
            return
        if self._passes_engine:
            frame = make_frame(content, TEXT if is_text else BINARY)
            if self._writes_pieces:
                transport.writelines(frame)
            else:
                transport.write(b"".join(frame))
            return
        if is_text:
            engine.send_text(content)
        else:
            engine.send_binary(content)
        self._write(engine.data_to_send())

    def ping(self) -> None:
        """Ask the upstream for a sign of life."""
        if self._engine.state is State.OPEN and not self._lost:
            self._engine.send_ping(b"")
            self._write(self._engine.data_to_send())

    async def drain(self) -> None:
        """Wait until the upstream has read enough of what was sent."""
        while self.writing_paused and not self._closing:
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()

    def _wake_writers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set()

    # The end.

    def close(self, code: int | None, reason: str = "") -> None:
        """Begin the closing handshake, or go on with it; what comes from now on is dropped.

        Args:
            code: A code that may be sent; None sends none.
            reason: Up to 123 bytes of UTF-8.
        """
        self._closing = True
        # What comes is of no interest but for a Close frame, and the engine finds that.
        self._reader.owed = ENDLESS
        self._messages.clear()
        self._waiting_bytes = 0
        if self._lost:
            return
        unread, self._unread = self._unread, b""
        if self._engine.state is State.OPEN:
            self._engine.send_close(code, reason if code is not None else "")
            self._write(self._engine.data_to_send())
        if unread:
            self._feed(unread)
        self._resume_reading()
        self._expect_end()
        self._wake_writers()

    def _expect_end(self) -> None:
        """The upstream is the one to close the connection (RFC 6455 §7.1.1); it is not waited for without end."""
        if self._abort_timer is None and not self._lost:
            self._abort_timer = self._loop.call_later(self._close_timeout, self.abort)

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        while not self._lost:
            self._closed = self._loop.create_future()
            try:
                await self._closed
            finally:
                self._closed = None

    def shut_down(self) -> None:
        """The gateway stops: end the session with 1001 on both sides."""
        ending = Ending(Side.GATEWAY, 1001, "the gateway stops")
        if self.stop is not None:
            self.stop(ending)
        else:
            self._end(ending)
            _wake(self._waiter)

    def abort(self) -> None:
        """Let go of the connection at once. May be called twice."""
        if self._transport is not None:
            self._transport.abort()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
