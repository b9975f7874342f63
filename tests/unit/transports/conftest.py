"""Fixtures of the transports' tests."""

import asyncio

import pytest


@pytest.fixture(autouse=True)
async def no_task_is_left():
    """Fail a test that leaves a task behind."""
    yield
    current = asyncio.current_task()
    # Tasks that close generators need some turns; they are not anybody's in particular.
    for _ in range(20):
        await asyncio.sleep(0)

    assert set() == {task for task in asyncio.all_tasks() if task is not current}
