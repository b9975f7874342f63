"""Circuit breakers: a pool that fails is left alone for a while, and asked again by a few requests first."""

from __future__ import annotations

from collections import deque

from attrs import field, frozen

from proxyroutes.settings._values import to_statuses
from proxyroutes.typing import Clock

__all__ = ["Circuit", "CircuitBreaker"]

_BUCKET = 1.0
"""Seconds that are counted together."""


@frozen(kw_only=True)
class CircuitBreaker:
    """When a whole pool is not asked for a while: requests are answered 503 with ``Retry-After`` instead.

    Outlier detection takes single destinations out, and never the last one; the breaker is for the service behind all of
    them. What counts is what an exchange came to, after its retries. A failure is what the upstream is to blame for, and
    an answer with one of ``statuses``; a client that leaves counts as nothing.

    Attributes:
        window: Seconds over which the share of failures is taken.
        min_requests: Exchanges that must have ended in the window before the share says something.
        max_failures: Share of failures, above 0 and at most 1, at which the circuit opens.
        open_for: Seconds that it stays open. Then it is half-open: ``trials`` exchanges at a time are let through.
        trials: Exchanges that must go well, one after the other or at once, until it closes. The first that does not
            opens it again.
        statuses: Statuses that count as failures.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        M. Nygard, "Release It!" (2007); the numbers of Traefik's breaker: 10 s, at least 20 requests.
    """

    window: float = 10.0
    min_requests: int = 20
    max_failures: float = 0.5
    open_for: float = 10.0
    trials: int = 3
    statuses: frozenset[int] = field(default=(502, 503, 504), converter=to_statuses)

    def __attrs_post_init__(self) -> None:
        if not self.window >= _BUCKET:
            raise ValueError(f"window must be at least {_BUCKET} s: {self.window!r}")
        if not self.open_for > 0:
            raise ValueError(f"open_for must be greater than 0 seconds: {self.open_for!r}")
        if not 0 < self.max_failures <= 1:
            raise ValueError(f"max_failures is a share above 0, at most 1: {self.max_failures!r}")
        for name in ("min_requests", "trials"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)!r}")

    def bind(self, *, clock: Clock) -> Circuit:
        """Make the circuit of one pool."""
        return Circuit(self, clock)


class Circuit:
    """The circuit of one pool on one loop.

    Attributes:
        reason: Why it was opened the last time.
        openings: How often it was opened.
    """

    __slots__ = (
        "_buckets",
        "_clock",
        "_passed",
        "_recipe",
        "_running",
        "_until",
        "openings",
        "reason",
    )

    def __init__(self, recipe: CircuitBreaker, clock: Clock) -> None:
        self._recipe = recipe
        self._clock = clock
        # Seconds as (their beginning, exchanges, failures), the running one last.
        self._buckets: deque[list[float]] = deque()
        # Seconds on the clock until which it is open; None while it is closed.
        self._until: float | None = None
        self._running = 0
        self._passed = 0
        self.reason = ""
        self.openings = 0

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half-open"``."""
        if self._until is None:
            return "closed"
        return "open" if self._clock.monotonic() < self._until else "half-open"

    def counts(self, status: int) -> bool:
        """Whether an answer with this status is a failure."""
        return status in self._recipe.statuses

    def admit(self) -> tuple[int, float]:
        """Let an exchange through, or not.

        Returns:
            The number of the trial, 0 for none, and the seconds to wait if it is not let through; 0.0 if it is. Whoever
            is let through calls ``ended``.
        """
        until = self._until
        if until is None:
            return 0, 0.0
        left = until - self._clock.monotonic()
        if left > 0:
            return 0, left
        if self._running + self._passed >= self._recipe.trials:
            # Those that are under way decide.
            return 0, 1.0
        self._running += 1
        return self.openings, 0.0

    def ended(self, failed: bool | None, *, trial: int = 0) -> None:
        """It is known what an exchange that was let through came to.

        Args:
            failed: Whether it failed; None where nobody can tell, because the client left.
            trial: What ``admit`` has given.
        """
        if not trial:
            if self._until is None and failed is not None:
                self._count(failed)
        elif trial == self.openings and self._until is not None:
            # One of an earlier opening says nothing of this one.
            self._running -= 1
            if failed:
                self._open("a trial failed")
            elif failed is False:
                self._passed += 1
                if self._passed >= self._recipe.trials:
                    self._until = None

    def _count(self, failed: bool) -> None:
        """Enter an exchange into the running second, and open the circuit if too many of the window have failed."""
        now = self._clock.monotonic()
        buckets, recipe = self._buckets, self._recipe
        if not buckets or now >= buckets[-1][0] + _BUCKET:
            buckets.append([now, 0, 0])
        while buckets[0][0] <= now - recipe.window:
            buckets.popleft()
        buckets[-1][1] += 1
        if not failed:
            return
        buckets[-1][2] += 1
        total = sum([one[1] for one in buckets])
        failures = sum([one[2] for one in buckets])
        if total >= recipe.min_requests and failures >= recipe.max_failures * total:
            self._open(f"{failures:g} of {total:g} exchanges failed within {recipe.window:g} s")

    def _open(self, reason: str) -> None:
        self._until = self._clock.monotonic() + self._recipe.open_for
        self._running = self._passed = 0
        self._buckets.clear()
        self.openings += 1
        self.reason = reason
