"""``examples/custom_probe.py``."""

from collections import Counter

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load
from tests.integration.support import eventually


async def test_the_depth_of_a_queue_is_the_weight(monkeypatch):
    """The service is a second one of the example; checks are made anew instead of waited for."""
    async with run_gateway(load("custom_probe").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        example = load("custom_probe")
        async with (
            run_gateway(example.app) as gateway,
            httpx.AsyncClient(base_url=gateway.url) as client,
        ):
            even = Counter([(await client.get("/api/hello")).json() for _ in range(20)])
            await client.post("/left/queue/9")
            example.workers.set_health(example.workers.health)
            await eventually(lambda: example.workers.status()[0].effective_weight == 1.0)
            uneven = Counter([(await client.get("/api/hello")).json() for _ in range(22)])
            ready = (await client.get("/ready")).status_code
            for name in ("left", "right"):
                await client.post(f"/{name}/queue/100")
            example.workers.set_health(example.workers.health)
            await eventually(lambda: not any(one.available for one in example.workers.status()))
            statuses = [(await client.get(path)).status_code for path in ("/ready", "/api/hello")]

    assert {"hello from left": 10, "hello from right": 10} == even
    assert {"hello from left": 2, "hello from right": 20} == uneven
    assert (200, [503, 503]) == (ready, statuses)
