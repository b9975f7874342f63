"""``UpstreamPool``: the handle, a frozen recipe with one state per running event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from proxyroutes._state.destinations import DestinationState, DestinationStatus
from proxyroutes._state.lease import Lease
from proxyroutes._state.loops import LoopStates
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pool_state import PoolState
from proxyroutes.policies.balancing import PowerOfTwoChoices
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.settings import TLS, Destination, HealthCheck, Timeouts, to_health_check
from proxyroutes.transports.asgi import BoundASGI
from proxyroutes.transports.http1 import Http1Transport
from proxyroutes.transports.websocket import BoundSessions, BoundWebSockets
from proxyroutes.typing import Balancing, Transport

__all__ = ["DestinationState", "Lease", "PoolState", "UpstreamPool"]

_logger = logging.getLogger("proxyroutes.lifespan")
_OUTLIERS = OutlierDetection()


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
        outliers: OutlierDetection | None = _OUTLIERS,
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
        transport = self.transport.bind(clock=monitor.clock, tls=self.tls)
        sockets: BoundSessions
        if isinstance(transport, BoundASGI):
            sockets = transport.bind_sessions()
        else:
            sockets = BoundWebSockets(loop, self.tls)
        return PoolState(
            name=self.name,
            loop=loop,
            monitor=monitor,
            destinations=tuple(DestinationState.of(recipe) for recipe in self.destinations),
            balancer=self.balancing.bind(clock=monitor.clock, random=monitor.random),
            transport=transport,
            websockets=sockets,
            timeouts=self.timeouts,
            checked_as=(self.transport, self.tls),
            health=self._health,
            panic=self.panic,
            outliers=self.outliers,
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
