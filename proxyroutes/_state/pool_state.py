"""What a pool has on one loop: the snapshot of what is available, and the choice that a lease holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, cast

from attrs import define, field

from proxyroutes._state.budgets import Budgets
from proxyroutes._state.destinations import DestinationState, DestinationStatus, Place, place_of
from proxyroutes._state.drains import Drain, Drains
from proxyroutes._state.ejection import Ejections
from proxyroutes._state.events import Callback, Callbacks
from proxyroutes._state.health import HealthReport, Watch, watch_key
from proxyroutes._state.intervals import Intervals
from proxyroutes._state.lease import Lease, MeasuredLease
from proxyroutes._state.limits import LeaseQueue
from proxyroutes._state.monitor import MonitorState
from proxyroutes._state.ramps import Ramps
from proxyroutes._state.rules import Rules
from proxyroutes._state.sweeper import Sweeper
from proxyroutes._state.transforms import PoolTransforms
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.policies.retries import Retry
from proxyroutes.policies.slow_start import SlowStart
from proxyroutes.settings import TLS, Check, Destination, Limits, Timeouts
from proxyroutes.transports._telemetry import Telemetry
from proxyroutes.transports.websocket import BoundSessions
from proxyroutes.typing import Balancer, BoundTransport, ForwardedHead, HealthEvent, Transport

__all__ = ["PoolState"]

_ESTIMATES = 0.5
"""Seconds after which latencies are estimated anew, where nothing was seen."""

_health_logger = logging.getLogger("proxyroutes.health")


@define(eq=False)
class PoolState:
    """What a pool has on one loop.

    Attributes:
        available: The snapshot that a request reads once: every destination that may be asked now.
        in_flight: Leases that are out.
        telemetry: What its attempts are told to, or None.
        leases: Leases that were given.
        retry: When a request is tried again, where its route does not say it.
        rules: Places, circuit and affinity; None for a pool that has none of them.
        budgets: What is left for further attempts.
        transforms: What it edits of every request and response, or None.
        limits: Who may wait for a destination with room, and how long; None is as by default.
        queue: Those that do.
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
    health: Check | None
    panic: bool
    outliers: OutlierDetection | None
    slow_start: SlowStart | None
    on_change: Sequence[Callback]
    retry: Retry | None = None
    rules: Rules | None = None
    transforms: PoolTransforms | None = None
    limits: Limits | None = None
    queue: LeaseQueue = field(init=False)
    available: tuple[DestinationState, ...] = field(init=False)
    sweeper: Sweeper = field(init=False)
    ejections: Ejections = field(init=False)
    intervals: Intervals = field(init=False)
    drains: Drains = field(init=False)
    ramps: Ramps | None = field(init=False, default=None)
    callbacks: Callbacks = field(init=False)
    budgets: Budgets = field(init=False)
    in_flight: int = 0
    telemetry: Telemetry | None = None
    leases: int = 0
    _watched: dict[Watch, list[DestinationState]] = field(factory=dict)
    _estimate_at: float = 0.0
    _panics: bool = False
    _closed: bool = False
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.available = self.destinations
        self.queue = LeaseQueue(f"pool {self.name!r}", self.limits or Limits())
        self.sweeper = self.monitor.sweeper
        clock, prober = self.monitor.clock, self.monitor.prober
        self.budgets = Budgets(clock)
        self.callbacks = Callbacks(self.on_change, self._spawn)
        self.ejections = Ejections(
            self.name, self.outliers, clock, self._spawn, self.refresh, self.tell
        )
        self._begin_records()
        self.intervals = Intervals(
            clock, lambda: prober.interval, self._spawn, self._begin_interval
        )
        sweepers = (self.sweeper, self.monitor.sessions)
        self.drains = Drains(self.name, clock, sweepers, self._spawn, self._forget)
        if self.slow_start is not None:
            self.ramps = Ramps(self.slow_start, clock, self._spawn, self.refresh)
        self.watch_all(self.health)
        self.monitor.pools[self] = None

    def watch_all(self, health: Check | None) -> None:
        """Have the destinations probed by this check, or by none; those with a check of their own keep it."""
        self.health = health
        for destination in self.destinations:
            self._watch(destination)
        self.refresh()

    def _watch(self, destination: DestinationState) -> None:
        check = destination.recipe.health or self.health
        old = destination.watch
        watch: Watch | None = None
        if check is not None:
            key = watch_key(destination, check, *self.checked_as)
            watch = self.monitor.prober.watch(key, check, destination, self)
            self._watched.setdefault(watch, []).append(destination)
        # In this order, so that a check that stays the same goes on.
        if old is not None:
            self._unwatch(destination, old)
        destination.watch = watch
        destination.reweigh()
        destination.estimate()

    def _unwatch(self, destination: DestinationState, watch: Watch) -> None:
        destination.watch = None
        watched = self._watched[watch]
        watched.remove(destination)
        if not watched:
            del self._watched[watch]
        self.monitor.prober.unwatch(watch, self)

    # Who belongs to it.

    def follow(self, recipes: Collection[Destination], draining: Collection[Place]) -> None:
        """Become what the handle says now. Destinations that did not change keep everything that is known of them."""
        if self._closed:
            return
        known = {one.place: one for one in self.destinations}
        followed: list[DestinationState] = []
        news: list[tuple[str, DestinationState, str]] = []
        for recipe in recipes:
            place = place_of(recipe)
            destination = known.pop(place, None)
            if destination is None:
                destination = DestinationState.of(recipe)
                news.append(("added", destination, "added"))
                self._welcome(destination)
            news += self._update(destination, recipe, draining=place in draining)
            followed.append(destination)
        self.destinations = tuple(followed)
        for gone in known.values():
            self._part_with(gone)
            news.append(("removed", gone, "removed"))
        self._begin_records()
        self.ejections.settle(self._members())
        self.refresh()
        for kind, destination, reason in news:
            self.tell(kind, destination, reason)

    def _begin_records(self) -> None:
        """What is known of exchanges begins with the first one; a pool that needs none of it pays nothing."""
        self.ejections.bind(self.destinations)
        if any(one.recipe.max_in_flight is not None for one in self.destinations):
            # Those that find no room wait, which is not done on the plain way.
            self.rules = self.rules or Rules(limiter=None, circuit=None, affinity=None)
        measure = getattr(self.balancer, "measure", None)
        if measure is not None:
            for destination in self.destinations:
                destination.measure = destination.measure or measure()

    def _welcome(self, destination: DestinationState) -> None:
        destination.came = True
        self._watch(destination)
        if self.ramps is not None:
            self.ramps.came(destination)

    def _update(
        self, destination: DestinationState, recipe: Destination, *, draining: bool
    ) -> list[tuple[str, DestinationState, str]]:
        """Take what was said of one destination; what there is to tell of it."""
        news = []
        if recipe.weight != destination.recipe.weight:
            news.append(("weight", destination, f"weight {recipe.weight}"))
        was_draining = destination.draining
        destination.follow(recipe, draining=draining)
        if draining and not was_draining:
            self.drains.begin(destination, None)
            news.append(("drained", destination, "drained"))
        elif was_draining and not draining:
            self.drains.call_off(destination)
            news.append(("undrained", destination, "undrained"))
        return news

    def _part_with(self, destination: DestinationState) -> None:
        """What is in flight there goes on to its end."""
        self.ejections.out.pop(destination, None)
        if self.ramps is not None:
            self.ramps.forget(destination)
        if destination.watch is not None:
            self._unwatch(destination, destination.watch)
        destination.follow(destination.recipe, draining=True)
        # A grace time that runs already goes on.
        self.drains.part(destination)

    def drain(self, places: Collection[Place], grace: float) -> list[Drain]:
        """Cut what is left on draining destinations after this time."""
        return [
            self.drains.begin(one, grace)
            for one in self.destinations
            if one.draining and one.place in places
        ]

    def _forget(self, destination: DestinationState) -> None:
        """Nothing is left on it: its connections are of no use."""
        # Not of the protocols: what keeps no connections for each destination has nothing to forget.
        for connections in (self.transport, self.websockets):
            forget = getattr(connections, "forget", None)
            if forget is not None:
                forget(destination)

    def _members(self) -> list[DestinationState]:
        return [one for one in self.destinations if not one.draining]

    def tell(self, kind: Any, destination: DestinationState, reason: str) -> None:
        """Tell whoever listens that something has changed for a destination."""
        listeners = [one for one in (self.monitor.events, self.callbacks) if one]
        if listeners:
            event = HealthEvent(
                kind=kind,
                pool=self.name,
                destination=destination.recipe.url,
                reason=reason,
                healthy=destination.healthy,
                available=destination in self.available,
                at=self.monitor.clock.monotonic(),
            )
            for one in listeners:
                one.tell(event)

    # Who is available.

    def refresh(self) -> None:
        """Make the snapshot anew, and have those served that wait for a destination with room."""
        self.available = self._find_available()
        if self.queue.waiting:
            self.queue.serve(lambda: bool(self.available))

    def _find_available(self) -> tuple[DestinationState, ...]:
        """Those of the first level that has some healthy, not ejected and with room."""
        members = self._members()
        healthy = [one for one in members if one.healthy is not False]
        if self.ejections.out:
            healthy = [one for one in healthy if one not in self.ejections.out]
        if self.ramps is not None:
            self.ramps.see(self.destinations, [one for one in healthy if not one.joining])
        # One that has just come is asked before its first probe only where there is nothing else.
        healthy = [one for one in healthy if not one.joining] or healthy
        if not healthy and self.panic:
            if not self._panics:
                _health_logger.error("nothing is healthy, all are used: pool=%s", self.name)
            self._panics = True
            return tuple([one for one in members if not one.full])
        self._panics = False
        free = [one for one in healthy if not one.full]
        level = min([one.recipe.priority for one in free], default=0)
        return tuple([one for one in free if one.recipe.priority == level])

    def is_crowded(self) -> bool:
        """Whether nothing is available, and something will be as soon as something that is in flight ends."""
        return not self.available and any(
            one.crowded
            for one in self.destinations
            if self._is_well(one) or (self._panics and not one.draining)
        )

    def _admit(self, destination: DestinationState) -> None:
        """Count a lease against the destination's limits; one that is full leaves the snapshot."""
        recipe = destination.recipe
        if recipe.max_requests is not None:
            self.intervals.count()
        destination.requests += 1
        if destination.full:
            self.refresh()

    def returned(self, destination: DestinationState) -> None:
        """A lease of a limited destination was given back: it may have room again, or be empty."""
        most = destination.recipe.max_in_flight
        if most is not None and destination.in_flight == most - 1 and not destination.full:
            self.refresh()
        if destination.draining and not destination.in_flight:
            self.drains.emptied(destination)

    def _begin_interval(self) -> None:
        for destination in self.destinations:
            destination.begin_interval()
        self.refresh()

    def eject(self, destination: DestinationState) -> None:
        """Take an outlier out for a while, unless too many are out already or it is the last one."""
        if not (destination.draining or self._closed):
            self.ejections.eject(destination, self._members())

    def _spawn(self, coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Start a task that ends with this pool: the monitor, which runs it, may outlive the pool."""
        task = self.sweeper.spawn(coroutine, f"proxyroutes-{what}-{self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Copies that a mirror sends are the pool's too.
    spawn = _spawn

    def judged(self, watch: Watch, before: HealthReport) -> None:
        """A check has come to another verdict, or gives another weight."""
        report = watch.report
        destinations = self._watched.get(watch, ())
        changed = report.healthy is not before.healthy
        for destination in destinations:
            destination.reweigh()
        # Unknown counted as available: where it turns out to be well, nothing is new but for one that waits for that.
        if (
            not changed
            or before.healthy is not None
            or not report.healthy
            or report.weight is not None
            or any(one.came for one in destinations)
        ):
            self.refresh()
        for destination in destinations:
            if changed:
                self.tell("healthy" if report.healthy else "unhealthy", destination, report.reason)
            else:
                self.tell("weight", destination, report.reason)

    def passed(self, watch: Watch) -> None:
        """A probe has passed: that ends an ejection, and makes one that was added available."""
        for destination in self._watched.get(watch, ()):
            destination.estimate()
        if self.ejections.out:
            self.ejections.passed(watch)

    async def first_round(self) -> None:
        """Wait until each destination that is probed has its first result."""
        for destination in self.destinations:
            # Another check may take its place meanwhile, or the destination may go.
            while (watch := destination.watch) is not None and not watch.first.is_set():
                await watch.first.wait()

    def status(self) -> tuple[DestinationStatus, ...]:
        """Every destination, and why it is or is not available."""
        return tuple([self._status_of(destination) for destination in self.destinations])

    def _status_of(self, destination: DestinationState) -> DestinationStatus:
        destination.estimate()
        watch = destination.watch
        available = destination in self.available
        outlier = destination.outlier
        if destination.draining:
            reason = (
                f"drained, {destination.in_flight} in flight"
                if destination.in_flight
                else "drained"
            )
        elif outlier is not None and destination.ejected:
            reason = f"ejected: {outlier.reason}"
        elif destination.full:
            reason = destination.full
        elif not available and destination.healthy is not False and not destination.joining:
            reason = "a lower-numbered priority has healthy destinations"
        else:
            reason = "not probed" if watch is None else watch.report.reason
        circuit = None if self.rules is None else self.rules.circuit
        if circuit is not None and circuit.state == "open":
            available, reason = False, f"circuit open: {circuit.reason}"
        return DestinationStatus(
            url=destination.recipe.url,
            available=available,
            healthy=destination.healthy,
            reason=reason,
            latency=destination.probed,
            first_byte=None if destination.measure is None else destination.latency,
            in_flight=destination.in_flight,
            requests=destination.requests,
            ejections=0 if outlier is None else outlier.ejections,
            ejected=destination.ejected,
            draining=destination.draining,
            failures=destination.failures,
            weight=destination.recipe.weight,
            effective_weight=destination.weight,
            circuit=None if circuit is None else circuit.state,
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
        self.leases += 1
        if chosen.limited:
            self._admit(chosen)
        else:
            chosen.requests += 1
        return Lease(self, chosen) if chosen.measure is None else self._lend(chosen, head)

    def _lend(self, destination: DestinationState, head: ForwardedHead) -> Lease:
        if destination.measure is None:
            return Lease(self, destination)
        clock = self.monitor.clock
        if clock.monotonic() >= self._estimate_at:
            # What was seen is forgotten little by little; where nothing is asked, nobody needs to know.
            self._estimate_at = clock.monotonic() + _ESTIMATES
            for one in self.destinations:
                one.estimate()
        return MeasuredLease(self, destination, clock, head)

    def peek(self, head: ForwardedHead) -> DestinationState | None:
        """What ``lease`` would choose now, without holding it and without taking a turn; None if nothing is left."""
        candidates = self.available
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        look = getattr(self.balancer, "peek", self.balancer.pick)
        return cast("DestinationState", look(candidates, head))

    def hold(self, destination: DestinationState, head: ForwardedHead) -> Lease:
        """Hold a destination that was chosen otherwise; see ``usable``."""
        destination.in_flight += 1
        self.in_flight += 1
        self.leases += 1
        self._admit(destination)
        return self._lend(destination, head)

    def usable(self, destination: DestinationState) -> bool:
        """Whether a destination may be asked, though another level may be the one that is used."""
        if destination in self.available:
            return True
        return self._is_well(destination) and not destination.full

    def _is_well(self, destination: DestinationState) -> bool:
        return not (
            destination.healthy is False
            or destination.draining
            or destination.joining
            or destination in self.ejections.out
        )

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
        self._closed = True
        self.monitor.pools.pop(self, None)
        self.drains.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for destination in self.destinations:
            if destination.watch is not None:
                self._unwatch(destination, destination.watch)
        await self.websockets.aclose()
        await self.transport.aclose()
