"""Intervals in which requests are counted, for destinations with ``max_requests``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field

from proxyroutes.typing import Clock

__all__ = ["Intervals"]


@define(eq=False)
class Intervals:
    """One interval after the other, from the start of a pool on. Waited for only while somebody counts.

    Attributes:
        clock: The pool's time.
        seconds: Gives the length of the next one.
        spawn: Starts a task that ends with the pool.
        begun: Called when a new one has begun.
    """

    clock: Clock
    seconds: Callable[[], float]
    spawn: Callable[[Coroutine[Any, Any, None], str], object]
    begun: Callable[[], None]
    _ends: float = field(init=False)
    _waits: bool = False

    def __attrs_post_init__(self) -> None:
        self._ends = self.clock.monotonic() + self.seconds()

    def count(self) -> None:
        """Somebody counts: begin anew if the interval is over, and wait for its end."""
        self._end()
        if not self._waits:
            self._waits = True
            self.spawn(self._wait(), "interval")

    def _end(self) -> None:
        """Intervals follow one another without a gap, whatever is asked when."""
        now = self.clock.monotonic()
        if now < self._ends:
            return
        seconds = self.seconds()
        self._ends += seconds * ((now - self._ends) // seconds + 1)
        self.begun()

    async def _wait(self) -> None:
        """One that has reached its limit is not asked: nobody else would see that the interval is over."""
        while (left := self._ends - self.clock.monotonic()) > 0:
            await self.clock.sleep(left)
        self._waits = False
        self._end()
