"""What a pool says of its requests holds wherever they come from: stubs with bodies, ``Forward`` and ``proxy.forward``."""

import json

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from proxyroutes import Forward, Proxy, RateLimit, UpstreamPool
from proxyroutes.exceptions import RateLimitError
from proxyroutes.policies import CookieAffinity, HeaderAffinity, Retry, RoundRobin, WeightedSplit
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


@pytest.mark.parametrize("way", ["forward", "imperative"])
async def test_a_split_is_an_upstream_of_one_request(serving, way):
    """Its key is read from the request; one share is all."""
    async with echo_origin() as one, echo_origin() as two:
        proxy = Proxy()
        stable, canary = (UpstreamPool(name, [o.url]) for name, o in (("a", one), ("b", two)))
        split = WeightedSplit({stable: 50, canary: 50}, key="header:x-user")
        app = FastAPI(lifespan=proxy.lifespan)
        if way == "imperative":

            @app.get("/x")
            async def endpoint(request: Request) -> Response:
                return await proxy.forward(request, split)

        else:

            @proxy.get("/x", upstream=stable)
            async def wraps(forward: Forward) -> Response:
                return await forward(upstream=split)

            app.include_router(proxy.build_router())
        served = await serving(app)
        for user in range(16):
            for _ in range(2):
                await served.see("/x", f"X-User: {user}")
        seen = [
            {line for line in bytes(b"".join(origin.requests)).split(b"\r\n") if b"x-user" in line}
            for origin in (one, two)
        ]

        assert (set(), 16) == (seen[0] & seen[1], len(seen[0] | seen[1]))
        assert all(seen)


async def test_a_request_is_admitted_once(serving, echo):
    """However often its stub forwards it; one that is not admitted stays refused."""
    proxy = Proxy()

    @proxy.get("/x", upstream=echo.url, rate_limit=RateLimit("2/hour"))
    async def wraps(forward: Forward) -> Response:
        for _ in range(3):
            try:
                response = await forward()
            except RateLimitError:
                with pytest.raises(RateLimitError):
                    await forward()
                raise
            await response.read()
        return response

    app = FastAPI()
    app.include_router(proxy.build_router())
    served = await serving(app)
    statuses = [await served.status("/x") for _ in range(3)]

    assert ([200, 200, 429], 6) == (statuses, bytes(b"".join(echo.requests)).count(b"GET /x "))
