"""What the migration pages show: before and after do the same, and after does more."""

import httpx
import pytest

from proxyroutes.testing import RecordingUpstream, open_client, replaced_transport
from tests.examples.support import load


def asked(request):
    """What arrived, by what both are alike in."""
    return request.method, request.target, request.body, request.get("x-a")


async def test_the_declared_route_forwards_what_the_snippet_did():
    """Method, target, content and fields."""
    upstream = RecordingUpstream()
    before, after = load("migrate/httpx_before"), load("migrate/httpx_after")
    before.client = httpx.AsyncClient(
        transport=httpx.ASGITransport(upstream), base_url="http://127.0.0.1:9001"
    )
    with replaced_transport(after.proxy, upstream):
        for module in (before, after):
            async with open_client(module.app) as client:
                await client.put("/api/users/1?a=b", content=b"hello", headers={"X-A": "1"})
    await before.client.aclose()
    first, second = map(asked, upstream.requests)

    assert ("PUT", "/v2/users/1?a=b", b"hello", "1") == first == second


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("httpx_before", (1, "gateway.test", None)),
        ("httpx_after", (2, "127.0.0.1:9001", "127.0.0.1")),
    ],
)
async def test_what_the_page_says_of_both_holds(name, expected):
    """Two cookies, the Host that the upstream sees, and where the client is said to be."""
    upstream = RecordingUpstream()
    upstream.answer(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    module = load(f"migrate/{name}")
    if name == "httpx_before":
        module.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(upstream), base_url="http://127.0.0.1:9001"
        )
        async with open_client(module.app) as client:
            response = await client.get("/api/a")
        await module.client.aclose()
    else:
        with replaced_transport(module.proxy, upstream):
            async with open_client(module.app) as client:
                response = await client.get("/api/a")
    request = upstream.requests[0]
    actual = (
        len(response.headers.get_list("set-cookie")),
        request.get("host"),
        request.get("x-forwarded-for"),
    )

    assert expected == actual


async def test_the_nginx_example_forwards_as_nginx_did():
    """The path is mapped, the Host is the client's, the spare server is not asked, and two of three go to the first."""
    upstream = RecordingUpstream()
    example = load("migrate/from_nginx")
    with replaced_transport(example.proxy, upstream):
        async with open_client(example.app) as client:
            for number in range(6):
                await client.get(f"/api/users/{number}?a=b", headers={"Host": "shop.test"})
            large = await client.post("/api/users", content=b"x" * 10_000_001)
            destinations = example.users.status()

    assert ["/v2/users/0?a=b", "shop.test"] == [
        upstream.requests[0].target,
        upstream.requests[0].get("host"),
    ]
    assert [4, 2, 0] == [one.requests for one in destinations]
    assert 413 == large.status_code
