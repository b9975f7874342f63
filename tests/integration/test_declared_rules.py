"""Declared rules for fields, queries and cookies, in every way that a request can take."""

import pytest
from fastapi import FastAPI, Request, Response

from proxyroutes import BuildError, ForwardedRequest, Proxy, UpstreamPool
from proxyroutes.settings import CookieRules, HeaderRules, QueryRules
from proxyroutes.testing import ScriptedOrigin
from tests.integration.support import OK, make_request, one_transport, target_of, values_of
from tests.integration.websocket_support import SessionOrigin, accept, open_sessions
from tests.integration.websocket_support import values_of as values_of_head

COOKIE = (
    b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=1; Path=/v2/; Domain=up.test\r\nSet-Cookie: b=2\r\n"
    b"X-Powered-By: up\r\nContent-Length: 2\r\n\r\nok"
)


@one_transport
async def test_rules_of_a_route_reach_both_sides(serve, lane):
    """Fields, query and cookies are edited alike in router, FastAPI's full path and the gateway alone."""
    async with ScriptedOrigin([COOKIE]) as origin:
        gateway = await serve(
            origin.url,
            lane=lane,
            path="/<tenant>/<path>",
            rewrite="/v2/<path>",
            request_headers=HeaderRules(set={"X-Tenant": "<tenant>"}, remove=["X-Secret"]),
            response_headers=HeaderRules(set={"X-For": "{tenant}"}, remove=["x-powered-by"]),
            query_rules=QueryRules(set={"tenant": "<tenant>"}, remove=["debug"]),
            cookies=CookieRules(domain="", path="/", secure=True),
        )
        reply = await gateway.get("/a%20b/x?q=%2F&debug=1", "X-Tenant: evil", "X-Secret: 1")
        received = origin.requests[0]

        assert b"/v2/x?q=%2F&tenant=a%20b" == target_of(received)
        assert [b"a b"] == values_of(received, "x-tenant")
        assert [] == values_of(received, "x-secret")
        assert [b"sid=1; Path=/; Secure", b"b=2; Path=/; Secure"] == reply.all("set-cookie")
        assert [[b"a b"], []] == [reply.all("x-for"), reply.all("x-powered-by")]


@pytest.mark.requirement("S-29")
@one_transport
async def test_a_line_end_in_a_parameter_is_answered_400(serve, lane):
    """Nothing is injected, and nothing reaches the upstream."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url,
            lane=lane,
            path="/<tenant>/<path>",
            request_headers=HeaderRules(set={"X-Tenant": "<tenant>"}),
        )
        statuses = [
            (await gateway.get(f"/{tenant}/x")).status
            for tenant in ("a%0d%0aX-Admin:1", "a%01", "%E6%97%A5")
        ]

        assert [400, 400, 400] == statuses
        assert 0 == origin.connections


@one_transport
async def test_rules_of_a_pool_come_last(serve, lane):
    """They hold for every route of the pool, and see what the route has made."""
    async with ScriptedOrigin([COOKIE]) as origin:
        gateway = await serve(
            origin.url,
            lane=lane,
            proxy={"request_headers": HeaderRules(set={"X-A": "proxy", "X-B": "proxy"})},
            pool={
                "request_headers": HeaderRules(set={"X-A": "pool"}, remove=["X-C"]),
                "response_headers": HeaderRules(set={"X-A": "pool"}, remove=["x-powered-by"]),
                "query_rules": QueryRules(add={"key": "a b"}),
                "cookies": CookieRules(domain="gw.test"),
            },
            request_headers=HeaderRules(set={"X-A": "route", "X-C": "route"}),
            response_headers=HeaderRules(set={"X-A": "route", "X-D": "route"}),
        )
        reply = await gateway.get("/x?a")
        received = origin.requests[0]

        assert b"/x?a&key=a+b" == target_of(received)
        assert [[b"pool"], [b"proxy"], []] == [
            values_of(received, name) for name in ("x-a", "x-b", "x-c")
        ]
        assert [[b"pool"], [b"route"], []] == [
            reply.all(name) for name in ("x-a", "x-d", "x-powered-by")
        ]
        assert [b"sid=1; Path=/v2/; Domain=gw.test", b"b=2; Domain=gw.test"] == reply.all(
            "set-cookie"
        )


@one_transport
async def test_cookies_are_mapped_through_rewrite_and_inclusion(serve):
    """A browser sends them for the public paths of the same resources."""
    async with ScriptedOrigin([COOKIE]) as origin:
        gateway = await serve(
            origin.url,
            path="/api/<path>",
            prefix="/outer",
            rewrite="/v2/<path>",
            cookies=CookieRules(domain="", path="rewrite"),
        )
        reply = await gateway.get("/outer/api/a")

        assert [b"sid=1; Path=/outer/api/", b"b=2"] == reply.all("set-cookie")


@pytest.mark.requirement("H-44")
@one_transport
async def test_a_written_server_field_is_not_sent_beside_the_servers_own(serve):
    """Where the server in front adds it by itself it comes once."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, response_headers=HeaderRules(set={"Server": "gw"}))
        with_own = await gateway.get()

        assert 1 == len(with_own.all("server"))


@pytest.mark.requirement("H-44")
@one_transport
async def test_a_written_server_field_is_sent_where_the_server_adds_none(serve):
    """It is the rule's then."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url,
            response_headers=HeaderRules(set={"Server": "gw"}),
            server={"server_header": False},
        )
        reply = await gateway.get()

        assert [b"gw"] == reply.all("server")


async def test_a_stub_sees_the_edited_request_and_has_the_last_word(serving, echo):
    """Rules are applied before any user code; the pool's are applied after it, to a copy."""
    pool = UpstreamPool("p", [echo.url], request_headers=HeaderRules(set={"X-Pool": "1"}))
    proxy = Proxy()
    seen = []

    @proxy.route(
        "/<path>", upstream=pool, request_headers=HeaderRules(set={"X-A": "rule", "X-B": "rule"})
    )
    async def edits(request: ForwardedRequest) -> None:
        seen.append((request.headers["x-a"], "x-pool" in request.headers))
        request.headers["x-b"] = "stub"

    app = FastAPI()
    app.include_router(proxy.build_router())
    served = await serving(app)
    received = await served.see("/", "X-A: client")

    assert [("rule", False)] == seen
    assert ["rule", "stub", "1"] == [received.get(name) for name in ("x-a", "x-b", "x-pool")]


async def test_proxy_forward_has_the_rules_of_its_pool(serving, echo):
    """Those of the proxy are its routes' defaults, and forwarding by hand is no route."""
    pool = UpstreamPool(
        "p",
        [echo.url],
        request_headers=HeaderRules(set={"X-Pool": "1"}),
        response_headers=HeaderRules(remove=["x-origin"]),
        query_rules=QueryRules(set={"k": "v"}),
    )
    proxy = Proxy(request_headers=HeaderRules(set={"X-Proxy": "1"}))
    app = FastAPI(lifespan=proxy.lifespan)

    @app.api_route("/{rest:path}", methods=["GET"])
    async def by_hand(request: Request) -> Response:
        return await proxy.forward(request, pool, extra_headers={"X-Pool": "endpoint"})

    served = await serving(app)
    received = await served.see("/a?b")

    assert ("/a?b&k=v", "1", None) == (
        received.target,
        received.get("x-pool"),
        received.get("x-proxy"),
    )
    assert [] == received.reply.all("x-origin")


@pytest.mark.parametrize("lane", ["router", "app"])
async def test_rules_hold_for_the_handshake_of_a_session(lane):
    """Fields, query and cookies of both directions, and the pool's after the route's."""

    def answer(head):
        return accept(head, b"Set-Cookie: a=1; Domain=up.test", b"X-Powered-By: up")

    async with SessionOrigin(answer) as origin:
        async with open_sessions(
            origin.url,
            lane=lane,
            path="/live/<room>",
            pool={"request_headers": HeaderRules(set={"X-Pool": "1"})},
            request_headers=HeaderRules(set={"X-Room": "<room>"}),
            response_headers=HeaderRules(remove=["x-powered-by"], set={"X-Room": "<room>"}),
            query_rules=QueryRules(remove=["token"]),
            cookies=CookieRules(domain=""),
        ) as gateway:
            client, upstream = await gateway.open(origin, "/live/a%20b?token=1&x=%2f")

        assert b"/live/a%20b?x=%2f" == upstream.head.split(b" ")[1]
        assert [[b"a b"], [b"1"]] == [
            values_of_head(upstream.head, name) for name in (b"x-room", b"x-pool")
        ]
        assert [[b"a=1"], [], [b"a b"]] == [
            values_of_head(client.head, name)
            for name in (b"set-cookie", b"x-powered-by", b"x-room")
        ]


@one_transport
async def test_a_plain_route_has_no_steps(serve):
    """What only some routes use is decided at build."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.ask(make_request())
        plan = gateway.proxy.compiled().routes[0][1]

        assert (None, None) == (plan.steps, gateway.pool.state().transforms)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param({"request_headers": {"x": "1"}}, "a HeaderRules is meant", id="a-dict"),
        pytest.param({"query_rules": HeaderRules()}, "a QueryRules is meant", id="another-kind"),
        pytest.param({"cookies": "secure"}, "a CookieRules is meant", id="text"),
        pytest.param(
            {"request_headers": HeaderRules(set={"x": "<tenat>"})}, "<tenat>", id="parameter"
        ),
        pytest.param(
            {"response_headers": HeaderRules(set={"x": "<tenat>"})},
            "<tenat>",
            id="of-the-response",
        ),
        pytest.param(
            {"query_rules": QueryRules(set={"x": "<tenat>"})}, "<tenat>", id="of-the-query"
        ),
        pytest.param({"request_headers": HeaderRules(set={"host": "x"})}, "host=", id="host"),
        pytest.param({"response_filters": "x"}, "a list of filters", id="a-lone-filter"),
        pytest.param({"request_filters": [3]}, "a filter is", id="no-filter"),
    ],
)
def test_a_mistake_in_a_rule_is_reported_by_the_build(options, problem):
    """It names the keyword, and comes with its stub's place."""
    proxy = Proxy()

    @proxy.route("/<tenant>", upstream="http://up", **options)
    async def stub() -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_router()
    (error,) = caught.value.exceptions

    assert problem in str(error)
    assert next(iter(options)) in str(error)
    assert __file__ in error.location


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"request_headers": HeaderRules(set={"x": "<tenant>"})}, ValueError),
        ({"request_headers": HeaderRules(set={"Host": "x"})}, ValueError),
        ({"query_rules": QueryRules(add={"x": "{tenant}"})}, ValueError),
        ({"response_headers": QueryRules()}, TypeError),
        ({"response_filters": [3]}, TypeError),
    ],
    ids=["parameter", "host", "query", "kind", "filter"],
)
def test_a_mistake_in_a_rule_of_a_pool_raises_where_it_is_written(options, kind):
    """A pool is a value, and has no path parameters."""
    with pytest.raises(kind, match="pool 'p'"):
        UpstreamPool("p", ["http://up"], **options)


@one_transport
async def test_server_timing_tells_where_the_time_went(serve, lane):
    """Behind what the upstream tells, and whatever a rule says of the upstream's."""
    script = [OK.replace(b"OK\r\n", b"OK\r\nServer-Timing: db;dur=5\r\n")]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, lane=lane, server_timing=True)
        reply = await gateway.get()
        (value,) = reply.all("server-timing")
        metrics = [one.partition(b";dur=") for one in value.split(b", ")]

        assert [b"db", b"queue", b"connect", b"first-byte", b"gateway"] == [
            name for name, _, _ in metrics
        ]
        assert min(float(duration) for _, _, duration in metrics) >= 0


async def test_server_timing_is_a_claim():
    """It is on or off."""
    proxy = Proxy()

    @proxy.get("/", upstream="http://up", server_timing="on")
    async def stub() -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_router()

    assert "server_timing is True or False" in str(caught.value.exceptions[0])
