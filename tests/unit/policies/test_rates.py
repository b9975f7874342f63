"""Rate limits: the generic cell rate algorithm on a clock that the test moves, and a memory that is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes import RateLimit
from proxyroutes.policies.rates import MemoryStore
from proxyroutes.testing import ManualClock


def rates_of(*args, **options):
    """What counts, and its clock."""
    clock = ManualClock()
    return RateLimit(*args, **options).bind(MemoryStore(clock)), clock


async def admitted(rates, count, key=b"a"):
    """Whether each of so many requests that come at once may pass."""
    return [(await rates.take(key)).admitted for _ in range(count)]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param("100/minute", (100, 60.0), id="minute"),
        pytest.param("5 / seconds", (5, 1.0), id="plural-and-spaces"),
        pytest.param("20/10s", (20, 10.0), id="several"),
        pytest.param("1/2 HOURS", (1, 7_200.0), id="any-case"),
        pytest.param("7/day", (7, 86_400.0), id="day"),
        pytest.param("7/3h", (7, 10_800.0), id="short"),
        pytest.param("0/second", None, id="none"),
        pytest.param("5/0s", None, id="no-time"),
        pytest.param("5", None, id="no-unit"),
        pytest.param("5/week", None, id="other-unit"),
        pytest.param("-5/second", None, id="negative"),
        pytest.param("1.5/second", None, id="fraction"),
    ],
)
def test_a_rate_is_read(rate, expected):
    """A count and a time, or a ``ValueError`` where it is written."""
    if expected is None:
        with pytest.raises(ValueError, match="a count from 1 up and a time"):
            RateLimit(rate)
        return
    rates, _ = rates_of(rate)

    assert expected == (rates.count, rates.seconds)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"rate": 5}, TypeError, id="rate-is-a-number"),
        pytest.param({"rate": "5/s", "burst": 0}, ValueError, id="no-burst"),
        pytest.param({"rate": "5/s", "key": "address"}, ValueError, id="unknown-key"),
        pytest.param({"rate": "5/s", "key": "header:"}, ValueError, id="no-name"),
        pytest.param({"rate": "5/s", "key": "header:a b"}, ValueError, id="bad-name"),
        pytest.param({"rate": "5/s", "key": 5}, TypeError, id="key-is-a-number"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(options, error):
    """It raises where it is written."""
    with pytest.raises(error):
        RateLimit(**options)


async def test_the_count_may_come_at_once_and_then_evenly():
    """Without a burst the whole count is taken at once; after that one is due every so often."""
    rates, clock = rates_of("3/minute")
    at_once = await admitted(rates, 4)
    await clock.advance(19.9)
    too_early = await admitted(rates, 1)
    await clock.advance(0.1)
    due = await admitted(rates, 2)
    await clock.advance(60.0)
    rested = await admitted(rates, 4)

    assert ([True] * 3 + [False], [False], [True, False], [True] * 3 + [False]) == (
        at_once,
        too_early,
        due,
        rested,
    )


async def test_a_burst_bounds_what_comes_at_once():
    """The rate stays; only fewer are taken at once."""
    rates, clock = rates_of("60/minute", burst=2)
    at_once = await admitted(rates, 3)
    await clock.advance(1.0)
    later = await admitted(rates, 2)

    assert ([True, True, False], [True, False]) == (at_once, later)


async def test_refused_requests_count_for_nothing():
    """Who goes on asking does not wait longer for it."""
    rates, clock = rates_of("1/second")
    await admitted(rates, 1)
    refused = [await rates.take(b"a") for _ in range(3)]
    await clock.advance(1.0)

    assert [(False, 0, pytest.approx(1.0))] * 3 == [
        (one.admitted, one.remaining, one.wait) for one in refused
    ]
    assert [True] == await admitted(rates, 1)


async def test_a_verdict_tells_what_is_left():
    """How many could follow at once, and after the last one how long to wait."""
    rates, _ = rates_of("2/second")
    verdicts = [await rates.take(b"a") for _ in range(3)]

    assert [(1, 0.0), (0, pytest.approx(0.5)), (0, pytest.approx(0.5))] == [
        (one.remaining, one.wait) for one in verdicts
    ]


async def test_keys_are_counted_apart():
    """One key's requests cost no other key anything."""
    rates, _ = rates_of("1/minute")
    actual = [await admitted(rates, 2, key) for key in (b"a", b"b")]

    assert [[True, False], [True, False]] == actual


async def test_limits_in_one_store_are_told_apart_by_name():
    """Two limits with names do not count for each other; two without do."""
    store = MemoryStore(ManualClock())
    limits = [RateLimit("1/minute", name=name).bind(store) for name in ("a", "b", "", "")]
    actual = [(await one.take(b"key")).admitted for one in limits]

    assert [True, True, True, False] == actual


@given(
    count=st.integers(1, 50),
    seconds=st.integers(1, 100),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0.0, 30.0), max_size=200),
)
async def test_no_pace_gets_more_than_the_rate_and_the_burst(count, seconds, burst, pauses):
    """Whenever requests come: in any time so many pass as the burst and what became due in it."""
    rates, clock = rates_of(f"{count}/{seconds}s", burst=burst)
    passed = []
    for pause in pauses:
        await clock.advance(pause)
        if (await rates.take(b"a")).admitted:
            passed.append(clock.monotonic())
    for place, start in enumerate(passed):
        for number, end in enumerate(passed[place:], 1):
            assert number <= burst + (end - start) * count / seconds + 0.01


async def test_memory_is_bounded_and_forgets_who_came_longest_ago():
    """A further key takes the place of the one that was not asked for the longest time."""
    clock = ManualClock()
    store = MemoryStore(clock, max_keys=3)
    rates = RateLimit("1/hour").bind(store)
    for key in (b"a", b"b", b"c", b"d"):
        await rates.take(key)

    assert 3 == len(store)
    assert ([False], [True]) == (await admitted(rates, 1, b"b"), await admitted(rates, 1, b"a"))


async def test_what_is_over_is_forgotten():
    """Keys that may begin anew are dropped as others come."""
    clock = ManualClock()
    store = MemoryStore(clock)
    rates = RateLimit("10/second").bind(store)
    for number in range(100):
        await rates.take(b"%d" % number)
    await clock.advance(2.0)
    for number in range(60):
        await rates.take(b"new %d" % number)

    assert 60 == len(store)


class Contended(MemoryStore):
    """A store in which somebody else is always faster, so many times."""

    def __init__(self, times):
        super().__init__(ManualClock())
        self.times = times

    async def swap(self, key, old, new, seconds):
        """Lose against another one."""
        self.times -= 1
        if self.times >= 0:
            await super().swap(key, old, (old or 0.0) + 0.001, 60.0)
            return False
        return await super().swap(key, old, new, seconds)


@pytest.mark.parametrize(
    ("times", "expected"),
    [pytest.param(3, True, id="tried-again"), pytest.param(99, False, id="given-up")],
)
async def test_a_count_that_changed_in_between_is_read_again(times, expected):
    """Nothing is counted on top of what is no longer there; without end nobody tries."""
    rates = RateLimit("1000/second").bind(Contended(times))
    verdict = await rates.take(b"a")

    assert expected is verdict.admitted
