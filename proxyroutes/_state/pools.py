"""``UpstreamPool`` and its state: destinations, leases, the bound transport.

The handle is a frozen recipe with one state per running event loop. A lease is held until the last byte of its exchange.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, cast

from attrs import define, field
from typing_extensions import override

from proxyroutes._state.loops import LoopStates
from proxyroutes._state.monitor import HealthMonitor, MonitorState
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies.balancing import PowerOfTwoChoices
from proxyroutes.settings import TLS, Destination, HealthCheck, Timeouts, to_health_check
from proxyroutes.transports.http1 import Http1Transport
from proxyroutes.transports.websocket import BoundWebSockets
from proxyroutes.typing import Balancer, Balancing, BoundTransport, ForwardedHead, Transport

__all__ = ["DestinationState", "Lease", "PoolState", "UpstreamPool"]

_logger = logging.getLogger("proxyroutes.lifespan")


@define(eq=False)
class DestinationState:
    """One destination of one pool on one loop. It is the transport's endpoint and the balancer's candidate."""

    recipe: Destination
    secure: bool
    host: str
    port: int
    socket_path: str | None
    authority: bytes
    base_path: bytes
    origin: str
    weight: int
    in_flight: int = 0
    requests: int = 0

    @classmethod
    def of(cls, recipe: Destination) -> DestinationState:
        """Encode beforehand whatever can be."""
        return cls(
            recipe=recipe,
            secure=recipe.scheme == "https",
            host=recipe.host,
            port=recipe.port,
            socket_path=recipe.socket_path,
            authority=recipe.authority.encode("ascii"),
            base_path=recipe.base_path.encode("ascii"),
            origin=recipe.origin,
            weight=recipe.weight,
        )


class Lease:
    """The right to use a destination for one exchange or session. Released once, whatever happens."""

    __slots__ = ("_pool", "destination")

    def __init__(self, pool: PoolState, destination: DestinationState) -> None:
        self._pool: PoolState | None = pool
        self.destination = destination

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        pool = self._pool
        if pool is not None:
            self._pool = None
            self.destination.in_flight -= 1
            pool.in_flight -= 1


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
    available: tuple[DestinationState, ...] = field(init=False)
    sweeper: Sweeper = field(init=False)
    in_flight: int = 0

    def __attrs_post_init__(self) -> None:
        self.available = self.destinations
        self.sweeper = self.monitor.sweeper

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
        chosen.requests += 1
        self.in_flight += 1
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
        """Close every connection; sessions are told before."""
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
        health: Active check, ``"/path"`` for short. Recorded; this release does not probe.
        outliers: Passive health. Not in this release.
        breaker: Circuit breaker. Not in this release.
        affinity: Affinity. Not in this release.
        retry: Retry policy. Not in this release; a connect failure always moves on to the next destination.
        limits: Limits. Not in this release.
        timeouts: Time-outs for routes and groups that say none; None takes the proxy's.
        slow_start: Slow start. Not in this release.
        panic: Use every destination where none is available. Not in this release.
        transport: How requests are sent; None is the default transport.
        tls: How TLS is spoken with ``https`` destinations; None verifies against the system's certificates.

    Raises:
        TypeError: If ``destinations`` is a lone string.
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
        outliers: Any = None,
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
            "outliers": outliers,
            "breaker": breaker,
            "affinity": affinity,
            "retry": retry,
            "limits": limits,
            "slow_start": slow_start,
            "panic": panic or None,
        }
        missing = sorted(key for key, value in given.items() if value is not None)
        if missing:
            raise ValueError(f"pool {name!r}: {', '.join(missing)} is not in this release")
        self.monitor = monitor
        self.balancing: Balancing = balancing or PowerOfTwoChoices()
        self.health = to_health_check(health)
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
        )

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
