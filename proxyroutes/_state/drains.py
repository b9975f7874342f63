"""Drains of one pool on one loop: destinations that get nothing new, and what is left on them that ends or is cut.

A destination that was removed is drained too, without an end of its grace time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field

from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.typing import Clock

__all__ = ["Drain", "Drains"]

_LAST_WORDS = 10.0
"""Seconds for what was cut to let go; a session's closing handshake takes up to its ``close_timeout``."""

_logger = logging.getLogger("proxyroutes.health")


@define(eq=False)
class Drain:
    """One destination on its way out.

    Attributes:
        destination: Which.
        empty: Set once nothing is left on it.
        over: Set once the drain has ended, or was called off.
        cut: Exchanges and sessions that were cut.
        task: What waits for the end of the grace time, if there is one.
    """

    destination: DestinationState
    empty: asyncio.Event = field(factory=asyncio.Event)
    over: asyncio.Event = field(factory=asyncio.Event)
    cut: int = 0
    task: asyncio.Task[None] | None = None


@define(eq=False)
class Drains:
    """Who is on its way out.

    Attributes:
        pool: The pool's name, for the log.
        clock: Its time.
        sweepers: What waits there can be cut: exchanges and sessions.
        spawn: Starts a task that ends with the pool.
        forget: Called for a destination that has nothing left, so that its connections are closed.
    """

    pool: str
    clock: Clock
    sweepers: tuple[Sweeper, ...]
    spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    forget: Callable[[DestinationState], None]
    _drains: dict[DestinationState, Drain] = field(factory=dict)

    def begin(self, destination: DestinationState, grace: float | None) -> Drain:
        """Begin, or give one that has begun another grace time.

        Args:
            destination: Which; it gets no new leases.
            grace: Seconds until what is left is cut; None never cuts.
        """
        drain = self._drains.get(destination)
        if drain is None:
            drain = self._drains[destination] = Drain(destination)
            if not destination.in_flight:
                self._finish(drain)
        if drain.task is not None:
            drain.task.cancel()
            drain.task = None
        if grace is not None and not drain.over.is_set():
            drain.task = self.spawn(self._end(drain, grace), "drain")
        return drain

    def part(self, destination: DestinationState) -> None:
        """Begin without a grace time, unless one has begun."""
        if destination not in self._drains:
            self.begin(destination, None)

    def call_off(self, destination: DestinationState) -> None:
        """It is used again."""
        drain = self._drains.pop(destination, None)
        if drain is not None:
            drain.over.set()
            if drain.task is not None:
                drain.task.cancel()

    def emptied(self, destination: DestinationState) -> None:
        """The last lease on it was given back."""
        drain = self._drains.get(destination)
        if drain is not None:
            drain.empty.set()
            if drain.task is None:
                self._finish(drain)

    def close(self) -> None:
        """The pool ends: nobody waits any longer."""
        for destination in tuple(self._drains):
            self.call_off(destination)

    def _finish(self, drain: Drain) -> None:
        # One that is drained for good is nobody's any more; one that is drained again begins anew.
        if self._drains.get(drain.destination) is drain:
            del self._drains[drain.destination]
        self.forget(drain.destination)
        drain.empty.set()
        drain.over.set()

    async def _end(self, drain: Drain, grace: float) -> None:
        if not await self._emptied_within(drain, grace):
            drain.cut = sum([one.cut(drain.destination) for one in self.sweepers])
            _logger.warning(
                "cut after its grace time: pool=%s destination=%s exchanges=%d",
                self.pool,
                drain.destination.origin,
                drain.cut,
            )
            await self._emptied_within(drain, _LAST_WORDS)
        drain.task = None
        self._finish(drain)

    async def _emptied_within(self, drain: Drain, seconds: float) -> bool:
        sleeping = asyncio.ensure_future(self.clock.sleep(seconds))
        emptying = asyncio.ensure_future(drain.empty.wait())
        try:
            await asyncio.wait((sleeping, emptying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            emptying.cancel()
        return drain.empty.is_set()
