"""Where the time went, in ``Server-Timing``."""

import pytest

from proxyroutes._serve.steps.timing import add_server_timing, measure


class Loop:
    """A loop whose clock stands still."""

    def __init__(self, now):
        self._now = now

    def time(self):
        """Now."""
        return self._now


class Timed:
    """A record with these times."""

    def __init__(self, *, now=111.0, **times):
        self.loop = Loop(now)
        self.started = 100.0
        self.asked, self.leased, self.connected, self.head = 101.0, 103.0, 106.0, 110.0
        for name, seconds in times.items():
            setattr(self, name, seconds)


def test_every_second_is_somebodys():
    """What neither queue, connection nor upstream took is the gateway's own."""
    assert {"queue": 2.0, "connect": 3.0, "first-byte": 4.0, "gateway": 2.0} == measure(Timed())


def test_a_connection_that_was_there_took_no_time():
    """Then the upstream had all of it."""
    actual = measure(Timed(connected=0.0))

    assert (0.0, 7.0) == (actual["connect"], actual["first-byte"])


def test_no_time_is_negative():
    """Whatever a transport says of its connection."""
    assert min(measure(Timed(connected=90.0, now=105.0)).values()) == 0.0


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
