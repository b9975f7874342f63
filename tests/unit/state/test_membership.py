"""Destinations that come, go, are drained and get other weights while a pool runs."""

import asyncio
import threading
from collections import Counter

import pytest

from proxyroutes import Destination, HealthCheck, HealthMonitor, UpstreamPool
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies import OutlierDetection, RoundRobin
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)
A, B, C = "http://a", "http://b", "http://c"


class Transport:
    """A transport whose probes are answered as the test says, and that counts what it forgets."""

    def __init__(self):
        self.status = 200
        self.forgotten = []
        self.reason = b""
        self.trailers = self.fields = []
        self.strict = self.complete = True

    def bind(self, *, clock, tls):
        """Serve all pools."""
        return self

    async def send(self, head, body, destination, timeouts, attempt):
        """Answer."""
        return self

    async def read(self):
        """No content."""
        return b""

    def abort(self):
        """Nothing to let go of."""

    def forget(self, destination):
        """Count."""
        self.forgotten.append(destination.recipe.url)

    async def aclose(self):
        """Nothing to close."""


@pytest.fixture
def transport():
    """What every pool sends by."""
    return Transport()


@pytest.fixture
async def pool_of(clock, transport):
    """Make pools on the clock; they are closed at the end."""
    pools = []

    def make(*urls, **keywords):
        pool = UpstreamPool(
            "p",
            urls,
            monitor=HealthMonitor(clock=clock),
            transport=transport,
            balancing=RoundRobin(),
            **keywords,
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.close()


def asked(pool, count):
    """Hosts of what is chosen in turn, each given back at once."""
    hosts = []
    for _ in range(count):
        lease = pool.state().lease(HEAD)
        lease.release()
        hosts.append(lease.destination.host)
    return "".join(hosts)


def urls(pool):
    """What the pool has."""
    return [one.url for one in pool.destinations]


# Coming and going.


async def test_one_that_is_added_is_asked_by_the_next_request(pool_of):
    """And the others keep their state."""
    pool = pool_of(A)
    state = pool.state()
    (before,) = state.destinations
    lease = state.lease(HEAD)
    pool.add(B)
    pool.add(Destination(C, weight=2))
    lease.release()

    assert [A, B, C] == urls(pool)
    assert before is state.destinations[0]
    assert 1 == before.requests
    assert {"a": 2, "b": 2, "c": 4} == {one: asked(pool, 8).count(one) for one in "abc"}


async def test_one_that_is_removed_is_not_asked_again(pool_of, transport):
    """What is in flight there goes on; its connections are closed after it."""
    pool = pool_of(A, B, C)
    state = pool.state()
    lease = state.lease(HEAD)
    assert "a" == lease.destination.host
    pool.remove("ws://A:80/")
    assert {"b", "c"} == set(asked(pool, 10))
    assert lease.held
    assert [] == transport.forgotten
    lease.release()

    assert ([A], 0, [B, C]) == (transport.forgotten, state.in_flight, urls(pool))


async def test_an_idle_one_is_forgotten_at_once(pool_of, transport):
    """Nobody would close its connections later."""
    pool = pool_of(A, B)
    pool.state()
    pool.remove(Destination(B, weight=7))

    assert [B] == transport.forgotten


async def test_one_that_comes_back_begins_anew(pool_of):
    """While what was in flight on its former self ends there."""
    pool = pool_of(A, B)
    state = pool.state()
    lease = state.lease(HEAD)
    pool.remove(A)
    pool.add(A)
    again = next(one for one in state.destinations if one.host == "a")
    assert again is not lease.destination
    lease.release()

    assert (0, 0) == (again.in_flight, again.requests)


async def test_what_has_gone_is_not_kept(pool_of):
    """However often destinations come and go, with an exchange in flight or without."""
    pool = pool_of(A, B, health=HealthCheck("/"), slow_start=10.0)
    state = pool.state()
    for _ in range(5):
        pool.add(C)
        lease = state.hold(state.destinations[2], HEAD)
        await pool.drain(B)
        pool.remove(C)
        pool.undrain(B)
        lease.release()
    await pool.drain(B)

    assert 0 == len(state.drains._drains)
    assert [2, 2, 2] == [
        len(state.destinations),
        len(state._watched),
        len(state.monitor.prober.watches),
    ]


async def test_the_last_one_stays(pool_of):
    """An empty pool could never serve."""
    pool = pool_of(A)

    with pytest.raises(ValueError, match="needs at least one destination: drain the last one"):
        pool.remove(A)


@pytest.mark.parametrize("again", [A, "http://A:80/", Destination(A, weight=2)])
async def test_one_that_is_there_is_not_added(pool_of, again):
    """Weight says what was meant."""
    with pytest.raises(ValueError, match="twice: say weight=2 instead"):
        pool_of(A).add(again)


@pytest.mark.parametrize(
    "change",
    [
        lambda pool: pool.remove(C),
        lambda pool: pool.set_weight(C, 2),
        lambda pool: pool.undrain(C),
        lambda pool: asyncio.ensure_future(pool.drain(C)),
    ],
    ids=["remove", "set_weight", "undrain", "drain"],
)
async def test_one_that_is_not_there_is_named(pool_of, change):
    """A typing mistake must not pass for a change."""
    with pytest.raises(ValueError, match="pool 'p' has no destination 'http://c'"):
        await (change(pool_of(A, B)) or asyncio.sleep(0))


async def test_one_with_a_check_is_used_after_its_first_probe(pool_of, clock, transport):
    """Unless it is all there is."""
    pool = pool_of(A, health=HealthCheck("/"))
    pool.state()
    await clock.advance(0.0)
    pool.add(B)
    assert "aa" == asked(pool, 2)
    assert (False, None, "not probed yet") == (
        pool.status()[1].available,
        pool.status()[1].healthy,
        pool.status()[1].reason,
    )
    await clock.advance(0.0)
    assert {"a", "b"} == set(asked(pool, 2))

    pool.add(C)
    pool.remove(A)
    pool.remove(B)
    assert "c" == asked(pool, 1)


async def test_one_that_is_added_unwell_is_not_used(pool_of, clock, transport):
    """Its first result decides alone."""
    pool = pool_of(A, health=HealthCheck("/", interval=10.0))
    pool.state()
    await clock.advance(0.0)
    transport.status = 503
    pool.add(B)
    await clock.advance(0.0)
    assert "aa" == asked(pool, 2)
    transport.status = 200
    await clock.advance(25.0)
    assert {"a", "b"} == set(asked(pool, 2))


async def test_probing_ends_with_a_removed_one(pool_of, clock):
    """Nobody would look at the result."""
    pool = pool_of(A, B, health=HealthCheck("/"))
    prober = pool.state().monitor.prober
    await clock.advance(0.0)
    pool.remove(B)

    assert [A] == [watch.endpoint.origin for watch in prober.watches]


# Ejections.


def end_badly(pool, host):
    """Five failures in a row at one destination."""
    state = pool.state()
    destination = next(one for one in state.destinations if one.host == host)
    for _ in range(5):
        lease = state.lease(HEAD, [one for one in state.destinations if one is not destination])
        lease.failed = True
        lease.release()


async def test_an_ejection_outlives_the_changes_of_others(pool_of):
    """What is known of a destination stays."""
    pool = pool_of(A, B)
    pool.state()
    end_badly(pool, "a")
    pool.add(C)
    pool.set_weight(B, 3)
    assert {"b", "c"} == set(asked(pool, 8))
    status = pool.status()[0]

    assert (True, 1, 5, 5) == (
        status.ejected,
        status.ejections,
        status.failures,
        status.requests,
    )


async def test_a_second_destination_begins_the_record_of_the_first(pool_of):
    """One that is alone has none."""
    pool = pool_of(A)
    pool.state()
    pool.add(B)
    end_badly(pool, "a")

    assert "bbb" == asked(pool, 3)


@pytest.mark.parametrize("how", ["remove", "drain"])
async def test_the_last_one_is_taken_back(pool_of, how):
    """An ejected one is the last that is left once the others have gone."""
    pool = pool_of(A, B)
    pool.state()
    end_badly(pool, "a")
    if how == "remove":
        pool.remove(B)
    else:
        await pool.drain(B)

    assert "aaa" == asked(pool, 3)


async def test_a_smaller_pool_has_fewer_out(pool_of):
    """The cap is a share of what is there; the one that left first comes back."""
    pool = pool_of(A, B, C, "http://d", outliers=OutlierDetection(max_ejected=0.5))
    pool.state()
    end_badly(pool, "b")
    end_badly(pool, "a")
    pool.remove(C)

    assert [("a", True), ("b", False), ("d", False)] == [
        (one.host, one.ejected) for one in pool.state().destinations
    ]


# Drain.


async def test_a_drained_one_gets_nothing_new(pool_of, clock, transport):
    """The call ends when what was in flight has ended."""
    pool = pool_of(A, B)
    state = pool.state()
    lease = state.lease(HEAD)
    draining = asyncio.create_task(pool.drain(A, grace=10.0))
    await clock.advance(1.0)
    assert "bbbb" == asked(pool, 4)
    assert "drained, 1 in flight" == pool.status()[0].reason
    assert not draining.done()
    lease.release()
    await clock.advance(0.0)
    assert (0, [A]) == (await draining, transport.forgotten)
    status = pool.status()[0]
    assert (True, False, "drained") == (status.draining, status.available, status.reason)
    assert "b" == asked(pool, 1)

    pool.undrain(A)
    assert {"a", "b"} == set(asked(pool, 2))


async def test_what_is_left_after_the_grace_time_is_cut(pool_of, clock):
    """Whatever waits in a sweeper and holds a lease there."""
    pool = pool_of(A, B)
    state = pool.state()
    lease = state.lease(HEAD)

    class Held:
        def tick(self, now):
            """Nothing to do."""

        def cut(self, destination):
            """End, if it is this one."""
            if destination is not lease.destination:
                return False
            lease.release()
            return True

    state.sweeper.add(Held())
    draining = asyncio.create_task(pool.drain(A, grace=10.0))
    await clock.advance(9.9)
    assert not draining.done()
    await clock.advance(0.2)

    assert 1 == await draining


async def test_a_drain_ends_even_if_nothing_lets_go(pool_of, clock):
    """Its caller is told, some seconds after the cut."""
    pool = pool_of(A, B)
    pool.state().lease(HEAD)
    draining = asyncio.create_task(pool.drain(A, grace=1.0))
    await clock.advance(12.0)

    assert 0 == await draining


async def test_a_drain_that_is_called_off_lets_its_caller_go(pool_of, clock):
    """And cuts nothing."""
    pool = pool_of(A, B)
    lease = pool.state().lease(HEAD)
    draining = asyncio.create_task(pool.drain(A, grace=10.0))
    await clock.advance(1.0)
    pool.undrain(A)
    await clock.advance(0.0)
    assert 0 == await draining
    await clock.advance(20.0)

    assert lease.held


async def test_a_second_call_gives_another_grace_time(pool_of, clock):
    """The last one counts, for both callers."""
    pool = pool_of(A, B)
    pool.state().lease(HEAD)
    first = asyncio.create_task(pool.drain(A, grace=100.0))
    await clock.advance(1.0)
    second = asyncio.create_task(pool.drain(A, grace=0.0))
    await clock.advance(11.0)

    assert [0, 0] == [await first, await second]


async def test_a_caller_that_is_cancelled_leaves_the_drain_alone(pool_of, clock, transport):
    """The destination stays drained and what is left there is still cut."""
    pool = pool_of(A, B)
    pool.state().lease(HEAD)
    draining = asyncio.create_task(pool.drain(A, grace=5.0))
    await clock.advance(1.0)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    await clock.advance(15.0)

    assert ("bb", [A]) == (asked(pool, 2), transport.forgotten)


async def test_a_pool_that_is_drained_whole_answers_nothing(pool_of):
    """Until it is used again; not even in panic."""
    pool = pool_of(A, B, panic=True)
    await pool.drain()
    with pytest.raises(NoDestinationError):
        pool.state().lease(HEAD)
    pool.undrain()

    assert {"a", "b"} == set(asked(pool, 2))


async def test_the_next_level_takes_over_from_drained_ones(pool_of):
    """As from unhealthy ones."""
    pool = pool_of(A, Destination(B, priority=1))
    await pool.drain(A)

    assert "bb" == asked(pool, 2)


async def test_a_removed_one_may_be_drained_before(pool_of, transport):
    """Which is how a deployment takes an instance away."""
    pool = pool_of(A, B)
    pool.state()
    await pool.drain(B, grace=1.0)
    pool.remove(B)
    pool.add(B)

    assert {"a", "b"} == set(asked(pool, 2))


async def test_a_pool_that_closes_ends_its_drains(pool_of, clock):
    """Nobody waits for ever."""
    pool = pool_of(A, B)
    lease = pool.state().lease(HEAD)
    draining = asyncio.create_task(pool.drain(A, grace=10.0))
    await clock.advance(1.0)
    await pool.close()
    lease.release()

    assert 0 == await draining


@pytest.mark.parametrize("grace", [-1.0, float("nan")])
async def test_a_grace_time_below_zero_is_refused(pool_of, grace):
    """And drains nothing."""
    pool = pool_of(A, B)
    with pytest.raises(ValueError, match="grace must be at least 0 seconds"):
        await pool.drain(A, grace=grace)

    assert not pool.status()[0].draining


# Weights.


async def test_another_weight_holds_for_the_next_request(pool_of):
    """And is shown."""
    pool = pool_of(A, B)
    asked(pool, 3)
    pool.set_weight(A, 3)
    assert 30 == asked(pool, 40).count("a")

    assert (3, 3.0) == (pool.status()[0].weight, pool.status()[0].effective_weight)
    assert Destination(A, weight=3) == pool.destinations[0]


@pytest.mark.parametrize(
    ("weight", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
async def test_a_weight_that_is_none_is_refused(pool_of, weight, error):
    """Nothing changes."""
    pool = pool_of(A, B)
    with pytest.raises(error, match="weight"):
        pool.set_weight(A, weight)

    assert 1 == pool.destinations[0].weight


# Other loops.


async def test_changes_without_a_running_pool_are_of_the_recipe(pool_of):
    """They hold when it starts."""
    pool = pool_of(A, B)
    pool.add(C)
    pool.remove(A)
    pool.set_weight(B, 3)
    assert 0 == await pool.drain(C)

    assert "bbb" == asked(pool, 3)


def test_changes_reach_a_pool_on_another_loop():
    """From a thread with no loop of its own, in the order in which they were made."""
    pool = UpstreamPool("p", [A, B], balancing=RoundRobin(), transport=Transport())
    opened = threading.Event()
    seen = []

    async def serve():
        changed = asyncio.Event()
        pool.enter()
        seen.append((asyncio.get_running_loop(), changed))
        opened.set()
        await changed.wait()
        seen.append(asked(pool, 6))
        await pool.leave()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert opened.wait(10)
    pool.add(C)
    asyncio.run(pool.drain(A))
    loop, changed = seen.pop()
    loop.call_soon_threadsafe(changed.set)
    thread.join(10)

    assert [{"b": 3, "c": 3}] == [Counter(hosts) for hosts in seen]


@pytest.mark.parametrize("change", ["remove", "set_health"])
async def test_a_change_before_the_first_result_does_not_hold_up_the_start(pool_of, change):
    """A probe that hangs, of a destination that is no longer probed, has nothing to wait for."""

    async def hangs(destination):
        if destination.url == A:
            await asyncio.Event().wait()

    pool = pool_of(A, B)
    pool.probe(hangs)
    waiting = asyncio.ensure_future(pool.first_round())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    if change == "remove":
        pool.remove(A)
    else:
        pool.set_health(None)
    for _ in range(10):
        await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    assert done
