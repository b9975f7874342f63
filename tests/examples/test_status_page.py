"""The status page behind a password."""

from proxyroutes.testing import open_client
from tests.examples.support import load


async def test_only_the_operator_gets_in():
    """Without the password there is neither a page nor its numbers."""
    async with open_client(load("status_page").app) as client:
        refused = await client.get("/_proxy")
        wrong = await client.get("/_proxy/snapshot.json", auth=("admin", "wrong"))
        page = await client.get("/_proxy", auth=("admin", "let me in"))

    assert [401, 401, 200] == [refused.status_code, wrong.status_code, page.status_code]


async def test_the_page_shows_the_ejection():
    """Ten requests that one of the two fails, and it is out for a while."""
    async with open_client(load("status_page").app) as client:
        for _ in range(10):
            await client.get("/api/fail")
        snapshot = await client.get("/_proxy/snapshot.json", auth=("admin", "let me in"))
    destinations = snapshot.json()["pools"][0]["destinations"]

    assert ["unchecked", "ejected"] == [one["state"] for one in destinations]
    assert "5 failures in a row" in destinations[1]["reason"]
