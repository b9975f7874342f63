"""Section H: HTTP semantics and framing, on raw sockets."""

import json

import pytest
from fastapi import FastAPI

from proxyroutes import ForwardedRequest, Proxy, UpstreamPool
from proxyroutes.testing import ReadBody, ReadHead, ReadUntil, ScriptedOrigin
from tests.integration.support import (
    OK,
    eventually,
    make_request,
    one_transport,
    target_of,
    values_of,
)


@pytest.mark.requirement("H-09")
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "QUERY"])
async def test_content_of_any_method_with_a_length_is_forwarded(serve, method):
    """A request whose method is not known for content has its content all the same."""
    async with ScriptedOrigin([ReadHead(), ReadBody(3), OK]) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.ask(
            make_request("/", "Content-Length: 3", method=method, body="abc"), method
        )
        received = bytes(origin.requests[0])

        assert 200 == reply.status
        assert [b"3"] == values_of(received, "content-length")
        assert received.endswith(b"\r\n\r\nabc")


@pytest.mark.requirement("H-09", "H-08")
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_content_of_any_method_in_chunks_is_forwarded(serve, method):
    """The same for content of unknown length."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(), OK]) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.ask(
            make_request(
                "/", "Transfer-Encoding: chunked", method=method, body="3\r\nabc\r\n0\r\n\r\n"
            ),
            method,
        )
        received = bytes(origin.requests[0])

        assert 200 == reply.status
        assert [] == values_of(received, "content-length")
        assert [b"chunked"] == values_of(received, "transfer-encoding")
        assert received.endswith(b"3\r\nabc\r\n0\r\n\r\n")


@pytest.mark.requirement("H-30")
async def test_trailers_do_not_become_fields(serve, http):
    """``TE`` stays here, and neither ``Trailer`` nor a trailer field reaches the client."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Kept\r\nX-Kept: head\r\n\r\n"
    body = b"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Kept: trailer\r\n\r\n"
    async with ScriptedOrigin([ReadHead(), head + body]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.get("/", "TE: trailers, deflate;q=0.5", "Connection: TE")

        assert [] == values_of(origin.requests[0], "te")
        assert (b"ok", True) == (reply.body, reply.complete)
        assert ([], [], [b"head"]) == tuple(
            reply.all(name) for name in ("trailer", "x-sum", "x-kept")
        )


@pytest.mark.requirement("H-33")
async def test_a_switch_of_protocols_that_nobody_asked_for_is_answered_502(serve, http):
    """Nothing of it reaches the client, and the connection is gone."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\n"
    async with ScriptedOrigin([ReadHead(), switch + OK + b"evil"]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.get("/", "Connection: upgrade", "Upgrade: evil")

        assert 502 == reply.status
        assert b"evil" not in reply.body
        await eventually(lambda: not origin.open_connections)


@pytest.mark.requirement("H-39")
@pytest.mark.parametrize(
    ("received", "forwarded"), [("3", b"2"), ("1", b"0"), ("0010", b"9"), ("255", b"254")]
)
async def test_max_forwards_of_options_is_counted_down(serve, lane, received, forwarded):
    """RFC 9110 §7.6.2: an intermediary that forwards it generates an updated value."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get("/", f"Max-Forwards: {received}", method="OPTIONS")

        assert [forwarded] == values_of(origin.requests[0], "max-forwards")


@pytest.mark.requirement("H-39")
@one_transport
async def test_options_that_may_go_no_further_are_answered_here(serve, http, lane):
    """RFC 9110 §7.6.2: at 0 the intermediary "MUST NOT forward the request", and answers as the final recipient."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        reply = await gateway.get("/", "Max-Forwards: 0", method="OPTIONS")

        assert 204 == reply.status
        assert b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT" == reply.get("allow")
        assert b"" == reply.body
        assert 0 == origin.connections


@pytest.mark.requirement("H-29", "H-39")
@one_transport
async def test_connection_cannot_take_max_forwards_away(serve):
    """It is counted down whatever a client names, or its requests could go around for ever."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get(
            "/", "Max-Forwards: 3", "Connection: close, Max-Forwards", method="OPTIONS"
        )

        assert [b"2"] == values_of(origin.requests[0], "max-forwards")


@pytest.mark.requirement("H-39")
@one_transport
@pytest.mark.parametrize(
    "lines",
    [["Max-Forwards: x"], ["Max-Forwards: -1"], ["Max-Forwards:"], ["Max-Forwards: 1"] * 2],
    ids=["word", "minus", "empty", "two"],
)
async def test_max_forwards_that_is_no_number_is_refused(serve, lines):
    """What cannot be counted down is not forwarded."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.get("/", *lines, method="OPTIONS")

        assert 400 == reply.status
        assert 0 == origin.connections


@pytest.mark.requirement("H-39")
@one_transport
async def test_max_forwards_of_other_methods_passes(serve):
    """RFC 9110 §7.6.2: it may be ignored for all other methods."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get("/", "Max-Forwards: 0")

        assert [b"0"] == values_of(origin.requests[0], "max-forwards")


@pytest.mark.requirement("H-43")
@one_transport
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["chunks-in-1.0", "1.0"],
)
async def test_an_old_upstream_gets_one_request_for_each_connection(serve, head):
    """RFC 9112 §6.1: framing of such a message is faulty, and the connection is closed after it."""
    async with ScriptedOrigin([ReadHead(), head]) as origin:
        gateway = await serve(origin.url)
        replies = [await gateway.get() for _ in range(2)]

        assert {200, 502} >= {reply.status for reply in replies}
        assert 2 == origin.connections
        await eventually(lambda: not origin.open_connections)


@pytest.mark.requirement("H-43")
async def test_another_version_of_http_is_no_response(serve):
    """A status line of HTTP/2.0 on a connection of HTTP/1.1 is answered 502."""
    async with ScriptedOrigin([OK.replace(b"HTTP/1.1", b"HTTP/2.0")]) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.get()

        assert 502 == reply.status
        await eventually(lambda: not origin.open_connections)


@pytest.mark.requirement("H-53", "S-12")
@pytest.mark.parametrize("target", ["/api/x", "/%61pi/x", "/%61%70%69/x", "/ap%69/x"])
async def test_an_encoded_spelling_of_a_literal_is_rewritten_alike(serve, lane, target):
    """What matches by any spelling of the prefix reaches the same place."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url, lane=lane, path="/api/<path>", rewrite="/internal/<path>"
        )
        reply = await gateway.get(target)

        assert 200 == reply.status
        assert b"/internal/x" == target_of(origin.requests[0])


@pytest.mark.requirement("H-52")
@pytest.mark.parametrize("captured", ["a%2Fb", "a%3Fb", "a%23b", "a%25b", "a%20b", "%C3%A9"])
async def test_a_captured_escape_makes_no_new_separator(serve, lane, captured):
    """What is encoded in the received path is encoded in the rewritten one."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url, lane=lane, path="/api/<name>/<path>", rewrite="/v2/<path>/by/<name>"
        )
        await gateway.get(f"/api/{captured}/{captured}?q={captured}")

        assert f"/v2/{captured}/by/{captured}?q={captured}".encode() == target_of(
            origin.requests[0]
        )


@pytest.mark.requirement("H-54")
@pytest.mark.parametrize(
    ("received", "forwarded"),
    [("/a?x=1&y=2", b"/b/a?x=1&y=2"), ("/a", b"/b/a"), ("/a?&", b"/b/a?&"), ("/?x", b"/b/?x")],
)
async def test_a_query_is_joined_to_a_base_path(serve, http, received, forwarded):
    """It stands behind the base path and the rewritten path, as it came."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url + "/b", http=http)
        await gateway.get(received)

        assert forwarded == target_of(origin.requests[0])


class Watcher:
    """A middleware that keeps what the scope was before and after."""

    def __init__(self, app, seen):
        self.app = app
        self.seen = seen

    async def __call__(self, scope, receive, send):
        """Serve, and compare."""
        if scope["type"] == "http":
            before = self.snapshot(scope)
            await self.app(scope, receive, send)
            self.seen.append((before, self.snapshot(scope)))
        else:
            await self.app(scope, receive, send)

    @staticmethod
    def snapshot(scope):
        """What a middleware may rely on."""
        names = ("method", "path", "raw_path", "query_string")
        return [scope[name] for name in names], list(scope["headers"])


@pytest.mark.requirement("H-55")
async def test_edits_of_the_forwarded_request_leave_the_received_one_alone(serving, echo):
    """A middleware around the gateway sees the same request before and after."""
    proxy = Proxy()
    pool = UpstreamPool("p", [echo.url])

    @proxy.route("/<path>", upstream=pool)
    async def edits(request: ForwardedRequest) -> None:
        request.method = "PUT"
        request.path = "/other"
        request.query.set("added", "1")
        request.headers["x-added"] = "1"
        request.headers.remove("x-sent")

    app = FastAPI(openapi_url=None)
    app.include_router(proxy.build_router())
    seen = []
    served = await serving(Watcher(app, seen))
    reply = await served.see("/a?b=c", "X-Sent: 1")
    before, after = seen[0]

    assert ("PUT", "/other?b=c&added=1") == (reply.method, reply.target)
    assert (["1"], []) == (reply.all("x-added"), reply.all("x-sent"))
    assert before == after
    assert (b"x-sent", b"1") in after[1]


@pytest.mark.requirement("H-56")
@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
async def test_a_hook_that_fails_before_the_response_is_a_server_error(serving, echo, kind):
    """It shows nothing, and the next request is served."""
    proxy = Proxy()
    pool = UpstreamPool("p", [echo.url])

    async def choose(request: ForwardedRequest) -> UpstreamPool:
        if request.path == "/bad":
            raise kind("secret")
        return pool

    @proxy.route("/<path>", upstream=choose)
    async def chosen() -> None: ...

    served = await serving(proxy_app(proxy), errors=["uvicorn.error", "proxyroutes.serve"])
    bad = await served.ask("/bad")
    good = await served.see("/good")

    assert 500 == bad.status
    assert b"secret" not in bad.body
    assert "/good" == good.target


def proxy_app(proxy):
    """A FastAPI application of one router."""
    app = FastAPI(openapi_url=None)
    app.include_router(proxy.build_router())
    return app


@pytest.mark.requirement("H-48")
@one_transport
async def test_problems_name_stable_types(serve, lane):
    """The type is an address that does not change, and the status is the real one."""
    gateway = await serve("http://127.0.0.1:9", lane=lane)
    reply = await gateway.get("/a/../b")
    problem = json.loads(reply.body)

    assert {"type", "title", "status"} == set(problem)
    assert "https://proxyroutes.readthedocs.io/problems/client-request" == problem["type"]
    assert 400 == problem["status"] == reply.status
