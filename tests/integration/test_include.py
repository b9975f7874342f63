"""A proxy that is split over modules and joined: order, inheritance, handlers, observers, monitors, and both built by themselves."""

import pytest
from fastapi import Depends, FastAPI
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from proxyroutes import (
    BuildError,
    GatewayMiddleware,
    HealthMonitor,
    Match,
    Proxy,
    RateLimit,
    Timeouts,
    UpstreamPool,
)
from proxyroutes.exceptions import DeclarationError, DuplicateRouteError, UpstreamConnectError
from proxyroutes.settings import Forwarding, HeaderRules
from proxyroutes.testing import run_gateway
from proxyroutes.transports import ASGITransport
from tests.integration.support import refusing_destination, target_of
from tests.integration.websocket_support import SessionOrigin, Sessions, nothing_left


async def echo(scope, receive, send):
    """Say the target and the value of one field."""
    value = dict(scope["headers"]).get(b"x-level", b"")
    await PlainTextResponse(scope["raw_path"] + b" " + value)(scope, receive, send)


def pool_of(name, **options):
    """A pool that says what it is asked for."""
    return UpstreamPool(name, ["http://asgi.internal"], transport=ASGITransport(echo), **options)


async def stub() -> None:
    """Say nothing."""


def plans_of(proxy):
    """Every plan, by template."""
    compiled = proxy.compiled()

    assert () == compiled.problems
    return {plan.template: plan for _, plan, _ in compiled.routes}


@pytest.fixture
def users():
    """A proxy that a module of its own would declare."""
    proxy = Proxy()
    proxy.get("/users/<path>", upstream=pool_of("users"), name="users")(stub)
    return proxy


@pytest.mark.parametrize("kind", ["router", "lane", "app", "prefix"])
def test_an_included_proxy_is_served_below_its_prefix(users, kind):
    """In every lane; the path goes on as it came."""
    proxy = Proxy()
    proxy.include(users, prefix="/api")
    if kind == "app":
        app = proxy.build_app()
    else:
        app = FastAPI()
        if kind == "lane":
            app.add_middleware(GatewayMiddleware, proxy=proxy)
        app.include_router(proxy.build_router(), prefix="/v1" if kind == "prefix" else "")
    prefix = "/v1" if kind == "prefix" else ""
    with TestClient(app) as client:
        found = client.get(f"{prefix}/api/users/7")
        missing = client.get("/users/7")

    assert (f"{prefix}/api/users/7 ", 404) == (found.text, missing.status_code)


def test_its_place_is_where_it_is_included(users):
    """Declared order holds across proxies, and hidden routes are found across them."""
    proxy = Proxy()
    proxy.route("/api/users/me", upstream=pool_of("me"))(stub)
    proxy.include(users, prefix="/api")
    proxy.route("/api/<path>", upstream=pool_of("rest"))(stub)

    assert ["/api/users/me", "/api/users/<path>", "/api/<path>"] == list(plans_of(proxy))


def test_a_route_that_an_included_one_hides_is_a_mistake(users):
    """Its place is told as ever."""
    proxy = Proxy()
    proxy.include(users)
    proxy.get("/users/7", upstream=pool_of("late"))(stub)
    with pytest.raises(BuildError) as caught:
        proxy.build_router()

    assert [DuplicateRouteError] == [type(one) for one in caught.value.exceptions]


def test_what_is_declared_later_is_taken_over_too():
    """Modules may be imported in any order, until the build."""
    users, proxy = Proxy(), Proxy()
    proxy.include(users, prefix="/api")
    users.get("/late", upstream=pool_of("users"))(stub)
    proxy.compiled()

    assert ["/api/late"] == list(plans_of(proxy))
    with pytest.raises(DeclarationError, match="after the build"):
        users.get("/too-late", upstream=pool_of("users"))(stub)


def test_both_may_be_built(users):
    """By itself it is what it was."""
    proxy = Proxy()
    proxy.include(users, prefix="/api")
    alone, joined = FastAPI(), FastAPI()
    joined.include_router(proxy.build_router())
    alone.include_router(users.build_router())
    with TestClient(joined) as one, TestClient(alone) as other:
        texts = [one.get("/api/users/7").text, other.get("/users/7").text]

    assert ["/api/users/7 ", "/users/7 "] == texts
    assert ["/users/<path>"] == list(plans_of(users))


def test_one_proxy_may_be_included_twice(users):
    """Below two prefixes; the document has an operation for each."""
    proxy = Proxy()
    proxy.include(users, prefix="/a")
    proxy.group("/b").include(users, prefix="/c")
    app = FastAPI()
    app.include_router(proxy.build_router())
    operations = [one["get"]["operationId"] for one in app.openapi()["paths"].values()]

    assert ["/a/users/<path>", "/b/c/users/<path>"] == list(plans_of(proxy))
    assert 2 == len(set(operations))


def test_its_routes_inherit_where_they_say_nothing():
    """What the included proxy, its groups and its routes say is nearer."""
    pool, limit = pool_of("shared"), RateLimit("1/s")
    users = Proxy(timeouts=Timeouts(connect=1.0))
    users.route("/plain")(stub)
    users.route("/own", host="preserve", max_body_bytes=5, timeouts=Timeouts(connect=2.0))(stub)
    users.group("/free", rate_limit=None).route("/x")(stub)
    proxy = Proxy(forwarding=Forwarding(mode="off"), rate_limit=limit)
    group = proxy.group(
        "/api", upstream=pool, host="outer.test", max_body_bytes=9, timeouts=Timeouts(connect=9.0)
    )
    group.include(users)
    plans = plans_of(proxy)
    plain, own, free = plans["/api/plain"], plans["/api/own"], plans["/api/free/x"]

    assert [pool] * 3 == [one.pool for one in (plain, own, free)]
    assert [(b"outer.test", 9, 1.0), (b"", 5, 2.0), (b"outer.test", 9, 1.0)] == [
        (one.host, one.max_body_bytes, one.timeouts.connect) for one in (plain, own, free)
    ]
    assert [1, 1, 0] == [
        0 if one.steps is None else len(one.steps.admissions) for one in (plain, own, free)
    ]
    assert plain.steps.admissions[0] is own.steps.admissions[0]


def test_lists_are_joined_from_the_outside_to_the_inside():
    """Dependencies, tags and identity fields of every level; rules in the same order."""
    met = []
    users = Proxy(
        tags=["inner"],
        identity_headers=["x-inner"],
        dependencies=[Depends(lambda: met.append("inner"))],
        request_headers=HeaderRules(add={"x-level": "inner"}),
    )
    users.get("/x", upstream=pool_of("users"), tags=["own"])(stub)
    proxy = Proxy(
        tags=["outer"],
        identity_headers=["x-outer"],
        dependencies=[Depends(lambda: met.append("outer"))],
        request_headers=HeaderRules(set={"x-level": "outer"}),
    )
    proxy.include(users, prefix="/api")
    app = FastAPI()
    app.add_middleware(GatewayMiddleware, proxy=proxy)
    app.include_router(proxy.build_router())
    with TestClient(app) as client:
        text = client.get("/api/x").text
    ((spec, _, _),) = proxy.compiled().routes

    assert ("/api/x inner", ["outer", "inner"]) == (text, met)
    assert (("outer", "inner", "own"), ("x-outer", "x-inner")) == (
        spec.tags,
        spec.identity_headers,
    )


def test_a_match_of_the_group_tells_included_proxies_apart():
    """Two proxies under one path, by host."""
    proxies = {}
    outer = Proxy()
    for name in ("blue", "red"):
        proxies[name] = Proxy()
        proxies[name].get("/<path>", upstream=pool_of(name), name=name)(stub)
        outer.group(match=Match(hosts=[f"{name}.test"])).include(proxies[name])
    records = []
    outer.on_exchange(records.append)
    with TestClient(outer.build_app()) as client:
        for name in ("red", "blue"):
            client.get("/x", headers={"host": f"{name}.test"})
        missing = client.get("/x", headers={"host": "green.test"}).status_code

    assert (["red", "blue"], 404) == ([record.route for record in records], missing)


def test_handlers_and_observers_of_both_count_for_its_routes():
    """The nearer ones first; an observer of both is told once."""
    seen = []
    order = []
    users = Proxy(on_exchange=seen.append)
    proxy = Proxy(on_exchange=seen.append)

    @users.on_error(UpstreamConnectError)
    def inner(error, request):
        order.append("inner")

    @proxy.on_error()
    def outer(error, request):
        order.append("outer")
        return {"answered": "outer"}

    with refusing_destination() as url:
        users.get("/x", upstream=url)(stub)
        proxy.get("/y", upstream=url)(stub)
        proxy.include(users, prefix="/api")
        with TestClient(proxy.build_app()) as client:
            answers = [client.get(path).json() for path in ("/api/x", "/y")]
            late = []
            users.on_exchange(late.append)
            client.get("/api/x")
            client.get("/y")

    assert [{"answered": "outer"}] * 2 == answers
    assert ["inner", "outer", "outer"] == order[:3]
    assert (4, 1) == (len(seen), len(late))


async def test_pools_take_the_monitor_that_their_proxy_was_given():
    """Else that of the proxy that is built; all of them run and end with it."""
    given = HealthMonitor()
    with_own, without = Proxy(monitor=given), Proxy()
    pools = [pool_of("a"), pool_of("b")]
    with_own.get("/a", upstream=pools[0])(stub)
    without.get("/b", upstream=pools[1])(stub)
    proxy = Proxy()
    proxy.include(with_own)
    proxy.include(without)
    async with proxy:
        running = [pool.entered() for pool in pools]

    assert ([given, proxy.monitor], [True, True], [False, False]) == (
        [pool.monitor for pool in pools],
        running,
        [pool.entered() for pool in pools],
    )


async def test_sessions_are_included_too():
    """With what the including proxy says."""
    async with nothing_left(), SessionOrigin() as origin:
        live = Proxy()
        live.websocket("/live/<path>", rewrite="/<path>")(stub)
        proxy = Proxy()
        group = proxy.group("/ws", upstream=origin.url, rate_limit=RateLimit("1/hour"))
        group.include(live)
        app = FastAPI()
        app.include_router(proxy.build_router())
        async with run_gateway(app) as running:
            sessions = Sessions(running, None, proxy, [], None)
            client, server = await sessions.open(origin, "/ws/live/a")
            refused = await sessions.dial("/ws/live/a")
            refused.leave_gently()
            await server.close(1000)
            await client.closed()
            server.leave_gently()

    assert (b"/a", 429) == (target_of(server.head), refused.status)


def test_proxies_nest():
    """Through several levels, prefixes and settings in order."""
    inner, middle, outer = Proxy(), Proxy(host="preserve"), Proxy(host="outer.test")
    inner.get("/x", upstream=pool_of("inner"))(stub)
    middle.include(inner, prefix="/b")
    outer.include(middle, prefix="/a")
    plans = plans_of(outer)

    assert {"/a/b/x": b""} == {template: plan.host for template, plan in plans.items()}


def test_mistakes_of_an_included_proxy_are_reported():
    """Each with the place of its stub, together with the including one's."""
    users = Proxy(tags="lone")
    users.get("no-slash", upstream=pool_of("users"))(stub)
    proxy = Proxy()
    proxy.include(users, prefix="api/")
    with pytest.raises(BuildError) as caught:
        proxy.build_router()
    problems = str(caught.value)

    assert all(
        words in problems
        for words in ("write '/api', not 'api/'", "tags: a list is meant", "no-slash")
    )


def test_a_proxy_that_includes_itself_is_a_mistake():
    """Also through another one."""
    one, other = Proxy(), Proxy()
    one.include(other)
    other.include(one)
    with pytest.raises(BuildError) as caught:
        one.build_router()

    assert "includes itself" in str(caught.value)


@pytest.mark.parametrize("other", [None, "users", FastAPI()], ids=["none", "text", "app"])
def test_only_a_proxy_is_included(other):
    """A group belongs to its proxy, and nothing else has routes of ours."""
    with pytest.raises(TypeError, match="a Proxy can be included"):
        Proxy().include(other)
    with pytest.raises(TypeError, match="a Proxy can be included"):
        Proxy().include(Proxy().group("/g"))


def test_nothing_is_included_after_the_build(users):
    """It would never be served."""
    proxy = Proxy()
    proxy.build_router()
    with pytest.raises(DeclarationError, match="after the build"):
        proxy.include(users)
