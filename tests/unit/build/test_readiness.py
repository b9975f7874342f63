"""``monitor.ready``: whether every pool has something available, as a dependency of FastAPI."""

import httpx
import pytest
from fastapi import Depends, FastAPI

from proxyroutes import HealthMonitor, Proxy, UpstreamPool


@pytest.fixture
async def parts():
    """Two pools, and a client of an application that says whether it is ready."""
    monitor = HealthMonitor()
    proxy = Proxy(monitor=monitor)
    one, two = (UpstreamPool(name, [f"http://{name}.test"]) for name in ("one", "two"))
    proxy.get("/one", upstream=one)(nothing)
    proxy.get("/two", upstream=two)(nothing)
    app = FastAPI()
    app.include_router(proxy.build_router())

    @app.get("/ready", dependencies=[Depends(monitor.ready)])
    async def ready() -> str:
        """All is well."""
        return "ready"

    transport = httpx.ASGITransport(app)
    async with proxy, httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield one, two, client


async def nothing() -> None:
    """Forward."""


async def test_ready_while_every_pool_has_something(parts):
    """One destination of a pool is enough."""
    answer = await parts[2].get("/ready")

    assert (200, "ready") == (answer.status_code, answer.json())


async def test_not_ready_while_a_pool_has_nothing(parts):
    """The answer names it; afterwards all is well again."""
    one, two, client = parts
    await one.drain()
    first = await client.get("/ready")
    await two.drain()
    second = await client.get("/ready")
    one.undrain()
    two.undrain()
    third = await client.get("/ready")

    assert (503, "1", {"detail": "nothing available in: one"}) == (
        first.status_code,
        first.headers["retry-after"],
        first.json(),
    )
    assert {"detail": "nothing available in: one, two"} == second.json()
    assert 200 == third.status_code


async def test_it_has_no_parameters(parts):
    """The document of the endpoint shows none."""
    document = (await parts[2].get("/openapi.json")).json()

    assert "parameters" not in document["paths"]["/ready"]["get"]
