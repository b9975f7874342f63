"""Events: who listens is told, and nobody waits for who does not."""

import asyncio
import gc

import pytest

from proxyroutes import Destination, HealthCheck
from proxyroutes._state.events import Events, Feed
from proxyroutes.typing import HealthEvent
from tests.unit.state.test_health import (
    HEAD,
    A,
    B,
    make,
    monitor,
    rounds,
    running,
    transport,
)

__all__ = ["monitor", "transport"]


def event(number):
    """An event that can be told from others."""
    return HealthEvent(
        kind="healthy",
        pool="p",
        destination=A,
        reason=str(number),
        healthy=True,
        available=True,
        at=0.0,
    )


def waiting(feed):
    """What a feed has to give now."""
    return [(one.kind, one.destination, one.available) for one in feed._queue]


async def test_every_change_is_told(monitor, transport, clock):
    """Checks, ejections, drains, weights, coming and going; each after it holds."""
    pool = make(monitor, transport, A, B, health=HealthCheck("/", rise=1, fall=1))
    async with monitor:
        feed = monitor.events()
        pool.enter()
        await pool.first_round()
        transport.answers[A] = 503
        await rounds(clock, 1)
        transport.answers[A] = 200
        await rounds(clock, 1)
        pool.set_health(None)
        state = pool.state()
        for _ in range(5):
            lease = state.lease(HEAD, [state.destinations[1]])
            lease.failed = True
            lease.release()
        await clock.advance(30.1)
        await pool.drain(B)
        pool.undrain(B)
        pool.set_weight(B, 2)
        pool.add("http://c")
        pool.remove(B)
        await pool.leave()

    assert [
        ("healthy", A, True),
        ("healthy", B, True),
        ("unhealthy", A, False),
        ("healthy", A, True),
        ("ejected", A, False),
        ("readmitted", A, True),
        ("drained", B, False),
        ("undrained", B, True),
        ("weight", B, True),
        ("added", "http://c", True),
        ("removed", B, False),
    ] == waiting(feed)


async def test_events_are_iterated_until_the_monitor_ends(monitor, transport, clock):
    """What is here already is still given."""
    pool = make(monitor, transport, A, health=HealthCheck("/", fall=1))
    got = []

    async def listen(feed):
        async for one in feed:
            got.append((one.kind, one.pool, one.reason, one.healthy, one.at, one.missed))

    async with monitor:
        listening = asyncio.create_task(listen(monitor.events()))
        pool.enter()
        await pool.first_round()
        transport.answers[A] = 500
        await clock.advance(15.0)
        await pool.leave()
    await listening

    (first, second) = got
    assert ("healthy", "p", "status 200", True, 0.0, 0) == first
    assert ("unhealthy", "p", "status 500", False, 0) == (*second[:4], second[5])
    with pytest.raises(StopAsyncIteration):
        feed = Events()
        feed.close()
        await anext(feed.listen(1))


async def test_a_slow_listener_loses_the_oldest():
    """And is told how many; the others lose nothing."""
    events = Events()
    slow, quick = events.listen(2), events.listen(10)
    for number in range(5):
        events.tell(event(number))
    got = [await anext(slow), await anext(slow)]

    assert [("3", 3), ("4", 0)] == [(one.reason, one.missed) for one in got]
    assert 5 == len(quick)


async def test_a_listener_that_is_dropped_costs_nothing():
    """Nobody has to say that it is over, but may."""
    events = Events()
    feed = events.listen(5)
    assert events
    del feed
    gc.collect()
    assert not events

    ended = events.listen(5)
    await ended.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(ended)


async def test_a_waiting_listener_is_woken():
    """By the next event, whoever was cancelled before."""
    feed = Feed(5)
    first = asyncio.create_task(anext(feed))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    second = asyncio.create_task(anext(feed))
    await asyncio.sleep(0)
    feed.put(event(1))

    assert "1" == (await second).reason


async def test_a_limit_below_one_is_refused(monitor):
    """Nothing could be told."""
    with pytest.raises(ValueError, match="limit must be at least 1"):
        monitor.events(limit=0)


def test_events_need_a_loop(monitor):
    """They are of the monitor that runs on it."""
    with pytest.raises(RuntimeError):
        monitor.events()


# Functions.


async def test_functions_are_called_with_each_event(monitor, transport, clock, caplog):
    """In their order, the asynchronous ones awaited; what one raises is logged and stops nobody."""
    pool = make(monitor, transport, A, B, health=None)
    called = []

    @pool.on_change
    def plainly(one):
        """Take note, and fail."""
        called.append(("plainly", one.kind, one.destination))
        raise RuntimeError("a bug")

    @pool.on_change
    async def patiently(one):
        """Take note, later."""
        await asyncio.sleep(0)
        called.append(("patiently", one.kind, one.destination))

    async with running(monitor, pool):
        await pool.drain(A)
        pool.add(Destination("http://c"))
        assert [] == called, "no change waits for them"
        await clock.advance(0.0)
        assert [
            ("plainly", "drained", A),
            ("patiently", "drained", A),
            ("plainly", "added", "http://c"),
            ("patiently", "added", "http://c"),
        ] == called
        pool.undrain(A)
        await clock.advance(0.0)
        assert ("patiently", "undrained", A) == called[-1]

    assert 3 == sum("on_change failed" in record.getMessage() for record in caplog.records)


async def test_a_function_may_change_the_pool(monitor, transport, clock):
    """Which is one more event."""
    pool = make(monitor, transport, A, B, health=None)
    kinds = []

    @pool.on_change
    def replace(one):
        """Another one for each that is drained."""
        kinds.append(one.kind)
        if one.kind == "drained":
            pool.add("http://c")
            pool.remove(one.destination)

    async with running(monitor, pool):
        await pool.drain(A)
        await clock.advance(0.0)

    assert ["drained", "added", "removed"] == kinds


async def test_a_function_that_hangs_ends_with_the_pool(monitor, transport, clock):
    """And keeps a bounded number of events meanwhile."""
    pool = make(monitor, transport, A, B, health=None)

    @pool.on_change
    async def hang(one):
        """Never come back."""
        await asyncio.Event().wait()

    async with running(monitor, pool):
        for _ in range(1500):
            await pool.drain(A)
            pool.undrain(A)
        await clock.advance(0.0)
        assert 1024 >= len(pool.state().callbacks._feed)


async def test_who_has_stopped_listening_is_told_nothing_more():
    """Nor is anything kept for them."""
    events = Events()
    feed = events.listen(4)
    await feed.aclose()
    events.tell(event(1))
    assert len(feed) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(feed)
