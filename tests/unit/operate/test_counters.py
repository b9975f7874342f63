"""What is counted soon is counted as what is counted at once."""

import gc
import threading
import weakref

import pytest

from proxyroutes._operate import counters
from proxyroutes._operate.counters import Counters
from tests.unit.operate.test_metrics import make_record


def sums(series):
    """Everything that was counted, over all series."""
    return {
        name: sum(getattr(one, name) for one in series)
        for name in ("count", "attempts", "request_bytes", "response_bytes")
    } | {
        name: (
            sum(getattr(one, name).sum for one in series),
            sum(sum(getattr(one, name).counts) for one in series),
        )
        for name in ("total", "overhead", "first_byte", "queue")
    }


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(
            {
                "started": 1.0,
                "queued": 0.5,
                "began_at": 1.75,
                "connected_at": 2.0,
                "head": 2.125,
                "relayed": 2.25,
                "ended": 3.0,
                "request_bytes": 3,
                "response_bytes": 5,
            },
            id="usual",
        ),
        pytest.param({"started": 1.0, "began_at": 1.5, "ended": 2.0}, id="no-head"),
        pytest.param({"began_at": 1.0, "connected_at": 1.5, "ended": 2.0}, id="no-bytes"),
        pytest.param(
            {"started": 1.0, "began_at": 1.0, "head": 1.25, "relayed": 1.5, "ended": 2.0},
            id="never-connected",
        ),
        pytest.param(
            {
                "started": 9.0,
                "queued": 0.25,
                "began_at": 8.0,
                "connected_at": 7.0,
                "head": 6.0,
                "relayed": 5.0,
                "ended": 4.0,
            },
            id="backwards",
        ),
    ],
)
def test_what_waited_is_counted_as_its_record_says(facts):
    """The times are worked out twice, and come to the same."""
    soon, at_once = Counters(), Counters()
    record = make_record(**facts)
    soon(record)
    at_once._count(record)

    assert [] != soon.series()
    assert sums(at_once.series()) == sums(soon.series())
    assert [one.key for one in at_once.series()] == [one.key for one in soon.series()]


def test_a_few_exchanges_wait_and_many_do_not(monkeypatch):
    """What waits has an end, and nothing of it is counted twice."""
    monkeypatch.setattr(counters, "_MOST_WAITING", 3)
    counted = Counters()
    waiting = []
    for _ in range(5):
        counted(make_record())
        waiting.append(len(counted._waiting))

    assert [1, 2, 0, 1, 2] == waiting
    assert [5] == [one.count for one in counted.series()]
    assert [5] == [one.count for one in counted.series()]


def test_nothing_of_an_exchange_lives_until_it_is_counted():
    """Only numbers and names wait."""
    counted = Counters()
    record = make_record()
    alive = weakref.ref(record), weakref.ref(record.attempt)
    counted(record)
    del record
    gc.collect()

    assert 1 == len(counted._waiting)
    assert (None, None) == (alive[0](), alive[1]())


def test_what_did_not_go_as_it_should_is_counted_at_once():
    """It has a cause, which only its record knows."""
    counted = Counters()
    counted(make_record(whole=False, status=499))
    first = make_record().attempt
    counted(make_record(earlier=(first,), attempts=2))

    assert 0 == len(counted._waiting)
    assert {("499", "client-left"), ("200", "")} == {
        (one.key.status, one.key.cause) for one in counted.series()
    }


def test_threads_that_count_and_scrape_lose_nothing(monkeypatch):
    """Every loop counts in its own thread, and a scrape in another."""
    monkeypatch.setattr(counters, "_MOST_WAITING", 2)
    counted = Counters()
    record, failed = make_record(), make_record(whole=False)
    stop = threading.Event()

    def count():
        for _ in range(3_000):
            counted(record)
            counted(failed)

    def scrape():
        while not stop.is_set():
            counted.series()

    scraper = threading.Thread(target=scrape)
    threads = [threading.Thread(target=count) for _ in range(3)]
    scraper.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    scraper.join()

    assert 18_000 == sum(one.count for one in counted.series())
    assert 18_000 == sum(sum(one.total.counts) for one in counted.series())
