"""The monitor's handle and what it has on a loop."""

import asyncio

import pytest

from proxyroutes import HealthMonitor
from proxyroutes.testing import ManualClock


@pytest.mark.parametrize("interval", [0, -1.0], ids=["zero", "negative"])
def test_an_interval_is_greater_than_zero(interval):
    """A value raises at construction."""
    with pytest.raises(ValueError, match="interval must be greater than 0 seconds"):
        HealthMonitor(interval=interval)


def test_the_default_interval():
    """The number of the contract."""
    assert 10.0 == HealthMonitor().interval


async def test_a_monitor_is_entered_by_itself():
    """``async with monitor`` opens its state and closes it."""
    monitor = HealthMonitor()
    async with monitor as entered:
        inside = monitor.state()
        again = monitor.state()

    assert (True, True, False) == (entered is monitor, inside is again, monitor.state() is inside)


async def test_clock_and_randomness_are_given():
    """What was injected is what its loop's state has."""
    clock, source = ManualClock(), object()
    state = HealthMonitor(clock=clock, random=source).state()

    assert (clock, source) == (state.clock, state.random)


def test_each_loop_has_its_own_state():
    """A handle serves many loops."""
    monitor = HealthMonitor()

    async def use():
        return monitor.state()

    assert asyncio.run(use()) is not asyncio.run(use())
