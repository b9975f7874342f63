"""What follows from the facts of a record."""

import pytest

from proxyroutes.exceptions import NoDestinationError
from proxyroutes.typing import Attempt, ExchangeRecord


def make_attempt(began_at, connected_at=0.0):
    """An attempt that began then."""
    attempt = Attempt()
    attempt.began_at = began_at
    attempt.connected_at = connected_at
    return attempt


def make_record(**facts):
    """A record with these facts."""
    record = ExchangeRecord()
    for name, value in facts.items():
        setattr(record, name, value)
    return record


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({"whole": True, "status": 200}, None, id="answered"),
        pytest.param({"whole": True, "status": 499}, None, id="upstream's own 499"),
        pytest.param({"error": NoDestinationError("none")}, "no-destination", id="failed"),
        pytest.param({"status": 499}, "client-left", id="left"),
        pytest.param({"status": 200}, "abandoned", id="abandoned"),
    ],
)
def test_a_cause_is_one_of_few_words(facts, expected):
    """An ending is told by one word, and a good one by none."""
    actual = make_record(**facts).cause

    assert expected == actual


def test_durations_are_those_of_the_last_attempt():
    """Connection and first byte are the last attempt's, the total is everybody's."""
    record = make_record(
        started=10.0,
        earlier=(make_attempt(10.25),),
        attempt=make_attempt(12.0, 12.5),
        head=14.5,
        relayed=14.75,
        ended=20.0,
    )
    actual = (record.connect_seconds, record.first_byte_seconds, record.total_seconds)

    assert (0.5, 2.0, 10.0) == actual


def test_the_overhead_is_what_neither_upstream_nor_queue_nor_client_took():
    """Before the first attempt and between the head and its relay."""
    record = make_record(
        started=10.0,
        queued=1.0,
        earlier=(make_attempt(11.25),),
        attempt=make_attempt(12.0, 12.5),
        head=14.5,
        relayed=14.75,
        ended=20.0,
    )
    actual = record.overhead_seconds

    assert 0.5 == actual


def test_without_an_attempt_all_of_the_time_is_overhead():
    """But for the wait for a place."""
    actual = make_record(started=1.0, queued=0.25, ended=2.0).overhead_seconds

    assert 0.75 == actual


def test_a_connection_that_was_there_before_takes_no_time():
    """A clock that is read twice never gives a negative duration."""
    record = make_record(attempt=make_attempt(5.0, 4.5), head=4.25, started=9.0, ended=8.0)
    actual = (
        record.connect_seconds,
        record.first_byte_seconds,
        record.total_seconds,
        record.overhead_seconds,
    )

    assert (0.0, 0.0, 0.0, 0.0) == actual
