"""Prometheus: what ended exchanges and the pools' states say, read at scrape (extra ``metrics``).

All that has to do with Prometheus is done when somebody asks. ``prometheus_client`` is imported then, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import frozen
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from proxyroutes._operate.counters import Counters, Histogram, Key, Series
from proxyroutes._state.pools import UpstreamPool

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["Collector", "make_metrics_router"]


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
    of: Callable[[Key], tuple[str, ...]]


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


def _exchange_metrics(series: Sequence[Series]) -> Iterator[Metric]:
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


def _session_metrics(series: Sequence[Series]) -> Iterator[Metric]:
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


def _shared_metrics(series: Sequence[Series]) -> Iterator[Metric]:
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
    series: Iterable[Series],
    count: Callable[[Series], int],
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
    series: Iterable[Series],
    part: Callable[[Series], Histogram],
) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415 - an extra

    merged: dict[tuple[str, ...], Histogram] = {}
    for one in series:
        own = part(one)
        merged.setdefault(level.of(one.key), Histogram(own.bounds)).merge(own)
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
