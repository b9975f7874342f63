"""Ejections of one pool on one loop: which outliers are out, how many may be, and when they come back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from attrs import define, field

from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.health import Watch
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.typing import Clock

__all__ = ["Ejections"]

_logger = logging.getLogger("proxyroutes.health")


@define(eq=False)
class Ejections:
    """Who is ejected.

    Attributes:
        pool: The pool's name, for the log.
        recipe: Its outlier detection, or None.
        clock: Its time.
        spawn: Starts a task that ends with the pool.
        changed: Called whenever one leaves or comes back.
        tell: Called with what there is to tell of it, after that.
        out: Those that are ejected now, the one that left first at the beginning.
    """

    pool: str
    recipe: OutlierDetection | None
    clock: Clock
    spawn: Callable[[Coroutine[Any, Any, None], str], object]
    changed: Callable[[], None]
    tell: Callable[[str, DestinationState, str], None]
    out: dict[DestinationState, None] = field(factory=dict)

    def bind(self, destinations: Collection[DestinationState]) -> None:
        """Begin a record of each that has none. The last one is never ejected: one that is alone needs none."""
        if self.recipe is not None and len(destinations) > 1:
            for destination in destinations:
                if destination.outlier is None:
                    destination.outlier = self.recipe.bind(clock=self.clock)

    def eject(
        self, destination: DestinationState, destinations: Collection[DestinationState]
    ) -> None:
        """Take an outlier out for a while, unless too many are out already or it is the last one."""
        outlier, recipe, out = destination.outlier, self.recipe, self.out
        if outlier is None or recipe is None or destination in out:
            return
        most = max(1, int(recipe.max_ejected * len(destinations)))
        left = [
            one
            for one in destinations
            if one is not destination and one.healthy is not False and one not in out
        ]
        if len([one for one in out if one in destinations]) >= most or not left:
            return
        seconds = outlier.eject()
        out[destination] = None
        _logger.warning(
            "ejected: pool=%s destination=%s seconds=%g reason=%s",
            self.pool,
            destination.origin,
            seconds,
            outlier.reason,
        )
        self.changed()
        self.tell("ejected", destination, outlier.reason)
        self.spawn(self._take_back_later(destination, outlier.ejections, seconds), "outlier")

    def settle(self, destinations: Collection[DestinationState]) -> None:
        """The pool has become smaller: take back whoever is too many, the one that left first before the others."""
        if self.recipe is None:
            return
        most = min(max(1, int(self.recipe.max_ejected * len(destinations))), len(destinations) - 1)
        out = [one for one in self.out if one in destinations]
        for destination in out[: max(0, len(out) - most)]:
            self.take_back(destination, "too few are left")

    async def _take_back_later(
        self, destination: DestinationState, ejection: int, seconds: float
    ) -> None:
        await self.clock.sleep(seconds)
        # One that a check has brought back, and that was ejected anew, waits for its own end.
        if destination.outlier is not None and destination.outlier.ejections == ejection:
            self.take_back(destination, "its time is over")

    def take_back(self, destination: DestinationState, reason: str) -> None:
        """End an ejection, if there is one."""
        if destination.outlier is None or destination not in self.out:
            return
        destination.outlier.take_back()
        del self.out[destination]
        _logger.warning(
            "no longer ejected: pool=%s destination=%s reason=%s",
            self.pool,
            destination.origin,
            reason,
        )
        self.changed()
        self.tell("readmitted", destination, reason)

    def passed(self, watch: Watch) -> None:
        """A probe has passed: an active pass ends an ejection."""
        if watch.report.healthy:
            for destination in tuple(self.out):
                if destination.watch is watch:
                    self.take_back(destination, "a health check has passed")
