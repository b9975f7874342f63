"""``examples/sticky_sessions.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_a_cart_stays_with_its_client(monkeypatch):
    """At one instance, until that is drained."""
    async with run_gateway(load("sticky_sessions").app) as shop:
        monkeypatch.setenv("SHOP_URL", shop.url)
        async with run_gateway(load("sticky_sessions").app) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url) as client:
                carts = [(await client.post(f"/shop/cart/{item}")).json() for item in "abcdef"]
                home = carts[0]["instance"]
                await client.post(f"/drain/{home}")
                moved = [(await client.post(f"/shop/cart/{item}")).json() for item in "xyz"]

    assert [home] * 6 == [one["instance"] for one in carts]
    assert list("abcdef") == carts[-1]["cart"]
    assert [{"one": "two", "two": "one"}[home]] * 3 == [one["instance"] for one in moved]
    assert list("xyz") == moved[-1]["cart"]


async def test_only_an_instance_that_is_there_can_be_drained():
    """Anything else is not found."""
    async with run_gateway(load("sticky_sessions").app) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            assert 404 == (await client.post("/drain/three")).status_code
