"""Splits as upstreams: the short way, stubs, sessions and functions that return one."""

from collections import Counter

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from proxyroutes import BuildError, ForwardedRequest, GatewayMiddleware, Proxy, UpstreamPool
from proxyroutes._operate.routes_table import route_table
from proxyroutes.policies import WeightedSplit
from proxyroutes.settings import Timeouts
from proxyroutes.testing import run_gateway
from proxyroutes.transports import ASGITransport
from tests.integration.support import refusing_destination
from tests.integration.websocket_support import SessionOrigin, Sessions, nothing_left


def pool_of(name, **options):
    """A pool that says who it is."""

    async def app(scope, receive, send):
        await PlainTextResponse(name)(scope, receive, send)

    return UpstreamPool(name, ["http://asgi.internal"], transport=ASGITransport(app), **options)


@pytest.fixture
def stable():
    """A pool."""
    return pool_of("stable")


@pytest.fixture
def canary():
    """Another pool."""
    return pool_of("canary")


def make_proxy(split, stub=None, **options):
    """One route over a split."""
    proxy = Proxy(**options)

    async def plain() -> None: ...

    proxy.route("/u/<user>", upstream=split)(stub or plain)
    return proxy


def make_client(proxy, kind="router"):
    """A client of the proxy in one of its lanes."""
    if kind == "app":
        return TestClient(proxy.build_app())
    app = FastAPI()
    if kind == "lane":
        app.add_middleware(GatewayMiddleware, proxy=proxy)
    app.include_router(proxy.build_router())
    return TestClient(app)


@pytest.mark.parametrize("kind", ["router", "lane", "app"])
def test_a_split_is_served_the_short_way(stable, canary, served, kind):
    """No user code chooses: nothing has to go through FastAPI."""
    with make_client(make_proxy(WeightedSplit({stable: 1, canary: 1})), kind) as client:
        counts = Counter(client.get("/u/a").text for _ in range(60))

    assert {"stable", "canary"} == set(counts)
    assert [kind] * 60 == served or (kind, []) == ("app", served)


@pytest.mark.parametrize("kind", ["router", "lane", "app", "stub", "function"])
@pytest.mark.parametrize(
    ("key", "header"),
    [
        pytest.param("header:X-User", "x-user: {}", id="header"),
        pytest.param("cookie:id", "cookie: a=b; id={}", id="cookie"),
        pytest.param("path:user", "x: {}", id="path"),
    ],
)
def test_a_key_stays_with_one_pool_whoever_serves(stable, canary, kind, key, header):
    """The same pool in every lane, in stubs, and where a function returns the split."""
    split = WeightedSplit({stable: 1, canary: 1}, key=key)

    async def speaking(request: ForwardedRequest) -> None:
        request.headers["x-seen"] = "1"

    def choose(request: ForwardedRequest) -> WeightedSplit[UpstreamPool]:
        return split

    upstream = choose if kind == "function" else split
    proxy = make_proxy(upstream, speaking if kind == "stub" else None)
    with make_client(proxy, kind) as client, make_client(make_proxy(split)) as plain:
        for number in range(12):
            name, _, value = header.format(number).partition(": ")
            texts = {
                one.get(f"/u/{number}", headers={name: value}).text
                for one in (client, plain)
                for _ in range(3)
            }

            assert 1 == len(texts)


def test_a_function_as_key_takes_the_full_path(stable, canary, served):
    """User code runs where FastAPI is, and what it says decides."""
    split = WeightedSplit({stable: 1, canary: 1}, key=lambda request: request.path_params["user"])
    proxy = make_proxy(split)
    with make_client(proxy, "lane") as client:
        texts = {client.get("/u/a").text for _ in range(5)}

    assert (1, []) == (len(texts), served)
    with pytest.raises(BuildError) as caught:
        proxy.build_app()
    assert "chooses its upstream per request" in str(caught.value)


def test_a_key_that_the_stub_has_set_counts(stable, canary):
    """An identity that is proven, not the one that a client claims."""
    split = WeightedSplit({stable: 1, canary: 1}, key="header:x-user-id")

    async def api(user: str, request: ForwardedRequest) -> None:
        request.headers["x-user-id"] = user

    with make_client(make_proxy(split, api)) as client:
        texts = {
            client.get("/u/a", headers={"x-user-id": str(number)}).text for number in range(12)
        }

    assert 1 == len(texts)


def test_weights_change_while_it_serves(stable, canary):
    """From one request to the next."""
    split = WeightedSplit({stable: 1, canary: 0})
    with make_client(make_proxy(split)) as client:
        before = {client.get("/u/a").text for _ in range(9)}
        split.set_weights({stable: 0, canary: 1})
        after = {client.get("/u/a").text for _ in range(9)}

    assert ({"stable"}, {"canary"}) == (before, after)


async def test_every_pool_starts_and_ends_with_the_gateway(stable, canary):
    """The one with weight 0 too, with the proxy's monitor."""
    proxy = make_proxy(WeightedSplit({stable: 1, canary: 0}))
    async with proxy:
        running = [pool.entered() for pool in (stable, canary)]
    ended = [pool.entered() for pool in (stable, canary)]

    assert ([True, True], [False, False]) == (running, ended)
    assert {proxy.monitor} == {stable.monitor, canary.monitor}


async def test_a_pool_that_a_function_returns_ends_with_the_gateway(stable):
    """It starts with its first request, with the proxy's monitor, and is closed with the others."""
    proxy = make_proxy(lambda request: stable)
    app = FastAPI()
    app.include_router(proxy.build_router())
    async with run_gateway(app) as running:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{running.url}/u/a")).text
        entered = stable.entered()

    assert ("stable", True, False) == (text, entered, stable.entered())
    assert stable.monitor is proxy.monitor


def test_a_record_has_the_pool_and_the_time_outs_of_its_side(stable):
    """Not those of the pool that the exchange began with."""
    records = []
    with refusing_destination() as url:
        broken = UpstreamPool("broken", [url], timeouts=Timeouts(connect=3.0))
        proxy = make_proxy(WeightedSplit({stable: 0, broken: 1}), on_exchange=records.append)
        with make_client(proxy) as client:
            status = client.get("/u/a").status_code

    assert (502, "broken", 3.0) == (status, records[0].pool, records[0].timeouts.connect)


async def test_sessions_are_split_too():
    """By key, as requests are."""
    async with nothing_left(), SessionOrigin() as first, SessionOrigin() as second:
        pools = [UpstreamPool(name, [one.url]) for name, one in (("a", first), ("b", second))]
        split = WeightedSplit(dict.fromkeys(pools, 1), key="header:x-user")
        proxy = Proxy()

        @proxy.websocket("/live", upstream=split)
        async def live() -> None: ...

        app = FastAPI()
        app.include_router(proxy.build_router())
        seen = []
        async with run_gateway(app) as running:
            sessions = Sessions(running, None, proxy, [], None)
            for number in [*range(8)] * 2:
                client = await sessions.dial("/live", f"X-User: {number}")
                origin = first if not first.sessions.empty() else second
                seen.append(origin is first)
                server = await origin.session()
                await server.close(1000)
                await client.closed()
                server.leave_gently()

    assert seen[:8] == seen[8:]
    assert {True, False} == set(seen)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(
            lambda pool: WeightedSplit({"http://127.0.0.1:9": 1}), "between pools", id="url"
        ),
        pytest.param(
            lambda pool: WeightedSplit({pool: 1}, key="path:tenant"),
            "no parameter 'tenant'",
            id="parameter",
        ),
    ],
)
def test_a_split_that_cannot_serve_is_a_mistake(stable, make, words):
    """The build reports it."""
    with pytest.raises(BuildError) as caught:
        make_proxy(make(stable)).build_router()

    assert words in str(caught.value)


def test_a_guarded_route_is_not_served_the_short_way(stable, canary, served):
    """A split changes nothing about dependencies."""
    proxy = Proxy()
    met = []

    @proxy.route(
        "/",
        upstream=WeightedSplit({stable: 1, canary: 1}),
        dependencies=[Depends(lambda: met.append(1))],
    )
    async def api() -> None: ...

    with make_client(proxy, "lane") as client:
        client.get("/")

    assert ([1], []) == (met, served)


def test_the_route_table_shows_the_shares(stable, canary):
    """By name and weight."""
    table = route_table(make_proxy(WeightedSplit({stable: 95, canary: 5})).build_router().routes)

    assert "stable (weight 95), canary (weight 5)" in table.rows[0]
