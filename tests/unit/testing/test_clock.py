"""The clock that is turned by hand."""

import asyncio

import pytest

from proxyroutes.testing import ManualClock


async def test_time_stands_still_until_it_is_advanced():
    """And starts where it is told to."""
    clock = ManualClock(100.0)

    assert 100.0 == clock.monotonic()

    await clock.advance(2.5)

    assert 102.5 == clock.monotonic()


async def test_sleepers_wake_in_the_order_of_their_times():
    """Each sees its own time; those of one time wake in the order in which they went to sleep."""
    clock = ManualClock()
    woken = []

    async def sleep(name, seconds):
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for name, seconds in (("c", 3), ("a", 1), ("b", 2), ("b2", 2)):
            tasks.create_task(sleep(name, seconds))
        await clock.advance(2)

        assert [("a", 1), ("b", 2), ("b2", 2)] == woken
        assert 1 == clock.pending

        await clock.advance(1)

    assert ("c", 3) == woken[-1]
    assert 0 == clock.pending


async def test_a_sleeper_that_sleeps_again_wakes_again_in_the_same_span():
    """A loop that probes every second runs ten times in ten seconds."""
    clock = ManualClock()
    times = []

    async def tick():
        while True:
            await clock.sleep(1)
            times.append(clock.monotonic())

    task = asyncio.create_task(tick())
    await clock.advance(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [float(second) for second in range(1, 11)] == times


async def test_a_cancelled_sleeper_is_not_pending():
    """And does not disturb the others."""
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.advance(0)

    assert 1 == clock.pending

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert 0 == clock.pending

    await clock.advance(5)

    assert 5 == clock.monotonic()


@pytest.mark.parametrize("seconds", [0, -1])
async def test_sleeping_no_time_only_gives_a_turn(seconds):
    """As ``asyncio.sleep(0)`` does."""
    clock = ManualClock()
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await clock.sleep(seconds)

    assert ([1], 0) == (turns, clock.pending)


async def test_what_a_sleeper_wakes_in_turn_runs_before_advance_returns():
    """Some turns of the loop are given, not only one."""
    clock = ManualClock()
    first, second = asyncio.Event(), asyncio.Event()

    async def chain():
        await clock.sleep(1)
        first.set()

    async def link():
        await first.wait()
        second.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(chain())
        tasks.create_task(link())
        await clock.advance(1)

        assert second.is_set()


async def test_time_does_not_go_back():
    """A negative span is a mistake."""
    with pytest.raises(ValueError, match="does not go back"):
        await ManualClock().advance(-1)
