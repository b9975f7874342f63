"""What a pool has on one loop: the snapshot of what is available, and the choice that a lease holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from attrs import define, field

from proxyroutes._state.destinations import DestinationState, DestinationStatus
from proxyroutes._state.ejection import Ejections
from proxyroutes._state.health import Watch, watch_key
from proxyroutes._state.intervals import Intervals
from proxyroutes._state.lease import Lease
from proxyroutes._state.monitor import MonitorState
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.settings import TLS, HealthCheck, Timeouts
from proxyroutes.transports.websocket import BoundSessions
from proxyroutes.typing import Balancer, BoundTransport, ForwardedHead, Transport

__all__ = ["PoolState"]

_health_logger = logging.getLogger("proxyroutes.health")


@define(eq=False)
class PoolState:
    """What a pool has on one loop.

    Attributes:
        available: The snapshot that a request reads once: every destination that may be asked now.
        in_flight: Leases that are out.
    """

    name: str
    loop: asyncio.AbstractEventLoop
    monitor: MonitorState
    destinations: tuple[DestinationState, ...]
    balancer: Balancer
    transport: BoundTransport
    websockets: BoundSessions
    timeouts: Timeouts | None
    checked_as: tuple[Transport, TLS | None]
    health: HealthCheck | None
    panic: bool
    outliers: OutlierDetection | None
    available: tuple[DestinationState, ...] = field(init=False)
    sweeper: Sweeper = field(init=False)
    ejections: Ejections = field(init=False)
    intervals: Intervals = field(init=False)
    in_flight: int = 0
    _panics: bool = False
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.available = self.destinations
        self.sweeper = self.monitor.sweeper
        clock, prober = self.monitor.clock, self.monitor.prober
        self.ejections = Ejections(self.name, self.outliers, clock, self._spawn, self.refresh)
        self.ejections.bind(self.destinations)
        self.intervals = Intervals(
            clock, lambda: prober.interval, self._spawn, self._begin_interval
        )
        self.watch_all(self.health)

    def watch_all(self, health: HealthCheck | None) -> None:
        """Have the destinations probed by this check, or by none; those with a check of their own keep it."""
        self.health = health
        prober = self.monitor.prober
        for destination in self.destinations:
            check = destination.recipe.health or health
            old, destination.watch = destination.watch, None
            if check is not None:
                key = watch_key(destination, check, *self.checked_as)
                destination.watch = prober.watch(key, check, destination, self)
            if old is not None:
                prober.unwatch(old, self)
        self.refresh()

    def refresh(self) -> None:
        """Make the snapshot anew: those of the first level that has some healthy, not ejected and with room."""
        healthy = [one for one in self.destinations if one.healthy is not False]
        if self.ejections.out:
            healthy = [one for one in healthy if one not in self.ejections.out]
        if not healthy and self.panic:
            if not self._panics:
                _health_logger.error("nothing is healthy, all are used: pool=%s", self.name)
            self._panics = True
            self.available = tuple([one for one in self.destinations if not one.full])
            return
        self._panics = False
        free = [one for one in healthy if not one.full]
        level = min([one.recipe.priority for one in free], default=0)
        self.available = tuple([one for one in free if one.recipe.priority == level])

    def _admit(self, destination: DestinationState) -> None:
        """Count a lease against the destination's limits; one that is full leaves the snapshot."""
        recipe = destination.recipe
        if recipe.max_requests is not None:
            self.intervals.count()
        destination.requests += 1
        if destination.full:
            self.refresh()

    def _begin_interval(self) -> None:
        for destination in self.destinations:
            destination.begin_interval()
        self.refresh()

    def eject(self, destination: DestinationState) -> None:
        """Take an outlier out for a while, unless too many are out already or it is the last one."""
        self.ejections.eject(destination, self.destinations)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Start a task that ends with this pool: the monitor, which runs it, may outlive the pool."""
        task = self.sweeper.spawn(coroutine, f"proxyroutes-{what}-{self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def probed(self, watch: Watch) -> None:
        """A probe has passed: an active pass ends an ejection."""
        if self.ejections.out:
            self.ejections.passed(watch)

    async def first_round(self) -> None:
        """Wait until each destination that is probed has its first result."""
        for destination in self.destinations:
            if destination.watch is not None:
                await destination.watch.first.wait()

    def status(self) -> tuple[DestinationStatus, ...]:
        """Every destination, and why it is or is not available."""
        return tuple([self._status_of(destination) for destination in self.destinations])

    def _status_of(self, destination: DestinationState) -> DestinationStatus:
        watch = destination.watch
        available = destination in self.available
        outlier = destination.outlier
        if outlier is not None and destination.ejected:
            reason = f"ejected: {outlier.reason}"
        elif destination.full:
            reason = destination.full
        elif not available and destination.healthy is not False:
            reason = "a lower-numbered priority has healthy destinations"
        else:
            reason = "not probed" if watch is None else watch.report.reason
        return DestinationStatus(
            url=destination.recipe.url,
            available=available,
            healthy=destination.healthy,
            reason=reason,
            latency=destination.latency,
            in_flight=destination.in_flight,
            requests=destination.requests,
            ejections=0 if outlier is None else outlier.ejections,
        )

    def lease(self, head: ForwardedHead, tried: Sequence[DestinationState] = ()) -> Lease:
        """Choose a destination and hold it.

        Args:
            head: What is going to be forwarded.
            tried: Destinations that this exchange has asked already; none of them is chosen again.

        Raises:
            NoDestinationError: If nothing is left.
        """
        candidates = self.available
        if tried:
            chosen: Any = self._pick_another(head, tried)
        elif len(candidates) > 1:
            chosen = self.balancer.pick(candidates, head)
        elif candidates:
            chosen = candidates[0]
        else:
            raise NoDestinationError(f"nothing available in pool {self.name!r}", retry_after=1.0)
        chosen.in_flight += 1
        self.in_flight += 1
        if chosen.limited:
            self._admit(chosen)
        else:
            chosen.requests += 1
        return Lease(self, chosen)

    def _pick_another(
        self, head: ForwardedHead, tried: Sequence[DestinationState]
    ) -> DestinationState:
        """Ask the balancer among all, so that its turns stay even, until it names one that was not tried."""
        left = [candidate for candidate in self.available if candidate not in tried]
        if not left:
            raise NoDestinationError(f"nothing available in pool {self.name!r}", retry_after=1.0)
        if len(left) > 1:
            for _ in self.available:
                chosen: Any = self.balancer.pick(self.available, head)
                if chosen not in tried:
                    return cast("DestinationState", chosen)
        return left[0]

    async def aclose(self) -> None:
        """End the probes and the pool's tasks, and close every connection; sessions are told before."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for destination in self.destinations:
            watch, destination.watch = destination.watch, None
            if watch is not None:
                self.monitor.prober.unwatch(watch, self)
        await self.websockets.aclose()
        await self.transport.aclose()
