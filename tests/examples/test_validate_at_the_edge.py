"""``examples/validate_at_the_edge.py``."""

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load


async def post(content, **fields):
    """Order something from the running example."""
    async with (
        run_gateway(load("validate_at_the_edge").app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        return await client.post(
            "/orders", content=content, headers={"Content-Type": "application/json", **fields}
        )


async def test_the_upstream_gets_the_bytes_as_they_were():
    """They were validated, not written anew."""
    sent = '{"fruit": "apple",  "count": 3}'

    assert {"received": sent} == (await post(sent)).json()


@pytest.mark.parametrize("count", [0, 101, '"many"'])
async def test_what_is_not_valid_is_refused(count):
    """In FastAPI's usual shape, with the place."""
    response = await post(f'{{"fruit": "apple", "count": {count}}}')
    actual = (response.status_code, response.json()["detail"][0]["loc"])

    assert (422, ["body", "count"]) == actual


@pytest.mark.parametrize(("tier", "status"), [("basic", 403), ("gold", 200)])
async def test_the_stub_decides_on_what_it_was_given(tier, status):
    """Body and header field are values when it is called."""
    assert (
        status == (await post('{"fruit": "apple", "count": 11}', **{"X-Tier": tier})).status_code
    )


async def test_the_document_shows_the_model():
    """The body is a part of the API."""
    document = load("validate_at_the_edge").app.openapi()
    body = document["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]

    assert {"$ref": "#/components/schemas/Order"} == body["schema"]
