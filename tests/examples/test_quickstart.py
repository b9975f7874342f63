"""``examples/quickstart.py``."""

import httpx

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def fetch(path):
    """Ask the running example."""
    async with (
        run_gateway(load("quickstart").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        return await client.get(path)


async def test_the_path_is_rewritten():
    """What stands behind the prefix reaches the upstream."""
    actual = (await fetch("/api/users/ann")).json()

    assert ("ann", "/users/ann") == (actual["name"], actual["path"])


async def test_the_upstream_is_told_of_the_client():
    """The gateway names itself and the client's address."""
    received = (await fetch("/api/users/ann")).json()["received"]
    actual = (received["via"].split()[0], received["x-forwarded-for"])

    assert ("1.1", "127.0.0.1") == actual
