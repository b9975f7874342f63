"""``examples/weighted_pool.py``."""

from collections import Counter

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_weights_hold_and_a_drained_one_gets_nothing(monkeypatch):
    """The service is a second one of the example."""
    async with run_gateway(load("weighted_pool").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        example = load("weighted_pool")
        async with (
            run_gateway(example.app) as gateway,
            httpx.AsyncClient(base_url=gateway.url) as client,
        ):
            first = Counter([(await client.get("/api/hello")).json() for _ in range(40)])
            assert 200 == (await client.post("/pool/small/drain")).status_code
            drained = Counter([(await client.get("/api/hello")).json() for _ in range(10)])
            shown = (await client.get("/pool")).json()
            await client.post("/pool/small/undrain")
            back = (await client.get("/pool")).json()

    assert {"hello from big": 30, "hello from small": 10} == first
    assert {"hello from big": 10} == drained
    assert [(3, False), (1, True)] == [(one["weight"], one["draining"]) for one in shown]
    assert [3.0, 0.1] == [round(one["effective_weight"], 1) for one in back]
