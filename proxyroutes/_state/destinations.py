"""One destination of one pool on one loop: what it is, what it carries, what is known of it.

Whether it may be asked is the pool's to decide.
"""

from __future__ import annotations

from attrs import define, frozen

from proxyroutes._state.health import Watch
from proxyroutes.policies.outliers import Outlier
from proxyroutes.settings import Destination

__all__ = ["DestinationState", "DestinationStatus"]


@frozen(kw_only=True)
class DestinationStatus:
    """One destination of a pool as it is now.

    Attributes:
        url: As it was declared.
        available: Whether a request may be sent to it.
        healthy: The verdict of its check; None where there is none, or no result yet.
        reason: Why.
        latency: Seconds that its last successful probe took, or None.
        in_flight: Exchanges and sessions that hold a lease on it.
        requests: Leases that were given.
        ejections: How often it was ejected by outlier detection.
        circuit: State of the pool's circuit breaker: ``"closed"``, ``"open"`` or ``"half-open"``; None where it has none.
    """

    url: str
    available: bool
    healthy: bool | None
    reason: str
    latency: float | None
    in_flight: int
    requests: int
    ejections: int = 0
    circuit: str | None = None


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
    identity: bytes
    limited: bool
    in_flight: int = 0
    requests: int = 0
    draining: bool = False
    trust: int = 0
    """Requests that may move on to it whatever the retry budget says; see ``budgets``."""
    watch: Watch | None = None
    outlier: Outlier | None = None
    _admitted_before: int = 0
    """Leases that were given before the running interval."""

    @property
    def full(self) -> str | None:
        """Which limit it has reached, in words; None while it has room."""
        recipe = self.recipe
        if recipe.max_in_flight is not None and self.in_flight >= recipe.max_in_flight:
            return f"{recipe.max_in_flight} in flight, its limit"
        admitted = self.requests - self._admitted_before
        if recipe.max_requests is not None and admitted >= recipe.max_requests:
            return f"{recipe.max_requests} requests in this interval, its limit"
        return None

    def begin_interval(self) -> None:
        """Count requests anew."""
        self._admitted_before = self.requests

    @property
    def ejected(self) -> bool:
        """Whether outlier detection has taken it out for a while."""
        return self.outlier is not None and self.outlier.until is not None

    @property
    def healthy(self) -> bool | None:
        """The verdict of its check; None where there is none, or no result yet."""
        return None if self.watch is None else self.watch.report.healthy

    @property
    def latency(self) -> float | None:
        """Seconds that its last successful probe took."""
        return None if self.watch is None else self.watch.report.latency

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
            identity=(recipe.origin + recipe.base_path).encode("utf-8"),
            limited=recipe.max_in_flight is not None or recipe.max_requests is not None,
        )
