"""The sweeper: it ticks while something waits, and owns what it spawned."""

import asyncio

from proxyroutes._state.sweeper import TICK, Sweeper
from proxyroutes.testing import ManualClock


class Timers:
    """A loop whose timers a test fires."""

    def __init__(self):
        self.due = []

    def call_later(self, delay, callback):
        """Keep a timer."""
        handle = Timer(delay, callback)
        self.due.append(handle)
        return handle

    def fire(self):
        """Let the next timer be due."""
        self.due.pop(0).callback()

    def create_task(self, coroutine, name):
        """Start a task on the real loop."""
        return asyncio.get_running_loop().create_task(coroutine, name=name)


class Timer:
    """A timer that a test fires."""

    def __init__(self, delay, callback):
        self.delay = delay
        self.callback = callback
        self.cancelled = False

    def cancel(self):
        """Not be due any more."""
        self.cancelled = True


class Entry:
    """What is swept."""

    def __init__(self, sweeper=None):
        self.ticks = []
        self._sweeper = sweeper

    def tick(self, now):
        """Look at the time."""
        self.ticks.append(now)
        if self._sweeper is not None:
            self._sweeper.discard(self)


def test_a_sweeper_ticks_while_something_waits():
    """One timer for all of them, and none when nothing is left."""
    timers, clock = Timers(), ManualClock(5.0)
    sweeper = Sweeper(timers, clock)
    first, second = Entry(), Entry()
    sweeper.add(first)
    sweeper.add(second)
    timers.fire()
    sweeper.discard(first)
    timers.fire()
    sweeper.discard(second)
    timers.fire()

    assert ([5.0], [5.0, 5.0], [], 0) == (first.ticks, second.ticks, timers.due, len(sweeper))


def test_the_tick_is_short_enough_for_two_of_them_in_100_ms():
    """A client that leaves is seen within two ticks."""
    timers = Timers()
    Sweeper(timers, ManualClock()).add(Entry())

    assert (TICK, True) == (timers.due[0].delay, 2 * TICK < 0.1)


def test_an_entry_may_end_in_its_tick():
    """Time-outs fire there."""
    timers = Timers()
    sweeper = Sweeper(timers, ManualClock())
    entries = [Entry(sweeper), Entry(sweeper)]
    for entry in entries:
        sweeper.add(entry)
    timers.fire()

    assert ([1, 1], 0) == ([len(entry.ticks) for entry in entries], len(sweeper))


def test_a_sweeper_starts_again():
    """After a rest the next entry starts the ticking."""
    timers = Timers()
    sweeper = Sweeper(timers, ManualClock())
    sweeper.add(Entry(sweeper))
    timers.fire()
    timers.fire()
    late = Entry()
    sweeper.add(late)
    timers.fire()

    assert [0.0] == late.ticks


async def test_closing_stops_timer_and_tasks():
    """Nothing that it started goes on."""
    timers = Timers()
    sweeper = Sweeper(timers, ManualClock())
    sweeper.add(Entry())
    task = sweeper.spawn(asyncio.Event().wait(), "waits")
    (timer,) = timers.due
    await sweeper.aclose()

    assert (True, True, "waits") == (task.cancelled(), timer.cancelled, task.get_name())


async def test_closing_an_idle_sweeper_does_nothing():
    """There is nothing to stop."""
    timers = Timers()
    await Sweeper(timers, ManualClock()).aclose()

    assert [] == timers.due


async def test_a_task_that_is_done_is_forgotten():
    """Only what runs is owned."""
    sweeper = Sweeper(Timers(), ManualClock())
    await sweeper.spawn(asyncio.sleep(0), "short")
    await asyncio.sleep(0)

    assert set() == sweeper._tasks
