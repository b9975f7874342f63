"""``examples/auth_dependency.py``."""

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def fetch(**fields):
    """Ask the running example for an order."""
    async with (
        run_gateway(load("auth_dependency").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        return await client.get("/orders/7", headers=fields)


@pytest.mark.parametrize(
    "fields",
    [{}, {"Authorization": "Bearer wrong"}, {"X-User": "ann"}],
    ids=["nothing", "wrong token", "only a name"],
)
async def test_who_is_not_known_is_refused(fields):
    """The dependency's own answer is what the client gets."""
    response = await fetch(**fields)
    actual = (response.status_code, response.json())

    assert (401, {"detail": "who are you?"}) == actual


async def test_the_upstream_is_told_who_it_is():
    """A name that the client made up is replaced by the dependency's."""
    response = await fetch(**{"Authorization": "Bearer ann-secret", "X-User": "root"})

    assert {"order": 7, "of": "ann"} == response.json()
