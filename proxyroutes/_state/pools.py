"""``UpstreamPool`` and its state: destinations, leases, the bound transport.

The handle is a frozen recipe with one state per running event loop. A lease is held until the last byte of its exchange.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, cast

from attrs import define, field
from typing_extensions import override

from proxyroutes._state.destinations import DestinationState, DestinationStatus
from proxyroutes._state.health import Watch, watch_key
from proxyroutes._state.loops import LoopStates
from proxyroutes._state.monitor import HealthMonitor, MonitorState
from proxyroutes._state.rules import PoolRules, read_rules
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies.balancing import PowerOfTwoChoices
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.settings import (
    TLS,
    CookieRules,
    Destination,
    HeaderRules,
    HealthCheck,
    QueryRules,
    Timeouts,
    to_health_check,
)
from proxyroutes.transports.http1 import Http1Transport
from proxyroutes.transports.websocket import BoundWebSockets
from proxyroutes.typing import Balancer, Balancing, BoundTransport, ForwardedHead, Transport

__all__ = ["DestinationState", "Lease", "PoolState", "UpstreamPool"]

_logger = logging.getLogger("proxyroutes.lifespan")
_health_logger = logging.getLogger("proxyroutes.health")
_OUTLIERS = OutlierDetection()


class Lease:
    """The right to use a destination for one exchange or session. Released once, whatever happens.

    Attributes:
        destination: What it is for.
        pool: What it is from.
        status: The status that the destination answered with, 0 before. Entered into its record at the release.
        failed: Whether the destination is to blame for how it ended.
    """

    __slots__ = ("_held", "destination", "failed", "pool", "status")

    def __init__(self, pool: PoolState, destination: DestinationState) -> None:
        self._held = True
        self.pool = pool
        self.destination = destination
        self.status = 0
        self.failed = False

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        if self._held:
            self._held = False
            pool = self.pool
            destination = self.destination
            was_full = destination.limited and destination.full
            destination.in_flight -= 1
            pool.in_flight -= 1
            if was_full and not destination.full:
                pool.refresh()
            outlier = destination.outlier
            # Neither a status nor a failure: the client has left, which counts against nobody.
            if outlier is not None and (self.failed or self.status):
                bad = outlier.failed() if self.failed else outlier.answered(self.status)
                if bad:
                    pool.eject(destination)


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
    websockets: BoundWebSockets
    timeouts: Timeouts | None
    checked_as: tuple[Transport, TLS | None]
    health: HealthCheck | None
    panic: bool
    outliers: OutlierDetection | None
    rules: PoolRules | None = None
    # What the request path has compiled the rules to.
    steps: Any = None
    available: tuple[DestinationState, ...] = field(init=False)
    sweeper: Sweeper = field(init=False)
    in_flight: int = 0
    _panics: bool = False
    _ejected: set[DestinationState] = field(factory=set)
    _interval_ends: float = field(init=False, default=0.0)
    _interval_waiter: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.available = self.destinations
        self.sweeper = self.monitor.sweeper
        # The last destination is never ejected: one that is alone needs no bookkeeping.
        if self.outliers is not None and len(self.destinations) > 1:
            for destination in self.destinations:
                destination.outlier = self.outliers.bind(clock=self.monitor.clock)
        self._interval_ends = self.monitor.clock.monotonic() + self.monitor.prober.interval
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
        if self._ejected:
            healthy = [one for one in healthy if one not in self._ejected]
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
            self._end_interval()
            if self._interval_waiter is None:
                self._interval_waiter = self._spawn(self._wait_for_interval(), "interval")
        destination.requests += 1
        if destination.full:
            self.refresh()

    def _end_interval(self) -> None:
        """Count anew if the interval is over. Intervals follow one another without a gap, whatever is asked when."""
        now = self.monitor.clock.monotonic()
        if now < self._interval_ends:
            return
        interval = self.monitor.prober.interval
        self._interval_ends += interval * ((now - self._interval_ends) // interval + 1)
        for destination in self.destinations:
            destination.begin_interval()
        self.refresh()

    async def _wait_for_interval(self) -> None:
        """One that has reached its limit is not asked: nobody else would see that the interval is over."""
        clock = self.monitor.clock
        while (left := self._interval_ends - clock.monotonic()) > 0:
            await clock.sleep(left)
        self._interval_waiter = None
        self._end_interval()

    def eject(self, destination: DestinationState) -> None:
        """Take an outlier out for a while, unless too many are out already or it is the last one."""
        outlier, recipe = destination.outlier, self.outliers
        if outlier is None or recipe is None or destination in self._ejected:
            return
        most = max(1, int(recipe.max_ejected * len(self.destinations)))
        left = [
            one
            for one in self.destinations
            if one is not destination and one.healthy is not False and one not in self._ejected
        ]
        if len(self._ejected) >= most or not left:
            return
        seconds = outlier.eject()
        self._ejected.add(destination)
        _health_logger.warning(
            "ejected: pool=%s destination=%s seconds=%g reason=%s",
            self.name,
            destination.origin,
            seconds,
            outlier.reason,
        )
        self.refresh()
        self._spawn(self._take_back_later(destination, outlier.ejections, seconds), "outlier")

    def _spawn(self, coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Start a task that ends with this pool: the monitor, which runs it, may outlive the pool."""
        task = self.sweeper.spawn(coroutine, f"proxyroutes-{what}-{self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take_back_later(
        self, destination: DestinationState, ejection: int, seconds: float
    ) -> None:
        await self.monitor.clock.sleep(seconds)
        # One that a check has brought back, and that was ejected anew, waits for its own end.
        if destination.outlier is not None and destination.outlier.ejections == ejection:
            self._take_back(destination, "its time is over")

    def _take_back(self, destination: DestinationState, reason: str) -> None:
        if destination.outlier is None or destination not in self._ejected:
            return
        destination.outlier.take_back()
        self._ejected.discard(destination)
        _health_logger.warning(
            "no longer ejected: pool=%s destination=%s reason=%s",
            self.name,
            destination.origin,
            reason,
        )
        self.refresh()

    def probed(self, watch: Watch) -> None:
        """A probe has passed: an active pass ends an ejection."""
        if self._ejected and watch.report.healthy:
            for destination in tuple(self._ejected):
                if destination.watch is watch:
                    self._take_back(destination, "a health check has passed")

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


def _to_destinations(values: Iterable[str | Destination]) -> tuple[Destination, ...]:
    if isinstance(values, str | Destination):
        raise TypeError(f"a list of destinations is meant, not one: write [{values!r}]")
    return tuple(
        value if isinstance(value, Destination) else Destination(value) for value in values
    )


class UpstreamPool:
    """A named set of interchangeable destinations with their policies.

    A handle: hashable by identity, usable by many routes and many apps. Its state lives per running event loop.

    Args:
        name: For logs, metrics and documents.
        destinations: URLs or ``Destination`` values; at least one.
        monitor: The health monitor; None takes that of the proxy it is first used in.
        balancing: Which destination is asked.
        health: Active check of every destination that has none of its own, ``"/path"`` for short. The first round runs
            before the app serves; a pool that is started by its first use does not wait for it.
        outliers: Passive health, on by default: destinations that fail are ejected for a while. None turns it off.
        breaker: Circuit breaker. Not in this release.
        affinity: Affinity. Not in this release.
        retry: Retry policy. Not in this release; a connect failure always moves on to the next destination.
        limits: Limits. Not in this release.
        timeouts: Time-outs for routes and groups that say none; None takes the proxy's.
        slow_start: Slow start. Not in this release.
        panic: Use every destination where none is healthy, instead of answering 503. Said once in the log.
        transport: How requests are sent; None is the default transport.
        request_headers: Rules for the fields of every request that it is given, after those of the route. Like every rule
            of a pool they are not filled in: a pool has no path parameters.
        response_headers: Rules for the fields of every response that it gives, after those of the route.
        query_rules: Rules for the query of every request, after those of the route.
        cookies: Rules for its cookies, after those of the route.
        request_filters: Filters of the content of its requests, after those of the route.
        response_filters: Filters of the content of its responses, before those of the route.
        tls: How TLS is spoken with ``https`` destinations; None verifies against the system's certificates.

    Raises:
        TypeError: If ``destinations`` is a lone string, or a rule is of another kind.
        ValueError: If there is no destination, one is repeated, or a keyword is not in this release.
    """

    def __init__(
        self,
        name: str,
        destinations: Iterable[str | Destination],
        *,
        monitor: HealthMonitor | None = None,
        balancing: Balancing | None = None,
        health: HealthCheck | str | None = None,
        outliers: OutlierDetection | None = _OUTLIERS,
        request_headers: HeaderRules | None = None,
        response_headers: HeaderRules | None = None,
        query_rules: QueryRules | None = None,
        cookies: CookieRules | None = None,
        request_filters: Sequence[Any] = (),
        response_filters: Sequence[Any] = (),
        breaker: Any = None,
        affinity: Any = None,
        retry: Any = None,
        limits: Any = None,
        timeouts: Timeouts | None = None,
        slow_start: Any = None,
        panic: bool = False,
        transport: Transport | None = None,
        tls: TLS | None = None,
    ) -> None:
        self.name = name
        self.destinations = _to_destinations(destinations)
        if not self.destinations:
            raise ValueError(f"pool {name!r} needs at least one destination")
        seen: set[tuple[str, str]] = set()
        for destination in self.destinations:
            place = (destination.origin, destination.base_path)
            if place in seen:
                raise ValueError(
                    f"pool {name!r} has {destination.url!r} twice: say weight=2 instead"
                )
            seen.add(place)
        given = {
            "breaker": breaker,
            "affinity": affinity,
            "retry": retry,
            "limits": limits,
            "slow_start": slow_start,
        }
        missing = sorted(key for key, value in given.items() if value is not None)
        if missing:
            raise ValueError(f"pool {name!r}: {', '.join(missing)} is not in this release")
        self.monitor = monitor
        self.balancing: Balancing = balancing or PowerOfTwoChoices()
        self._health = to_health_check(health)
        self.outliers = outliers
        self.rules = read_rules(
            name,
            request_headers=request_headers,
            response_headers=response_headers,
            query_rules=query_rules,
            cookies=cookies,
            request_filters=request_filters,
            response_filters=response_filters,
        )
        self.panic = panic
        self.timeouts = timeouts
        self.transport: Transport = transport or Http1Transport()
        self.tls = tls
        self._states: LoopStates[PoolState] = LoopStates()
        self._latest: PoolState | None = None

    @override
    def __repr__(self) -> str:
        return f"<UpstreamPool {self.name!r} {len(self.destinations)} destinations>"

    def adopt(self, monitor: HealthMonitor) -> None:
        """Take a proxy's monitor where the pool was declared without one."""
        if self.monitor is None:
            self.monitor = monitor

    def state(self) -> PoolState:
        """The state on the running loop; opened lazily where no lifespan has opened it."""
        loop = asyncio.get_running_loop()
        latest = self._latest
        if latest is not None and latest.loop is loop:
            return latest
        state = self._states.get(loop)
        if state is None:
            state = self._make(loop)
            self._states.open_lazily(loop, state)
            _logger.info(
                "pool started on first use: no lifespan has opened it; "
                "enter the app's lifespan, or the proxy with 'async with' (pool=%s)",
                self.name,
            )
        self._latest = state
        return state

    def _make(self, loop: asyncio.AbstractEventLoop) -> PoolState:
        if self.monitor is None:
            self.monitor = HealthMonitor()
        monitor = self.monitor.state()
        return PoolState(
            name=self.name,
            loop=loop,
            monitor=monitor,
            destinations=tuple(DestinationState.of(recipe) for recipe in self.destinations),
            balancer=self.balancing.bind(clock=monitor.clock, random=monitor.random),
            transport=self.transport.bind(clock=monitor.clock, tls=self.tls),
            websockets=BoundWebSockets(loop, self.tls),
            timeouts=self.timeouts,
            checked_as=(self.transport, self.tls),
            health=self._health,
            panic=self.panic,
            outliers=self.outliers,
            rules=self.rules,
        )

    # Health.

    @property
    def health(self) -> HealthCheck | None:
        """The check of those destinations that have none of their own."""
        return self._health

    def set_health(self, health: HealthCheck | str | None) -> None:
        """Take another check, or none. Where the pool is running on this loop, everything is probed at once.

        Args:
            health: The check; ``"/path"`` is short for ``HealthCheck("/path")``.
        """
        self._health = to_health_check(health)
        try:
            state = self._states.get(asyncio.get_running_loop())
        except RuntimeError:
            return
        if state is not None:
            state.watch_all(self._health)
            for destination in state.destinations:
                if destination.watch is not None:
                    state.monitor.prober.probe_now(destination.watch)

    def status(self) -> tuple[DestinationStatus, ...]:
        """Every destination on the running loop: health, why, what is in flight.

        Raises:
            RuntimeError: Outside of a running loop.
        """
        return self.state().status()

    async def first_round(self) -> None:
        """Wait until each destination that is probed has its first result on the running loop."""
        await self.state().first_round()

    def enter(self) -> None:
        """Open or join the state on the running loop, as one of its users."""
        loop = asyncio.get_running_loop()
        self._latest = self._states.enter(loop, lambda: self._make(loop))

    def entered(self) -> bool:
        """Whether the state is open on the running loop."""
        return self._states.get(asyncio.get_running_loop()) is not None

    def in_use(self) -> bool:
        """Whether a lease is out on any loop."""
        return any(state.in_flight for state in self._states.all())

    async def close(self) -> None:
        """Close the state on the running loop, however many use it; the next use opens a new one."""
        self._latest = None
        await self._states.close(asyncio.get_running_loop())

    async def leave(self) -> None:
        """End one use of the state on the running loop; the last one closes it."""
        self._latest = None
        await self._states.leave(asyncio.get_running_loop())
