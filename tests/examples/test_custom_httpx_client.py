"""``examples/custom_httpx_client.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_the_client_of_the_pool_logs_in():
    """Who asks the upstream without the gateway is refused, who asks the gateway is not."""
    example = load("custom_httpx_client")
    async with (
        run_gateway(example.archive) as origin,
        example.make_client() as pool_client,
        run_gateway(example.make_app(origin.url, pool_client)) as gateway,
        httpx.AsyncClient() as client,
    ):
        direct = await client.get(f"{origin.url}/reports/2026")
        forwarded = await client.get(f"{gateway.url}/reports/2026")

    assert (401, 200, {"year": 2026}) == (
        direct.status_code,
        forwarded.status_code,
        forwarded.json(),
    )
