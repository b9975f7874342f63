"""Prometheus: what ended exchanges and the pools' states say, read at scrape (extra ``metrics``).

A request pays for one tuple of what it was. Those are counted by the dozen, which is much cheaper than one by one between
other work, and whatever is left when somebody asks. All that has to do with Prometheus is done then, too, and
``prometheus_client`` is imported then, and not before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from proxyroutes._serve.guard import USUAL_METHODS
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.typing import ExchangeRecord

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["DURATION_BUCKETS", "OVERHEAD_BUCKETS", "Collector", "Counters", "make_metrics_router"]

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


class _Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def merge(self, other: _Histogram) -> None:
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
class _Key:
    """What exchanges that are counted together have alike."""

    route: str
    pool: str
    destination: str
    method: str
    status: str
    cause: str
    code: str


@define(eq=False)
class _Series:
    """Counts of exchanges that are alike in every label."""

    key: _Key
    session: bool
    count: int = 0
    attempts: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    request_messages: int = 0
    response_messages: int = 0
    total: _Histogram = field(init=False)
    first_byte: _Histogram = field(init=False)
    overhead: _Histogram = field(init=False)
    queue: _Histogram = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.total = _Histogram(SESSION_BUCKETS if self.session else DURATION_BUCKETS)
        self.first_byte = _Histogram(DURATION_BUCKETS)
        self.overhead = _Histogram(OVERHEAD_BUCKETS)
        self.queue = _Histogram(DURATION_BUCKETS)


class Counters:
    """The observer: counts every ended exchange and session."""

    def __init__(self) -> None:
        self._series: dict[tuple[Any, ...], _Series] = {}
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

    def _add(self, key: tuple[Any, ...]) -> _Series:
        route, pool, destination, method, status, cause, session, ending = key
        if len(self._series) >= _MAX_SERIES:
            # Names that an application makes up, such as hosts that are proxied by URL, must not fill the memory.
            pool = destination = _OTHER
            key = (route, pool, destination, method, status, cause, session, ending)
            if key in self._series:
                return self._series[key]
        labels = _Key(
            route,
            pool or "",
            destination or "",
            method,
            "" if status is None else str(status),
            cause or "",
            "" if ending is None else f"{ending[0].value}-{ending[1]}",
        )
        series = self._series[key] = _Series(labels, session)
        return series

    def series(self) -> tuple[_Series, ...]:
        """Every series as it is now; safe from any thread."""
        self._count_waiting()
        return tuple(self._series.values())


# At scrape.


@frozen
class _Level:
    """What series are counted together by: the route's, the pool's or the destination's labels.

    Attributes:
        name: The first part of the metrics' names.
        labels: The labels.
        of: Their values.
    """

    name: str
    labels: tuple[str, ...]
    of: Callable[[_Key], tuple[str, ...]]


_ROUTE = _Level("route", ("route",), lambda key: (key.route,))
_POOL = _Level("pool", ("pool",), lambda key: (key.pool,))
_DESTINATION = _Level(
    "destination", ("pool", "destination"), lambda key: (key.pool, key.destination)
)


class Collector:
    """The custom collector: register it in a registry of your own, or let ``metrics_router`` do so.

    Args:
        counters: What has been counted.
        pools: Gives the pools whose state is shown.
    """

    def __init__(self, counters: Counters, pools: Callable[[], Iterable[UpstreamPool]]) -> None:
        self._counters = counters
        self._pools = pools

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that a registry need not collect in order to know the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        series = self._counters.series()
        exchanges = [one for one in series if not one.session]
        sessions = [one for one in series if one.session]
        yield from _exchange_metrics(exchanges)
        yield from _session_metrics(sessions)
        yield from _shared_metrics(series)
        yield from _pool_metrics(self._pools())


def _exchange_metrics(series: Sequence[_Series]) -> Iterator[Metric]:
    yield _counter(
        _Level(
            "route",
            ("route", "method", "status", "cause"),
            lambda key: (key.route, key.method, key.status, key.cause),
        ),
        "exchanges",
        "Exchanges that have ended",
        series,
        lambda one: one.count,
    )
    asked = [one for one in series if one.key.pool]
    outcome = ("status", "cause")
    yield _counter(
        _Level("pool", ("pool", *outcome), lambda key: (key.pool, key.status, key.cause)),
        "exchanges",
        "Exchanges that have ended",
        asked,
        lambda one: one.count,
    )
    yield _counter(
        _Level(
            "destination",
            ("pool", "destination", *outcome),
            lambda key: (key.pool, key.destination, key.status, key.cause),
        ),
        "exchanges",
        "Exchanges that have ended, by the last destination that was asked",
        [one for one in asked if one.key.destination],
        lambda one: one.count,
    )
    yield _histogram(
        _ROUTE,
        "duration_seconds",
        "From the beginning of an exchange to its end",
        series,
        lambda one: one.total,
    )


def _session_metrics(series: Sequence[_Series]) -> Iterator[Metric]:
    yield _counter(
        _Level(
            "route",
            ("route", "status", "ending", "cause"),
            lambda key: (key.route, key.status, key.code, key.cause),
        ),
        "sessions",
        "Sessions that have ended; ending is the side that ended it and its code",
        series,
        lambda one: one.count,
    )
    yield _histogram(
        _ROUTE, "session_seconds", "How long sessions lasted", series, lambda one: one.total
    )
    for direction, count in (
        ("request", lambda one: one.request_messages),
        ("response", lambda one: one.response_messages),
    ):
        yield _counter(
            _ROUTE,
            f"{direction}_messages",
            f"Messages of sessions in the direction of the {direction}",
            series,
            count,
        )


def _shared_metrics(series: Sequence[_Series]) -> Iterator[Metric]:
    for direction, count in (
        ("request", lambda one: one.request_bytes),
        ("response", lambda one: one.response_bytes),
    ):
        yield _counter(
            _ROUTE, f"{direction}_bytes", f"Bytes of content of the {direction}", series, count
        )
    yield _histogram(
        _ROUTE,
        "overhead_seconds",
        "What the gateway itself added before the first byte of the answer",
        series,
        lambda one: one.overhead,
    )
    asked = [one for one in series if one.key.pool]
    yield _counter(_POOL, "attempts", "Attempts at a destination", asked, lambda one: one.attempts)
    yield _histogram(
        _POOL,
        "queue_seconds",
        "How long those exchanges waited for a place that had to wait",
        asked,
        lambda one: one.queue,
    )
    yield _histogram(
        _DESTINATION,
        "first_byte_seconds",
        "From the connection to the head of the response",
        [one for one in asked if one.key.destination],
        lambda one: one.first_byte,
    )


def _counter(
    level: _Level,
    name: str,
    documentation: str,
    series: Iterable[_Series],
    count: Callable[[_Series], int],
) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415 - an extra

    sums: dict[tuple[str, ...], int] = {}
    for one in series:
        labels = level.of(one.key)
        sums[labels] = sums.get(labels, 0) + count(one)
    family = CounterMetricFamily(
        f"proxyroutes_{level.name}_{name}", documentation, labels=level.labels
    )
    for labels, value in sorted(sums.items()):
        family.add_metric(labels, value)
    return family


def _histogram(
    level: _Level,
    name: str,
    documentation: str,
    series: Iterable[_Series],
    part: Callable[[_Series], _Histogram],
) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415 - an extra

    merged: dict[tuple[str, ...], _Histogram] = {}
    for one in series:
        own = part(one)
        merged.setdefault(level.of(one.key), _Histogram(own.bounds)).merge(own)
    family = HistogramMetricFamily(
        f"proxyroutes_{level.name}_{name}", documentation, labels=level.labels
    )
    for labels, histogram in sorted(merged.items(), key=lambda item: item[0]):
        family.add_metric(labels, histogram.cumulated(), histogram.sum)
    return family


_POOL_GAUGES = (
    ("in_flight", "Exchanges and sessions that hold a lease in the pool"),
    ("destinations", "Destinations that the pool has"),
    ("available", "Destinations that may be asked now"),
)
_DESTINATION_GAUGES = (
    ("in_flight", "Exchanges and sessions that hold a lease on the destination"),
    ("available", "Whether a request may be sent to it"),
    ("healthy", "The verdict of its check; absent where there is none"),
    ("ejected", "Whether outlier detection has taken it out"),
)
_DESTINATION_COUNTERS = (
    ("leases", "Exchanges and sessions that were given to the destination"),
    ("ejections", "How often outlier detection has taken it out"),
)


def _pool_metrics(pools: Iterable[UpstreamPool]) -> Iterator[Metric]:
    """What the pools' states say now, all event loops together."""
    from prometheus_client.metrics_core import (  # noqa: PLC0415 - an extra
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    of_pools, of_destinations = _read_pools(pools)
    for level, gauges, values in (
        (_POOL, _POOL_GAUGES, of_pools),
        (_DESTINATION, _DESTINATION_GAUGES, of_destinations),
    ):
        for name, documentation in gauges:
            gauge = GaugeMetricFamily(
                f"proxyroutes_{level.name}_{name}", documentation, labels=level.labels
            )
            for labels, facts in values.items():
                if name in facts:
                    gauge.add_metric(labels, facts[name])
            yield gauge
    for name, documentation in _DESTINATION_COUNTERS:
        counter = CounterMetricFamily(
            f"proxyroutes_destination_{name}", documentation, labels=_DESTINATION.labels
        )
        for labels, facts in of_destinations.items():
            counter.add_metric(labels, facts[name])
        yield counter


_Facts = dict[tuple[str, ...], dict[str, float]]


def _read_pools(pools: Iterable[UpstreamPool]) -> tuple[_Facts, _Facts]:
    of_pools: _Facts = {}
    of_destinations: _Facts = {}
    for pool in pools:
        for state in pool.states():
            own = of_pools.setdefault((pool.name,), {})
            _add(own, "in_flight", state.in_flight)
            _add(own, "destinations", len(state.destinations))
            _add(own, "available", len(state.available))
            for one in state.destinations:
                # Destinations that differ in their base path only are one here, as in the records.
                facts = of_destinations.setdefault((pool.name, one.origin), {})
                outlier = one.outlier
                _add(facts, "in_flight", one.in_flight)
                _add(facts, "leases", one.requests)
                _add(facts, "ejections", 0 if outlier is None else outlier.ejections)
                facts["available"] = max(facts.get("available", 0), one in state.available)
                facts["ejected"] = max(facts.get("ejected", 0), one.ejected)
                if one.healthy is not None:
                    facts["healthy"] = min(facts.get("healthy", 1), one.healthy)
    return of_pools, of_destinations


def _add(facts: dict[str, float], name: str, value: float) -> None:
    facts[name] = facts.get(name, 0) + value


def make_metrics_router(
    collector: Collector, path: str, registry: CollectorRegistry | None
) -> APIRouter:
    """A router with one page, in the format that the scraper asks for.

    Raises:
        ImportError: If prometheus-client is not installed; the text says how to.
    """
    try:
        import prometheus_client  # noqa: PLC0415 - an extra
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            'metrics need prometheus-client: pip install "proxyroutes[metrics]"', name=error.name
        ) from error

    if registry is None:
        registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(collector)
    router = APIRouter()

    # Not a coroutine: a long page is made in a thread, and exchanges go on meanwhile.
    @router.get(path, include_in_schema=False, name="metrics")
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router
