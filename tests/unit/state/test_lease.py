"""Leases: given back once, and what they tell of the time that a destination takes."""

import random

import pytest

from proxyroutes import HealthMonitor, UpstreamPool
from proxyroutes.policies import LeastLatency, RoundRobin
from proxyroutes.typing import ForwardedHead
from tests.unit.state.test_membership import Transport

GET = ForwardedHead(b"GET", b"/", [], None, None)
A, B = "http://a", "http://b"


@pytest.fixture
async def pool_of(clock):
    """Make pools on the clock; they are closed at the end."""
    pools = []

    def make(balancing):
        monitor = HealthMonitor(clock=clock, random=random.Random(1))
        pool = UpstreamPool(
            "p", [A, B], monitor=monitor, transport=Transport(), balancing=balancing
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.close()


async def exchange(pool, clock, host, seconds, *, status=200, head=GET):
    """One exchange with a destination that takes this long; status 0 is a failure."""
    state = pool.state()
    lease = state.lease(head, [one for one in state.destinations if one.host != host])
    await clock.advance(seconds)
    lease.failed = not status
    lease.status = status
    await clock.advance(1.0)
    lease.release()
    return lease


async def test_the_time_to_the_first_byte_is_measured(pool_of, clock):
    """Not the time to the last one; and the faster one is asked."""
    pool = pool_of(LeastLatency())
    await exchange(pool, clock, "a", 0.3)
    await exchange(pool, clock, "b", 0.1)
    status = pool.status()
    picked = {pool.state().lease(GET).destination.host for _ in range(1)}

    assert pytest.approx(0.3, rel=0.2) == status[0].first_byte
    assert pytest.approx(0.1, rel=0.2) == status[1].first_byte
    assert {"b"} == picked


async def test_a_failure_counts_by_its_time(pool_of, clock):
    """Once, however often its lease is given back."""
    pool = pool_of(LeastLatency())
    lease = await exchange(pool, clock, "a", 4.0, status=0)
    measured = pool.status()[0].first_byte
    lease.release()

    assert pytest.approx(5.0) == measured
    assert 1 == pool.status()[0].failures


async def test_a_client_that_leaves_says_nothing(pool_of, clock):
    """Nobody knows what it would have taken."""
    pool = pool_of(LeastLatency())
    lease = pool.state().lease(GET)
    await clock.advance(9.0)
    lease.release()

    assert [None, None] == [one.first_byte for one in pool.status()]


@pytest.mark.parametrize(
    "head",
    [
        ForwardedHead(b"POST", b"/", [], None, None),
        ForwardedHead(b"PUT", b"/", [], None, 5),
        ForwardedHead(b"GET", b"/", [], None, 5),
    ],
    ids=["post", "put", "get-with-content"],
)
async def test_requests_with_content_are_not_measured(pool_of, clock, head):
    """A client that sends slowly must not make a destination look slow."""
    pool = pool_of(LeastLatency())
    await exchange(pool, clock, "a", 9.0, head=head)

    assert None is pool.status()[0].first_byte


async def test_other_policies_measure_nothing(pool_of, clock):
    """And pay nothing for it."""
    pool = pool_of(RoundRobin())
    lease = await exchange(pool, clock, "a", 1.0)

    assert (None, "Lease") == (pool.status()[0].first_byte, type(lease).__name__)


async def test_one_that_is_added_is_measured(pool_of, clock):
    """As all the others."""
    pool = pool_of(LeastLatency())
    pool.state()
    pool.add("http://c")
    await exchange(pool, clock, "c", 0.5)

    assert pytest.approx(0.5, rel=0.2) == pool.status()[2].first_byte
