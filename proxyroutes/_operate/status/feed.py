"""The stream behind the status page: one tick a second for all who watch, bounded, and ended when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field
from starlette.responses import Response
from typing_extensions import override

from proxyroutes._operate.status.board import Board
from proxyroutes.typing import Clock, Receive, Scope, Send

__all__ = ["MOST_VIEWERS", "EventStream", "Feed"]

MOST_VIEWERS = 32
"""Streams at a time; one more is answered 503."""

_logger = logging.getLogger("proxyroutes.status")

_KEPT = 16
"""Ticks for those who reconnect, or read slowly; whoever is further behind gets a snapshot."""
_PAUSE = 0.25
"""Seconds between two looks at whether the server is stopping."""
_STALL = 10.0
"""Seconds for which a viewer may read nothing."""
_AFTER_THE_SECOND = 0.02
_HEADERS = {
    "cache-control": "no-store",
    "content-type": "text/event-stream; charset=utf-8",
    # Other proxies on the way must not collect it.
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
}


def _server_is_stopping() -> bool:
    """Whether uvicorn was told to stop: it waits for open streams before it says so to the lifespan."""
    handler = signal.getsignal(signal.SIGTERM)
    return bool(getattr(getattr(handler, "__self__", None), "should_exit", False))


@define(eq=False)
class Feed:
    """Ticks of one board on one loop.

    Attributes:
        board: What is shown.
        clock: When.
        closed: Whether it has ended, and every stream with it.
        viewers: Streams that are open.
    """

    board: Board
    clock: Clock
    is_stopping: Callable[[], bool] = _server_is_stopping
    closed: bool = False
    viewers: int = 0
    _ticks: deque[tuple[int, bytes]] = field(factory=lambda: deque(maxlen=_KEPT))
    _changed: asyncio.Event = field(factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick on the running loop."""
        if self._task is None:
            self.board.look()
            self._task = asyncio.create_task(self._run(), name="proxyroutes-status")

    async def aclose(self) -> None:
        """End every stream, and the ticking."""
        self._end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _end(self) -> None:
        self.closed = True
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _run(self) -> None:
        clock = self.clock
        second = int(clock.monotonic())
        failing = False
        while not self.closed:
            # Just after a second has begun, so that each tick has one whole second more than the last.
            left = 1.0 - clock.monotonic() % 1.0 + _AFTER_THE_SECOND
            await clock.sleep(min(_PAUSE, left))
            if self.is_stopping():
                self._end()
            elif int(clock.monotonic()) != second:
                second = int(clock.monotonic())
                try:
                    self.tick()
                except Exception:
                    # The next one may do better. Said once, and not every second.
                    if not failing:
                        _logger.exception("a tick of the status page failed")
                    failing = True
                else:
                    failing = False

    def tick(self) -> None:
        """Look, and tell those who watch what has changed."""
        board = self.board
        board.look()
        if not self.viewers:
            # Whoever comes next begins with a snapshot.
            self._ticks.clear()
            board.forget()
            return
        changes = board.tick()
        name, shown = ("snapshot", board.snapshot()) if changes is None else ("tick", changes)
        self._ticks.append((board.number, self._event(name, shown)))
        self._notify()

    def _event(self, name: str, shown: dict[str, Any]) -> bytes:
        identity = f"{self.board.identity}-{self.board.number}"
        return f"id: {identity}\nevent: {name}\ndata: {json.dumps(shown)}\n\n".encode()

    def after(self, number: int | None) -> tuple[int, bytes]:
        """What a viewer must be sent that has seen everything up to this tick, and the tick it then has seen.

        Args:
            number: The last tick that it has; None for nothing.
        """
        board = self.board
        if number is not None:
            if number == board.number:
                return number, b""
            # A gap would leave rows as they were before it.
            if self._ticks and self._ticks[0][0] <= number + 1 and number < board.number:
                missed = [event for known, event in self._ticks if known > number]
                return board.number, b"".join(missed)
        return board.number, self._event("snapshot", board.snapshot())

    def read_identity(self, text: str | None) -> int | None:
        """The tick that ``Last-Event-ID`` names, if it is one of this board."""
        identity, _, number = (text or "").rpartition("-")
        if identity != self.board.identity or not number.isdecimal() or not number.isascii():
            return None
        return int(number[:12])

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next tick, or the end; to be asked for before anything else can run."""
        return self._changed


class EventStream(Response):
    """The stream of one viewer, until the viewer leaves, reads nothing for too long, or the feed ends."""

    def __init__(self, feed: Feed, last_event_id: str | None) -> None:
        super().__init__(status_code=200, headers=_HEADERS)
        # It has no length.
        del self.headers["content-length"]
        self._feed = feed
        self._number = feed.read_identity(last_event_id)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        feed = self._feed
        feed.viewers += 1
        leaving = asyncio.create_task(_wait_for_leave(receive), name="proxyroutes-status-viewer")
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            # Stalled or gone: the server closes what was not ended.
            with contextlib.suppress(TimeoutError):
                await self._send_all(send, leaving)
        finally:
            feed.viewers -= 1
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _send_all(self, send: Send, leaving: asyncio.Task[None]) -> None:
        feed = self._feed
        while not feed.closed and not leaving.done():
            self._number, events = feed.after(self._number)
            if events:
                async with asyncio.timeout(_STALL):
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            # A tick may have passed while this was sent.
            if self._number == feed.board.number and not feed.closed:
                waiting = asyncio.ensure_future(feed.changed.wait())
                try:
                    await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
        async with asyncio.timeout(_STALL):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
