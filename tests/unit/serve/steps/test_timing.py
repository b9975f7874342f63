"""Where the time went, in ``Server-Timing``."""

import pytest

from proxyroutes._serve.steps import timing
from proxyroutes._serve.steps.timing import add_server_timing, measure
from proxyroutes.typing import Attempt


class Timed:
    """A record with these times."""

    def __init__(self, **times):
        self.attempt = Attempt()
        self.attempt.began_at = 103.0
        self.started, self.asked, self.connected, self.head = 100.0, 101.0, 106.0, 110.0
        for name, seconds in times.items():
            setattr(self, name, seconds)


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """Time stands still."""
    monkeypatch.setattr(timing, "monotonic", lambda: 111.0)


def test_every_second_is_somebodys():
    """What neither queue, connection nor upstream took is the gateway's own."""
    assert {"queue": 2.0, "connect": 3.0, "first-byte": 4.0, "gateway": 2.0} == measure(Timed())


def test_a_connection_that_was_there_took_no_time():
    """Then the upstream had all of it."""
    actual = measure(Timed(connected=0.0))

    assert (0.0, 7.0) == (actual["connect"], actual["first-byte"])


def test_without_an_attempt_nothing_was_queued():
    """A response that no attempt has brought had no destination to wait for."""
    assert 0.0 == measure(Timed(attempt=None))["queue"]


def test_no_time_is_negative():
    """Whatever a transport says of its connection."""
    assert min(measure(Timed(connected=90.0, started=109.0)).values()) == 0.0


@pytest.mark.parametrize(
    ("fields", "before"),
    [
        ([], b""),
        (
            [(b"server-timing", b"db;dur=5"), (b"a", b"1"), (b"server-timing", b"x")],
            b"db;dur=5, x, ",
        ),
    ],
    ids=["none", "two"],
)
def test_the_upstreams_times_stand_in_front(fields, before):
    """In one field, in milliseconds."""
    own = (
        b"queue;dur=2000.000, connect;dur=3000.000, first-byte;dur=4000.000, gateway;dur=2000.000"
    )
    actual = add_server_timing(Timed(), fields)

    assert [before + own] == [value for name, value in actual if name == b"server-timing"]
