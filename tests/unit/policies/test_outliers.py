"""Outlier detection: what one destination's record makes of the exchanges that ended."""

import pytest

from proxyroutes.policies import OutlierDetection
from proxyroutes.testing import ManualClock


@pytest.fixture
def clock():
    """Time that stands still."""
    return ManualClock()


def bind(clock, **values):
    """The record of one destination."""
    return OutlierDetection(**values).bind(clock=clock)


def test_defaults_are_those_of_the_sources():
    """YARP's window and share, Envoy's times and its five in a row."""
    recipe = OutlierDetection()

    assert (60.0, 10, 0.3, 5) == (
        recipe.window,
        recipe.min_requests,
        recipe.max_failures,
        recipe.consecutive,
    )
    assert (30.0, 300.0, 10.0, 0.5) == (
        recipe.ejection,
        recipe.max_ejection,
        recipe.decay,
        recipe.max_ejected,
    )
    assert frozenset({502, 503, 504}) == recipe.statuses


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 0}, "window must be greater than 0 seconds"),
        ({"window": 0.5}, "window must be at least 1.0 s"),
        ({"ejection": -1}, "ejection must be greater than 0 seconds"),
        ({"max_ejection": 0}, "max_ejection must be greater than 0 seconds"),
        ({"decay": 0}, "decay must be greater than 0 seconds"),
        ({"max_failures": 0}, "max_failures is a share"),
        ({"max_failures": 1.1}, "max_failures is a share"),
        ({"max_ejected": 30}, "max_ejected is a share"),
        ({"min_requests": 0}, "min_requests must be at least 1"),
        ({"consecutive": 0}, "consecutive must be at least 1, or None"),
    ],
)
def test_numbers_out_of_range_raise(values, message):
    """Where they are written."""
    with pytest.raises(ValueError, match=message):
        OutlierDetection(**values)


def test_statuses_are_a_list():
    """Not one number."""
    with pytest.raises(TypeError, match=r"write \[503\]"):
        OutlierDetection(statuses=503)


@pytest.mark.requirement("R-25")
def test_failures_in_a_row(clock):
    """The fifth; one success begins anew."""
    outlier = bind(clock)

    assert [False] * 4 == [outlier.failed() for _ in range(4)]
    outlier.passed()
    assert [False, False, False, False, True] == [outlier.failed() for _ in range(5)]
    assert "5 failures in a row, the last one: failure" == outlier.reason


@pytest.mark.requirement("R-31")
def test_statuses_of_a_gateway_count_in_a_row_only(clock):
    """A share of answers that somebody meant is nobody's failure."""
    outlier = bind(clock, consecutive=3)

    assert [False, False, True] == [outlier.answered(status) for status in (502, 503, 504)]
    assert "3 failures in a row, the last one: status 504" == outlier.reason

    mixed = bind(clock, consecutive=3)
    assert not any(mixed.answered(status) for status in [503, 503, 200] * 20)


def test_share_needs_enough_exchanges(clock):
    """Three of nine are no share yet, three of ten are."""
    outlier = bind(clock, consecutive=None)
    for _ in range(6):
        outlier.passed()
    assert [False] * 3 == [outlier.failed() for _ in range(3)]
    outlier.passed()

    assert outlier.failed()
    assert "4 of 11 exchanges failed within 60 s" == outlier.reason


async def test_share_is_of_the_window(clock):
    """What is older does not count any more, to the second."""
    outlier = bind(clock, consecutive=None, window=10.0, min_requests=4)
    outlier.failed()
    outlier.failed()
    await clock.advance(5.0)
    assert not outlier.failed()
    await clock.advance(6.5)
    for _ in range(3):
        outlier.passed()

    # One failure of four is left of the first three, and this one is the second of five.
    assert outlier.failed()
    assert "2 of 5 exchanges failed within 10 s" == outlier.reason

    await clock.advance(60.0)
    assert not outlier.failed()


@pytest.mark.requirement("R-32")
async def test_ejections_grow_and_decay(clock):
    """The n-th in short order lasts n times as long, at most the cap; time without one takes off."""
    outlier = bind(clock, ejection=30.0, max_ejection=80.0, decay=10.0)
    seen = []
    for _ in range(4):
        seen.append(outlier.eject())
        await clock.advance(seen[-1])
        outlier.take_back()
    assert [30.0, 60.0, 80.0, 80.0] == seen

    await clock.advance(25.0)
    assert 80.0 == outlier.eject()
    outlier.take_back()
    await clock.advance(1000.0)
    assert 30.0 == outlier.eject()
    assert 6 == outlier.ejections


def test_taken_back_with_a_clean_record(clock):
    """One failure more does not eject it again."""
    outlier = bind(clock)
    for _ in range(5):
        outlier.failed()
    outlier.eject()
    assert not outlier.failed(), "what was on its way when it was ejected changes nothing"
    outlier.take_back()

    assert [False] * 4 == [outlier.failed() for _ in range(4)]
    assert outlier.failed()
