"""``examples/fastest_healthy.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load
from tests.integration.support import eventually


async def test_the_fastest_is_asked_and_the_next_one_when_it_breaks(monkeypatch):
    """The service is a second one of the example, which is up before the gateway checks it."""
    async with run_gateway(load("fastest_healthy").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        example = load("fastest_healthy")
        async with run_gateway(example.app) as gateway, httpx.AsyncClient() as client:
            answers = {(await client.get(f"{gateway.url}/api/hello")).json() for _ in range(5)}
            await client.post(f"{service.url}/near/break")
            example.instances.set_health(example.instances.health)
            await eventually(lambda: example.instances.status()[0].healthy is False)
            after = {(await client.get(f"{gateway.url}/api/hello")).json() for _ in range(5)}

    assert ({"hello from near"}, {"hello from far"}) == (answers, after)
