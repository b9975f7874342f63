"""``examples/header_and_cookie_rules.py``."""

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load


@pytest.fixture
async def client():
    """A client of the running example."""
    async with (
        run_gateway(load("header_and_cookie_rules").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as one,
    ):
        yield one


async def test_the_shop_gets_what_the_rules_make(client):
    """The language of the path, and no order to debug."""
    response = await client.get("/de/shop/basket?debug=1&a=%2f", headers={"X-Shop": "evil"})

    assert {"query": "a=%2f&lang=de", "shop": "shop in de"} == response.json()


async def test_what_the_shop_sends_fits_the_gateways_address(client):
    """Its cookie and its redirect; its version is not shown."""
    basket = await client.get("/de/shop/basket")
    login = await client.get("/de/shop/login")

    assert "basket=7; Path=/de/shop; SameSite=lax; Secure" == basket.headers["set-cookie"]
    assert "x-powered-by" not in basket.headers
    assert "/de/shop/basket" == login.headers["location"]
