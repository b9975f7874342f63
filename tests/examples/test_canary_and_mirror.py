"""``examples/canary_and_mirror.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load
from tests.integration.support import eventually


async def test_visitors_keep_their_version_and_differences_are_noted(monkeypatch, caplog):
    """The services are a second one of the example, which is up before the gateway is."""
    async with run_gateway(load("canary_and_mirror").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        example = load("canary_and_mirror")

        def noted():
            return caplog.text.count("/price: b'{\"price\":10}' is b'{\"price\":12}'")

        def versions():
            source = None
            return [
                example.visitors.pick(str(number).encode(), source).name for number in range(40)
            ]

        async with run_gateway(example.app) as gateway, httpx.AsyncClient() as client:
            url = f"{gateway.url}/shop/price"
            prices = [
                (await client.get(url, headers={"cookie": f"visitor={number}"})).json()
                for number in range(3)
            ]
            before = versions()
            await client.post(f"{gateway.url}/canary/50")
            after = versions()
            await eventually(lambda: noted() == 3)

    assert [{"price": 10}] * 3 == prices
    assert {("v1", "v1"), ("v1", "v2"), ("v2", "v2")} == set(zip(before, after, strict=True))
