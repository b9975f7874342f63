"""What is counted for the status page."""

import gc
import weakref
from time import monotonic

import pytest

from proxyroutes._operate.status.traffic import RECENT, SECONDS, WINDOW
from proxyroutes.exceptions import ClientRequestError, RelayInterruptedError
from proxyroutes.typing import Attempt
from tests.unit.operate.status.support import make_record, make_traffic

# Later than any moment of a run, which begins when this module is read.
NOW = float(int(monotonic()) + 86_400)


def at(seconds):
    """So many seconds before now, in the middle of one."""
    return NOW - seconds + 0.5


def test_rates_are_those_of_the_window():
    """Whole seconds count, the running one and those that are long past do not."""
    records = [make_record(ended=at(ago)) for ago in (WINDOW + 1, WINDOW, 2, 1, 0)]
    totals = make_traffic(*records).totals(NOW)

    assert (5, 0.3) == (totals["requests"], totals["requests_per_second"])


@pytest.mark.parametrize(
    ("facts", "errors"),
    [
        ({"status": 200}, 0),
        ({"status": 404}, 0),
        ({"status": 499}, 0),
        ({"status": 413, "error": ClientRequestError("too much")}, 0),
        ({"status": 502}, 1),
        ({"status": 200, "error": RelayInterruptedError("cut")}, 1),
        ({"status": None, "error": RelayInterruptedError("cut")}, 1),
    ],
    ids=["ok", "not-found", "left", "too-much", "bad-gateway", "cut", "nothing"],
)
def test_errors_are_what_the_service_failed(facts, errors):
    """Not what a client did."""
    totals = make_traffic(make_record(ended=at(1), **facts)).totals(NOW)

    assert (errors, float(errors)) == (totals["errors"], totals["error_ratio"])


def test_percentiles_are_near_the_truth():
    """Of a hundred answers between 1 and 100 ms, within a bucket's width."""
    traffic = make_traffic(
        *[make_record(ended=at(1), seconds=number / 1000) for number in range(1, 101)]
    )
    totals = traffic.totals(NOW)

    assert 0.050 == pytest.approx(totals["p50"], rel=0.07)
    assert 0.095 == pytest.approx(totals["p95"], rel=0.07)
    assert 0.099 == pytest.approx(totals["p99"], rel=0.07)


def test_a_stream_is_as_fast_as_its_head():
    """An answer that came at once and went on for an hour was not slow."""
    totals = make_traffic(make_record(ended=at(1), seconds=3600.0, head=0.001)).totals(NOW)

    assert 0.001 == pytest.approx(totals["p99"], rel=0.07)


def test_durations_beyond_the_buckets_are_counted():
    """What took no time and what took hours have their places."""
    traffic = make_traffic(
        make_record(ended=at(1), seconds=0.0), make_record(ended=at(1), seconds=9999.0)
    )
    totals = traffic.totals(NOW)

    assert totals["p50"] < 0.0002
    assert totals["p99"] > 100


def test_no_traffic_has_no_percentiles():
    """There is nothing to say."""
    totals = make_traffic().totals(NOW)

    assert (None, 0.0, 0.0) == (totals["p50"], totals["error_ratio"], totals["bytes_per_second"])


def test_the_history_has_a_value_for_each_second():
    """Oldest first; seconds without traffic too."""
    traffic = make_traffic(
        make_record(ended=at(3)), make_record(ended=at(1)), make_record(ended=at(1), status=500)
    )
    history = traffic.history(NOW)

    assert {SECONDS} == {len(values) for values in history.values()}
    assert [0, 1, 0, 2] == history["requests"][-4:]
    assert [0, 0, 0, 1] == history["errors"][-4:]
    assert [None, False, None, False] == [
        None if value is None else False for value in history["p95"][-4:]
    ]


def test_old_seconds_are_forgotten():
    """What is kept does not grow with time."""
    traffic = make_traffic(*[make_record(ended=at(1) + number) for number in range(500)])

    assert len(traffic._seconds) == SECONDS + 2


def test_a_clock_of_another_thread_does_not_go_back():
    """One that ended a moment earlier is counted in the running second."""
    traffic = make_traffic(make_record(ended=at(1)), make_record(ended=at(2)))

    assert [0, 2] == traffic.history(NOW)["requests"][-2:]


def test_ways_through_the_gateway_have_rates():
    """Route, pool and destination, with errors."""
    traffic = make_traffic(
        make_record(ended=at(1)),
        make_record(ended=at(2), status=503),
        make_record(ended=at(1), pool=None, destination=None),
    )

    assert {
        ("api", "users", "http://a:1"): (0.2, 0.1),
        ("api", None, None): (0.1, 0.0),
    } == traffic.edges(NOW)


def test_ways_are_bounded():
    """Whoever forwards to a URL that the client chooses fills no memory."""
    traffic = make_traffic(
        *[make_record(ended=at(1), destination=f"http://{number}") for number in range(3_000)]
    )
    edges = traffic.edges(NOW)

    assert len(edges) == 1_025
    assert 300 == pytest.approx(sum(requests for requests, _ in edges.values()))


def test_the_last_exchanges_are_kept_without_their_queries():
    """Newest first, as many as there is room for, and no secret of a query among them."""
    traffic = make_traffic(
        *[
            make_record(scope={"raw_path": b"/%d" % number, "query_string": b"token=secret"})
            for number in range(RECENT + 10)
        ]
    )
    recent = traffic.recent()

    assert RECENT == len(recent)
    assert ("/209", 210) == (recent[0]["path"], recent[0]["number"])
    assert "secret" not in str(recent)


def test_only_later_exchanges_are_asked_for():
    """After a number, and no more than so many."""
    traffic = make_traffic(*[make_record() for _ in range(10)])

    assert [10, 9, 8] == [one["number"] for one in traffic.recent(7)]
    assert [10, 9] == [one["number"] for one in traffic.recent(0, 2)]
    assert [] == traffic.recent(10)


@pytest.mark.parametrize(
    ("scope", "path"),
    [(None, ""), ({"path": "/é"}, "/Ã©"), ({"raw_path": b"/" + b"a" * 999}, "/" + "a" * 255)],
    ids=["unknown", "decoded", "long"],
)
def test_a_path_is_what_is_known_of_it(scope, path):
    """Cut where it is long."""
    actual = make_traffic(make_record(scope=scope)).recent()[0]["path"]

    assert path == actual


def test_a_timeline_says_where_the_time_went():
    """Stage by stage, and all of it."""
    attempt = Attempt()
    attempt.began_at, attempt.connected_at = 13.0, 14.0
    record = make_record(
        ended=20.0, seconds=10.0, head=6.0, queued=2.0, attempt=attempt, response_bytes=9
    )
    entry = make_traffic(record).recent()[0]
    actual = [(span["stage"], span["seconds"]) for span in entry["timeline"]]

    assert [
        ("queue", 2.0),
        ("gateway", 1.0),
        ("connect", 1.0),
        ("first byte", 2.0),
        ("relay", 4.0),
    ] == actual
    assert (10.0, 9) == (entry["seconds"], entry["response_bytes"])


def test_a_failure_has_a_timeline_too():
    """What came after the last mark was the wait for what did not come."""
    record = make_record(ended=20.0, seconds=10.0, status=504, attempt=None)
    record.head = 0.0
    entry = make_traffic(record).recent()[0]

    assert [{"stage": "failed", "seconds": 10.0}] == entry["timeline"]


def test_attempts_are_listed_where_there_were_several():
    """Each with its destination, and why it failed."""
    first = Attempt()
    first.destination, first.began_at, first.failed_at = "http://b:1", 1.0, 3.0
    first.failure = ConnectionRefusedError("no")
    entry = make_traffic(make_record(earlier=(first,), attempts=2)).recent()[0]

    assert [
        {"destination": "http://b:1", "failure": "ConnectionRefusedError", "seconds": 2.0},
        {"destination": "http://a:1", "failure": None, "seconds": None},
    ] == entry["attempts"]


def test_nothing_of_a_request_is_kept_alive():
    """Neither its scope nor the exception it failed with."""

    class Scope(dict):
        pass

    scope = Scope(raw_path=b"/a")
    error = RelayInterruptedError("cut")
    first = Attempt()
    first.failure = RelayInterruptedError("lost")
    gone = [weakref.ref(scope), weakref.ref(error), weakref.ref(first.failure)]
    traffic = make_traffic(make_record(scope=scope, error=error, earlier=(first,)))
    del scope, error, first
    gc.collect()

    assert 1 == len(traffic.recent())
    assert [None] * 3 == [one() for one in gone]
