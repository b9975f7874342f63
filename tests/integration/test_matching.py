"""Several routes on one path, told apart by host, fields, query and predicates: the same one in every lane."""

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from proxyroutes import GatewayMiddleware, Match, Proxy
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.integration.support import OK, RawClient, make_request, target_of
from tests.integration.websocket_support import TEXT, SessionOrigin, Sessions, nothing_left


def upstream(name):
    """An upstream that says who it is."""

    async def app(scope, receive, send):
        await PlainTextResponse(name)(scope, receive, send)

    return app


def depend():
    """Keep a route off the short way."""


def make_proxy(*dependencies):
    """Four routes on one path; the dependencies stand before the second one."""
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=upstream("tenant"), match=Match(hosts=["*.example.com"]))
    async def tenant() -> None: ...

    @proxy.get(
        "/api/<path>",
        upstream=upstream("beta"),
        match=Match(headers={"x-beta": "1"}),
        dependencies=dependencies,
    )
    async def beta() -> None: ...

    @proxy.get(
        "/api/<path:rest>",
        upstream=upstream("asked"),
        match=Match(when=lambda request: request.query.get("ask") == "yes"),
    )
    async def asked() -> None: ...

    @proxy.route("/api/<path>", upstream=upstream("stable"))
    async def stable() -> None: ...

    return proxy


def make_app(kind, *dependencies):
    """The proxy in one of its lanes."""
    proxy = make_proxy(*dependencies)
    if kind == "app":
        return proxy.build_app()
    app = FastAPI()
    if kind == "lane":
        app.add_middleware(GatewayMiddleware, proxy=proxy)
    app.include_router(proxy.build_router())
    return app


@pytest.mark.parametrize("kind", ["router", "lane", "app", "full"])
def test_the_first_route_that_holds_serves(kind):
    """Declared order decides, whether or not FastAPI takes part."""
    app = make_app("router", Depends(depend)) if kind == "full" else make_app(kind)
    client = TestClient(app)
    asked = [
        client.get("/api/a", headers={"host": "x.example.com", "x-beta": "1"}),
        client.get("/api/a", headers={"x-beta": "1"}),
        client.get("/api/a?ask=yes"),
        client.get("/api/a"),
        client.post("/api/a", headers={"x-beta": "1"}),
    ]

    assert ["tenant", "beta", "asked", "stable", "stable"] == [one.text for one in asked]


@pytest.mark.requirement("S-12")
def test_a_dependency_of_the_chosen_route_is_never_skipped():
    """Routes of one path have their own dependencies; each request meets those of the route that serves it."""
    met = []
    proxy = make_proxy(Depends(lambda: met.append("beta")))
    app = FastAPI()
    app.add_middleware(GatewayMiddleware, proxy=proxy)
    app.include_router(proxy.build_router())
    client = TestClient(app)
    texts = [
        client.get("/api/a", headers=headers).text
        for headers in ({"x-beta": "1"}, {}, {"x-beta": "1", "host": "a.example.com"})
    ]

    assert (["beta", "stable", "tenant"], ["beta"]) == (texts, met)


def test_the_document_has_one_operation_for_a_path_and_method():
    """It is the one of the route that serves whoever says nothing special; names of parameters make no other path."""
    app = make_app("router")
    paths = app.openapi()["paths"]
    operations = {method: one["operationId"] for method, one in paths["/api/{path}"].items()}

    assert ["/api/{path}"] == list(paths)
    assert {"stable_get", "stable_post", "stable_put", "stable_patch", "stable_delete"} == set(
        operations.values()
    )


def test_the_document_has_the_first_route_where_all_have_a_match():
    """No route serves everybody: the first one is documented."""
    proxy = Proxy()
    for host in ("a.test", "b.test"):

        async def stub() -> None: ...

        stub.__name__ = host[0]
        proxy.get("/x", upstream=upstream(host), match=Match(hosts=[host]))(stub)
    app = FastAPI()
    app.include_router(proxy.build_router())

    assert "a_get" == app.openapi()["paths"]["/x"]["get"]["operationId"]


def test_a_predicate_that_fails_answers_500_in_every_lane():
    """Nothing else is served in its place."""

    def when(request):
        raise KeyError(request.path)

    statuses = []
    for kind in ("router", "lane", "app"):
        proxy = Proxy()

        @proxy.route("/a", upstream=upstream("guarded"), match=Match(when=when))
        async def guarded() -> None: ...

        @proxy.route("/<path>", upstream=upstream("open"))
        async def wider() -> None: ...

        app = proxy.build_app() if kind == "app" else FastAPI()
        if kind == "lane":
            app.add_middleware(GatewayMiddleware, proxy=proxy)
        if kind != "app":
            app.include_router(proxy.build_router())
            statuses.append(TestClient(app, raise_server_exceptions=False).get("/a").status_code)
        else:
            with pytest.raises(RuntimeError, match="predicate"):
                TestClient(app).get("/a")

    assert [500, 500] == statuses


@pytest.mark.parametrize("kind", ["router", "lane", "app"])
@pytest.mark.requirement("S-46")
async def test_hosts_choose_the_upstream_on_real_sockets(kind):
    """A forged host changes nothing; two hosts are refused."""
    async with ScriptedOrigin([OK]) as one, ScriptedOrigin([OK]) as other:
        proxy = Proxy()

        @proxy.route("/<path>", upstream=one.url, match=Match(hosts=["one.test"]))
        async def first() -> None: ...

        @proxy.route("/<path>", upstream=other.url)
        async def second() -> None: ...

        app = proxy.build_app() if kind == "app" else FastAPI(openapi_url=None)
        if kind == "lane":
            app.add_middleware(GatewayMiddleware, proxy=proxy)
        if kind != "app":
            app.include_router(proxy.build_router())
        async with run_gateway(app) as gateway:
            statuses = []
            for request in (
                b"GET /1 HTTP/1.1\r\nHost: ONE.test:81\r\n\r\n",
                make_request("/2", "X-Forwarded-Host: one.test"),
                b"GET /3 HTTP/1.1\r\nHost: one.test\r\nHost: one.test\r\n\r\n",
            ):
                client = await RawClient.connect(gateway.port)
                statuses.append((await client.ask(request)).status)
                await client.close()

    assert [200, 200, 400] == statuses
    assert ([b"/1"], [b"/2"]) == (
        [target_of(got) for got in one.requests],
        [target_of(got) for got in other.requests],
    )


@pytest.mark.parametrize("kind", ["router", "prefix", "nested", "app"])
async def test_sessions_are_told_apart_too(kind):
    """Several WebSocket routes on one path: each with the upstream and the dependencies of its own."""
    met = []
    async with nothing_left(), SessionOrigin() as origin:
        proxy = Proxy()
        dependencies = [] if kind == "app" else [Depends(lambda: met.append("beta"))]

        @proxy.websocket(
            "/live/<path>",
            upstream=origin.url,
            rewrite="/beta/<path>",
            match=Match(headers={"x-beta": "1"}),
            dependencies=dependencies,
        )
        async def beta() -> None: ...

        @proxy.websocket("/live/<x>", upstream=origin.url, rewrite="/stable/<x>")
        async def stable() -> None: ...

        if kind == "app":
            app = proxy.build_app()
        else:
            router = proxy.build_router()
            app = FastAPI()
            if kind == "nested":
                outer = APIRouter()
                outer.include_router(router, prefix="/inner")
                app.include_router(outer, prefix="/outer")
            else:
                app.include_router(router, prefix="/p" if kind == "prefix" else "")
        prefix = {"prefix": "/p", "nested": "/outer/inner"}.get(kind, "")
        targets = []
        async with run_gateway(app) as running:
            sessions = Sessions(running, None, proxy, [], None)
            for lines in (("X-Beta: 1",), (), ("X-Beta: 0",)):
                client, server = await sessions.open(origin, f"{prefix}/live/a", *lines)
                targets.append(target_of(server.head))
                await client.send(TEXT, b"hello")

                assert (TEXT, b"hello") == await server.message()
                await server.close(1000)
                await client.closed()
                server.leave_gently()

    assert [b"/beta/a", b"/stable/a", b"/stable/a"] == targets
    assert (["beta"] if dependencies else []) == met
