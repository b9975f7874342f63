"""What only some pools have: places, a circuit, affinity. A pool without any of it has no ``Rules`` at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from attrs import define

from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.lease import Lease
from proxyroutes._state.limits import Limiter
from proxyroutes._state.monitor import MonitorState
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies.breakers import Circuit, CircuitBreaker
from proxyroutes.policies.retries import Retry
from proxyroutes.settings import Limits
from proxyroutes.typing import Affinity, BoundAffinity, Fields, ForwardedHead

__all__ = ["Rules", "Selecting", "bind_rules", "check_policies"]

_KINDS: Any = {"breaker": CircuitBreaker, "limits": Limits, "retry": Retry}


def check_policies(**policies: Any) -> None:
    """Refuse what is no policy, by the name of its keyword.

    Raises:
        TypeError: If one is something else.
    """
    for name, policy in policies.items():
        kind = _KINDS.get(name)
        if policy is None or (
            hasattr(policy, "bind") if kind is None else isinstance(policy, kind)
        ):
            continue
        meant = "an affinity policy" if kind is None else f"a {kind.__name__}"
        raise TypeError(f"{name} is {meant} value, not {policy!r}")


def bind_rules(
    pool: str,
    monitor: MonitorState,
    limits: Limits | None,
    breaker: CircuitBreaker | None,
    affinity: Affinity | None,
) -> Rules | None:
    """Make the rules of one pool, or None where it needs none."""
    limited = limits is not None and limits.max_in_flight is not None
    if not limited and breaker is None and affinity is None:
        return None
    clock = monitor.clock
    return Rules(
        limiter=Limiter(f"pool {pool!r}", cast("Limits", limits)) if limited else None,
        circuit=None if breaker is None else breaker.bind(clock=clock),
        affinity=None
        if affinity is None
        else affinity.bind(pool=pool, clock=clock, random=monitor.random),
    )


class Selecting(Protocol):
    """A pool that is asked for leases."""

    @property
    def destinations(self) -> tuple[DestinationState, ...]:
        """All that it has."""
        ...

    @property
    def available(self) -> tuple[DestinationState, ...]:
        """Those that may be asked now."""
        ...

    def usable(self, destination: DestinationState) -> bool:
        """Whether a destination may be asked, whatever its level."""
        ...

    def hold(self, destination: DestinationState, head: ForwardedHead) -> Lease:
        """A lease on this one."""
        ...

    def peek(self, head: ForwardedHead) -> DestinationState | None:
        """What the balancing would choose now."""
        ...

    def lease(self, head: ForwardedHead, tried: Sequence[DestinationState] = ()) -> Lease:
        """A lease on one that the balancing chooses."""
        ...


@define(eq=False)
class Rules:
    """The rules of one pool on one loop.

    Attributes:
        limiter: Its places; None for as many as come.
        circuit: Its circuit breaker's; None where it has none.
        affinity: Its affinity, or None.
    """

    limiter: Limiter | None
    circuit: Circuit | None
    affinity: BoundAffinity | None

    def lease(
        self,
        pool: Selecting,
        head: ForwardedHead,
        tried: Sequence[DestinationState] = (),
        *,
        again: bool = False,
    ) -> Lease:
        """Choose by affinity first.

        Args:
            pool: Whose destinations.
            head: What is going to be forwarded.
            tried: Destinations that were asked already.
            again: Whether one that was asked may be asked again, if there is no other.

        Raises:
            NoDestinationError: If nothing is left, or affinity allows nothing else.
        """
        affinity = self.affinity
        found = affinity.find(pool.destinations, head) if affinity and pool.destinations else None
        if affinity is None or found is None:
            return pool.lease(head, tried)
        home = cast("DestinationState", found)
        if pool.usable(home) and (home not in tried or (again and affinity.rejects)):
            return pool.hold(home, head)
        if affinity.rejects and not home.draining:
            raise NoDestinationError(
                f"the destination that the client belongs to is not available: {home.origin}",
                retry_after=1.0,
            )
        other = cast("DestinationState | None", affinity.find_another(pool.available, head))
        if other is not None and other not in tried:
            return pool.hold(other, head)
        return pool.lease(head, tried)

    def peek(self, pool: Selecting, head: ForwardedHead) -> DestinationState | None:
        """What ``lease`` would choose now; None if nothing is left, or affinity allows nothing else."""
        affinity = self.affinity
        home = affinity.find(pool.destinations, head) if affinity and pool.destinations else None
        if affinity is None or home is None:
            return pool.peek(head)
        found = cast("DestinationState", home)
        if pool.usable(found):
            return found
        if affinity.rejects and not found.draining:
            return None
        other = cast("DestinationState | None", affinity.find_another(pool.available, head))
        return other or pool.peek(head)

    def fields(
        self, pool: Selecting, head: ForwardedHead, destination: DestinationState
    ) -> Fields:
        """What the response says of an affinity that begins with this destination."""
        affinity = self.affinity
        if affinity is None or affinity.find(pool.destinations, head) is destination:
            return []
        return affinity.fields(destination, head)
