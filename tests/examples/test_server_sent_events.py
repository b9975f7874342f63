"""``examples/server_sent_events.py``."""

import asyncio
import contextlib

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load


@pytest.fixture
def example(monkeypatch):
    """The example, whose upstream sends the next event only after ``step.release()``."""
    module = load("server_sent_events")
    module.step = asyncio.Semaphore(0)
    module.left = asyncio.Event()
    monkeypatch.setattr(module, "pause", module.step.acquire)
    monkeypatch.setattr(module, "print", lambda *_, **__: module.left.set(), raising=False)
    return module


@contextlib.asynccontextmanager
async def listening(gateway):
    """The events' data, as a client reads them."""
    async with (
        httpx.AsyncClient(base_url=gateway.url) as client,
        client.stream("GET", "/live/events") as response,
    ):
        yield (line async for line in response.aiter_lines() if line.startswith("data:"))


async def test_events_arrive_one_by_one(example):
    """Each is read before the upstream sends the next one."""
    actual = []
    async with run_gateway(example.app) as gateway, listening(gateway) as events:
        for _ in range(3):
            actual.append(await anext(events))
            example.step.release()

    assert ["data: item 1", "data: item 2", "data: item 3"] == actual


async def test_the_upstream_stops_when_the_client_leaves(example):
    """Its stream is ended though it waits for its next event, and the gateway goes on."""
    async with run_gateway(example.app) as gateway:
        async with listening(gateway) as events:
            await anext(events)
        await example.left.wait()

        assert not gateway.server.should_exit
