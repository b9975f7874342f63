"""``examples/retries_and_outliers.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def test_clients_see_nothing_of_an_instance_that_fails(monkeypatch):
    """It is tried five times and then left alone; what must not be done twice is sent once."""
    async with run_gateway(load("retries_and_outliers").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        async with (
            run_gateway(load("retries_and_outliers").app) as gateway,
            httpx.AsyncClient() as client,
        ):
            await client.post(f"{service.url}/one/break")
            order = f"{gateway.url}/api/order"
            plain = [(await client.post(order)).status_code for _ in range(2)]
            keyed = [
                (await client.post(order, headers={"idempotency-key": str(number)})).status_code
                for number in range(2)
            ]
            answers = {(await client.get(f"{gateway.url}/api/hello")).text for _ in range(10)}
            status = (await client.get(f"{gateway.url}/status")).json()

    assert ([503, 200], [200, 200]) == (plain, keyed)
    assert {"hello from two\n"} == answers
    assert status[f"{service.url}/one"].startswith("available=False: ejected: 5 failures in a row")
    assert status[f"{service.url}/two"].startswith("available=True")
