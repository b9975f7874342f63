"""``examples/redact_stream.py``."""

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load


@pytest.fixture
def example(monkeypatch):
    """The example as a module, whose model does not pause."""
    module = load("redact_stream")
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    return module


async def test_card_numbers_are_hidden_in_each_event(example):
    """The other events pass as they are, and every word is counted."""
    async with (
        run_gateway(example.app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        response = await client.get("/chat")
    events = [f"data: {text}\n\n" for text in ("Your card", "is [card]", "and valid", "until May")]

    assert "".join(events) == response.text
    assert {"words": 8} == example.sent


async def test_a_client_that_leaves_is_counted_for_what_it_got(example, monkeypatch):
    """Each event is counted when it is sent."""
    monkeypatch.setattr(example, "PAUSE_SECONDS", 3600)
    async with run_gateway(example.app) as gateway:
        async with (
            httpx.AsyncClient(base_url=gateway.url) as client,
            client.stream("GET", "/chat") as response,
        ):
            first = await anext(response.aiter_lines())

    assert ("data: Your card", {"words": 2}) == (first, example.sent)
