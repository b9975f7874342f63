"""Outlier detection: passive health, decided from what exchanges come to.

The recipe and the bookkeeping of one destination live here. How many may be ejected at once is the pool's to decide,
because only it sees all of them.
"""

from __future__ import annotations

from collections import deque

from attrs import field, frozen

from proxyroutes.settings._values import to_statuses
from proxyroutes.typing import Clock

__all__ = ["Outlier", "OutlierDetection"]

_BUCKET = 1.0
"""Seconds that are counted together."""


@frozen(kw_only=True)
class OutlierDetection:
    """When a destination is ejected for a while because of how exchanges with it end.

    A failure is what the destination is to blame for: no connection, a time-out of the upstream, a broken protocol or a
    response that is cut off. A client that leaves counts against nobody. Statuses of a gateway count towards
    ``consecutive`` only: the share is of exchanges that failed, not of answers that somebody meant.

    Attributes:
        window: Seconds over which the share of failures is taken.
        min_requests: Exchanges that must have ended in the window before the share says something.
        max_failures: Share of failures, above 0 and at most 1, at which the destination is ejected.
        consecutive: Failures in a row at which it is ejected. None is no limit.
        statuses: Statuses that count as a failure in a row.
        ejection: Seconds of a first ejection; the n-th in short order lasts n times as long.
        max_ejection: The most seconds that an ejection lasts.
        decay: Seconds without ejection that take one off the n.
        max_ejected: Share of a pool's destinations that may be ejected at once. One always may, the last one never.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        The sliding window of YARP's ``TransportFailureRateHealthPolicy``; the growing ejections of Envoy's outlier
        detection.
    """

    window: float = 60.0
    min_requests: int = 10
    max_failures: float = 0.3
    consecutive: int | None = 5
    statuses: frozenset[int] = field(default=(502, 503, 504), converter=to_statuses)
    ejection: float = 30.0
    max_ejection: float = 300.0
    decay: float = 10.0
    max_ejected: float = 0.5

    def __attrs_post_init__(self) -> None:
        for name in ("window", "ejection", "max_ejection", "decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0 seconds: {getattr(self, name)!r}")
        if self.window < _BUCKET:
            raise ValueError(f"window must be at least {_BUCKET} s: {self.window!r}")
        for name in ("max_failures", "max_ejected"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share above 0, at most 1: {getattr(self, name)!r}")
        if self.min_requests < 1:
            raise ValueError(f"min_requests must be at least 1: {self.min_requests!r}")
        if self.consecutive is not None and self.consecutive < 1:
            raise ValueError(f"consecutive must be at least 1, or None: {self.consecutive!r}")

    def bind(self, *, clock: Clock) -> Outlier:
        """Make the bookkeeping of one destination."""
        return Outlier(self, clock)


class Outlier:
    """What exchanges with one destination came to.

    Attributes:
        until: Seconds on the clock until which it is ejected; None while it is not.
        ejections: How often it was.
        reason: Why it was the last time.
    """

    __slots__ = (
        "_buckets",
        "_clock",
        "_failed",
        "_grown",
        "_next_bucket",
        "_recipe",
        "_returned",
        "_streak",
        "_total",
        "_window_failed",
        "_window_total",
        "ejections",
        "reason",
        "until",
    )

    def __init__(self, recipe: OutlierDetection, clock: Clock) -> None:
        self._recipe = recipe
        self._clock = clock
        self.until: float | None = None
        self.ejections = 0
        self.reason = ""
        self._grown = 0
        self._returned = 0.0
        self._forget()

    def _forget(self) -> None:
        self._streak = 0
        # The seconds that have ended as (their end, exchanges, failures), with their sums; then the running second.
        self._buckets: deque[tuple[float, int, int]] = deque()
        self._window_total = self._window_failed = 0
        self._total = self._failed = 0
        self._next_bucket = self._clock.monotonic() + _BUCKET

    def passed(self) -> None:
        """An exchange went well."""
        if self._clock.monotonic() >= self._next_bucket:
            self._roll()
        self._total += 1
        self._streak = 0

    def answered(self, status: int) -> bool:
        """An exchange was answered with this status; true if the destination should be ejected."""
        if status not in self._recipe.statuses:
            self.passed()
            return False
        self._roll()
        self._total += 1
        return self._in_a_row(f"status {status}")

    def failed(self) -> bool:
        """An exchange failed; true if the destination should be ejected."""
        self._roll()
        self._total += 1
        self._failed += 1
        if self._in_a_row("failure"):
            return True
        total = self._window_total + self._total
        failed = self._window_failed + self._failed
        recipe = self._recipe
        if self.until is not None or total < recipe.min_requests:
            return False
        if failed < recipe.max_failures * total:
            return False
        self.reason = f"{failed} of {total} exchanges failed within {recipe.window:g} s"
        return True

    def _in_a_row(self, last: str) -> bool:
        self._streak += 1
        limit = self._recipe.consecutive
        if limit is None or self._streak < limit or self.until is not None:
            return False
        self.reason = f"{self._streak} failures in a row, the last one: {last}"
        return True

    def _roll(self) -> None:
        """End the running second if it is over, and forget what is older than the window."""
        now = self._clock.monotonic()
        if now >= self._next_bucket:
            if self._total:
                self._buckets.append((self._next_bucket, self._total, self._failed))
                self._window_total += self._total
                self._window_failed += self._failed
            self._total = self._failed = 0
            self._next_bucket = now + _BUCKET
        oldest = now - self._recipe.window
        while self._buckets and self._buckets[0][0] <= oldest:
            _, total, failed = self._buckets.popleft()
            self._window_total -= total
            self._window_failed -= failed

    def eject(self) -> float:
        """Begin an ejection; gives the seconds that it lasts."""
        recipe = self._recipe
        now = self._clock.monotonic()
        if self.ejections:
            self._grown = max(0, self._grown - int((now - self._returned) / recipe.decay))
        self._grown += 1
        self.ejections += 1
        seconds = min(recipe.ejection * self._grown, recipe.max_ejection)
        self.until = now + seconds
        return seconds

    def take_back(self) -> None:
        """End an ejection; what was counted before it no longer counts."""
        self.until = None
        self._returned = self._clock.monotonic()
        self._forget()
