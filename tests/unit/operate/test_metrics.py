"""Counting exchanges, and what a scrape says of them."""

import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxyroutes import Proxy, UpstreamPool
from proxyroutes._operate import counters
from proxyroutes._operate.counters import Counters
from proxyroutes._operate.metrics import Collector
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes.exceptions import Side
from proxyroutes.transports._websocket_ending import Ending
from proxyroutes.typing import Attempt, ExchangeRecord


def make_record(kind=ExchangeRecord, *, began_at=0.0, connected_at=0.0, **facts):
    """An ended exchange over one destination, whole unless the facts say otherwise."""
    record = kind.__new__(kind)
    attempt = Attempt()
    attempt.began_at, attempt.connected_at = began_at, connected_at
    facts = {
        "route": "api",
        "method": "GET",
        "pool": "users",
        "destination": "http://a",
        "status": 200,
        "whole": True,
        "attempts": 1,
        "attempt": attempt,
        **facts,
    }
    for name, value in facts.items():
        setattr(record, name, value)
    return record


def scrape(collector):
    """Every sample of a scrape, as the parser of Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(*records, pools=()):
    """The samples after these records."""
    counters = Counters()
    for record in records:
        counters(record)
    return scrape(Collector(counters, lambda: pools))


def sample(samples, name, **labels):
    """One sample."""
    return samples[(name, *sorted(labels.items()))]


def test_an_exchange_is_counted_at_each_level():
    """By route, by pool and by destination."""
    samples = counted(make_record(), make_record(), make_record(status=502, whole=False))
    labels = {"status": "200", "cause": ""}
    actual = (
        sample(samples, "proxyroutes_route_exchanges_total", route="api", method="GET", **labels),
        sample(samples, "proxyroutes_pool_exchanges_total", pool="users", **labels),
        sample(
            samples,
            "proxyroutes_destination_exchanges_total",
            pool="users",
            destination="http://a",
            status="502",
            cause="abandoned",
        ),
    )

    assert (2.0, 2.0, 1.0) == actual


def test_bytes_and_attempts_are_summed():
    """Over everything that the route or the pool had."""
    samples = counted(
        make_record(request_bytes=3, response_bytes=5, attempts=2),
        make_record(request_bytes=4, response_bytes=6, status=500),
    )
    actual = (
        sample(samples, "proxyroutes_route_request_bytes_total", route="api"),
        sample(samples, "proxyroutes_route_response_bytes_total", route="api"),
        sample(samples, "proxyroutes_pool_attempts_total", pool="users"),
    )

    assert (7.0, 11.0, 3.0) == actual


@pytest.mark.parametrize(
    ("seconds", "bucket", "expected"),
    [
        (0.0004, "0.0005", 1.0),
        (0.0005, "0.0005", 1.0),
        (0.0006, "0.0005", 0.0),
        (0.0006, "0.001", 1.0),
        (61.0, "60.0", 0.0),
        (61.0, "+Inf", 1.0),
    ],
)
def test_a_duration_is_in_the_buckets_whose_bound_it_does_not_exceed(seconds, bucket, expected):
    """Half a millisecond is the finest of them."""
    samples = counted(make_record(started=1.0, ended=1.0 + seconds))
    actual = sample(samples, "proxyroutes_route_duration_seconds_bucket", route="api", le=bucket)

    assert expected == actual


def test_durations_of_every_status_are_one_histogram():
    """Their buckets, their sum and their count are added."""
    samples = counted(make_record(ended=0.25), make_record(ended=0.5, status=500))
    name = "proxyroutes_route_duration_seconds"
    actual = (
        sample(samples, f"{name}_count", route="api"),
        sample(samples, f"{name}_sum", route="api"),
        sample(samples, f"{name}_bucket", route="api", le="0.25"),
    )

    assert (2.0, 0.75, 1.0) == actual


def test_the_parts_of_the_time_have_histograms_of_their_own():
    """Queue by pool, first byte by destination, overhead by route."""
    samples = counted(
        make_record(
            started=1.0,
            queued=0.5,
            began_at=1.75,
            connected_at=2.0,
            head=2.125,
            relayed=2.125,
            ended=3.0,
        )
    )
    actual = (
        sample(samples, "proxyroutes_pool_queue_seconds_sum", pool="users"),
        sample(
            samples,
            "proxyroutes_destination_first_byte_seconds_sum",
            pool="users",
            destination="http://a",
        ),
        sample(samples, "proxyroutes_route_overhead_seconds_sum", route="api"),
    )

    assert (0.5, 0.125, 0.25) == actual


def test_an_exchange_that_did_not_wait_is_not_in_the_queues_histogram():
    """Else a quiet queue would hide a slow one."""
    samples = counted(make_record(), make_record(queued=0.5))
    actual = sample(samples, "proxyroutes_pool_queue_seconds_count", pool="users")

    assert 1.0 == actual


def test_a_method_that_a_client_made_up_makes_no_series():
    """All of them are one."""
    samples = counted(make_record(method="A"), make_record(method="B"))
    actual = sample(
        samples,
        "proxyroutes_route_exchanges_total",
        route="api",
        method="other",
        status="200",
        cause="",
    )

    assert 2.0 == actual


def test_a_refused_exchange_has_a_route_and_no_destination():
    """It is not counted where nothing was asked."""
    samples = counted(make_record(pool=None, destination=None, attempt=None, status=400))
    names = {key[0] for key in samples}

    assert "proxyroutes_route_exchanges_total" in names
    assert set() == {name for name in names if name.endswith("exchanges_total")} - {
        "proxyroutes_route_exchanges_total"
    }


def test_there_is_an_end_to_series(monkeypatch):
    """Destinations that an application makes up become one when there are too many."""
    monkeypatch.setattr(counters, "_MAX_SERIES", 2)
    samples = counted(*[make_record(destination=f"http://{number}") for number in range(10)])
    actual = sorted(
        value
        for key, value in samples.items()
        if key[0] == "proxyroutes_destination_exchanges_total"
    )

    assert [1.0, 1.0, 8.0] == actual


def test_sessions_are_counted_apart():
    """An hour of a session is not a slow exchange."""
    samples = counted(
        make_record(
            SessionRecord,
            status=101,
            ending=Ending(Side.CLIENT, 1000),
            request_messages=2,
            response_messages=3,
            ended=3599.0,
        )
    )
    actual = (
        sample(
            samples,
            "proxyroutes_route_sessions_total",
            route="api",
            status="101",
            ending="client-1000",
            cause="",
        ),
        sample(samples, "proxyroutes_route_session_seconds_bucket", route="api", le="3600.0"),
        sample(samples, "proxyroutes_route_request_messages_total", route="api"),
        sample(samples, "proxyroutes_route_response_messages_total", route="api"),
    )

    assert (1.0, 1.0, 2.0, 3.0) == actual
    assert not any(key[0] == "proxyroutes_route_duration_seconds_count" for key in samples)


async def test_pools_are_shown_as_they_are_now(scripted_pool):
    """What is in flight, what is available, what was given."""
    pool = scripted_pool
    state = pool.state()
    state.destinations[0].in_flight = 2
    state.destinations[0].requests = 7
    state.in_flight = 2
    state.available = state.destinations[1:]
    samples = counted(pools=[pool])
    first = {"pool": "users", "destination": "http://127.0.0.1:1"}
    actual = (
        sample(samples, "proxyroutes_pool_in_flight", pool="users"),
        sample(samples, "proxyroutes_pool_destinations", pool="users"),
        sample(samples, "proxyroutes_pool_available", pool="users"),
        sample(samples, "proxyroutes_destination_in_flight", **first),
        sample(samples, "proxyroutes_destination_available", **first),
        sample(samples, "proxyroutes_destination_leases_total", **first),
        sample(samples, "proxyroutes_destination_ejections_total", **first),
    )

    assert (2.0, 2.0, 1.0, 2.0, 0.0, 7.0, 0.0) == actual
    assert not any(key[0] == "proxyroutes_destination_healthy" for key in samples)
    await pool.close()


@pytest.fixture
def scripted_pool():
    """A pool of two that nobody asks."""
    return UpstreamPool("users", ["http://127.0.0.1:1", "http://127.0.0.1:2"])


def test_asking_for_metrics_opens_no_pool(scripted_pool):
    """One that nobody has used has nothing to show."""
    samples = counted(pools=[scripted_pool])

    assert not any(key[0].startswith("proxyroutes_pool") for key in samples)


def test_a_proxy_counts_nothing_until_it_is_asked_to():
    """Counting is off by default, and on once, however often it is asked for."""
    proxy = Proxy()
    before = list(proxy._observers)
    collectors = {proxy.metrics_collector(), proxy.metrics_collector()}

    assert ([], 1, 1) == (before, len(collectors), len(proxy._observers))


def test_the_registry_may_be_the_applications_own():
    """Its own metrics stand beside the gateway's."""
    registry = CollectorRegistry()
    proxy = Proxy()
    proxy.metrics_router(registry=registry)
    proxy._observers[0](make_record())

    assert b"proxyroutes_route_exchanges_total" in generate_latest(registry)


def test_what_is_not_installed_is_named(monkeypatch):
    """With the words that install it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ImportError, match=r"proxyroutes\[metrics\]"):
        Proxy().metrics_router()
