"""``HealthMonitor``: the handle that pools share. In this release it owns each loop's clock, randomness and sweeper.

Probes are not there yet: every destination counts as available.
"""

from __future__ import annotations

import asyncio
import random as random_module
from types import TracebackType
from typing import TYPE_CHECKING

from attrs import define, field

from proxyroutes._state.clock import SystemClock
from proxyroutes._state.loops import LoopStates
from proxyroutes._state.sweeper import SESSION_TICK, Sweeper
from proxyroutes.typing import Clock, RandomSource

if TYPE_CHECKING:
    from typing import Self

__all__ = ["HealthMonitor", "MonitorState"]


@define(eq=False)
class MonitorState:
    """What a monitor has on one loop."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    random: RandomSource
    sweeper: Sweeper = field(init=False)
    sessions: Sweeper = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sweeper = Sweeper(self.loop, self.clock)
        self.sessions = Sweeper(self.loop, self.clock, SESSION_TICK)

    async def aclose(self) -> None:
        """Stop the sweepers."""
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
        self.interval = interval
        self._clock = clock or SystemClock()
        self._random = random or random_module.Random()  # noqa: S311 - balancing is no secret.
        self._states: LoopStates[MonitorState] = LoopStates()

    def state(self) -> MonitorState:
        """The state on the running loop; opened lazily where nobody has entered the monitor."""
        loop = asyncio.get_running_loop()
        state = self._states.get(loop)
        if state is None:
            state = MonitorState(loop, self._clock, self._random)
            self._states.open_lazily(loop, state)
        return state

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._states.enter(loop, lambda: MonitorState(loop, self._clock, self._random))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._states.leave(asyncio.get_running_loop())
