"""``examples/strangler.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_what_is_moved_goes_to_the_new_service(monkeypatch):
    """By path, by method, and for testers by cookie."""
    async with run_gateway(load("strangler").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        async with run_gateway(load("strangler").app) as gateway, httpx.AsyncClient() as client:
            asked = [
                await client.get(f"{gateway.url}/orders/7"),
                await client.post(f"{gateway.url}/orders"),
                await client.get(f"{gateway.url}/customers/7"),
                await client.get(f"{gateway.url}/customers/7", headers={"cookie": "tester=1"}),
            ]

    assert [
        "GET /orders/7 by the new service",
        "POST /orders by the old service",
        "GET /customers/7 by the old service",
        "GET /customers/7 by the new service",
    ] == [answer.json() for answer in asked]
