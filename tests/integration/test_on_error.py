"""Who answers a failure: the application's own handler, route, groups, pool, proxy, or the default; alike in every lane."""

import asyncio
import contextlib
import json

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.responses import Response
from starlette.testclient import TestClient, WebSocketDenialResponse

from proxyroutes import (
    Forward,
    ForwardedRequest,
    GatewayError,
    GatewayMiddleware,
    Proxy,
    Session,
    UpstreamPool,
)
from proxyroutes._serve.failures import PROBLEM_BASE
from proxyroutes.exceptions import (
    BuildError,
    ClientRequestError,
    DeclarationError,
    NoDestinationError,
    Side,
    Stage,
    UpstreamConnectError,
    UpstreamTimeoutError,
)
from proxyroutes.testing import Close, ReadHead, ScriptedOrigin, run_gateway
from tests.integration.support import depend_on_nothing, eventually, make_request
from tests.integration.websocket_support import UPGRADE, dial, nothing_left, value_of

DEAD = "http://127.0.0.1:9"
BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(params=["router", "fastapi", "app", "middleware"])
def lane(request):
    """The way that a request takes through the gateway."""
    return request.param


def assemble(proxy, lane):
    """The application that serves a proxy in a lane."""
    if lane == "app":
        return proxy.build_app()
    app = FastAPI()
    if lane == "middleware":
        app.add_middleware(GatewayMiddleware, proxy=proxy)
    guards = [Depends(depend_on_nothing)] if lane == "fastapi" else []
    app.include_router(proxy.build_router(), dependencies=guards)
    return app


async def stub() -> None:
    """Forward."""


def say(word, log=None):
    """A handler that answers with a word, or only takes a note where there is none."""

    def handle(error, request):
        if log is not None:
            log.append(word)
        return None if word.startswith("-") else {"by": word}

    return handle


# What handlers are given and may give.


async def test_a_handler_is_given_the_error_and_the_request(serving, lane):
    """Stage, side, what was sent and where; method, target, fields as the client sent them."""
    got = {}
    proxy = Proxy()

    @proxy.on_error(GatewayError)
    async def handle(error: GatewayError, request: ForwardedRequest) -> dict[str, str]:
        got.update(
            error=(type(error), error.stage, error.side, error.sent, error.destination),
            request=(request.method, request.path, request.query_string, request.path_params),
            fields=(request.headers.get("x-mine"), request.headers.get("x-hop")),
            route=(request.route, request.received_host, request.client[0]),
        )
        return {"sorry": "ü"}

    proxy.route("/x/<name>", upstream=DEAD, name="named", rewrite="/y/<name>")(stub)
    reply = await (await serving(assemble(proxy, lane))).ask(
        "/x/a%20b?q=1", "X-Mine: 1", "X-Hop: 1", "Connection: x-hop", method="PUT"
    )

    assert {
        "error": (UpstreamConnectError, Stage.CONNECT, Side.UPSTREAM, False, DEAD),
        "request": ("PUT", "/x/a%20b", "q=1", {"name": "a b"}),
        "fields": ("1", None),
        "route": ("named", "gateway.test", "127.0.0.1"),
    } == got
    assert (502, b"application/json", {"sorry": "ü"}, b"no-store") == (
        reply.status,
        reply.get("content-type"),
        json.loads(reply.body),
        reply.get("cache-control"),
    )


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: PlainTextResponse("mine", 200, {"X-Own": "1"}), (200, b"mine", b"1")),
        (lambda: StreamingResponse(iter(["a", "b"]), 299), (299, b"ab", None)),
        (lambda: {"a": 1}, (502, b'{"a":1}', None)),
        (list, (502, b"[]", None)),
    ],
    ids=["response", "stream", "dict", "empty list"],
)
async def test_a_handler_gives_the_answer(serving, lane, made, expected, is_async):
    """A response, or what JSON can hold with the error's status."""
    proxy = Proxy()

    def handle(error, request):
        return made()

    async def handle_async(error, request):
        return made()

    proxy.route("/x", upstream=DEAD, on_error=handle_async if is_async else handle)(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/x")

    assert expected == (reply.status, reply.body, reply.get("x-own"))


async def test_a_handler_may_give_an_application(serving, lane):
    """Whatever is called as one."""

    async def tiny(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    proxy = Proxy()
    proxy.route("/x", upstream=DEAD, on_error=lambda error, request: tiny)(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/x")

    assert (299, b"/x") == (reply.status, reply.body)


async def test_what_the_gateway_answers_itself_is_no_failure(serving, lane):
    """The last hop of Max-Forwards (RFC 9110 section 7.6.2) is no handler's."""
    asked = []
    proxy = Proxy()
    proxy.route("/x", upstream=DEAD, on_error=say("x", asked))(stub)
    served = await serving(assemble(proxy, lane))
    reply = await served.ask("/x", "Max-Forwards: 0", method="OPTIONS")

    assert (204, []) == (reply.status, asked)


async def test_none_drops_what_is_inherited(serving, lane):
    """The pool and the proxy are still asked."""
    asked = []
    proxy = Proxy()
    proxy.on_error()(say("proxy", asked))
    group = proxy.group("/a", on_error=say("group", asked))
    group.route("/x", upstream=DEAD, on_error=None)(stub)
    await (await serving(assemble(proxy, lane))).ask("/a/x")

    assert ["proxy"] == asked


async def test_the_nearest_handler_is_asked_first(serving, lane):
    """Route, inner group, outer group, pool, proxy; None asks the next one."""
    log = []
    proxy = Proxy(on_error=say("-default", log))
    proxy.on_error(GatewayError)(say("-proxy", log))
    proxy.on_error(UpstreamTimeoutError)(say("wrong", log))
    proxy.on_error(UpstreamConnectError)(say("proxy", log))
    pool = UpstreamPool("dead", [DEAD], on_error=say("-pool", log))
    outer = proxy.group("/a", on_error={UpstreamConnectError: say("-outer", log)})
    inner = outer.group("/b", on_error=[say("-inner 1", log), say("-inner 2", log)])
    inner.route("/c", upstream=pool, on_error=say("-route", log))(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/a/b/c")

    assert {"by": "proxy"} == json.loads(reply.body)
    assert [
        "-route",
        "-inner 1",
        "-inner 2",
        "-outer",
        "-default",
        "-pool",
        "-proxy",
        "proxy",
    ] == log


async def test_a_pools_handler_is_enough(serving, lane):
    """A route that says nothing itself is still served the short way."""
    proxy = Proxy()
    pool = UpstreamPool("dead", [DEAD], on_error=say("pool"))
    proxy.route("/x", upstream=pool)(stub)

    assert {"by": "pool"} == json.loads(
        (await (await serving(assemble(proxy, lane))).ask("/x")).body
    )


async def test_nobody_has_an_answer(serving, lane):
    """Then it is the default one."""
    proxy = Proxy()
    proxy.route("/x", upstream=DEAD, on_error=say("-none"))(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/x")

    assert {
        "type": PROBLEM_BASE + "upstream-connect",
        "title": "The upstream could not be reached",
        "status": 502,
    } == json.loads(reply.body)


@pytest.mark.parametrize("result", ["raises", "no json"])
async def test_a_handler_that_fails_is_passed_over(serving, lane, result, caplog):
    """It is logged, and the next one is asked."""
    proxy = Proxy()

    def fails(error, request):
        return 1 / 0 if result == "raises" else object

    class NoJson:
        pass

    handle = fails if result == "raises" else (lambda error, request: NoJson())
    proxy.route("/x", upstream=DEAD, on_error=[handle, say("next")])(stub)
    served = await serving(assemble(proxy, lane), errors=["proxyroutes.serve"])
    reply = await served.ask("/x")

    assert ({"by": "next"}, True) == (
        json.loads(reply.body),
        "handler of errors failed" in caplog.text,
    )


async def test_a_refused_request_closes_its_connection_whoever_answers(serving, lane):
    """What is left of it must not be read as the next one; its other fields are kept beside JSON."""
    proxy = Proxy()
    answers = iter([PlainTextResponse("too much", 499), {"too": "much"}])

    @proxy.on_error(ClientRequestError)
    def handle(error: ClientRequestError, request: ForwardedRequest) -> object:
        return next(answers)

    proxy.route("/x", upstream=DEAD, max_body_bytes=1)(stub)
    served = await serving(assemble(proxy, lane))
    replies = [await served.ask("/x", method="POST", body="content") for _ in range(2)]

    assert [(499, b"close"), (413, b"close")] == [
        (reply.status, reply.get("connection")) for reply in replies
    ]


async def test_a_retry_after_is_kept_beside_json(serving, lane):
    """The fields that say what to do next belong to the error."""
    proxy = Proxy()

    @proxy.on_error()
    def handle(error: GatewayError, request: ForwardedRequest) -> dict[str, str]:
        return {"wait": "please"}

    proxy.route("/x", upstream=UpstreamPool("unhealthy", [DEAD], health="/"))(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/x")

    assert (503, b"1") == (reply.status, reply.get("retry-after"))


async def test_nobody_is_asked_once_the_head_was_sent(serving, lane):
    """The connection is broken instead."""
    asked = []
    async with ScriptedOrigin(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", Close()]
    ) as origin:
        proxy = Proxy()
        proxy.route("/x", upstream=origin.url, on_error=say("late", asked))(stub)
        served = await serving(assemble(proxy, lane), errors=["uvicorn.error"])
        reply = await served.ask("/x")

    assert (200, False, []) == (reply.status, reply.complete, asked)


async def test_a_client_that_leaves_is_no_failure(serving, lane):
    """Nobody is left to answer."""
    asked, records = [], []
    async with ScriptedOrigin([ReadHead()]) as origin:
        proxy = Proxy(on_exchange=records.append)
        proxy.route("/x", upstream=origin.url, on_error=say("left", asked))(stub)
        served = await serving(assemble(proxy, lane))
        client = await served.connect()
        await client.send(make_request("/x"))
        await origin.wait_until(lambda: origin.requests and b"\r\n\r\n" in origin.requests[0])
        client.leave()
        await eventually(lambda: records)

    assert ([], 499) == (asked, records[0].status)


async def test_a_handler_may_take_its_time(serving, lane):
    """Nothing is held meanwhile: the lease is back."""
    pool = UpstreamPool("dead", [DEAD])
    held = []

    async def handle(error, request):
        await asyncio.sleep(0)
        held.append(pool.state().in_flight)
        return {}

    proxy = Proxy()
    proxy.route("/x", upstream=pool, on_error=handle)(stub)
    await (await serving(assemble(proxy, lane))).ask("/x")

    assert [0] == held


# The default.


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("Accept: text/html", True),
        ("Accept: TEXT/HTML;q=0.5, */*;q=0.1", True),
        ("Accept: */*", False),
        ("Accept: application/json, text/html", False),
        ("Accept: text/html;q=0.5, application/problem+json", False),
        ("Accept: text/html;q=0", False),
        ("Accept: text/html;q=x, */*;q=0.1", False),
        ("X-Accept: none", False),
    ],
    ids=["browser", "only", "weights", "any", "tie", "json first", "never", "bad weight", "none"],
)
async def test_a_client_that_wants_a_page_gets_one(serving, lane, accept, is_page):
    """As its Accept says; the status and the stable type are the same."""
    proxy = Proxy()
    proxy.route("/x", upstream=DEAD)(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/x", accept)
    media_type = b"text/html; charset=utf-8" if is_page else b"application/problem+json"

    assert (502, media_type, True, True) == (
        reply.status,
        reply.get("content-type"),
        (PROBLEM_BASE + "upstream-connect").encode() in reply.body,
        (b"<h1>502 The upstream could not be reached</h1>" in reply.body) is is_page,
    )


async def test_a_page_shows_nothing_of_the_request(serving, lane):
    """What the client sent is not in it."""
    proxy = Proxy()
    proxy.route("/<path>", upstream=DEAD)(stub)
    reply = await (await serving(assemble(proxy, lane))).ask("/%3Cscript%3E?<script>", BROWSER)

    assert b"script" not in reply.body


# The application's own handlers.


@pytest.mark.parametrize("kind", [GatewayError, UpstreamConnectError])
async def test_the_applications_handler_comes_first(serving, kind):
    """Such a route is not served the short way, and nobody else is asked."""
    asked = []
    proxy = Proxy(on_error=say("ours", asked))
    proxy.route("/x", upstream=DEAD)(stub)
    app = assemble(proxy, "middleware")

    @app.exception_handler(kind)
    async def handle(request: Request, error: GatewayError) -> Response:
        return JSONResponse({"app": type(error).__name__}, 599)

    reply = await (await serving(app)).ask("/x")

    assert (599, {"app": "UpstreamConnectError"}, []) == (
        reply.status,
        json.loads(reply.body),
        asked,
    )


# Where there is more than the plain way.


async def test_a_failure_that_a_stub_has_caught_is_not_answered(serving):
    """One that it lets pass is; the pool that failed is asked, not the route's own."""
    asked = []
    proxy = Proxy()
    pool = UpstreamPool("a", [DEAD], on_error=say("a", asked))
    other = UpstreamPool("b", [DEAD], on_error=say("b", asked))

    @proxy.get("/x", upstream=pool)
    async def wraps(forward: Forward) -> Response:
        try:
            return await forward()
        except UpstreamConnectError:
            return await forward(upstream=other)

    app = FastAPI()
    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask("/x")

    assert ({"by": "b"}, ["b"]) == (json.loads(reply.body), asked)


async def test_a_failure_of_proxy_forward_is_answered_by_pool_and_proxy(serving):
    """In an ordinary endpoint, and without a build."""
    asked = []
    proxy = Proxy()
    proxy.on_error(GatewayError)(say("proxy", asked))
    pool = UpstreamPool("a", [DEAD], on_error=say("-pool", asked))
    app = FastAPI(lifespan=proxy.lifespan)

    @app.get("/x")
    async def forwards(request: Request) -> Response:
        return await proxy.forward(request, pool)

    reply = await (await serving(app)).ask("/x")

    assert ({"by": "proxy"}, ["-pool", "proxy"]) == (json.loads(reply.body), asked)


async def test_a_response_that_expires_before_it_is_relayed_is_answered(serving):
    """Its head was not sent yet."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"]) as origin:
        proxy = Proxy(on_error=say("late"))

        @proxy.get("/x", upstream=origin.url)
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            response.exchange.interrupt(UpstreamTimeoutError("total time-out"))
            return response

        app = FastAPI()
        app.include_router(proxy.build_router())
        reply = await (await serving(app)).ask("/x")

    assert (504, {"by": "late"}) == (reply.status, json.loads(reply.body))


@pytest.mark.parametrize("answers", ["json", "response", "nothing"])
def test_a_refused_handshake_is_answered(answers):
    """By pool and proxy, where the server can send an answer to a handshake."""
    made = {"json": {"a": 1}, "response": PlainTextResponse("no", 418), "nothing": None}[answers]
    proxy = Proxy()

    @proxy.on_error(UpstreamConnectError)
    def handle(error: UpstreamConnectError, request: ForwardedRequest) -> object:
        return made

    proxy.websocket("/ws", upstream=DEAD)(stub)
    app = FastAPI()
    app.include_router(proxy.build_router())
    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/ws"),
    ):
        pass
    response = denied.value

    assert {"json": (502, b'{"a":1}'), "response": (418, b"no")}.get(
        answers, (502, response.content)
    ) == (response.status_code, response.content)


# Refused handshakes.


def without_denials(app):
    """An application behind a server that knows no answer to a handshake but to close."""

    async def serve(scope, receive, send):
        if scope["type"] == "websocket":
            scope = {**scope, "extensions": {}}
        await app(scope, receive, send)

    return serve


@contextlib.asynccontextmanager
async def serve_sessions(proxy, lane, *, denials=True):
    """Serve a proxy's WebSocket routes, and give what asks for a session and reads the answer."""
    app = assemble(proxy, lane)
    async with nothing_left(), run_gateway(app if denials else without_denials(app)) as running:

        async def refused(target):
            peer = await dial(running.port, target)
            peer.leave()
            return peer

        yield refused


@pytest.fixture(params=["router", "fastapi", "app"])
def session_lane(request):
    """The way that a handshake takes through the gateway."""
    return request.param


async def test_a_sessions_nearest_handler_is_asked_first(session_lane):
    """Route, inner group, outer group, pool, proxy, as for a request; None asks the next one."""
    log = []
    proxy = Proxy(on_error=say("-default", log))
    proxy.on_error(UpstreamConnectError)(say("proxy", log))
    pool = UpstreamPool("dead", [DEAD], on_error=say("-pool", log))
    outer = proxy.group("/a", on_error={UpstreamConnectError: say("-outer", log)})
    inner = outer.group("/b", on_error=[say("-inner 1", log), say("-inner 2", log)])
    handlers = [{UpstreamTimeoutError: say("wrong", log)}, say("-route", log)]
    inner.websocket("/c", upstream=pool, on_error=handlers)(stub)
    async with serve_sessions(proxy, session_lane) as refused:
        peer = await refused("/a/b/c")

    assert (502, {"by": "proxy"}) == (peer.status, json.loads(peer.body))
    assert ["-route", "-inner 1", "-inner 2", "-outer", "-default", "-pool", "proxy"] == log


async def test_none_drops_what_a_session_inherits(session_lane):
    """The pool and the proxy's decorated handlers are still asked."""
    log = []
    proxy = Proxy(on_error=say("default", log))
    proxy.on_error()(say("proxy", log))
    proxy.group("/a", on_error=say("group", log)).websocket("/x", upstream=DEAD, on_error=None)(
        stub
    )
    async with serve_sessions(proxy, session_lane) as refused:
        await refused("/a/x")

    assert ["proxy"] == log


@pytest.mark.parametrize("denials", [True, False], ids=["answer", "close"])
async def test_a_sessions_handler_gives_the_answer(session_lane, denials):
    """A response, where the server can answer a handshake; else its client is closed before it is accepted."""
    proxy = Proxy()
    made = PlainTextResponse("mine", 418, {"X-Own": "1"})
    proxy.websocket("/x", upstream=DEAD, on_error=lambda error, request: made)(stub)
    async with serve_sessions(proxy, session_lane, denials=denials) as refused:
        peer = await refused("/x")

    expected = (418, b"1", b"mine") if denials else (403, None)
    assert expected == (peer.status, value_of(peer.head, b"x-own"), peer.body)[: len(expected)]


async def test_a_sessions_handler_may_give_any_application(session_lane):
    """One that knows only of HTTP."""

    async def tiny(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send(
            {"type": "http.response.body", "body": scope["path"].encode(), "more_body": True}
        )
        await send({"type": "http.response.body", "body": b"!", "more_body": True})
        # What ASGI lets out.
        await send({"type": "http.response.body"})

    proxy = Proxy()
    proxy.websocket("/x", upstream=DEAD, on_error=lambda error, request: tiny)(stub)
    async with serve_sessions(proxy, session_lane) as refused:
        peer = await refused("/x")

    assert (299, b"/x!") == (peer.status, peer.body)


async def test_an_answer_to_a_handshake_is_bounded(caplog):
    """It is kept whole, so a stream without an end is the handler's mistake, and not one of memory."""
    sent = []

    async def endless():
        while True:
            sent.append(len(sent))
            yield bytes(64 * 1024)

    proxy = Proxy()
    made = StreamingResponse(endless(), 418)
    proxy.websocket("/x", upstream=DEAD, on_error=lambda error, request: made)(stub)
    async with serve_sessions(proxy, "app") as refused:
        peer = await refused("/x")

    assert (500, 17) == (peer.status, len(sent))
    assert "an answer to a handshake has at most 1048576 bytes" in caplog.text


@pytest.mark.parametrize("whole", [True, False])
async def test_a_session_is_answered_in_one_piece(whole):
    """Some servers take no other answer, and some none at all: those are told by the answer's status."""
    events, begun = [], asyncio.Event()

    async def chunks():
        yield b"a"
        yield b"b"

    proxy = Proxy()
    made = StreamingResponse(chunks(), 418)
    proxy.websocket("/x", upstream=DEAD, on_error=lambda error, request: made)(stub)

    async def receive():
        if begun.is_set():
            await asyncio.Event().wait()
        begun.set()
        return {"type": "websocket.connect"}

    async def send(message):
        events.append(message)

    scope = {"type": "websocket", "path": "/x", "raw_path": b"/x", "query_string": b""}
    scope |= {"headers": [(b"host", b"a")], "subprotocols": []}
    scope["extensions"] = {"websocket.http.response": {}} if whole else {}
    async with proxy:
        await proxy.build_app()(scope, receive, send)

    if whole:
        assert [(418, None), (None, b"ab")] == [(e.get("status"), e.get("body")) for e in events]
    else:
        assert [{"type": "websocket.close", "code": 1008}] == events


@pytest.mark.parametrize(
    "ws", ["websockets-sansio", "wsproto", "proxyroutes.server:WebSocketProtocol"]
)
async def test_a_session_whose_client_leaves_its_handler_is_no_error(ws):
    """A stream that answers it ends, and nothing is logged but the failure."""
    asked, goes_on, ended, records = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    async def stream():
        try:
            while True:
                yield b"more"
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def handle(error, request):
        asked.set()
        await goes_on.wait()
        return StreamingResponse(stream(), 418)

    proxy = Proxy(on_exchange=records.append)
    proxy.websocket("/x", upstream=DEAD, on_error=handle)(stub)
    async with nothing_left(), run_gateway(proxy.build_app(), ws=ws) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write("\r\n".join(["GET /x HTTP/1.1", "Host: a", *UPGRADE, "", ""]).encode())
        await asked.wait()
        writer.transport.abort()
        goes_on.set()
        await eventually(lambda: ended.is_set() and records)

    assert [502] == [one.status for one in records]


@pytest.mark.parametrize("target", ["/x/a%00b", "/x/%2e%2e"], ids=["NUL", "dots"])
async def test_a_sessions_target_that_is_refused_is_its_routes(session_lane, target):
    """As for a request: its handlers are asked, and observers get a record."""
    records, log = [], []
    proxy = Proxy(on_exchange=records.append)
    proxy.websocket("/x/<path>", upstream=DEAD, on_error=say("route", log))(stub)
    async with serve_sessions(proxy, session_lane) as refused:
        peer = await refused(target)
        lost = await refused("/elsewhere/%00")

    assert (400, {"by": "route"}, [("stub", 400)]) == (
        peer.status,
        json.loads(peer.body),
        [(one.route, one.status) for one in records],
    )
    assert (["route"], True) == (log, lost.status in {400, 403, 404})


async def test_a_session_that_its_stub_refuses_is_its_handlers():
    """Refused by the stub, with what the stub gives no answer to."""
    log = []
    proxy = Proxy()

    @proxy.websocket("/x", upstream=DEAD, on_error=say("route", log))
    async def refuse(session: Session) -> None:
        session.close()

    async with serve_sessions(proxy, "router") as refused:
        peer = await refused("/x")

    assert (403, {"by": "route"}) == (peer.status, json.loads(peer.body))


# Declaring.


@pytest.mark.parametrize(
    "value",
    ["problem", lambda: None, lambda error: None, {ValueError: say("x")}, {GatewayError: 1}],
    ids=["text", "no arguments", "one argument", "other error", "number"],
)
def test_what_is_no_handler_is_refused(value):
    """At the build with the stub's line, at a pool at once."""
    proxy = Proxy()
    proxy.route("/x", upstream=DEAD, on_error=value)(stub)
    proxy.websocket("/y", upstream=DEAD, on_error=value)(stub)
    with pytest.raises(BuildError) as error:
        proxy.build_router()
    with pytest.raises(TypeError, match="error"):
        UpstreamPool("a", [DEAD], on_error=value)

    assert [True, True] == [__file__ in str(one) for one in error.value.exceptions]


def test_a_handler_after_the_build_is_refused():
    """It would never be asked; the function itself stays what it was."""
    proxy = Proxy()
    handle = say("x")

    assert handle is proxy.on_error(NoDestinationError)(handle)
    proxy.build_router()
    with pytest.raises(DeclarationError, match="before the build"):
        proxy.on_error(NoDestinationError)(handle)


@pytest.mark.parametrize("kind", [ValueError, "GatewayError"])
def test_a_handler_of_something_else_is_refused(kind):
    """At its decorator."""
    with pytest.raises(TypeError, match="GatewayError"):
        Proxy().on_error(kind)(say("x"))
