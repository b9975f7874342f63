"""What a pool says of its requests holds wherever they come from: stubs with bodies, ``Forward`` and ``proxy.forward``."""

import json

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from proxyroutes import Forward, Proxy, UpstreamPool
from proxyroutes.policies import CookieAffinity, HeaderAffinity, Retry, RoundRobin
from proxyroutes.testing import ScriptedOrigin
from tests.integration.apps import echo_origin

BUSY = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy"
JSON = "Content-Type: application/json"
WAYS = ["guard", "forward", "imperative"]


class Item(BaseModel):
    """A body."""

    name: str


def assemble(way, pool):
    """An application whose requests come to a pool in one of three ways."""
    proxy = Proxy(via="gw")
    app = FastAPI(lifespan=proxy.lifespan)
    if way == "imperative":

        @app.api_route("/x", methods=["GET", "PUT"])
        async def endpoint(request: Request) -> Response:
            await request.body()
            return await proxy.forward(request, pool)

        return app
    if way == "guard":

        @proxy.put("/x", upstream=pool, max_body_bytes=200_000)
        async def validates(item: Item) -> None: ...

        @proxy.get("/x", upstream=pool)
        async def asks(q: int = 0) -> None: ...

    else:

        @proxy.route("/x", upstream=pool, max_body_bytes=200_000)
        async def wraps(forward: Forward) -> Response:
            return await forward()

    app.include_router(proxy.build_router())
    return app


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "size", [10, 100_000], ids=["small", "larger than what is kept of streams"]
)
async def test_a_buffered_body_is_tried_again(serving, echo, way, size):
    """Byte for byte, at the next destination; the client sees one answer."""
    body = json.dumps({"name": "n" * size})
    async with ScriptedOrigin([BUSY]) as busy:
        pool = UpstreamPool(
            "p", [busy.url, echo.url], balancing=RoundRobin(), retry=Retry(on=[503], backoff=None)
        )
        served = await serving(assemble(way, pool))
        seen = await served.see("/x", JSON, method="PUT", body=body)

        assert (body, 1) == (seen.body, busy.connections)
        assert 0 == pool.state().in_flight


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_stays_with_its_destination(serving, way):
    """The pool's cookie is set with the first answer, and found in every later request."""
    async with echo_origin() as one, echo_origin() as two:
        pool = UpstreamPool(
            "p",
            [one.url, two.url],
            balancing=RoundRobin(),
            affinity=CookieAffinity(secret="s" * 32),
        )
        served = await serving(assemble(way, pool))
        cookie = (await served.ask("/x")).get("set-cookie").partition(b";")[0].decode()
        replies = [await served.ask("/x", f"Cookie: {cookie}") for _ in range(4)]

        assert ([None] * 4, {0, 5}) == (
            [reply.get("set-cookie") for reply in replies],
            {bytes(b"".join(origin.requests)).count(b"GET /x ") for origin in (one, two)},
        )


@pytest.mark.parametrize("way", WAYS)
async def test_a_tenant_stays_with_its_destination(serving, way):
    """A field of the request decides."""
    async with echo_origin() as one, echo_origin() as two:
        pool = UpstreamPool("p", [one.url, two.url], affinity=HeaderAffinity("X-Tenant"))
        served = await serving(assemble(way, pool))
        for _ in range(4):
            await served.see("/x", "X-Tenant: a")

        assert {0, 4} == {
            bytes(b"".join(origin.requests)).count(b"GET /x ") for origin in (one, two)
        }
