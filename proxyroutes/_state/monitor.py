"""``HealthMonitor``: the handle that pools share. It owns each loop's clock, randomness, sweepers and prober."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from attrs import define, field

from proxyroutes._state.clock import SystemClock
from proxyroutes._state.events import Events
from proxyroutes._state.health import HealthReport, Prober
from proxyroutes._state.loops import LoopStates
from proxyroutes._state.sweeper import SESSION_TICK, Sweeper
from proxyroutes.typing import Clock, HealthEvent, RandomSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self

__all__ = ["HealthMonitor", "MonitorState"]


class Monitored(Protocol):
    """A pool that runs."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def available(self) -> Sequence[object]:
        """What may be asked now."""
        ...


@define(eq=False)
class MonitorState:
    """What a monitor has on one loop.

    Attributes:
        pools: The pools that run there.
        events: Who listens to them.
    """

    loop: asyncio.AbstractEventLoop
    clock: Clock
    random: RandomSource
    interval: float
    sweeper: Sweeper = field(init=False)
    sessions: Sweeper = field(init=False)
    prober: Prober = field(init=False)
    pools: dict[Monitored, None] = field(factory=dict)
    events: Events = field(factory=Events)

    def __attrs_post_init__(self) -> None:
        self.sweeper = Sweeper(self.loop, self.clock)
        self.sessions = Sweeper(self.loop, self.clock, SESSION_TICK)
        self.prober = Prober(self.clock, self.random, self.sweeper.spawn, self.interval)

    async def aclose(self) -> None:
        """Stop the sweepers, and let go of whoever listens."""
        self.events.close()
        await self.sessions.aclose()
        await self.sweeper.aclose()


class HealthMonitor:
    """Watches over destinations for any number of pools, routes and apps.

    Also an asynchronous context manager by itself.

    Args:
        interval: Seconds between two probes of a destination, for checks that do not say it themselves.
        clock: Where time comes from; for tests.
        random: Where jitter and random choices come from; for tests.

    Raises:
        ValueError: If the interval is not greater than 0.
    """

    def __init__(
        self,
        *,
        interval: float = 10.0,
        clock: Clock | None = None,
        random: RandomSource | None = None,
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval must be greater than 0 seconds: {interval!r}")
        self._interval = interval
        self._clock = clock or SystemClock()
        self._random = random or random_module.Random()  # noqa: S311 - balancing is no secret.
        self._states: LoopStates[MonitorState] = LoopStates()

    @property
    def interval(self) -> float:
        """Seconds between two probes; a new value holds at once, and everything is probed at once.

        Set it where the monitor is running: other loops take it at their next start.

        Raises:
            ValueError: If it is not greater than 0.
        """
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"interval must be greater than 0 seconds: {seconds!r}")
        self._interval = seconds
        try:
            state = self._states.get(asyncio.get_running_loop())
        except RuntimeError:
            return
        if state is not None:
            state.prober.set_interval(seconds)

    def snapshot(self) -> dict[str, tuple[HealthReport, ...]]:
        """What is known of each origin on the running loop, one report for each check.

        Raises:
            RuntimeError: Outside of a running loop.
        """
        state = self._states.get(asyncio.get_running_loop())
        found: dict[str, tuple[HealthReport, ...]] = {}
        for watch in () if state is None else state.prober.watches:
            origin = watch.endpoint.origin
            found[origin] = (*found.get(origin, ()), watch.report)
        return found

    def events(self, *, limit: int = 256) -> AsyncIterator[HealthEvent]:
        """What changes in its pools on the running loop, from this call on: ``async for event in monitor.events()``.

        Each listener has its own events. Nothing waits for a listener: one that falls behind by more than ``limit`` loses
        the oldest, and the next event says how many. It ends when the monitor does.

        Args:
            limit: Events that are kept for it.

        Raises:
            RuntimeError: Outside of a running loop.
            ValueError: If the limit is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1: {limit!r}")
        return self.state().events.listen(limit)

    def unready(self) -> tuple[str, ...]:
        """Names of the pools that run on this loop and have nothing available.

        Raises:
            RuntimeError: Outside of a running loop.
        """
        state = self._states.get(asyncio.get_running_loop())
        pools = () if state is None else tuple(state.pools)
        return tuple([pool.name for pool in pools if not pool.available])

    def _make(self, loop: asyncio.AbstractEventLoop) -> MonitorState:
        return MonitorState(loop, self._clock, self._random, self._interval)

    def state(self) -> MonitorState:
        """The state on the running loop; opened lazily where nobody has entered the monitor."""
        loop = asyncio.get_running_loop()
        state = self._states.get(loop)
        if state is None:
            state = self._make(loop)
            self._states.open_lazily(loop, state)
        return state

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._states.enter(loop, lambda: self._make(loop))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._states.leave(asyncio.get_running_loop())
