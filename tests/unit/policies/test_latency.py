"""Balancing by how fast destinations answer."""

import pytest

from proxyroutes.policies import LeastLatency
from proxyroutes.policies.latency import PeakEwma
from proxyroutes.testing import ManualClock
from tests.unit.policies.test_balancing import Candidate, shares


def test_least_latency_asks_the_fastest():
    """Times what is in flight there."""
    fast = Candidate("fast", latency=0.01)
    slow = Candidate("slow", latency=0.05)
    crowded = Candidate("crowded", latency=0.01, in_flight=9)

    assert {"fast": 1.0} == shares(LeastLatency(), [slow, fast], 100)
    assert {"slow": 1.0} == shares(LeastLatency(), [slow, crowded], 100)


def test_what_was_not_measured_counts_as_fast():
    """Or it would never be asked."""
    unknown = Candidate("unknown")
    fast = Candidate("fast", latency=0.01, in_flight=1)

    assert {"unknown": 1.0} == shares(LeastLatency(), [fast, unknown], 100)


@pytest.mark.parametrize("decay", [0, -1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    """Where it is written."""
    with pytest.raises(ValueError, match="decay must be greater than 0 seconds"):
        LeastLatency(decay=decay)


# The average.


@pytest.fixture
def clock():
    """Time that stands still."""
    return ManualClock()


async def test_a_peak_counts_at_once_and_fades(clock):
    """By the time that passes, whatever comes in between."""
    average = PeakEwma(clock, 10.0)
    assert None is average.estimate(None)
    average.observe(0.1)
    average.observe(0.5)
    assert 0.5 == average.value
    for _ in range(1000):
        average.observe(0.1)
    assert 0.5 == average.value, "no time has passed"
    await clock.advance(10.0)
    average.observe(0.1)

    assert pytest.approx(0.1 + 0.4 * 0.3679, rel=1e-3) == average.value


@pytest.mark.parametrize(("probed", "expected"), [(0.02, 0.1966), (None, 0.1839)])
async def test_what_was_not_seen_for_a_while_is_forgotten(clock, probed, expected):
    """Probes are all that is known then; without them it is tried again."""
    average = PeakEwma(clock, 10.0)
    assert probed == average.estimate(probed)
    average.observe(0.5)
    assert 0.5 == average.estimate(probed)
    await clock.advance(10.0)
    assert pytest.approx(expected, rel=1e-3) == average.estimate(probed)
    await clock.advance(1000.0)
    assert pytest.approx(probed or 0.0, abs=1e-6) == average.estimate(probed)


async def test_a_failure_is_never_fast(clock):
    """A connection that is refused at once says nothing good; one that hangs was as slow as that."""
    average = PeakEwma(clock, 10.0)
    average.observe(0.2)
    await clock.advance(100.0)
    average.fail(0.001)
    assert 0.2 == average.value
    average.fail(5.0)
    assert 5.0 == average.value
