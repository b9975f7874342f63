"""What a pool shows: what it would choose, what it chooses, and why each destination is or is not available."""

import attrs
import pytest

from proxyroutes import Destination, HealthMonitor, UpstreamPool
from proxyroutes.exceptions import NoDestinationError
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
from tests.unit.state.test_membership import A, B, C, Transport


@pytest.fixture
async def pool_of(clock):
    """Make pools on the clock; they are closed at the end."""
    pools = []

    def make(*urls, **keywords):
        pool = UpstreamPool(
            "p", urls, monitor=HealthMonitor(clock=clock), transport=Transport(), **keywords
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.close()


@pytest.mark.parametrize("weight", [1, 3], ids=["even", "weighted"])
@pytest.mark.parametrize("policy", [RoundRobin(), WeightedRoundRobin()], ids=["rr", "wrr"])
async def test_what_is_seen_is_what_is_picked(pool_of, policy, weight):
    """However often one looks."""
    pool = pool_of(A, Destination(B, weight=weight), C, balancing=policy)
    seen, picked = [], []
    for _ in range(10):
        seen.append({pool.peek() for _ in range(3)})
        picked.append({pool.pick()})

    assert picked == seen
    assert 3 == len(set.union(*picked))


@pytest.mark.parametrize(
    "policy",
    [
        Random(),
        PowerOfTwoChoices(),
        LeastRequests(),
        LeastLatency(),
        FirstAvailable(),
        ConsistentHash("path"),
    ],
    ids=lambda policy: type(policy).__name__,
)
async def test_every_policy_can_be_looked_at(pool_of, policy):
    """It changes nothing that can be seen."""
    pool = pool_of(A, B, balancing=policy)
    before = pool.status()

    assert pool.peek().url in {A, B}
    assert before == pool.status()
    assert pool.pick().url in {A, B}
    assert 1 == sum(one.requests for one in pool.status())


async def test_a_pick_holds_nothing_and_counts(pool_of):
    """As a request, against the limit of an interval too."""
    pool = pool_of(Destination(A, max_requests=2), balancing=RoundRobin())
    picked = [pool.pick().url for _ in range(2)]
    assert [A, A] == picked
    assert None is pool.peek()
    with pytest.raises(NoDestinationError):
        pool.pick()

    status = pool.status()[0]
    assert (2, 0, 0) == (status.requests, status.in_flight, status.failures)
    assert "2 requests in this interval, its limit" == status.reason


async def test_policies_see_what_is_given(pool_of):
    """Path, method and fields."""
    pool = pool_of(A, B, C, balancing=ConsistentHash("header:X-User"))
    picked = {pool.pick(headers={"x-user": str(n)}).url for n in range(50)}
    same = {pool.pick("/a?b", method="POST", headers={"X-User": "7"}).url for _ in range(20)}

    assert {A, B, C} == picked
    assert {pool.peek(headers={"X-USER": "7"}).url} == same


async def test_a_pick_is_what_was_declared(pool_of):
    """With the weight that it has now."""
    pool = pool_of(Destination(A, weight=2, priority=0))
    pool.set_weight(A, 5)

    assert Destination(A, weight=5) == pool.pick()


async def test_the_status_is_complete(pool_of, clock):
    """One record for each destination, and a reason in words."""
    pool = pool_of(A, B, Destination(C, priority=1), slow_start=SlowStart(10.0))
    pool.state()
    pool.add(Destination("http://d", weight=4))
    await pool.drain(B)
    lease = pool.state().lease(None, [one for one in pool.state().destinations if one.host != "d"])
    lease.failed = True
    lease.release()
    first, drained, backup, new = (attrs.asdict(one) for one in pool.status())

    expected = {
        "url": A,
        "available": True,
        "healthy": None,
        "reason": "not probed",
        "latency": None,
        "first_byte": None,
        "in_flight": 0,
        "requests": 0,
        "failures": 0,
        "ejections": 0,
        "ejected": False,
        "draining": False,
        "weight": 1,
        "effective_weight": 1.0,
    }
    assert expected == {name: first[name] for name in expected}
    assert (False, True, "drained") == (
        drained["available"],
        drained["draining"],
        drained["reason"],
    )
    assert "a lower-numbered priority has healthy destinations" == backup["reason"]
    assert (4, pytest.approx(0.4), 1, 1) == (
        new["weight"],
        new["effective_weight"],
        new["requests"],
        new["failures"],
    )


def test_choices_need_a_loop():
    """They are of the pool that runs on it."""
    pool = UpstreamPool("p", [A])
    with pytest.raises(RuntimeError):
        pool.pick()
    with pytest.raises(RuntimeError):
        pool.peek()
