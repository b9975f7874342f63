"""Counts of ended exchanges and sessions, as the metrics show them.

A request pays for one tuple of what it was. Those are counted by the dozen, which is much cheaper than one by one between
other work, and whatever is left when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from threading import Lock
from typing import Any

from attrs import define, field, frozen

from proxyroutes._serve.guard import USUAL_METHODS
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes.typing import ExchangeRecord

__all__ = [
    "DURATION_BUCKETS",
    "OVERHEAD_BUCKETS",
    "SESSION_BUCKETS",
    "Counters",
    "Histogram",
    "Key",
    "Series",
]

# A gateway's own share is below a millisecond: buckets that begin at 0.1 s would show nothing of it.
# fmt: off
DURATION_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)
# fmt: on
"""Upper bounds in seconds, for exchanges and the time to the first byte."""
OVERHEAD_BUCKETS = (5e-05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 1.0)
"""Upper bounds in seconds, for what the gateway itself adds."""
SESSION_BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""Upper bounds in seconds, for how long sessions last."""

_MAX_SERIES = 10_000
_MOST_WAITING = 64
_OTHER = "other"


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def merge(self, other: Histogram) -> None:
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def cumulated(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: each counts all that are below its bound."""
        total, buckets = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


@frozen
class Key:
    """What exchanges that are counted together have alike."""

    route: str
    pool: str
    destination: str
    method: str
    status: str
    cause: str
    code: str


@define(eq=False)
class Series:
    """Counts of exchanges that are alike in every label."""

    key: Key
    session: bool
    count: int = 0
    attempts: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    request_messages: int = 0
    response_messages: int = 0
    total: Histogram = field(init=False)
    first_byte: Histogram = field(init=False)
    overhead: Histogram = field(init=False)
    queue: Histogram = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.total = Histogram(SESSION_BUCKETS if self.session else DURATION_BUCKETS)
        self.first_byte = Histogram(DURATION_BUCKETS)
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        self.queue = Histogram(DURATION_BUCKETS)


class Counters:
    """The observer: counts every ended exchange and session."""

    def __init__(self) -> None:
        self._series: dict[tuple[Any, ...], Series] = {}
        # Numbers and names only: nothing that an exchange held lives longer for being counted.
        self._waiting: deque[tuple[Any, ...]] = deque()
        # A scrape counts from its own thread, and every loop from its own.
        self._lock = Lock()

    def __call__(self, record: ExchangeRecord) -> None:
        """Count one, at once or soon."""
        attempt = record.attempt
        if (
            attempt is None
            or not record.whole
            or record.earlier
            or record.error is not None
            or isinstance(record, SessionRecord)
        ):
            with self._lock:
                self._count(record)
            return
        waiting = self._waiting
        waiting.append(
            (
                record.route,
                record.pool,
                record.destination,
                record.method,
                record.status,
                record.attempts,
                record.request_bytes,
                record.response_bytes,
                record.started,
                record.queued,
                attempt.began_at,
                attempt.connected_at,
                record.head,
                record.relayed,
                record.ended,
            )
        )
        if len(waiting) >= _MOST_WAITING:
            self._count_waiting()

    def _count_waiting(self) -> None:
        """Count the exchanges that went as they should: of one attempt, and handed over whole."""
        waiting = self._waiting
        find = self._series.get
        with self._lock:
            while waiting:
                # fmt: off
                (
                    route, pool, destination, method, status, attempts, request_bytes, response_bytes,
                    started, queued, began, connected, head, relayed, ended,
                ) = waiting.popleft()
                # fmt: on
                if method not in USUAL_METHODS:
                    method = _OTHER
                key = (route, pool, destination, method, status, None, False, None)
                series = find(key) or self._add(key)
                series.count += 1
                series.attempts += attempts
                series.request_bytes += request_bytes
                series.response_bytes += response_bytes
                # The record's own properties, written out for speed.
                series.total.observe(max(0.0, ended - started))
                after = relayed - head if relayed and head else 0.0
                series.overhead.observe(max(0.0, began - started - queued) + max(0.0, after))
                if connected and head:
                    series.first_byte.observe(max(0.0, head - connected))
                if queued:
                    series.queue.observe(queued)

    def _count(self, record: ExchangeRecord) -> None:
        """Count one of any kind."""
        session = isinstance(record, SessionRecord)
        ending = record.ending if isinstance(record, SessionRecord) else None
        key = (
            record.route,
            record.pool,
            record.destination,
            # A client may make up methods; it must not make up series.
            record.method if record.method in USUAL_METHODS else _OTHER,
            record.status,
            record.cause,
            session,
            # Clients choose among a thousand private codes: those are one (RFC 6455 §7.4.2).
            None if ending is None else (ending.side, min(ending.code, 3000)),
        )
        series = self._series.get(key) or self._add(key)
        series.count += 1
        series.attempts += record.attempts
        series.request_bytes += record.request_bytes
        series.response_bytes += record.response_bytes
        series.total.observe(record.total_seconds)
        series.overhead.observe(record.overhead_seconds)
        first_byte = record.first_byte_seconds
        if first_byte is not None:
            series.first_byte.observe(first_byte)
        if record.queued:
            series.queue.observe(record.queued)
        if isinstance(record, SessionRecord):
            series.request_messages += record.request_messages
            series.response_messages += record.response_messages

    def _add(self, key: tuple[Any, ...]) -> Series:
        route, pool, destination, method, status, cause, session, ending = key
        if len(self._series) >= _MAX_SERIES:
            # Names that an application makes up, such as hosts that are proxied by URL, must not fill the memory.
            pool = destination = _OTHER
            key = (route, pool, destination, method, status, cause, session, ending)
            if key in self._series:
                return self._series[key]
        labels = Key(
            route,
            pool or "",
            destination or "",
            method,
            "" if status is None else str(status),
            cause or "",
            "" if ending is None else f"{ending[0].value}-{ending[1]}",
        )
        series = self._series[key] = Series(labels, session)
        return series

    def series(self) -> tuple[Series, ...]:
        """Every series as it is now; safe from any thread."""
        self._count_waiting()
        return tuple(self._series.values())
