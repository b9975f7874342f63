"""The fast lane and the short way never skip what stands between a client and a stub."""

import logging

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from proxyroutes import GatewayError, GatewayMiddleware, Proxy


async def upstream(scope, receive, send):
    """Answer with the target that came."""
    await PlainTextResponse(b"upstream " + scope["raw_path"])(scope, receive, send)


class Guard:
    """A pure ASGI middleware that lets nobody through."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Refuse."""
        if scope["type"] == "http":
            await PlainTextResponse("refused", 401)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def deny():
    """Refuse."""
    raise HTTPException(401)


@pytest.fixture
def proxy():
    """A proxy with one plain route."""
    proxy = Proxy()

    @proxy.route("/api/<path>", upstream=upstream)
    async def api() -> None: ...

    return proxy


def ask(app, path="/api/x", method="GET"):
    """Status and text of one answer."""
    with TestClient(app) as client:
        response = client.request(method, path, follow_redirects=False)
        return response.status_code, response.text


def laned(proxy, **options):
    """An app with the lane, and nothing included yet."""
    app = FastAPI(**options)
    app.add_middleware(GatewayMiddleware, proxy=proxy)
    return app


def test_a_plain_route_is_served_in_the_lane(proxy, served):
    """Where nothing stands in between."""
    app = laned(proxy)
    app.include_router(proxy.build_router())

    assert ((200, "upstream /api/x"), ["lane"]) == (ask(app), served)


def test_a_plain_route_is_served_the_short_way(proxy, served):
    """In the router, where there is no lane."""
    app = FastAPI()
    app.include_router(proxy.build_router(), prefix="/p")

    assert ((200, "upstream /p/api/x"), ["router"]) == (ask(app, "/p/api/x"), served)


def outer_router(proxy, inner, inclusion):
    """Include the proxy's router in another one."""
    outer = APIRouter(dependencies=[Depends(deny)] if inner else [])
    outer.include_router(proxy.build_router())
    app = laned(proxy)
    app.include_router(outer, dependencies=[Depends(deny)] if inclusion else [])
    return app


def guarded(place, proxy):
    """An app with a dependency in one place."""
    if place == "outer router":
        return outer_router(proxy, inner=True, inclusion=False)
    if place == "outer inclusion":
        return outer_router(proxy, inner=False, inclusion=True)
    app = laned(proxy, dependencies=[Depends(deny)] if place == "app" else [])
    built = proxy.build_router(dependencies=[Depends(deny)] if place == "router" else [])
    app.include_router(built, dependencies=[Depends(deny)] if place == "inclusion" else [])
    return app


@pytest.mark.parametrize(
    "place", ["inclusion", "router", "app", "outer router", "outer inclusion"]
)
def test_a_dependency_anywhere_runs(place, proxy, served):
    """And nothing is served past it."""
    assert (401, []) == (ask(guarded(place, proxy))[0], served)


def test_of_two_inclusions_only_the_open_one_is_short(proxy, served):
    """The other one runs its dependency."""
    app = laned(proxy)
    built = proxy.build_router()
    app.include_router(built, prefix="/open")
    app.include_router(built, prefix="/shut", dependencies=[Depends(deny)])

    assert [200, 401] == [ask(app, "/open/api/x")[0], ask(app, "/shut/api/x")[0]]
    assert ["lane"] == served


@pytest.mark.parametrize(
    ("options", "path"),
    [
        pytest.param({"dependencies": [Depends(deny)]}, "/g/x", id="dependency of the route"),
        pytest.param({}, "/s/x", id="stub that speaks"),
        pytest.param({}, "/q/x", id="stub with a parameter"),
    ],
)
def test_what_a_stub_says_or_asks_is_not_skipped(options, path, served):
    """Not in the lane, and not in the router."""
    proxy = Proxy()

    @proxy.route("/g/<path>", upstream=upstream, **options)
    async def plain() -> None: ...

    @proxy.route("/s/<path>", upstream=upstream)
    async def speaks():
        raise HTTPException(401)

    @proxy.route("/q/<path>", upstream=upstream)
    async def asks(token: str) -> None: ...

    app = laned(proxy)
    app.include_router(proxy.build_router())
    status = ask(app, path)[0]

    assert (True, []) == (status in {401, 422}, served)


def test_a_handler_for_our_errors_takes_the_full_path(proxy, served):
    """It must see them first."""
    app = laned(proxy)
    app.include_router(proxy.build_router())
    app.add_exception_handler(GatewayError, lambda request, error: PlainTextResponse("mine", 400))

    assert ((400, "mine"), []) == (ask(app, "/api/%00"), served)


def test_a_middleware_that_was_added_later_stands_in_front(proxy, served):
    """The lane is the innermost one then, and serves behind it."""
    app = laned(proxy)
    app.include_router(proxy.build_router())
    app.add_middleware(Guard)

    assert ((401, "refused"), []) == (ask(app), served)


def test_cross_origin_fields_are_added_by_an_outer_middleware(proxy, served):
    """What is served in the lane goes out through it."""
    app = laned(proxy)
    app.include_router(proxy.build_router())
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
    with TestClient(app) as client:
        response = client.get("/api/x", headers={"origin": "https://a.example"})

    assert ("https://a.example", ["lane"]) == (
        response.headers["access-control-allow-origin"],
        served,
    )


def test_a_lane_that_is_not_the_innermost_serves_nothing(proxy, served, caplog):
    """It says so once, with the name of what it would have skipped."""
    caplog.set_level(logging.WARNING, logger="proxyroutes.lane")
    app = FastAPI()
    app.add_middleware(Guard)
    app.add_middleware(GatewayMiddleware, proxy=proxy)
    app.include_router(proxy.build_router())

    assert [(401, "refused"), (401, "refused")] == [ask(app), ask(app)]
    assert ([], 1, True) == (served, len(caplog.messages), "Guard" in caplog.messages[0])


def test_a_lane_around_an_app_by_hand_serves_nothing(proxy, served):
    """It would skip all that is inside."""
    app = FastAPI()
    app.add_middleware(Guard)
    app.include_router(proxy.build_router())
    wrapped = GatewayMiddleware(app, proxy=proxy)

    assert ((401, "refused"), []) == (ask(wrapped), served)


@pytest.mark.parametrize("kind", ["route", "method", "parameter", "router", "mount", "root mount"])
def test_what_was_declared_earlier_is_asked_first(kind, proxy, served):
    """And takes what it matches, wholly or in part."""
    app = laned(proxy)
    mine = {"route": "/api/x", "method": "/api/x", "parameter": "/{first}/{second}"}

    def answer():
        return PlainTextResponse("mine")

    if kind in mine:
        app.add_api_route(mine[kind], answer, methods=["GET"] if kind != "method" else ["PUT"])
    elif kind == "router":
        other = APIRouter()
        other.add_api_route("/api/{rest}", answer)
        app.include_router(other, dependencies=[Depends(deny)])
    else:
        inner = Starlette(
            routes=[Route("/{rest:path}", lambda request: PlainTextResponse("mine"))]
        )
        app.router.routes.append(Mount("/api" if kind == "mount" else "", app=inner))
    app.include_router(proxy.build_router())
    expected = {"method": "upstream /api/x", "router": '{"detail":"Unauthorized"}'}.get(
        kind, "mine"
    )

    assert (expected, "lane" in served) == (ask(app)[1], False)


@pytest.mark.parametrize("path", ["/api/x", "/%61pi/x"], ids=["plain", "encoded"])
def test_a_route_that_is_added_earlier_at_run_time_is_asked(path, proxy, served):
    """The table is made anew when it changes."""
    app = laned(proxy)
    other = APIRouter()
    app.include_router(other)
    app.include_router(proxy.build_router())
    before = ask(app, path)[0]
    other.add_api_route(
        "/api/{rest}", lambda: PlainTextResponse("mine"), dependencies=[Depends(deny)]
    )

    assert (200, 401) == (before, ask(app, path)[0])


def test_what_comes_later_does_not_disturb(proxy, served):
    """A route behind ours is not asked."""
    app = laned(proxy)
    app.include_router(proxy.build_router())
    app.add_api_route("/api/x", deny)

    assert (200, ["lane"]) == (ask(app)[0], served)


def test_a_proxy_that_was_never_included_serves_nothing(proxy, served):
    """The application does not know its routes."""
    proxy.build_router()

    assert (404, []) == (ask(laned(proxy))[0], served)


def test_another_proxys_router_is_not_served(proxy, served):
    """Each lane serves its own."""
    app = laned(Proxy())
    app.include_router(proxy.build_router())

    assert (200, ["router"]) == (ask(app)[0], served)


@pytest.mark.parametrize("path", ["/nothing", "/api", "/openapi.json"])
def test_what_is_no_full_match_is_left_to_the_app(path, proxy, served):
    """Unknown paths, redirects, and the app's own routes."""
    app = laned(proxy)
    app.include_router(proxy.build_router())

    assert ({"/nothing": 404, "/api": 307}.get(path, 200), []) == (ask(app, path)[0], served)
