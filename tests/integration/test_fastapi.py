"""A gateway within a FastAPI application: whatever holds for an endpoint holds for a declared route."""

import json
import logging
from typing import Annotated
from uuid import UUID

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
)
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from proxyroutes import ForwardedRequest, GatewayError, Proxy, Timeouts, UpstreamPool
from proxyroutes.exceptions import (
    ClientRequestError,
    PathTemplateError,
    StubError,
    UpstreamConnectError,
)
from proxyroutes.policies import RoundRobin
from proxyroutes.testing import ReadBody, ReadHead, ScriptedOrigin
from tests.integration.apps import echo_origin
from tests.integration.support import OK, eventually, make_request

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def proxy():
    """A proxy without routes."""
    return Proxy(via="gw")


@pytest.fixture
def app():
    """An application without routes."""
    return FastAPI()


async def stub() -> None:
    """Forward."""


def declare(proxy, *paths, upstream, **options):
    """Declare silent routes."""
    for path in paths:
        proxy.route(path, upstream=upstream, **options)(stub)
    return proxy


# Paths.


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb",
        "/a%2fb",
        "//a//b/",
        "/a;v=1,2",
        "/a+b%20c",
        "/%61%7E",
        "/%5c",
        "/%252e",
        "/a?x=%2F&x=+&&",
        "/?",
        "/caf%C3%A9",
    ],
)
async def test_a_target_is_forwarded_byte_for_byte(serving, echo, proxy, app, target):
    """Escapes, their case, empty segments and the query are kept."""
    app.include_router(declare(proxy, "/<path>", upstream=echo.url).build_router())
    seen = await (await serving(app)).see(target)

    assert (target.removesuffix("?"), "GET") == (seen.target, seen.method)


async def test_an_inclusions_prefix_is_forwarded_too(serving, echo, proxy, app):
    """Without rewrite the target goes out as it came, prefix and all."""
    app.include_router(
        declare(proxy, "/x/<path>", upstream=echo.url).build_router(), prefix="/p%20q"
    )
    app.include_router(
        declare(Proxy(), "/x/<path>", upstream=echo.url).build_router(), prefix="/p"
    )

    assert "/p/x/a%2Fb" == (await (await serving(app)).see("/p/x/a%2Fb")).target


@pytest.mark.requirement("H-52")
async def test_a_rewrite_is_filled_in_behind_a_base_path(serving, echo, proxy, app):
    """Captured raw text, behind the destination's own base path."""
    proxy.get("/users/<name>/<path>", upstream=f"{echo.url}/base/", rewrite="/v2/<path>/<name>")(
        stub
    )
    app.include_router(proxy.build_router(), prefix="/api")

    assert (
        "/base/v2/a%2Fb//c/j%20d?q=1"
        == (await (await serving(app)).see("/api/users/j%20d/a%2Fb//c?q=1")).target
    )


@pytest.mark.parametrize(
    ("template", "target", "expected"),
    [
        pytest.param("/<name>", "/a%2Fb", {"name": "a/b"}, id="decoded-segment"),
        pytest.param("/{name}", "/x", {"name": "x"}, id="other-spelling"),
        pytest.param("/<int:name>", "/042", {"name": 42}, id="int"),
        pytest.param("/<float:name>", "/1.50", {"name": 1.5}, id="float"),
        pytest.param("/<uuid:name>", "/" + "0" * 32, {"name": UUID(int=0)}, id="uuid"),
        pytest.param("/<path:name>", "/a%20b/c", {"name": "a b/c"}, id="rest"),
        pytest.param("/{name:path}", "/", {"name": ""}, id="empty-rest"),
    ],
)
async def test_a_stub_gets_decoded_and_converted_parameters(
    serving, echo, proxy, app, template, target, expected
):
    """FastAPI's parameters are decoded; what is forwarded is not."""
    seen_by_stub = []

    @proxy.get(template, upstream=echo.url)
    async def captures(request: Request) -> None:
        seen_by_stub.append(request.path_params)

    app.include_router(proxy.build_router())
    seen = await (await serving(app)).see(target)

    assert ([expected], target) == (seen_by_stub, seen.target)


async def test_a_path_parameter_is_validated_by_fastapi(serving, echo, proxy, app):
    """The stub's own annotation is solved as in any endpoint."""

    @proxy.get("/<n>", upstream=echo.url)
    async def limited(n: Annotated[int, Path(le=5)]) -> None: ...

    app.include_router(proxy.build_router())
    served = await serving(app)

    assert (200, 422, 422) == (
        await served.status("/5"),
        await served.status("/6"),
        await served.status("/x"),
    )


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("/users/%2e%2e/x", 400, id="encoded-dots"),
        pytest.param("/users/..;/x", 400, id="dots-with-parameter"),
        pytest.param("/users/%00", 400, id="nul"),
        pytest.param("/users/%0d%0aX", 400, id="line-end"),
        pytest.param("/users/%zz", 400, id="bad-escape"),
        pytest.param("/users/a\\b", 400, id="backslash"),
        pytest.param("/other", 404, id="no-route"),
        pytest.param("/users", 307, id="lacks-its-slash"),
        pytest.param("/n/x", 404, id="not-of-the-type"),
        pytest.param("/n/" + "9" * 5000, 404, id="number-that-python-refuses"),
    ],
)
async def test_what_is_not_forwarded_is_answered(serving, echo, proxy, app, target, status):
    """Nothing is sent to the upstream."""
    app.include_router(
        declare(proxy, "/users/<path>", "/n/<int:n>", upstream=echo.url).build_router()
    )

    assert (status, 0) == (await (await serving(app, http="h11")).status(target), echo.connections)


async def test_a_target_that_is_no_path_is_refused(echo, proxy, app):
    """The absolute form, and whatever else does not begin with a slash, belongs to nobody."""
    app.include_router(
        declare(proxy, "/other/<path>", "/<path>", upstream=echo.url).build_router()
    )
    sent = []

    async def keep(message):
        sent.append(message)

    async def nothing():
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "http://evil/x",
        "raw_path": b"http://evil/x",
        "query_string": b"",
        "headers": [(b"host", b"gw")],
        "http_version": "1.1",
        "scheme": "http",
    }
    await app(scope, nothing, keep)

    assert (400, b"application/problem+json") == (
        sent[0]["status"],
        dict(sent[0]["headers"])[b"content-type"],
    )


async def test_options_of_the_server_itself_is_not_ours(echo, proxy, app):
    """``OPTIONS *`` names no route."""
    app.include_router(declare(proxy, "/<path>", upstream=echo.url).build_router())
    sent = []

    async def keep(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "OPTIONS",
        "path": "*",
        "raw_path": b"*",
        "query_string": b"",
        "headers": [(b"host", b"gw")],
        "http_version": "1.1",
        "scheme": "http",
    }
    await app(scope, None, keep)

    assert 404 == sent[0]["status"]


@pytest.mark.parametrize(
    ("target", "location"),
    [
        pytest.param("/users", b"/users/", id="plain"),
        pytest.param("/users?x=%2F", b"/users/?x=%2F", id="query"),
        pytest.param("/p/a%2Fb", b"/p/a%2Fb/", id="raw"),
        pytest.param("//evil.example", b"/.//evil.example/", id="no-open-redirect"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.requirement("S-39")
async def test_a_missing_last_slash_is_redirected(
    serving, echo, proxy, app, target, location, method
):
    """307 keeps the method, and the Location names no host."""
    app.include_router(
        declare(
            proxy, "/users/", "/p/<a>/", "/<a>/<b>/", "//<c>/", upstream=echo.url
        ).build_router()
    )
    reply = await (await serving(app)).ask(target, method=method)

    assert (307, location, 0) == (reply.status, reply.get("location"), echo.connections)


async def test_a_bad_target_is_refused_before_it_is_redirected(serving, echo, proxy, app):
    """A browser would read the backslash as a slash, and follow it to another host."""
    app.include_router(declare(proxy, "/<a>/", upstream=echo.url).build_router())
    reply = await (await serving(app, http="h11")).ask("/\\evil.example")

    assert (400, None) == (reply.status, reply.get("location"))


async def test_a_redirect_keeps_the_inclusions_prefix(serving, echo, proxy, app):
    """The reference is that of the whole public path."""
    app.include_router(declare(proxy, "/users/", upstream=echo.url).build_router(), prefix="/api")
    reply = await (await serving(app)).ask("/api/users")

    assert b"/api/users/" == reply.get("location")


async def test_redirects_may_be_turned_off(serving, echo, app):
    """Then neither we nor the application redirects."""
    proxy = declare(Proxy(redirect_slashes=False), "/users/", "/items", upstream=echo.url)
    app.include_router(proxy.build_router())
    served = await serving(app)

    assert (404, 404) == (await served.status("/users"), await served.status("/items/"))


async def test_a_later_route_of_the_app_comes_before_a_redirect(serving, echo, proxy, app):
    """A path that somebody has is not redirected."""
    app.include_router(declare(proxy, "/users/", upstream=echo.url).build_router())
    app.get("/users")(lambda: "mine")

    assert b'"mine"' == (await (await serving(app)).ask("/users")).body


async def test_declared_order_wins_over_exactness(serving, proxy, app):
    """The route that was declared first serves, though a later one is more exact."""
    async with ScriptedOrigin([OK]) as first, ScriptedOrigin([OK]) as second:
        proxy.get("/<path>", upstream=first.url)(stub)
        proxy.route("/users", upstream=second.url)(stub)
        app.include_router(proxy.build_router())
        served = await serving(app)
        await served.ask("/users")
        await served.ask("/users", method="POST", body="")

        assert (1, 1) == (first.connections, second.connections)


# Methods.


@pytest.mark.parametrize(
    "method",
    [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "QUERY",
        "PROPFIND",
        "X-NEW",
        "get",
    ],
)
@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "speaking"])
async def test_a_route_without_methods_serves_every_one(serving, echo, proxy, app, method, speaks):
    """Extension methods too, and the stub sees the real one."""
    seen_by_stub = []

    async def speaking(request: Request) -> None:
        seen_by_stub.append(request.method)

    proxy.route("/x", upstream=echo.url)(speaking if speaks else stub)
    app.include_router(proxy.build_router())
    served = await serving(app, http="h11")
    reply = await served.ask("/x", method=method)
    forwarded = echo.requests[0].split(b" ")[0].decode()

    assert (200, method, [method] if speaks else []) == (reply.status, forwarded, seen_by_stub)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_connect_and_trace_are_refused(serving, echo, proxy, app, method):
    """Whatever a route serves."""
    app.include_router(declare(proxy, "/x", upstream=echo.url).build_router())
    reply = await (await serving(app, http="h11")).ask("/x", method=method)

    assert (405, 0) == (reply.status, echo.connections)


async def test_another_method_is_answered_with_what_is_allowed(serving, echo, proxy, app):
    """405 names the methods of the first route that has the path."""
    app.include_router(
        declare(proxy, "/x", upstream=echo.url, methods=["PUT", "GET"]).build_router()
    )
    reply = await (await serving(app)).ask("/x", method="DELETE")

    assert (405, b"GET, PUT", 0) == (reply.status, reply.get("allow"), echo.connections)


async def test_head_is_not_served_by_a_get_route(serving, echo, proxy, app):
    """A method is served where it is declared, as in FastAPI."""
    proxy.get("/x", upstream=echo.url)(stub)
    app.include_router(proxy.build_router())

    assert 405 == await (await serving(app)).status("/x", method="HEAD")


async def test_two_routes_share_a_path_by_method(serving, proxy, app):
    """Each method goes where it was declared."""
    async with (
        ScriptedOrigin([OK]) as reads,
        ScriptedOrigin([ReadHead(), ReadBody(1), OK]) as writes,
    ):
        proxy.get("/x", upstream=reads.url)(stub)
        proxy.post("/x", upstream=writes.url)(stub)
        app.include_router(proxy.build_router())
        served = await serving(app)
        await served.ask("/x")
        await served.ask("/x", method="POST", body="b")

        assert (1, 1) == (reads.connections, writes.connections)


# Upstreams.


async def test_a_list_of_urls_is_one_pool(serving, proxy, app):
    """Both destinations serve, each in its turn or by chance."""
    async with ScriptedOrigin([OK]) as first, ScriptedOrigin([OK]) as second:
        pool = UpstreamPool("two", [first.url, second.url], balancing=RoundRobin())
        app.include_router(declare(proxy, "/x", upstream=pool).build_router())
        served = await serving(app)
        for _ in range(2):
            await served.ask("/x")

        assert (1, 1) == (first.connections, second.connections)


async def test_a_dead_destination_is_passed_over(serving, echo, proxy, app):
    """A connect failure moves on to the next one of the list."""
    app.include_router(declare(proxy, "/x", upstream=[DEAD, echo.url]).build_router())
    served = await serving(app)

    assert {200} == {await served.status("/x") for _ in range(8)}


async def test_an_asgi_app_is_an_upstream(serving, proxy, app):
    """It is served in process, under its own paths."""
    inner = FastAPI()
    inner.get("/v2/{name}")(lambda name: {"name": name})
    proxy.get("/api/<name>", upstream=inner, rewrite="/v2/<name>")(stub)
    app.include_router(proxy.build_router())

    assert b'{"name":"a b"}' == (await (await serving(app)).ask("/api/a%20b")).body


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_callable_chooses_the_pool_for_each_request(serving, proxy, app, is_async):
    """It is given the request as it will be forwarded."""
    async with echo_origin() as blue, echo_origin() as green:
        pools = {
            "blue": UpstreamPool("blue", [blue.url]),
            "green": UpstreamPool("green", [green.url]),
        }

        def choose(request: ForwardedRequest):
            return pools[request.headers["x-color"]]

        async def choose_later(request: ForwardedRequest):
            return choose(request)

        app.include_router(
            declare(proxy, "/x", upstream=choose_later if is_async else choose).build_router()
        )
        served = await serving(app)
        for color in ("blue", "green", "green"):
            await served.ask("/x", f"X-Color: {color}")
        seen = [
            bytes(sent).count(b"GET /x") for origin in (blue, green) for sent in origin.requests
        ]

        assert [1, 2] == seen


async def test_a_chooser_may_edit_the_request(serving, echo, proxy, app):
    """What it edits is forwarded."""
    pool = UpstreamPool("p", [echo.url])

    def choose(request: ForwardedRequest):
        request.path = "/edited"
        return pool

    app.include_router(declare(proxy, "/x", upstream=choose).build_router())

    assert "/edited" == (await (await serving(app)).see("/x")).target


@pytest.mark.requirement("H-56")
async def test_a_failing_chooser_is_a_server_error(serving, proxy, app):
    """What it gives must be a pool."""
    app.include_router(declare(proxy, "/x", upstream=lambda request: DEAD).build_router())

    assert 500 == await (await serving(app, errors=["uvicorn.error"])).status("/x")


async def test_groups_share_and_override(serving, echo, proxy, app):
    """A nested group inherits, and a route overrides."""
    group = proxy.group("/api", upstream=DEAD, host="preserve").group("/v1", upstream=echo.url)
    group.get("/a")(stub)
    group.get("/b", host="example.org")(stub)
    app.include_router(proxy.build_router())
    served = await serving(app)

    assert (["gateway.test"], ["example.org"]) == (
        (await served.see("/api/v1/a")).all("host"),
        (await served.see("/api/v1/b")).all("host"),
    )


# Inclusion.


async def test_one_router_may_be_included_twice(serving, echo, proxy, app):
    """Each inclusion has its own prefix."""
    router = declare(proxy, "/x/<path>", upstream=echo.url, rewrite="/<path>").build_router()
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b/c")
    served = await serving(app)

    assert ("/1", "/2", 404) == (
        (await served.see("/a/x/1")).target,
        (await served.see("/b/c/x/2")).target,
        await served.status("/x/1"),
    )


async def test_prefixes_add_up(serving, echo, proxy, app):
    """The router's own, that of an outer router, and those of both inclusions."""
    outer = APIRouter(prefix="/outer")
    outer.include_router(
        declare(proxy, "/x/<path>", upstream=echo.url, rewrite="/<path>").build_router(
            prefix="/own"
        ),
        prefix="/in",
    )
    app.include_router(outer, prefix="/app")

    assert "/1" == (await (await serving(app)).see("/app/outer/in/own/x/1")).target


@pytest.mark.parametrize("prefix", ["/{tenant}", "/t/{tenant}/{n:int}"])
async def test_a_prefix_may_have_parameters(serving, echo, proxy, app, prefix):
    """They reach dependencies and stubs like any other."""
    got = []

    @proxy.get("/x/<name>", upstream=echo.url)
    async def captured(tenant: str, name: str) -> None:
        got.append((tenant, name))

    app.include_router(proxy.build_router(), prefix=prefix)
    target = prefix.replace("{tenant}", "a%20b").replace("{n:int}", "7") + "/x/c"
    served = await serving(app)
    seen = await served.see(target)

    assert ([("a b", "c")], target, 404) == (
        got,
        seen.target,
        await served.status("/t/a/seven/x/c"),
    )


async def test_the_routers_own_prefix_may_have_parameters_in_either_spelling(
    serving, echo, proxy, app
):
    """``build_router(prefix=)`` is a template like any other."""
    got = []

    @proxy.get("/x", upstream=echo.url)
    async def captured(tenant: str) -> None:
        got.append(tenant)

    app.include_router(proxy.build_router(prefix="/<tenant>"))
    await (await serving(app)).see("/a/x")

    assert ["a"] == got


@pytest.mark.requirement("H-51")
async def test_a_mounted_application_forwards_the_whole_target(serving, echo, proxy, app):
    """A mount is part of the request target."""
    app.include_router(declare(proxy, "/x/<path>", upstream=echo.url).build_router())
    outer = Starlette(routes=[Mount("/sub", app)])

    assert "/sub/x/a%2Fb" == (await (await serving(outer)).see("/sub/x/a%2Fb")).target


@pytest.mark.requirement("H-51")
async def test_a_mounted_application_rewrites_behind_its_mount(serving, echo, proxy, app):
    """Captures begin behind the mount."""
    app.include_router(
        declare(proxy, "/x/<path>", upstream=echo.url, rewrite="/<path>").build_router()
    )
    app_outside = FastAPI()
    app_outside.mount("/sub", app)

    seen = await (await serving(app_outside)).see("/sub/x/a")

    assert ("/a", "/sub/x") == (seen.target, seen.get("x-forwarded-prefix"))


@pytest.mark.requirement("H-51")
async def test_a_servers_root_path_is_not_forwarded(serving, echo, proxy, app):
    """What the server put in front was never in the target."""
    app.include_router(declare(proxy, "/x/<path>", upstream=echo.url).build_router())
    seen = await (await serving(app, root_path="/root")).see("/x/a%2Fb")

    assert ("/x/a%2Fb", "/root") == (seen.target, seen.get("x-forwarded-prefix"))


@pytest.mark.requirement("H-51")
async def test_an_applications_root_path_changes_nothing(serving, echo, proxy):
    """``FastAPI(root_path=)`` is for documents; a path without it is matched whole."""
    app = FastAPI()
    app.root_path = "/root"
    app.include_router(declare(proxy, "/x", upstream=echo.url).build_router())

    assert "/x" == (await (await serving(app)).see("/x")).target


async def test_a_router_may_be_the_whole_application(serving, echo, proxy):
    """Without an application around it, FastAPI's own router serves."""
    outside = Starlette(
        routes=[Mount("/sub", declare(proxy, "/x", upstream=echo.url).build_router())]
    )

    assert 404 == await (await serving(outside)).status("/sub/y")


async def test_two_gateways_in_one_application(serving, echo, app):
    """Each proxy's routes are its own."""
    for name in ("a", "b"):
        app.include_router(
            declare(Proxy(), f"/{name}", upstream=f"{echo.url}/{name}-base").build_router()
        )
    served = await serving(app)

    assert ("/a-base/a", "/b-base/b") == (
        (await served.see("/a")).target,
        (await served.see("/b")).target,
    )


# Security: no way around what stands between client and stub.


async def login(connection: HTTPConnection) -> None:
    """Let nobody in without a key."""
    if "x-key" not in connection.headers:
        raise HTTPException(401, headers={"WWW-Authenticate": "Key"})


def guard_inclusion(app, make):
    """``include_router(dependencies=)``."""
    app.include_router(make(), dependencies=[Depends(login)])
    return app


def guard_router(app, make):
    """``build_router(dependencies=)``."""
    app.include_router(make(dependencies=[Depends(login)]))
    return app


def guard_app(app, make):
    """``FastAPI(dependencies=)``."""
    app = FastAPI(dependencies=[Depends(login)])
    app.include_router(make())
    return app


def guard_outer_router(app, make):
    """``APIRouter(dependencies=)`` around it."""
    outer = APIRouter(dependencies=[Depends(login)])
    outer.include_router(make())
    app.include_router(outer)
    return app


def guard_outer_inclusion(app, make):
    """The inclusion of a router around it."""
    outer = APIRouter()
    outer.include_router(make())
    app.include_router(outer, dependencies=[Depends(login)])
    return app


GUARDS = [guard_inclusion, guard_router, guard_app, guard_outer_router, guard_outer_inclusion]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("method", ["GET", "POST", "PROPFIND"])
async def test_dependencies_around_a_route_run(serving, echo, proxy, app, guard, method):
    """Nothing is sent to the upstream before they let the request through."""
    declare(proxy, "/x", upstream=echo.url)
    served = await serving(guard(app, proxy.build_router), http="h11")
    refused = await served.ask("/x", method=method)
    before = echo.connections
    seen = await served.see("/x", "X-Key: 1", method=method)

    assert (401, b"Key", 0, method) == (
        refused.status,
        refused.get("www-authenticate"),
        before,
        seen.method,
    )


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_dependencies_around_a_websocket_run(proxy, app, guard):
    """The handshake is refused by them, before anything else."""
    proxy.websocket("/live", upstream=DEAD)(stub)
    app = guard(app, proxy.build_router)
    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDenialResponse) as caught,
        client.websocket_connect("/live"),
    ):
        pass

    assert 401 == caught.value.status_code


@pytest.mark.parametrize("where", ["route", "group"])
async def test_dependencies_of_a_declaration_run(serving, echo, proxy, app, where):
    """A route's own and its group's."""
    target = proxy.group("", dependencies=[Depends(login)]) if where == "group" else proxy
    options = {"dependencies": [Depends(login)]} if where == "route" else {}
    target.get("/x", upstream=echo.url, **options)(stub)
    app.include_router(proxy.build_router())
    served = await serving(app)

    assert (401, 200) == (await served.status("/x"), await served.status("/x", "X-Key: 1"))


def test_dependencies_of_a_websocket_declaration_run(proxy, app):
    """A WebSocket route's own."""
    proxy.websocket("/live", upstream=DEAD, dependencies=[Depends(login)])(stub)
    app.include_router(proxy.build_router())
    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDenialResponse) as caught,
        client.websocket_connect("/live"),
    ):
        pass

    assert 401 == caught.value.status_code


async def test_one_of_two_inclusions_is_guarded(serving, echo, proxy, app):
    """The guarded one is guarded, the open one is open."""
    router = declare(proxy, "/x", upstream=echo.url).build_router()
    app.include_router(router, prefix="/open")
    app.include_router(router, prefix="/closed", dependencies=[Depends(login)])
    served = await serving(app)

    assert [200, 401, 200, 401] == [
        await served.status(path) for path in ("/open/x", "/closed/x", "/open/x", "/closed/x")
    ]


async def test_every_dependency_runs_in_order(serving, echo, proxy):
    """From the application to the stub, each once."""
    ran = []

    def note(name):
        async def noted() -> None:
            ran.append(name)

        return Depends(noted)

    app = FastAPI(dependencies=[note("app")])
    group = proxy.group("", dependencies=[note("group")])

    @group.get("/x", upstream=echo.url, dependencies=[note("route")])
    async def parameter(x: Annotated[None, note("stub")]) -> None:
        ran.append("body")

    app.include_router(
        proxy.build_router(dependencies=[note("router")]), dependencies=[note("inclusion")]
    )
    await (await serving(app)).see("/x")

    assert ["app", "inclusion", "router", "group", "route", "stub", "body"] == ran


# WebSockets; what they do is in test_websockets.


def test_an_http_route_does_not_take_a_websocket(proxy, app):
    """The kinds do not meet."""
    app.include_router(declare(proxy, "/x", upstream=DEAD).build_router())
    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/x"),
    ):
        pass


# What a stub may say.


async def test_parameters_are_solved_before_anything_is_sent(serving, echo, proxy, app):
    """Query, header, cookie and dependency, as in any endpoint."""
    got = []

    @proxy.get("/x", upstream=echo.url)
    async def takes(
        limit: Annotated[int, Query(ge=1)],
        x_name: Annotated[str, Header()],
        session: Annotated[str, Cookie()],
        key: Annotated[str, Depends(lambda: "solved")],
    ) -> None:
        got.append((limit, x_name, session, key))

    app.include_router(proxy.build_router())
    served = await serving(app)
    refused = await served.status("/x?limit=0")
    before = echo.connections
    await served.see("/x?limit=2", "X-Name: n", "Cookie: session=s")

    assert (422, 0, [(2, "n", "s", "solved")]) == (refused, before, got)


async def test_parameters_of_a_silent_stub_are_solved_too(serving, echo, proxy, app):
    """A stub that says nothing still asks for them."""

    @proxy.get("/x", upstream=echo.url)
    async def silent(limit: int) -> None: ...

    app.include_router(proxy.build_router())
    served = await serving(app)

    assert (422, 200) == (await served.status("/x"), await served.status("/x?limit=1"))


@pytest.mark.requirement("R-49")
async def test_a_synchronous_stub_is_run_in_a_thread(serving, echo, proxy, app):
    """As a synchronous endpoint is."""
    import threading

    threads = []

    @proxy.get("/x", upstream=echo.url)
    def synchronous() -> None:
        threads.append(threading.current_thread())

    app.include_router(proxy.build_router())
    await (await serving(app)).see("/x")

    assert [False] == [thread is threading.main_thread() for thread in threads]


async def test_an_http_exception_ends_it_there(serving, echo, proxy, app):
    """Nothing is sent."""

    @proxy.get("/x", upstream=echo.url)
    async def refuses() -> None:
        raise HTTPException(418, "no")

    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (418, b'{"detail":"no"}', 0) == (reply.status, reply.body, echo.connections)


async def test_a_returned_response_ends_it_there(serving, echo, proxy, app):
    """It goes out as it is."""

    @proxy.get("/x", upstream=echo.url)
    async def answers() -> Response:
        return PlainTextResponse("mine", 203, {"X-Mine": "1"})

    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (203, b"mine", b"1", 0) == (
        reply.status,
        reply.body,
        reply.get("x-mine"),
        echo.connections,
    )


class Answer(BaseModel):
    """An answer."""

    a: int


@pytest.mark.parametrize(
    ("value", "body"),
    [
        pytest.param({"a": 1}, b'{"a":1}', id="dict"),
        pytest.param([], b"[]", id="empty-list"),
        pytest.param(0, b"0", id="zero"),
        pytest.param("", b'""', id="empty-text"),
        pytest.param(Answer(a=1), b'{"a":1}', id="model"),
    ],
)
async def test_any_other_value_is_answered_as_fastapi_would(
    serving, echo, proxy, app, value, body
):
    """Only None forwards."""

    @proxy.get("/x", upstream=echo.url)
    async def answers():
        return value

    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (200, body, b"application/json", 0) == (
        reply.status,
        reply.body,
        reply.get("content-type"),
        echo.connections,
    )


async def test_dependency_overrides_hold(serving, echo, proxy, app):
    """Tests of the application may replace what stubs depend on."""
    proxy.get("/x", upstream=echo.url, dependencies=[Depends(login)])(stub)
    app.include_router(proxy.build_router())
    app.dependency_overrides[login] = lambda: None

    assert 200 == await (await serving(app)).status("/x")


async def test_background_tasks_run_after_the_relay(serving, proxy, app):
    """Those of the stub and of its dependencies, when the client has the whole response."""
    ran = []

    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "dependency")

    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"]) as origin:

        @proxy.get("/x", upstream=origin.url, dependencies=[Depends(later)])
        async def speaks(tasks: BackgroundTasks) -> None:
            tasks.add_task(ran.append, "stub")
            ran.append("before")

        app.include_router(proxy.build_router())
        reply = await (await serving(app)).ask("/x")
        await eventually(lambda: len(ran) == 3)

    assert (b"body", ["before", "dependency", "stub"]) == (reply.body, ran)


async def test_fields_and_cookies_of_an_injected_response_are_added(serving, echo, proxy, app):
    """Those that the stub sets and those that its dependency sets, beside the upstream's own."""

    async def sets(response: Response) -> None:
        response.headers["X-Dependency"] = "d"
        response.set_cookie("a", "1")

    @proxy.get("/x", upstream=echo.url, dependencies=[Depends(sets)])
    async def speaks(response: Response) -> None:
        response.headers["X-Stub"] = "s"
        response.set_cookie("b", "2")
        response.delete_cookie("c")

    app.include_router(proxy.build_router())
    reply = (await (await serving(app)).see("/x")).reply

    assert (b"echo", b"s", b"d", [b"a=1", b"b=2", b'c=""'], 1) == (
        reply.get("x-origin"),
        reply.get("x-stub"),
        reply.get("x-dependency"),
        [cookie.split(b";")[0] for cookie in reply.all("set-cookie")],
        len(reply.all("content-length")),
    )


async def test_fields_of_a_silent_stubs_dependency_are_added(serving, echo, proxy, app):
    """The stub need not ask for the response."""

    async def sets(response: Response) -> None:
        response.headers["X-Dependency"] = "d"

    proxy.get("/x", upstream=echo.url, dependencies=[Depends(sets)])(stub)
    app.include_router(proxy.build_router())

    assert b"d" == (await (await serving(app)).see("/x")).reply.get("x-dependency")


async def test_a_silent_stub_may_name_request_and_response(serving, echo, proxy, app):
    """What it asks for and does not use does no harm."""

    @proxy.get("/x", upstream=echo.url)
    async def silent(request: Request, response: Response) -> None: ...

    app.include_router(proxy.build_router())

    assert 200 == await (await serving(app)).status("/x")


async def test_a_dependency_with_yield_ends_after_the_relay(serving, echo, proxy, app):
    """What it holds is held until the last byte."""
    order = []

    async def held():
        order.append("open")
        yield
        order.append("close")

    @proxy.get("/x", upstream=echo.url)
    async def speaks(x: Annotated[None, Depends(held)]) -> None:
        order.append("stub")

    app.include_router(proxy.build_router())
    await (await serving(app)).see("/x")
    await eventually(lambda: len(order) == 3)

    assert ["open", "stub", "close"] == order


# The forwarded request.


async def test_a_stub_edits_the_forwarded_request(serving, echo, proxy, app):
    """Method, path, query and fields."""

    @proxy.get("/x/<name>", upstream=f"{echo.url}/base")
    async def edits(forwarded: ForwardedRequest) -> None:
        forwarded.method = "PUT"
        forwarded.path = f"/new/{forwarded.path_params['name']}"
        forwarded.query.set("q", "ü")
        forwarded.headers["X-User"] = "me"
        del forwarded.headers["accept"]

    app.include_router(proxy.build_router())
    seen = await (await serving(app)).see("/x/n?a=%2F", "Accept: text/html", "X-User: forged")

    assert ("PUT", "/base/new/n?a=%2F&q=%C3%BC", ["me"], []) == (
        seen.method,
        seen.target,
        seen.all("x-user"),
        seen.all("accept"),
    )


async def test_a_get_that_is_forwarded_as_head_has_no_content(serving, echo, proxy, app):
    """Nor does it promise some that the client would wait for."""

    @proxy.get("/x", upstream=echo.url)
    async def edits(forwarded: ForwardedRequest) -> None:
        forwarded.method = "HEAD"

    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (200, b"echo", b"", True) == (
        reply.status,
        reply.get("x-origin"),
        reply.body,
        reply.complete,
    )


async def test_a_dependency_edits_the_forwarded_request(serving, echo, proxy, app):
    """In the spelling that is for dependencies; edits of stub and dependency add up."""

    async def identify(
        forwarded: Annotated[ForwardedRequest, Depends(proxy.forwarded_request)],
    ) -> None:
        forwarded.headers["X-User"] = "me"

    @proxy.get("/x", upstream=echo.url, dependencies=[Depends(identify)])
    async def edits(forwarded: ForwardedRequest) -> None:
        forwarded.headers["X-Stub"] = forwarded.headers["x-user"]

    app.include_router(proxy.build_router())
    seen = await (await serving(app)).see("/x")

    assert ("me", "me") == (seen.get("x-user"), seen.get("x-stub"))


async def test_a_silent_stub_may_have_an_editing_dependency_of_its_inclusion(
    serving, echo, proxy, app
):
    """An inclusion's dependency is the same."""

    async def identify(
        forwarded: Annotated[ForwardedRequest, Depends(proxy.forwarded_request)],
    ) -> None:
        forwarded.headers["X-User"] = "me"

    app.include_router(
        declare(proxy, "/x", upstream=echo.url).build_router(), dependencies=[Depends(identify)]
    )

    assert "me" == (await (await serving(app)).see("/x")).get("x-user")


async def test_a_forwarded_request_is_clean_and_complete(serving, echo, proxy, app):
    """Hop-by-hop and forged forwarding fields are gone before user code sees it, ours are there."""
    got = {}

    @proxy.get("/x/<name>", upstream=echo.url, name="named", identity_headers=["x-user"])
    async def looks(forwarded: ForwardedRequest) -> None:
        got.update(forwarded.headers)
        got["facts"] = (
            forwarded.route,
            forwarded.scheme,
            forwarded.received_host,
            forwarded.client[0],
            forwarded.path_params,
        )

    app.include_router(proxy.build_router())
    await (await serving(app, proxy_headers=False)).see(
        "/x/n",
        "Connection: x-hop, close",
        "X-Hop: 1",
        "TE: trailers",
        "X-Forwarded-For: forged",
        "X-User: forged",
        "X-Kept: 1",
    )

    assert (
        {
            "x-kept",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "forwarded",
            "facts",
        },
        "127.0.0.1",
        ("named", "http", "gateway.test", "127.0.0.1", {"name": "n"}),
    ) == (
        set(got),
        got["x-forwarded-for"],
        got["facts"],
    )


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"], ids=["crlf", "lf", "nul"])
async def test_a_control_character_in_an_edit_is_refused(serving, echo, proxy, app, value):
    """Nothing is sent."""

    @proxy.get("/x", upstream=echo.url)
    async def edits(forwarded: ForwardedRequest) -> None:
        forwarded.headers["X-User"] = value

    app.include_router(proxy.build_router())
    served = await serving(app, errors=["uvicorn.error"])

    assert (500, 0) == (await served.status("/x"), echo.connections)


async def test_a_forwarded_request_outside_of_a_declared_route_is_an_error(serving, proxy, app):
    """An ordinary endpoint forwards nothing."""

    @app.get("/x")
    async def ordinary(
        forwarded: Annotated[ForwardedRequest, Depends(proxy.forwarded_request)],
    ) -> None: ...

    with pytest.raises(StubError, match="only known in routes that were declared"):
        TestClient(app).get("/x")


# Bodies.


class Item(BaseModel):
    """A body."""

    name: str


@pytest.fixture
def items(proxy, app):
    """A route with a body model over an origin."""

    def include(upstream, limit=100):
        got = []

        @proxy.post("/items", upstream=upstream, max_body_bytes=limit)
        async def create(item: Item) -> None:
            got.append(item.name)

        app.include_router(proxy.build_router())
        return got

    return include


async def test_a_body_model_is_read_and_the_bytes_are_forwarded_unchanged(
    serving, echo, app, items
):
    """White space and unknown keys too."""
    got = items(echo.url)
    body = '{ "name" : "n",\n "other": 1.0 }'
    seen = await (await serving(app)).see(
        "/items", "Content-Type: application/json", method="POST", body=body
    )

    assert (["n"], body, str(len(body)), None) == (
        got,
        seen.body,
        seen.get("content-length"),
        seen.get("transfer-encoding"),
    )


async def test_a_chunked_body_is_read_and_forwarded(serving, echo, app, items):
    """Its length is known by then."""
    got = items(echo.url)
    client = await (await serving(app)).connect()
    reply = await client.ask(
        make_request(
            "/items", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST"
        )
        + b'8\r\n{"name":\r\n4\r\n"n"}\r\n0\r\n\r\n'
    )

    assert (["n"], '{"name":"n"}') == (got, json.loads(reply.body)["body"])


async def test_a_body_that_is_not_valid_is_refused(serving, echo, app, items):
    """422 as in any endpoint; nothing is sent."""
    items(echo.url)
    served = await serving(app)

    assert (422, 0) == (
        await served.status(
            "/items", "Content-Type: application/json", method="POST", body='{"x":1}'
        ),
        echo.connections,
    )


async def test_a_declared_length_over_the_limit_is_refused_at_once(serving, echo, app, items):
    """413 before a byte of the body has come."""
    items(echo.url)
    client = await (await serving(app)).connect()
    reply = await client.ask(
        make_request(
            "/items", "Content-Type: application/json", "Content-Length: 101", method="POST"
        )
    )

    assert (413, b"application/problem+json", b"close", 0) == (
        reply.status,
        reply.get("content-type"),
        reply.get("connection"),
        echo.connections,
    )


async def test_the_first_byte_over_the_limit_is_refused(serving, echo, app, items):
    """413 in the middle of a chunked body."""
    items(echo.url)
    client = await (await serving(app)).connect()
    reply = await client.ask(
        make_request(
            "/items", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST"
        )
        + b"64\r\n"
        + b"a" * 100
        + b"\r\n1\r\na\r\n"
    )

    assert (413, 0) == (reply.status, echo.connections)


async def test_a_body_of_exactly_the_limit_passes(serving, echo, app, items):
    """The limit is allowed."""
    body = '{"name":"n"}'
    items(echo.url, limit=len(body))

    assert (
        body
        == (
            await (await serving(app)).see(
                "/items", "Content-Type: application/json", method="POST", body=body
            )
        ).body
    )


async def test_a_limit_holds_without_reading(serving, echo, proxy, app):
    """A silent route answers 413 too, at the first byte over; the upstream sees a body that was cut."""
    proxy.post("/x", upstream=echo.url, max_body_bytes=3)(stub)
    app.include_router(proxy.build_router())
    served = await serving(app)
    client = await served.connect()
    chunked = await client.ask(
        make_request("/x", "Transfer-Encoding: chunked", method="POST") + b"4\r\nabcd\r\n0\r\n\r\n"
    )

    await eventually(lambda: echo.errors)
    echo.errors.clear()

    assert (413, 413, 200) == (
        await served.status("/x", method="POST", body="abcd"),
        chunked.status,
        await served.status("/x", method="POST", body="abc"),
    )


async def test_a_stub_may_read_the_body_itself(serving, echo, proxy, app):
    """``await request.body()`` with a limit; the bytes are forwarded as they came."""
    got = []

    @proxy.post("/x", upstream=echo.url, max_body_bytes=10)
    async def reads(request: Request) -> None:
        got.append(await request.body())

    app.include_router(proxy.build_router())

    assert ("abc", [b"abc"]) == (
        (await (await serving(app)).see("/x", method="POST", body="abc")).body,
        got,
    )


async def test_a_stub_may_read_a_part_of_the_body(serving, echo, proxy, app):
    """What it has left is read for it."""

    @proxy.post("/x", upstream=echo.url, max_body_bytes=100_000)
    async def peeks(request: Request) -> None:
        async for _ in request.stream():
            break

    app.include_router(proxy.build_router())
    body = "ab" * 50_000

    assert body == (await (await serving(app)).see("/x", method="POST", body=body)).body


async def test_a_route_with_a_limit_need_not_read(serving, echo, proxy, app):
    """The body is then streamed."""

    @proxy.post("/x", upstream=echo.url, max_body_bytes=10)
    async def looks_away(request: Request) -> None:
        request.headers["host"]

    app.include_router(proxy.build_router())

    assert "abc" == (await (await serving(app)).see("/x", method="POST", body="abc")).body


async def read_body(request: Request) -> None:
    """Read the body in a dependency."""
    await request.body()


async def take_body(name: Annotated[str, Body(embed=True)]) -> None:
    """Take a part of the body in a dependency."""


@pytest.mark.parametrize("where", ["stub", "route", "inclusion", "app"])
def test_an_unannounced_read_names_the_cure(proxy, where):
    """In a stub or in any dependency, silent stub or not: what was read would be missing upstream."""
    app = FastAPI(dependencies=[Depends(read_body)] if where == "app" else [])
    reading = read_body if where == "stub" else stub
    proxy.post("/x", upstream=DEAD, dependencies=[Depends(read_body)] if where == "route" else [])(
        reading
    )
    app.include_router(
        proxy.build_router(), dependencies=[Depends(read_body)] if where == "inclusion" else []
    )
    with pytest.raises(StubError, match="say max_body_bytes="):
        TestClient(app).post("/x", content=b"abc")


def test_an_inclusions_body_parameter_names_the_cure(proxy, app):
    """The build could not know of it, and FastAPI would answer 400 for whatever fails while it reads."""
    proxy.post("/x", upstream=DEAD)(stub)
    app.include_router(proxy.build_router(), dependencies=[Depends(take_body)])
    with pytest.raises(StubError, match="say max_body_bytes="):
        TestClient(app).post("/x", json={"name": "n"})


async def test_a_body_that_nobody_reads_is_streamed(serving, echo, proxy, app):
    """A stub that speaks and does not read needs no limit."""

    @proxy.post("/x", upstream=echo.url)
    async def speaks(request: Request) -> None:
        request.headers["host"]

    app.include_router(proxy.build_router())

    assert "a=1&b=2" == (await (await serving(app)).see("/x", method="POST", body="a=1&b=2")).body


# Failures.


@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "speaking"])
async def test_a_failure_is_answered_as_a_problem(serving, proxy, app, speaks, caplog):
    """502 as problem+json, and a log record with its cause."""

    async def speaking(request: Request) -> None:
        request.headers["host"]

    proxy.get("/x", upstream=DEAD)(speaking if speaks else stub)
    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (502, b"application/problem+json", {"type", "title", "status"}, True) == (
        reply.status,
        reply.get("content-type"),
        set(json.loads(reply.body)),
        "UpstreamConnectError" in caplog.text,
    )


@pytest.mark.parametrize(
    "kind", [GatewayError, UpstreamConnectError], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "speaking"])
async def test_the_applications_handler_sees_errors_first(serving, proxy, app, kind, speaks):
    """A handler for the error or for its root decides the answer."""

    async def speaking(request: Request) -> None:
        request.headers["host"]

    @app.exception_handler(kind)
    async def handle(request: Request, error: GatewayError) -> Response:
        return JSONResponse({"error": type(error).__name__}, 599)

    proxy.get("/x", upstream=DEAD)(speaking if speaks else stub)
    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (599, b'{"error":"UpstreamConnectError"}') == (reply.status, reply.body)


async def test_a_handler_for_refused_requests_sees_them(serving, echo, proxy, app):
    """What the guard refuses is a GatewayError too."""

    @app.exception_handler(ClientRequestError)
    async def handle(request: Request, error: GatewayError) -> Response:
        return JSONResponse({"error": error.detail}, 499)

    app.include_router(declare(proxy, "/x/<path>", upstream=echo.url).build_router())
    served = await serving(app)

    assert (499, 0) == (await served.status("/x/%2e%2e"), echo.connections)


async def test_a_handler_for_another_error_changes_nothing(serving, proxy, app):
    """It is not asked."""

    @app.exception_handler(StubError)
    async def handle(request: Request, error: Exception) -> Response:
        return JSONResponse({}, 599)

    app.include_router(declare(proxy, "/x", upstream=DEAD).build_router())

    assert 502 == await (await serving(app)).status("/x")


async def test_an_error_of_a_dependency_is_answered_as_a_problem(serving, echo, proxy, app):
    """A dependency may raise one of ours."""

    async def refuses() -> None:
        raise ClientRequestError("x", status_code=429, title="Slow down")

    proxy.get("/x", upstream=echo.url, dependencies=[Depends(refuses)])(stub)
    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert (429, "Slow down") == (reply.status, json.loads(reply.body)["title"])


@pytest.mark.requirement("H-56")
async def test_a_stub_that_fails_after_it_began_leaves_nothing_behind(serving, proxy, app):
    """A chooser that raises ends its request as any endpoint would."""

    def choose(request):
        raise LookupError("no pool")

    app.include_router(declare(proxy, "/x", upstream=choose).build_router())

    assert 500 == await (await serving(app, errors=["uvicorn.error"])).status("/x")


async def test_a_client_that_leaves_is_nobodys_fault(serving, app):
    """The upstream is let go of, and background tasks run."""
    ran, records = [], []
    proxy = Proxy(on_exchange=records.append)
    async with ScriptedOrigin([ReadHead()]) as origin:

        @proxy.get("/x", upstream=origin.url)
        async def speaks(tasks: BackgroundTasks) -> None:
            tasks.add_task(ran.append, "later")

        app.include_router(proxy.build_router())
        client = await (await serving(app)).connect()
        await client.send(make_request("/x"))
        await origin.wait_until(lambda: origin.requests and b"\r\n\r\n" in origin.requests[0])
        client.leave()
        await origin.wait_until(lambda: origin.open_connections == 0)
        await eventually(lambda: ran and records)

        assert (499, None, ["later"]) == (records[0].status, records[0].error, ran)


async def test_a_slow_upstream_is_504(serving, proxy, app):
    """A route's time-outs hold within FastAPI too."""
    async with ScriptedOrigin([ReadHead()]) as origin:

        @proxy.get("/x", upstream=origin.url, timeouts=Timeouts(first_byte=0.05))
        async def speaks(request: Request) -> None:
            request.headers["host"]

        app.include_router(proxy.build_router())

        assert 504 == await (await serving(app)).status("/x")


# Locations.


async def test_a_location_is_mapped_back_to_the_public_address(serving, proxy, app):
    """The inclusion's prefix included."""
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /base/a%%2Fb?x=1\r\nContent-Location: http://127.0.0.1:%d/base/c\r\n\r\n"

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head % origin.port)
        await writer.drain()

    async with ScriptedOrigin(script) as origin:
        proxy.get("/users/<path>", upstream=f"{origin.url}/base", rewrite="/<path>")(stub)
        proxy.get(
            "/kept/<path>", upstream=f"{origin.url}/base", rewrite="/<path>", location="keep"
        )(stub)
        app.include_router(proxy.build_router(), prefix="/api")
        served = await serving(app)
        mapped, kept = await served.ask("/api/users/x"), await served.ask("/api/kept/x")

        assert (b"/api/users/a%2Fb?x=1", b"/api/users/c", b"/base/a%2Fb?x=1") == (
            mapped.get("location"),
            mapped.get("content-location"),
            kept.get("location"),
        )


async def test_a_location_is_mapped_back_behind_a_servers_root_path(serving, proxy, app):
    """The root is in the public address, and the upstream does not see it."""
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /users/1\r\n\r\n"
    async with ScriptedOrigin([head]) as origin:
        app.include_router(declare(proxy, "/users/<path>", upstream=origin.url).build_router())
        reply = await (await serving(app, root_path="/root")).ask("/users/")

        assert b"/root/users/1" == reply.get("location")


async def test_a_location_behind_a_servers_root_path_is_mapped_by_a_rewrite(serving, proxy, app):
    """The root is in the public address."""
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /1\r\n\r\n"
    async with ScriptedOrigin([head]) as origin:
        declare(proxy, "/users/<path>", upstream=origin.url, rewrite="/<path>")
        app.include_router(proxy.build_router())
        reply = await (await serving(app, root_path="/root")).ask("/users/")

        assert b"/root/users/1" == reply.get("location")


@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "speaking"])
async def test_a_middleware_of_the_application_stands_in_front(serving, echo, proxy, app, speaks):
    """Starlette's own kind, which runs the application in another task."""

    async def speaking(request: Request) -> None:
        request.headers["host"]

    @app.middleware("http")
    async def stamp(request: Request, call_next):
        response = await call_next(request)
        response.headers["X-Stamp"] = "1"
        return response

    proxy.post("/x", upstream=echo.url)(speaking if speaks else stub)
    proxy.get("/dead", upstream=DEAD)(speaking if speaks else stub)
    app.include_router(proxy.build_router())
    served = await serving(app)
    seen, dead = await served.see("/x", method="POST", body="abc"), await served.ask("/dead")

    assert ("abc", b"1", 502, b"1") == (
        seen.body,
        seen.reply.get("x-stamp"),
        dead.status,
        dead.get("x-stamp"),
    )


def test_a_prefix_that_is_no_template_says_so(proxy, app):
    """FastAPI's partial segments are not matched; the first request tells."""
    app.include_router(declare(proxy, "/x", upstream=DEAD).build_router(), prefix="/v{version}")
    with pytest.raises(PathTemplateError, match="a parameter is a whole segment"):
        TestClient(app).get("/v1/x")


def test_a_client_without_lifespan_is_served():
    """A client that runs no lifespan still gets an answer."""
    proxy = Proxy()
    inner = FastAPI()
    inner.get("/x")(lambda: "ok")
    proxy.get("/x", upstream=inner)(stub)
    app = FastAPI()
    app.include_router(proxy.build_router())

    assert '"ok"' == TestClient(app).get("/x").text


async def test_several_requests_of_one_connection_are_served(serving, echo, proxy, app):
    """Keep-alive goes on after every kind of answer."""
    app.include_router(declare(proxy, "/x", upstream=echo.url).build_router())
    client = await (await serving(app)).connect()
    statuses = [(await client.ask(make_request(target))).status for target in ("/x", "/y", "/x")]

    assert [200, 404, 200] == statuses


def test_log_level_of_a_refusal(proxy, app, caplog):
    """A refused request is the client's doing: no warning."""
    caplog.set_level(logging.INFO)
    app.include_router(declare(proxy, "/<path>", upstream=DEAD).build_router())
    TestClient(app).get("/%00")

    assert {logging.INFO} == {
        record.levelno for record in caplog.records if record.name == "proxyroutes.serve"
    }
