"""How requests are shared out by each policy, with weights, slow start, drains and ejections.

Exchanges are held as a busy gateway holds them: so many at once, each one let go after all that began before it.
"""

import random
from collections import Counter, deque

import pytest

from proxyroutes import Destination, HealthMonitor, UpstreamPool
from proxyroutes.policies import (
    ConsistentHash,
    FirstAvailable,
    LeastLatency,
    LeastRequests,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    SlowStart,
    WeightedRoundRobin,
)
from proxyroutes.typing import ForwardedHead

DRAWS = 8_000
HASH = ConsistentHash(lambda head: head.target)
# Those whose choice is a share at any load, and those that look at what is in flight.
BLIND = [RoundRobin(), WeightedRoundRobin(), Random(), HASH]
LOADED = [PowerOfTwoChoices(), LeastRequests(), LeastLatency()]


class Transport:
    """A transport that sends nothing."""

    def bind(self, *, clock, tls):
        """Serve all pools."""
        return self

    async def aclose(self):
        """Nothing to close."""


@pytest.fixture
async def pool_of(clock):
    """Make pools on the clock; they are closed at the end."""
    pools = []

    def make(balancing, *weights, **keywords):
        pool = UpstreamPool(
            "p",
            [Destination(f"http://{'abcdef'[n]}", weight=one) for n, one in enumerate(weights)],
            monitor=HealthMonitor(clock=clock, random=random.Random(5)),
            transport=Transport(),
            balancing=balancing,
            **keywords,
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.close()


def shares(pool, at_once, draws=DRAWS):
    """The share of each destination's host, with so many exchanges at once."""
    state = pool.state()
    held = deque()
    counted = Counter()
    for number in range(draws):
        while len(held) >= at_once:
            held.popleft().release()
        lease = state.lease(ForwardedHead(b"GET", b"/%d" % number, [], None, None))
        held.append(lease)
        counted[lease.destination.host] += 1
    for lease in held:
        lease.release()
    return {host: count / draws for host, count in counted.items()}


def name_of(value):
    """A readable id."""
    return type(value).__name__ if not isinstance(value, int) else f"{value}-at-once"


def near(expected, policy):
    """A share, with what chance and the points of a ring may make of it."""
    return pytest.approx(expected, rel=0.3 if policy is HASH else 0.12, abs=0.01)


@pytest.mark.parametrize("at_once", [1, 60], ids=name_of)
@pytest.mark.parametrize("policy", [*BLIND, PowerOfTwoChoices(), LeastRequests()], ids=name_of)
async def test_weights_hold_idle_and_busy(pool_of, policy, at_once):
    """Each destination is asked as often as its weight says."""
    found = shares(pool_of(policy, 1, 2, 5), at_once)

    assert {"a": near(0.125, policy), "b": near(0.25, policy), "c": near(0.625, policy)} == found


async def test_weights_hold_where_latency_is_equal(pool_of):
    """Among busy ones; an idle gateway asks the one that promises most."""
    found = shares(pool_of(LeastLatency(), 1, 3), 60)

    assert pytest.approx(0.75, rel=0.12) == found["b"]


async def test_the_first_one_gets_everything(pool_of):
    """Whatever the weights."""
    assert {"a": 1.0} == shares(pool_of(FirstAvailable(), 1, 9), 10)


@pytest.mark.parametrize("policy", [*BLIND, *LOADED], ids=name_of)
async def test_equals_are_asked_equally_often(pool_of, policy):
    """Wherever they stand."""
    found = shares(pool_of(policy, 1, 1, 1, 1), 7)

    assert {host: near(0.25, policy) for host in "abcd"} == found


@pytest.mark.parametrize("policy", [*BLIND, *LOADED], ids=name_of)
async def test_a_drained_one_gets_nothing(pool_of, policy):
    """And the others share as before."""
    pool = pool_of(policy, 3, 1, 3)
    await pool.drain("http://b")
    found = shares(pool, 20)

    assert {"a": near(0.5, policy), "c": near(0.5, policy)} == found


@pytest.mark.parametrize("policy", [*BLIND, *LOADED, FirstAvailable()], ids=name_of)
async def test_an_ejected_one_gets_nothing_until_it_is_back(pool_of, clock, policy):
    """In every policy."""
    pool = pool_of(policy, 1, 1)
    state = pool.state()
    first, second = state.destinations
    for _ in range(5):
        lease = state.lease(ForwardedHead(b"GET", b"/", [], None, None), [second])
        lease.failed = True
        lease.release()
    out = shares(pool, 10, 500)
    await clock.advance(31.0)
    back = shares(pool, 10, 500)

    assert ({"b": 1.0}, True) == (out, back["a"] > 0.3)


@pytest.mark.parametrize("policy", [*BLIND, *LOADED, FirstAvailable()], ids=name_of)
async def test_one_that_comes_back_starts_slowly(pool_of, clock, policy):
    """A tenth of its weight at first, and all of it in the end; never more on the way than its part allows."""
    pool = pool_of(policy, 1, 1, 1, 1, slow_start=SlowStart(20.0))
    began = shares(pool, 40, 2000)["a"]
    assert began > 0.2, "nothing starts slowly with the pool itself"
    await pool.drain("http://a")
    pool.undrain("http://a")
    seen = []
    for seconds in (0.0, 10.0, 11.0):
        await clock.advance(seconds)
        seen.append(shares(pool, 40, 4000).get("a", 0.0))
    whole = 1.0 if isinstance(policy, FirstAvailable) else 0.25
    least = 0.1 if whole == 1.0 else 0.1 / 3.1
    # Two choices see it twice as often as its weight says while it has nothing in flight.
    assert seen[0] <= least * (2.2 if isinstance(policy, PowerOfTwoChoices) else 1.5)
    assert seen[0] < seen[1] < seen[2]
    assert seen[1] == pytest.approx(0.5 if whole == 1.0 else 0.5 / 3.5, rel=0.35)
    assert seen[2] == pytest.approx(whole, rel=0.25)


async def test_one_that_is_added_starts_slowly(pool_of, clock):
    """And so does one that a failing check had taken out, but nothing that the pool started with."""
    pool = pool_of(RoundRobin(), 1, 1, slow_start=10)
    assert [1.0, 1.0] == [one.effective_weight for one in pool.status()]
    pool.add(Destination("http://c", weight=4))
    assert [1.0, 1.0, pytest.approx(0.4)] == [one.effective_weight for one in pool.status()]
    await clock.advance(5.0)
    assert pytest.approx(2.0) == pool.status()[2].effective_weight
    pool.set_weight("http://c", 2)
    assert pytest.approx(1.0) == pool.status()[2].effective_weight
    await clock.advance(5.1)
    assert (2, 2.0) == (pool.status()[2].weight, pool.status()[2].effective_weight)
    await clock.advance(0.0)
    assert 0 == clock.pending, "nothing is counted any longer"


async def test_one_that_leaves_while_it_starts_begins_anew(pool_of, clock):
    """Its curve is of the time since it came back."""
    pool = pool_of(RoundRobin(), 1, 1, slow_start=10)
    pool.state()
    pool.add("http://c")
    await clock.advance(9.0)
    await pool.drain("http://c")
    pool.undrain("http://c")

    assert pytest.approx(0.1) == pool.status()[2].effective_weight
    pool.remove("http://c")
    await clock.advance(20.0)
    assert 0 == clock.pending
