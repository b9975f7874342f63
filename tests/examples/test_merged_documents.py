"""One document for all."""

from openapi_spec_validator import validate

from proxyroutes.testing import open_client
from tests.examples.support import load


async def test_the_document_is_that_of_the_whole():
    """It is valid, and has what is routed."""
    async with open_client(load("merged_documents").app) as client:
        document = (await client.get("/openapi.json")).json()
        answer = await client.get("/shop/orders", params={"limit": 2})
    validate(document)

    assert ["/api/users/{user_id}", "/shop/orders"] == sorted(document["paths"])
    assert [0, 1] == answer.json()


async def test_the_routes_keep_the_contract():
    """Each leads to something."""
    assert () == await load("merged_documents").proxy.check_contract()
