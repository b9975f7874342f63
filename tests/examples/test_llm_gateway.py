"""``examples/llm_gateway.py``."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load
from tests.integration.support import eventually


@pytest.fixture
async def example(monkeypatch):
    """The running example, and a client of it; the model never pauses."""
    module = load("llm_gateway")
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    async with (
        run_gateway(module.app) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers={"X-Api-Key": "a"}) as client,
    ):
        yield module, client


async def test_tokens_are_counted_while_they_stream(example):
    """Each event is the model's, and each user has a count."""
    _, client = example
    answer = await client.post("/chat", json={"prompt": "go on"})
    tokens = (await client.get("/tokens")).json()

    assert ("data: go\n\ndata: on\n\n", "text/event-stream; charset=utf-8", {"ann": 4}) == (
        answer.text,
        answer.headers["content-type"],
        tokens,
    )


async def test_each_user_has_a_limit(example):
    """The fourth request within a minute is refused, and the model is not asked."""
    module, client = example
    answers = [await client.post("/chat", json={"prompt": "go"}) for _ in range(4)]

    assert ([200, 200, 200, 429], {"ann": 6}) == (
        [answer.status_code for answer in answers],
        module.tokens,
    )


@pytest.mark.parametrize(
    ("key", "prompt", "status"), [("x", "go", 401), ("a", "x" * 1_001, 422)], ids=["key", "prompt"]
)
async def test_what_is_not_allowed_does_not_reach_the_model(example, key, prompt, status):
    """Nor does it count against the limit."""
    module, client = example
    answers = [
        await client.post("/chat", json={"prompt": prompt}, headers={"X-Api-Key": key})
        for _ in range(4)
    ]

    assert ([status] * 4, {}) == ([answer.status_code for answer in answers], module.tokens)


async def test_the_model_stops_with_its_reader(example, monkeypatch):
    """It is cancelled at once, and only what was sent is counted."""
    module, client = example
    stopped = []

    async def think_for_ever(_):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("cancelled")

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=think_for_ever))
    async with client.stream("POST", "/chat", json={"prompt": "one two three"}) as answer:
        first = await anext(answer.aiter_text())
    await eventually(lambda: stopped)

    assert ("data: one\n\n", 3 + 1) == (first, module.tokens["ann"])
