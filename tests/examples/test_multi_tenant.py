"""``examples/multi_tenant.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_each_tenant_has_its_own_service(monkeypatch):
    """By key alone: naming another tenant does not help."""
    async with run_gateway(load("multi_tenant").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        example = load("multi_tenant")
        async with run_gateway(example.app) as gateway, httpx.AsyncClient() as client:
            asked = [
                await client.get(f"{gateway.url}/api/hello", headers=headers)
                for headers in (
                    {"x-api-key": "blue-key"},
                    {"x-api-key": "red-key", "x-tenant": "blue"},
                    {"x-tenant": "blue"},
                )
            ]
            running = [pool.entered() for pool in example.pools.values()]
        ended = [pool.entered() for pool in example.pools.values()]

    assert [200, 200, 401] == [answer.status_code for answer in asked]
    assert ["hello from blue, for blue", "hello from red, for red"] == [
        answer.json() for answer in asked[:2]
    ]
    assert ([True, True], [False, False]) == (running, ended)
