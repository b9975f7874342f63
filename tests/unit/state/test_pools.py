"""Pools: what they are declared with, their state on a loop, and leases."""

import asyncio
import logging

import pytest

from proxyroutes import Destination, HealthCheck, HealthMonitor, Timeouts, UpstreamPool
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies import PowerOfTwoChoices, RoundRobin
from proxyroutes.testing import ManualClock
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)
A, B, C = "http://a", "http://b", "http://c"


class Transport:
    """A transport that only counts."""

    def __init__(self):
        self.bound = []
        self.closed = 0

    def bind(self, *, clock, tls):
        """Bind, and remember with what."""
        self.bound.append((clock, tls))
        return self

    async def aclose(self):
        """Count."""
        self.closed += 1


@pytest.fixture
def transport():
    """A transport."""
    return Transport()


@pytest.fixture
def pool(transport):
    """A pool of three, asked in turn."""
    return UpstreamPool("p", [A, B, C], transport=transport, balancing=RoundRobin())


# Declared.


def test_defaults_of_a_pool():
    """Power of two choices, and nothing else said."""
    pool = UpstreamPool("p", [A])

    assert (PowerOfTwoChoices(), None, None, None) == (
        pool.balancing,
        pool.monitor,
        pool.health,
        pool.timeouts,
    )


def test_urls_and_destinations_are_mixed():
    """Both spellings make destinations."""
    pool = UpstreamPool("p", [A, Destination(B, weight=2)])

    assert (Destination(A), Destination(B, weight=2)) == pool.destinations


def test_a_check_may_be_a_path():
    """The short form is stored as what it means."""
    assert HealthCheck("/x") == UpstreamPool("p", [A], health="/x").health


@pytest.mark.parametrize("value", [A, Destination(A)], ids=["str", "destination"])
def test_a_lone_destination_is_refused(value):
    """A list is meant."""
    with pytest.raises(TypeError, match="a list of destinations is meant, not one: write"):
        UpstreamPool("p", value)


def test_a_pool_needs_a_destination():
    """An empty one could never serve."""
    with pytest.raises(ValueError, match="pool 'p' needs at least one destination"):
        UpstreamPool("p", [])


@pytest.mark.parametrize(
    "again",
    ["http://a", "http://A", "http://a:80", "ws://a", "http://a/"],
    ids=["same", "case", "port", "ws", "slash"],
)
def test_a_repeated_destination_is_refused(again):
    """Weight says what was meant."""
    with pytest.raises(ValueError, match="twice: say weight=2 instead"):
        UpstreamPool("p", [A, again])


def test_one_origin_with_two_base_paths_is_no_repetition():
    """They are two places."""
    assert 2 == len(UpstreamPool("p", ["http://a/1", "http://a/2"]).destinations)


@pytest.mark.parametrize(
    ("keyword", "value", "meant"),
    [
        ("breaker", 3, "a CircuitBreaker value"),
        ("affinity", "cookie", "an affinity policy value"),
        ("retry", 2, "a Retry value"),
        ("limits", 100, "a Limits value"),
    ],
)
def test_a_policy_that_is_none_is_refused(keyword, value, meant):
    """Where it is written, by the name of its keyword."""
    with pytest.raises(TypeError, match=f"{keyword} is {meant}, not {value!r}"):
        UpstreamPool("p", [A], **{keyword: value})


def test_pools_are_handles():
    """Two pools of the same destinations are two pools."""
    assert 2 == len({UpstreamPool("p", [A]), UpstreamPool("p", [A])})


def test_a_pool_says_what_it_is():
    """Name and number of destinations."""
    assert "<UpstreamPool 'p' 1 destinations>" == repr(UpstreamPool("p", [A]))


def test_the_first_monitor_stays():
    """A pool is adopted once."""
    first, second = HealthMonitor(), HealthMonitor()
    pool = UpstreamPool("p", [A])
    pool.adopt(first)
    pool.adopt(second)

    assert first is pool.monitor


# State.


def test_nothing_is_bound_to_a_loop_before_use(pool, transport):
    """Declaring opens nothing."""
    assert ([], False) == (transport.bound, pool.in_use())


async def test_a_first_use_opens_and_says_so(pool, caplog):
    """A lazy start leaves one log record."""
    caplog.set_level(logging.INFO)
    first = pool.state()
    second = pool.state()
    records = [
        record.getMessage() for record in caplog.records if record.name == "proxyroutes.lifespan"
    ]

    assert (True, 1, True) == (first is second, len(records), "pool=p" in records[0])


async def test_a_pool_that_was_entered_starts_silently(pool, caplog):
    """No record where a lifespan has opened it."""
    caplog.set_level(logging.INFO)
    pool.enter()
    pool.state()
    await pool.leave()

    assert [] == caplog.records


async def test_the_last_who_leaves_closes(pool, transport):
    """Users are counted."""
    pool.enter()
    pool.enter()
    await pool.leave()
    before = transport.closed
    await pool.leave()

    assert (0, 1, False) == (before, transport.closed, pool.entered())


async def test_a_closed_pool_opens_again(pool, transport):
    """The next use makes a new state."""
    first = pool.state()
    await pool.close()
    second = pool.state()

    assert (False, 1) == (first is second, transport.closed)


def test_each_loop_has_its_own_state(pool, transport):
    """A handle serves many loops, one after the other and side by side."""

    async def use():
        return pool.state()

    first, second = asyncio.run(use()), asyncio.run(use())

    assert (False, 2, []) == (first is second, transport.closed, pool._states.all())


def test_two_loops_side_by_side_keep_their_states(pool):
    """The latest state is only a short way."""
    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def use():
        return pool.state()

    try:
        seen = [loop.run_until_complete(use()) for loop in (one, other, one, other)]
        for loop in (one, other):
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        one.close()
        other.close()

    assert (True, True, False) == (seen[0] is seen[2], seen[1] is seen[3], seen[0] is seen[1])


async def test_clock_and_tls_reach_the_transport(transport):
    """A transport is bound with the monitor's clock and the pool's TLS."""
    clock, tls = ManualClock(), object()
    UpstreamPool(
        "p", [A], transport=transport, tls=tls, monitor=HealthMonitor(clock=clock)
    ).state()

    assert [(clock, tls)] == transport.bound


async def test_the_pools_timeouts_are_its_states(transport):
    """Time-outs are read from the state."""
    timeouts = Timeouts(total=1.0)

    assert (
        timeouts is UpstreamPool("p", [A], transport=transport, timeouts=timeouts).state().timeouts
    )


async def test_a_destination_is_encoded_beforehand(transport):
    """What can be bytes is bytes."""
    pool = UpstreamPool("p", [Destination("https://A:444/base", weight=3)], transport=transport)
    (state,) = pool.state().destinations

    assert (True, "a", 444, None, b"a:444", b"/base", "https://a:444", 3) == (
        state.secure,
        state.host,
        state.port,
        state.socket_path,
        state.authority,
        state.base_path,
        state.origin,
        state.weight,
    )


# Leases.


async def test_a_lease_counts_until_it_is_released(pool):
    """Pool and destination know what is in flight; a second release does nothing."""
    state = pool.state()
    lease = state.lease(HEAD)
    held = (state.in_flight, lease.destination.in_flight, pool.in_use())
    lease.release()
    lease.release()

    assert ((1, 1, True), (0, 0, False), 1) == (
        held,
        (state.in_flight, lease.destination.in_flight, pool.in_use()),
        lease.destination.requests,
    )


async def test_leases_follow_the_balancing(pool):
    """The balancer picks among what is available."""
    state = pool.state()

    assert [A, B, C, A] == [state.lease(HEAD).destination.origin for _ in range(4)]


async def test_a_tried_destination_is_not_asked_again(pool):
    """Each destination at most once an exchange."""
    state = pool.state()
    tried = []
    for _ in range(3):
        tried.append(state.lease(HEAD, tuple(tried)).destination)

    assert {A, B, C} == {destination.origin for destination in tried}


async def test_nothing_left_is_503(pool):
    """An exchange that has asked everybody is told so, with a hint when to come again."""
    state = pool.state()
    with pytest.raises(NoDestinationError, match="nothing available in pool 'p'") as caught:
        state.lease(HEAD, state.destinations)

    assert (503, 1.0) == (caught.value.status_code, caught.value.retry_after)


async def test_a_request_reads_the_snapshot(pool):
    """What is not in the snapshot is not asked."""
    state = pool.state()
    state.available = state.destinations[1:2]

    assert [B, B] == [state.lease(HEAD).destination.origin for _ in range(2)]
