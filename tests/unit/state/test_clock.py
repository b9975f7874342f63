"""The system's clock."""

import asyncio

import pytest

from proxyroutes._state.clock import SystemClock


@pytest.mark.requirement("R-39")
def test_time_does_not_go_back():
    """Two readings are in order."""
    clock = SystemClock()

    assert clock.monotonic() <= clock.monotonic()


async def test_sleeping_gives_way():
    """Other tasks run meanwhile."""
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, True)
    await SystemClock().sleep(0)

    assert [True] == ran
