"""``examples/fallback_and_fanout.py``."""

import json

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_one_answers_after_the_other():
    """The live service, its replica, and then what is remembered."""
    async with (
        run_gateway(load("fallback_and_fanout").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        answers = [await client.get("/prices/apple") for _ in range(3)]

    assert [("live", "live"), ("replica", "replica"), ("memory", "replica")] == [
        (one.headers["x-from"], one.json()["by"]) for one in answers
    ]


async def test_a_page_is_made_of_two_answers():
    """Each of another service."""
    async with (
        run_gateway(load("fallback_and_fanout").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        page = (await client.get("/pages/apple")).json()

    assert {"a": "stock", "b": "live"} == {
        name: json.loads(text)["by"] for name, text in page.items()
    }
