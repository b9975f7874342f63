"""Slow starts of one pool on one loop: whose weight is growing, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from attrs import define, field

from proxyroutes._state.destinations import DestinationState
from proxyroutes.policies.slow_start import SlowStart
from proxyroutes.typing import Clock

__all__ = ["Ramps"]

_STEPS = 20
"""Steps in which a weight grows: each one is a new snapshot, and balancers work things out anew."""


@define(eq=False)
class Ramps:
    """Who starts slowly.

    Attributes:
        recipe: The curve.
        clock: The pool's time.
        spawn: Starts a task that ends with the pool.
        changed: Called when weights have grown.
    """

    recipe: SlowStart
    clock: Clock
    spawn: Callable[[Coroutine[Any, Any, None], str], object]
    changed: Callable[[], None]
    _out: set[DestinationState] = field(factory=set)
    _began: dict[DestinationState, float] = field(factory=dict)
    _grows: bool = False

    def came(self, destination: DestinationState) -> None:
        """One was added while the pool runs: it is as one that comes back."""
        self._out.add(destination)

    def forget(self, destination: DestinationState) -> None:
        """One is gone."""
        self._out.discard(destination)
        self._began.pop(destination, None)

    def see(
        self, destinations: Collection[DestinationState], usable: Collection[DestinationState]
    ) -> None:
        """Begin with those that are usable and were not the last time."""
        used = set(usable)
        for destination in destinations:
            if destination not in used:
                self._out.add(destination)
                if self._began.pop(destination, None) is not None:
                    destination.factor = 1.0
                    destination.reweigh()
            elif destination in self._out:
                self._out.discard(destination)
                self._began[destination] = self.clock.monotonic()
                self._grow(destination)
                if not self._grows:
                    self._grows = True
                    self.spawn(self._grow_all(), "slow-start")

    def _grow(self, destination: DestinationState) -> None:
        elapsed = self.clock.monotonic() - self._began[destination]
        destination.factor = self.recipe.factor(elapsed)
        destination.reweigh()
        if elapsed >= self.recipe.window:
            del self._began[destination]

    async def _grow_all(self) -> None:
        while self._began:
            await self.clock.sleep(self.recipe.window / _STEPS)
            for destination in tuple(self._began):
                self._grow(destination)
            self.changed()
        self._grows = False
