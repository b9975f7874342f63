"""``examples/proxy_everything.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def fetch(method, path, **request):
    """Ask the running example."""
    async with (
        run_gateway(load("proxy_everything").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        response = await client.request(method, path, **request)
    return response.json()


async def test_the_apps_own_endpoints_stay_its_own():
    """An endpoint that was declared before is not forwarded."""
    actual = await fetch("GET", "/hello")

    assert {"answered by": "the app"} == actual


async def test_all_else_is_forwarded_as_it_came():
    """Method, path, query and content reach the upstream."""
    actual = await fetch("POST", "/basket?user=ann", content=b"milk=2")

    assert {
        "answered by": "the shop",
        "received": "POST /basket?user=ann",
        "content": "milk=2",
    } == actual
