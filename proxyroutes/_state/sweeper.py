"""One ticking sweeper a loop, instead of a timer object and a task for every exchange.

An exchange is entered while it lives. Each tick lets every one of them look at the time: time-outs fire there, and the
watch for a client that leaves starts there, for those exchanges that have waited longer than a tick. A fast exchange
pays for two set operations; a loop without exchanges does not tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from proxyroutes.typing import Clock

__all__ = ["SESSION_TICK", "TICK", "Sweeper", "Swept"]

TICK = 0.02
"""Seconds between two ticks: the precision of every time-out, and half of the latency to see that a client left."""

SESSION_TICK = 0.25
"""The same for sessions: thousands of them are silent for hours, and must cost next to nothing meanwhile."""


class Swept(Protocol):
    """What is entered into a sweeper."""

    def tick(self, now: float) -> None:
        """Look at the time; must not raise."""
        ...

    def cut(self, destination: object) -> bool:
        """End if it holds this destination; whether it did. Must not raise."""
        ...


class Sweeper:
    """Ticks over what waits on one event loop.

    Attributes:
        loop: The event loop.
    """

    __slots__ = ("_clock", "_entries", "_handle", "_interval", "_tasks", "loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, interval: float = TICK
    ) -> None:
        self.loop = loop
        self._interval = interval
        self._clock = clock
        self._entries: set[Swept] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Swept) -> None:
        """Enter what begins."""
        self._entries.add(entry)
        if self._handle is None:
            self._handle = self.loop.call_later(self._interval, self._tick)

    def discard(self, entry: Swept) -> None:
        """Take out what has ended."""
        self._entries.discard(entry)

    def cut(self, destination: object) -> int:
        """End whatever holds this destination; how many did."""
        return sum([entry.cut(destination) for entry in tuple(self._entries)])

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that this sweeper owns until it is done."""
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tick(self) -> None:
        self._handle = None
        if not self._entries:
            return
        now = self._clock.monotonic()
        for entry in tuple(self._entries):
            entry.tick(now)
        self._handle = self.loop.call_later(self._interval, self._tick)

    async def aclose(self) -> None:
        """Stop ticking and end what was spawned."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
