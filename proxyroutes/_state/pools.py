"""``UpstreamPool``: the handle, a frozen recipe with one state per running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from attrs import evolve
from typing_extensions import override

from proxyroutes._state.destinations import DestinationState, DestinationStatus, Place, place_of
from proxyroutes._state.drains import Drain
from proxyroutes._state.events import Callback
from proxyroutes._state.lease import Lease
from proxyroutes._state.loops import LoopStates
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.on_error import read_on_error
from proxyroutes._state.pool_state import PoolState
from proxyroutes._state.rules import bind_rules, check_policies
from proxyroutes._state.transforms import read_transforms
from proxyroutes.policies.balancing import PowerOfTwoChoices
from proxyroutes.policies.breakers import CircuitBreaker
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.policies.retries import Retry
from proxyroutes.policies.slow_start import SlowStart, to_slow_start
from proxyroutes.settings import (
    TLS,
    Check,
    CookieRules,
    Destination,
    FunctionCheck,
    HeaderRules,
    Limits,
    ProbeFunction,
    QueryRules,
    Timeouts,
)
from proxyroutes.settings._checks import to_health_check
from proxyroutes.transports._telemetry import find_telemetry
from proxyroutes.transports.asgi import BoundASGI
from proxyroutes.transports.http1 import Http1Transport
from proxyroutes.transports.websocket import BoundSessions, BoundWebSockets
from proxyroutes.typing import Affinity, Balancing, ForwardedHead, Transport

__all__ = ["DestinationState", "Lease", "PoolState", "UpstreamPool"]

_logger = logging.getLogger("proxyroutes.lifespan")
_OUTLIERS = OutlierDetection()
_RETRY = Retry()
_LIMITS = Limits()

ProbeT = TypeVar("ProbeT", bound=ProbeFunction)
CallbackT = TypeVar("CallbackT", bound=Callback)


def _to_destinations(values: Iterable[str | Destination]) -> tuple[Destination, ...]:
    if isinstance(values, str | Destination):
        raise TypeError(f"a list of destinations is meant, not one: write [{values!r}]")
    return tuple(_to_destination(value) for value in values)


def _to_destination(value: str | Destination) -> Destination:
    return value if isinstance(value, Destination) else Destination(value)


def _head_of(path: str, method: str, headers: Mapping[str, str] | None) -> ForwardedHead:
    """A request's head as policies see it."""
    fields = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (headers or {}).items()
    ]
    return ForwardedHead(method.encode("ascii"), path.encode("ascii"), fields, None, None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _call(state: PoolState, function: Callable[..., object], *args: Any) -> None:
    """Call a function in a state's own loop; at once where that is the running one."""
    if state.loop is _running_loop():
        function(*args)
    else:
        # A loop that has been closed since has nothing to tell.
        with contextlib.suppress(RuntimeError):
            state.loop.call_soon_threadsafe(function, *args)


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
        breaker: When the whole pool is left alone for a while, and requests are answered 503; None is never.
        affinity: What keeps the requests of one client with one destination; None keeps nothing.
        retry: When a request is tried again, on by default. None tries nothing again; a request that finds no connection
            moves on to the next destination in any case.
        limits: How much the pool carries at once, and who may wait; None is no limit.
        timeouts: Time-outs for routes and groups that say none; None takes the proxy's.
        slow_start: How the weight of a destination grows that has come or come back while the pool runs; seconds are
            short for ``SlowStart(seconds)``. None uses it in full at once.
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
        on_error: Handlers of the failures of requests that asked this pool; see ``Proxy.on_error``.

    Raises:
        TypeError: If ``destinations`` is a lone string, a rule is of another kind, or ``on_error`` is not made of
            handlers.
        ValueError: If there is no destination, or one is repeated.
    """

    def __init__(
        self,
        name: str,
        destinations: Iterable[str | Destination],
        *,
        monitor: HealthMonitor | None = None,
        balancing: Balancing | None = None,
        health: Check | str | None = None,
        outliers: OutlierDetection | None = _OUTLIERS,
        breaker: CircuitBreaker | None = None,
        affinity: Affinity | None = None,
        retry: Retry | None = _RETRY,
        limits: Limits | None = _LIMITS,
        request_headers: HeaderRules | None = None,
        response_headers: HeaderRules | None = None,
        query_rules: QueryRules | None = None,
        cookies: CookieRules | None = None,
        request_filters: Sequence[Any] | None = None,
        response_filters: Sequence[Any] | None = None,
        timeouts: Timeouts | None = None,
        slow_start: SlowStart | float | None = None,
        panic: bool = False,
        transport: Transport | None = None,
        tls: TLS | None = None,
        on_error: Any = None,
    ) -> None:
        self.name = name
        self._recipes: dict[Place, Destination] = {}
        self._draining: frozenset[Place] = frozenset()
        for destination in _to_destinations(destinations):
            self._enter(destination)
        if not self._recipes:
            raise ValueError(f"pool {name!r} needs at least one destination")
        check_policies(retry=retry, limits=limits, breaker=breaker, affinity=affinity)
        self.monitor = monitor
        self.balancing: Balancing = balancing or PowerOfTwoChoices()
        self._health = to_health_check(health)
        self.outliers = outliers
        self.breaker = breaker
        self.affinity = affinity
        self.retry = retry
        self.limits = limits
        self.slow_start = to_slow_start(slow_start)
        self.transforms = read_transforms(
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
        self.on_error = read_on_error(on_error)
        self._on_change: list[Callback] = []
        self._states: LoopStates[PoolState] = LoopStates()
        self._latest: PoolState | None = None

    @override
    def __repr__(self) -> str:
        return f"<UpstreamPool {self.name!r} {len(self._recipes)} destinations>"

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
        transport = self.transport.bind(clock=monitor.clock, tls=self.tls)
        sockets: BoundSessions
        if isinstance(transport, BoundASGI):
            sockets = transport.bind_sessions()
        else:
            sockets = BoundWebSockets(loop, self.tls)
        telemetry = find_telemetry(self.name)
        state = PoolState(
            name=self.name,
            loop=loop,
            monitor=monitor,
            destinations=tuple(DestinationState.of(recipe) for recipe in self.destinations),
            balancer=self.balancing.bind(clock=monitor.clock, random=monitor.random),
            transport=transport if telemetry is None else telemetry.wrap(transport),
            telemetry=telemetry,
            websockets=sockets,
            timeouts=self.timeouts,
            checked_as=(self.transport, self.tls),
            health=self._health,
            panic=self.panic,
            outliers=self.outliers,
            slow_start=self.slow_start,
            on_change=self._on_change,
            retry=self.retry,
            rules=bind_rules(self.name, monitor, self.limits, self.breaker, self.affinity),
            transforms=self.transforms,
            limits=self.limits,
        )
        if self._draining:
            self._told(state)
        return state

    # Destinations.

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Its destinations as they are declared now, those that are drained among them."""
        return tuple(self._recipes.values())

    def _enter(self, recipe: Destination) -> None:
        place = place_of(recipe)
        if place in self._recipes:
            raise ValueError(f"pool {self.name!r} has {recipe.url!r} twice: say weight=2 instead")
        self._recipes = {**self._recipes, place: recipe}

    def _find(self, destination: str | Destination) -> Place:
        place = place_of(_to_destination(destination))
        if place not in self._recipes:
            url = destination if isinstance(destination, str) else destination.url
            raise ValueError(f"pool {self.name!r} has no destination {url!r}")
        return place

    def add(self, destination: str | Destination) -> None:
        """Take a further destination. It is used at once, or after its first probe where it has a check.

        Like every change at run time it holds for the pool on every event loop and at later starts; on other loops than
        the running one, a moment later.

        Args:
            destination: A URL or a ``Destination``.

        Raises:
            ValueError: If the pool has it already.
        """
        self._enter(_to_destination(destination))
        self._tell()

    def remove(self, destination: str | Destination) -> None:
        """Give up a destination. What is in flight there goes on to its end; ``drain`` it before to have that bounded.

        Args:
            destination: A URL or a ``Destination``, of which origin and base path count.

        Raises:
            ValueError: If the pool has no such destination, or no other one.
        """
        place = self._find(destination)
        if len(self._recipes) == 1:
            raise ValueError(
                f"pool {self.name!r} needs at least one destination: drain the last one instead"
            )
        self._recipes = {key: one for key, one in self._recipes.items() if key != place}
        self._draining -= {place}
        self._tell()

    def set_weight(self, destination: str | Destination, weight: int) -> None:
        """Give a destination another weight; the next request is balanced by it.

        Args:
            destination: A URL or a ``Destination``, of which origin and base path count.
            weight: Share relative to the other destinations; at least 1.

        Raises:
            ValueError: If the pool has no such destination, or the weight is below 1.
        """
        place = self._find(destination)
        self._recipes = {**self._recipes, place: evolve(self._recipes[place], weight=weight)}
        self._tell()

    async def drain(
        self, destination: str | Destination | None = None, *, grace: float = 30.0
    ) -> int:
        """Send nothing new to a destination, and wait until nothing is left there.

        What is in flight has the grace time to end. Then it is cut: exchanges as by a time-out, sessions with 1001 on
        both sides. The destination stays in the pool, drained and probed, until ``undrain`` or ``remove``. Calling it
        again gives another grace time. To be cancelled ends the waiting only.

        Args:
            destination: A URL or a ``Destination``, of which origin and base path count; None drains every one, and
                requests are answered 503.
            grace: Seconds until what is left is cut.

        Returns:
            How many exchanges and sessions were cut on the running loop.

        Raises:
            ValueError: If the pool has no such destination, or the grace time is below 0.
        """
        if not grace >= 0:
            raise ValueError(f"grace must be at least 0 seconds: {grace!r}")
        places = self._places(destination)
        self._draining |= places
        self._tell()
        running = asyncio.get_running_loop()
        drains: list[Drain] = []
        for state in self._states.all():
            if state.loop is running:
                drains = state.drain(places, grace)
            else:
                _call(state, state.drain, places, grace)
        for drain in drains:
            await drain.over.wait()
        return sum([drain.cut for drain in drains])

    def undrain(self, destination: str | Destination | None = None) -> None:
        """Use a drained destination again, or every one.

        Args:
            destination: A URL or a ``Destination``, of which origin and base path count; None is every one.

        Raises:
            ValueError: If the pool has no such destination.
        """
        self._draining -= self._places(destination)
        self._tell()

    def _places(self, destination: str | Destination | None) -> frozenset[Place]:
        if destination is None:
            return frozenset(self._recipes)
        return frozenset([self._find(destination)])

    def _tell(self) -> None:
        """Have each state follow: at once on the running loop, by its own loop elsewhere."""
        for state in self._states.all():
            _call(state, self._told, state)

    def _told(self, state: PoolState) -> None:
        state.follow(self.destinations, self._draining)

    # Health.

    @property
    def health(self) -> Check | None:
        """The check of those destinations that have none of their own."""
        return self._health

    def set_health(self, health: Check | str | None) -> None:
        """Take another check, or none. Where the pool is running on this loop, everything is probed at once.

        Args:
            health: The check; ``"/path"`` is short for ``HealthCheck("/path")``.
        """
        self._health = to_health_check(health)
        loop = _running_loop()
        state = None if loop is None else self._states.get(loop)
        if state is not None:
            state.watch_all(self._health)
            for destination in state.destinations:
                if destination.watch is not None:
                    state.monitor.prober.probe_now(destination.watch)

    @overload
    def probe(self, function: ProbeT, /) -> ProbeT: ...

    @overload
    def probe(
        self,
        function: None = None,
        /,
        *,
        interval: float | None = None,
        timeout: float = 2.0,
        rise: int = 2,
        fall: int = 3,
        unhealthy_interval: float | None = None,
    ) -> Callable[[ProbeT], ProbeT]: ...

    def probe(
        self,
        function: Any = None,
        /,
        *,
        interval: float | None = None,
        timeout: float = 2.0,
        rise: int = 2,
        fall: int = 3,
        unhealthy_interval: float | None = None,
    ) -> Any:
        """Make an asynchronous function the check of those destinations that have none of their own.

        ```python
        @jobs.probe(interval=5.0)
        async def has_room(destination: Destination) -> float:
            return 1.0 / (1 + await queue_depth(destination.url))
        ```

        Args:
            function: Given the ``Destination``. None and True mean healthy, False unhealthy; a number is the weight from
                then on, and 0 unhealthy. What it raises, or that it takes too long, is why the destination is unhealthy.
            interval: Seconds between probes; None takes the monitor's.
            timeout: Seconds for one probe, after which it is cancelled.
            rise: Consecutive successes until a destination is used again.
            fall: Consecutive failures until it is no longer used.
            unhealthy_interval: Seconds between probes of one that is unhealthy; None is ``interval``.

        Returns:
            The function, or a decorator where only keywords are given.

        Raises:
            TypeError: If the function is not asynchronous.
        """

        def use(found: ProbeT) -> ProbeT:
            check = FunctionCheck(
                found,
                interval=interval,
                timeout=timeout,
                rise=rise,
                fall=fall,
                unhealthy_interval=unhealthy_interval,
            )
            self.set_health(check)
            return found

        return use if function is None else use(function)

    def on_change(self, function: CallbackT, /) -> CallbackT:
        """Have a function called whenever something changes for a destination: ``@pool.on_change``.

        It is given a ``proxyroutes.typing.HealthEvent``, and may be asynchronous. Events come one after the other, in a
        task of the pool: no request waits for it. What it raises is logged.

        Args:
            function: What is called.

        Returns:
            The function.
        """
        self._on_change.append(function)
        return function

    def status(self) -> tuple[DestinationStatus, ...]:
        """Every destination on the running loop: health, why, what is in flight.

        Raises:
            RuntimeError: Outside of a running loop.
        """
        return self.state().status()

    def states(self) -> list[PoolState]:
        """The states that are open, on every loop; none is opened by asking."""
        return self._states.all()

    # Choices.

    def pick(
        self, path: str = "/", *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Destination:
        """Choose a destination as for a request, without sending one: for clients of your own.

        It takes a turn and counts as a request, against ``max_requests`` too, and affinity is kept. Nothing is held afterwards, so that what is
        in flight there, and how it ends, is not known.

        Args:
            path: Path and query that policies see.
            method: The method that they see.
            headers: The fields that they see, such as the one that a ``ConsistentHash`` goes by.

        Raises:
            NoDestinationError: If nothing is available.
            RuntimeError: Outside of a running loop.
        """
        state = self.state()
        head = _head_of(path, method, headers)
        lease = state.lease(head) if state.rules is None else state.rules.lease(state, head)
        lease.release()
        return lease.destination.recipe

    def peek(
        self, path: str = "/", *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Destination | None:
        """The destination that ``pick`` would choose next, without taking a turn; None if nothing is available.

        Policies that draw at random draw anew each time.

        Args:
            path: Path and query that policies see.
            method: The method that they see.
            headers: The fields that they see.

        Raises:
            RuntimeError: Outside of a running loop.
        """
        state, head = self.state(), _head_of(path, method, headers)
        found = state.peek(head) if state.rules is None else state.rules.peek(state, head)
        return None if found is None else found.recipe

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
