"""One destination of one pool on one loop: what it is, what it carries, what is known of it.

Whether it may be asked is the pool's to decide.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import define, frozen

from proxyroutes._state.health import Watch
from proxyroutes.policies.outliers import Outlier
from proxyroutes.settings import Destination
from proxyroutes.typing import Measure

__all__ = ["DestinationState", "DestinationStatus", "Place", "place_of"]

Place: TypeAlias = tuple[str, str]
"""Origin and base path: a pool has each one once."""


def place_of(recipe: Destination) -> Place:
    """Where a destination is."""
    return recipe.origin, recipe.base_path


def _has_limits(recipe: Destination) -> bool:
    return recipe.max_in_flight is not None or recipe.max_requests is not None


@frozen(kw_only=True)
class DestinationStatus:
    """One destination of a pool as it is now.

    Attributes:
        url: As it was declared.
        available: Whether a request may be sent to it.
        healthy: The verdict of its check; None where there is none, or no result yet.
        reason: Why.
        latency: Seconds that its last successful probe took, or None.
        first_byte: Seconds that its exchanges take to their first byte, as the pool's balancing estimates it; None where
            it does not go by that, or nothing is known.
        in_flight: Exchanges and sessions that hold a lease on it.
        requests: Leases that were given.
        ejections: How often it was ejected by outlier detection.
        ejected: Whether it is ejected now.
        draining: Whether it is being drained, or is drained: it gets no new exchange.
        failures: Exchanges that failed and that it is to blame for.
        weight: Its share, as it was declared or set.
        effective_weight: Its share as it is now.
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
    ejected: bool = False
    draining: bool = False
    failures: int = 0
    weight: int = 1
    effective_weight: float = 1.0
    first_byte: float | None = None
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
    weight: float
    """Its share as it is now. It changes together with the snapshot, so that balancers may work things out beforehand."""
    identity: bytes
    limited: bool
    """Whether the pool wants to know of each lease that begins or ends."""
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    draining: bool = False
    trust: int = 0
    """Requests that may move on to it whatever the retry budget says; see ``budgets``."""
    factor: float = 1.0
    """What slow start leaves of its weight."""
    came: bool = False
    """Whether it was added at run time."""
    watch: Watch | None = None
    outlier: Outlier | None = None
    latency: float | None = None
    """Seconds until its first byte, as far as is known. A plain value, because balancing reads many for one choice."""
    measure: Measure | None = None
    """What its exchanges took, where the balancing goes by that."""
    _admitted_before: int = 0
    """Leases that were given before the running interval."""

    @property
    def place(self) -> Place:
        """What it is known by within its pool."""
        return place_of(self.recipe)

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

    @property
    def crowded(self) -> bool:
        """Whether it has room as soon as something that is in flight there ends."""
        recipe = self.recipe
        if recipe.max_in_flight is None or self.in_flight < recipe.max_in_flight:
            return False
        admitted = self.requests - self._admitted_before
        return recipe.max_requests is None or admitted < recipe.max_requests

    def begin_interval(self) -> None:
        """Count requests anew."""
        self._admitted_before = self.requests

    @property
    def joining(self) -> bool:
        """Whether it was added and its first probe has not ended: it is asked only where nothing else is left."""
        return self.came and self.watch is not None and self.watch.report.healthy is None

    @property
    def ejected(self) -> bool:
        """Whether outlier detection has taken it out for a while."""
        return self.outlier is not None and self.outlier.until is not None

    @property
    def healthy(self) -> bool | None:
        """The verdict of its check; None where there is none, or no result yet."""
        return None if self.watch is None else self.watch.report.healthy

    @property
    def probed(self) -> float | None:
        """Seconds that its last successful probe took."""
        return None if self.watch is None else self.watch.report.latency

    def estimate(self) -> None:
        """Work out its latency: what its exchanges took where that is measured, else what its probes took."""
        probed = self.probed
        self.latency = probed if self.measure is None else self.measure.estimate(probed)

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
            weight=float(recipe.weight),
            identity=(recipe.origin + recipe.base_path).encode("utf-8"),
            limited=_has_limits(recipe),
        )

    def __deepcopy__(self, memo: object) -> DestinationState:
        """It is itself, in a copy of a balancer too: there is one destination, whoever knows it."""
        return self

    def follow(self, recipe: Destination, *, draining: bool) -> None:
        """Take what was said of it at run time."""
        self.recipe = recipe
        self.draining = draining
        self.limited = draining or _has_limits(recipe)
        self.reweigh()

    def reweigh(self) -> None:
        """Work out its weight; who calls it makes a new snapshot."""
        given = None if self.watch is None else self.watch.report.weight
        self.weight = (self.recipe.weight if given is None else given) * self.factor
