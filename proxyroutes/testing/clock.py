"""Time that passes when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools

__all__ = ["ManualClock"]

# Turns of the loop for woken tasks: one wakes the task, the others let what it woke in turn go on.
_TURNS = 20


class ManualClock:
    """A ``Clock`` that stands still until it is advanced.

    ```python
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5.0))
    await clock.advance(5.0)
    assert task.done()
    ```

    Args:
        start: Seconds that it shows at first.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    @property
    def pending(self) -> int:
        """Tasks that sleep on this clock now."""
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    def monotonic(self) -> float:
        """Seconds since the start of time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced by this many seconds; not above 0 gives one turn to other tasks."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Let time pass, and what was waiting for it run.

        Sleepers wake one after another in the order of their times, and each sees its own time on the clock. One that
        sleeps again wakes again if that falls into the same span.

        Args:
            seconds: How much time passes; 0 only lets other tasks run.

        Raises:
            ValueError: If it is below 0.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds!r}")
        end = self._now + seconds
        await self._run_others()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, sleeper = heapq.heappop(self._sleepers)
            if sleeper.done():
                continue
            self._now = due
            sleeper.set_result(None)
            await self._run_others()
        self._now = end

    async def _run_others(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
