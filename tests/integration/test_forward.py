"""``proxy.forward``: one request forwarded from an ordinary endpoint, with every part of it open to the caller."""

import asyncio
import gzip
import json

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from proxyroutes import Destination, GatewayError, Proxy, Timeouts, UpstreamPool
from proxyroutes._build import imperative
from proxyroutes.exceptions import NoDestinationError, UpstreamConnectError, UpstreamTimeoutError
from proxyroutes.policies import RoundRobin
from proxyroutes.testing import Close, ReadHead, ReadUntil, ScriptedOrigin
from tests.integration.support import OK, eventually, make_request

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def records():
    """Records of ended exchanges."""
    return []


@pytest.fixture
def proxy(records):
    """A proxy that only forwards by hand."""
    return Proxy(via="gw", on_exchange=records.append)


@pytest.fixture
def app(proxy):
    """An application that runs it."""
    return FastAPI(lifespan=proxy.lifespan)


@pytest.fixture
def forwarding(serving, proxy, app, records):
    """Serve an endpoint that forwards everything, with overrides.

    The test ends by asserting that every exchange has ended.
    """

    async def start(upstream, errors=(), **overrides):
        @app.api_route("/{rest:path}", methods=["GET", "POST", "PUT", "HEAD", "DELETE"])
        async def forwards(request: Request) -> Response:
            given = {
                name: value(request) if callable(value) else value
                for name, value in overrides.items()
            }
            return await proxy.forward(request, upstream, **given)

        return await serving(app, errors=errors)

    yield start

    assert [] == [record for record in records if not record.ended]


# As it came.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_request_is_forwarded_as_it_came(forwarding, echo, method):
    """Method, target, fields and content."""
    served = await forwarding(echo.url)
    seen = await served.see(
        "/a%2Fb//c;d?x=%2F&x=",
        "X-A: 1",
        "X-A: 2",
        "Content-Type: text/x",
        method=method,
        body="content",
    )

    assert (
        method,
        "/a%2Fb//c;d?x=%2F&x=",
        ["1", "2"],
        "content",
        "text/x",
        f"127.0.0.1:{echo.port}",
    ) == (
        seen.method,
        seen.target,
        seen.all("x-a"),
        seen.body,
        seen.get("content-type"),
        seen.get("host"),
    )


async def test_a_response_is_relayed_as_it_came(forwarding):
    """Status, fields with their duplicates, and content; the connection's own fields go."""
    head = b"HTTP/1.1 207 Multi\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Hop: 1\r\nConnection: x-hop\r\nContent-Length: 3\r\n\r\nabc"
    async with ScriptedOrigin([head]) as origin:
        reply = await (await forwarding(origin.url)).ask("/")

        assert (207, [b"a=1", b"b=2"], None, b"abc") == (
            reply.status,
            reply.all("set-cookie"),
            reply.get("x-hop"),
            reply.body,
        )


async def test_hop_by_hop_and_forwarding_fields_are_the_gateways(forwarding, echo):
    """What a client says of hops is dropped; ours is set."""
    served = await forwarding(echo.url)
    seen = await served.see(
        "/", "Connection: x-hop, close", "X-Hop: 1", "TE: trailers", "X-Forwarded-Host: forged"
    )

    assert (None, None, ["gateway.test"], ["1.1 gw"]) == (
        seen.get("x-hop"),
        seen.get("te"),
        seen.all("x-forwarded-host"),
        seen.all("via"),
    )


async def test_a_chunked_body_is_streamed(forwarding, echo):
    """Its length stays unknown."""
    client = await (await forwarding(echo.url)).connect()
    reply = await client.ask(
        make_request("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n"
    )

    assert "abc" == json.loads(reply.body)["body"]


async def test_a_chunked_body_of_nothing_is_forwarded(forwarding, echo):
    """It is a body all the same."""
    client = await (await forwarding(echo.url)).connect()
    reply = await client.ask(
        make_request("/", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n"
    )

    assert "" == json.loads(reply.body)["body"]


class Item(BaseModel):
    """A body."""

    name: str


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param('{ "name": "n" }', '{ "name": "n" }', id="some"),
        pytest.param("", "", id="empty"),
    ],
)
async def test_what_the_endpoint_has_read_is_forwarded(serving, echo, proxy, app, body, expected):
    """Bytes that Starlette has kept go out unchanged."""

    @app.post("/")
    async def reads(request: Request):
        await request.body()
        return await proxy.forward(request, echo.url)

    assert expected == (await (await serving(app)).see("/", method="POST", body=body)).body


async def test_what_fastapi_has_read_is_forwarded(serving, echo, proxy, app):
    """An endpoint with a model forwards the bytes that the model was made of."""

    @app.post("/")
    async def reads(request: Request, item: Item):
        return await proxy.forward(request, echo.url, extra_headers={"X-Name": item.name})

    body = '{ "name": "n",\n"more": 1 }'
    seen = await (await serving(app)).see(
        "/", "Content-Type: application/json", method="POST", body=body
    )

    assert (body, "n") == (seen.body, seen.get("x-name"))


async def test_a_get_whose_empty_body_was_read_has_none(serving, echo, proxy, app):
    """Reading nothing does not make a body."""

    @app.get("/")
    async def reads(request: Request):
        await request.body()
        return await proxy.forward(request, echo.url)

    seen = await (await serving(app)).see("/")

    assert (None, None) == (seen.get("content-length"), seen.get("transfer-encoding"))


async def test_a_stream_that_was_consumed_cannot_be_forwarded(serving, echo, proxy, app):
    """Nobody has kept it: the caller is told to give the content."""

    @app.post("/")
    async def reads(request: Request):
        async for _ in request.stream():
            pass
        with pytest.raises(RuntimeError, match="give its content as body="):
            await proxy.forward(request, echo.url)
        return "told"

    assert b'"told"' == (await (await serving(app)).ask("/", method="POST", body="x")).body


# Overrides.


@pytest.mark.parametrize("method", ["POST", "HEAD", "PURGE"])
async def test_the_method_is_forced(forwarding, echo, method):
    """Whatever the client's was."""
    served = await forwarding(echo.url, method=method)
    await served.ask("/x")
    await eventually(lambda: echo.requests)

    assert f"{method} /x HTTP/1.1".encode() == bytes(echo.requests[0]).split(b"\r\n")[0]


async def test_a_get_may_be_turned_into_a_post_with_a_body(forwarding, echo):
    """Method and content together."""
    seen = await (await forwarding(echo.url, method="POST", body=b"made")).see("/")

    assert ("POST", "made", "4") == (seen.method, seen.body, seen.get("content-length"))


async def generate():
    """Make content in pieces, an empty one among them."""
    for piece in (b"one ", b"", bytearray(b"two ")):
        yield piece
    yield b"three"


@pytest.mark.parametrize(
    ("body", "content", "media_type"),
    [
        pytest.param(b"\xff\x00", "\xff\x00", "text/client", id="bytes"),
        pytest.param(bytearray(b"x"), "x", "text/client", id="bytearray"),
        pytest.param(memoryview(b"x"), "x", "text/client", id="memoryview"),
        pytest.param(b"", "", "text/client", id="no-bytes"),
        pytest.param("ü", "Ã¼", "text/client", id="str"),
        pytest.param(
            {"a": ["ü", 1.5, None]}, '{"a":["Ã¼",1.5,null]}', "application/json", id="dict"
        ),
        pytest.param([1], "[1]", "application/json", id="list"),
        pytest.param(0, "0", "application/json", id="number"),
        pytest.param(False, "false", "application/json", id="false"),
    ],
)
async def test_content_is_given(forwarding, echo, body, content, media_type):
    """Instead of the client's, with its own length and, for JSON, its own type."""
    served = await forwarding(echo.url, body=lambda _: body)
    seen = await served.see("/", "Content-Type: text/client", method="POST", body="client's")

    assert (content, str(len(content)), [media_type], []) == (
        seen.body,
        seen.get("content-length"),
        seen.all("content-type"),
        seen.all("transfer-encoding"),
    )


async def test_content_is_given_as_an_asynchronous_iterator(forwarding, echo):
    """It is sent in chunks, as it is made."""
    served = await forwarding(echo.url, body=lambda _: generate())
    seen = await served.see("/", method="POST", body="client's")

    assert ("one two three", None, "chunked") == (
        seen.body,
        seen.get("content-length"),
        seen.get("transfer-encoding"),
    )


class Pieces:
    """An asynchronous iterable that is no iterator."""

    def __aiter__(self):
        """Begin."""
        return generate()


async def test_content_is_given_as_an_asynchronous_iterable(forwarding, echo):
    """What can be iterated is taken."""
    assert (
        "one two three"
        == (
            await (await forwarding(echo.url, body=lambda _: Pieces())).see("/", method="POST")
        ).body
    )


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        pytest.param("x", "text/plain; charset=utf-8", id="str"),
        pytest.param({}, "application/json", id="json"),
        pytest.param(b"x", None, id="bytes"),
    ],
)
@pytest.mark.parametrize("headers", [None, {"X-A": "1"}], ids=["clients-fields", "own-fields"])
async def test_content_without_a_type_is_given_one(forwarding, echo, body, media_type, headers):
    """Text is text and JSON is JSON, also beside fields of one's own."""
    served = await forwarding(echo.url, body=lambda _: body, headers=headers)

    assert media_type == (await served.see("/", method="POST")).get("content-type")


@pytest.mark.parametrize("name", ["headers", "extra_headers"])
async def test_a_type_that_is_given_stays(forwarding, echo, name):
    """The caller knows better."""
    served = await forwarding(
        echo.url, body=lambda _: {}, **{name: {"Content-Type": "application/vnd.a+json"}}
    )

    assert ["application/vnd.a+json"] == (
        await served.see("/", "Content-Type: text/client", method="POST")
    ).all("content-type")


async def test_what_the_client_said_of_its_content_goes_with_it(forwarding, echo):
    """A coding or digest of bytes that are not sent would be a lie."""
    served = await forwarding(echo.url, body="plain")
    seen = await served.see(
        "/",
        "Content-Encoding: gzip",
        "Digest: x",
        "Content-Digest: x",
        method="POST",
        body="client's",
    )

    assert ([], [], []) == (
        seen.all("content-encoding"),
        seen.all("digest"),
        seen.all("content-digest"),
    )


async def test_the_clients_own_stream_may_be_given_back(forwarding, echo):
    """A transformed stream keeps what the client said of it, and reads slowly or fast."""
    body = gzip.compress(b"content").decode("latin-1")
    served = await forwarding(echo.url, body=lambda request: request.stream())
    seen = await served.see("/", "Content-Encoding: gzip", method="POST", body=body)

    assert (body, "gzip") == (seen.body, seen.get("content-encoding"))


async def test_a_stream_that_takes_its_time_loses_nothing(serving, echo, proxy, app):
    """The watch for a client that leaves does not read what the endpoint reads."""

    @app.post("/")
    async def transforms(request: Request):
        async def slowly():
            async for piece in request.stream():
                # Two ticks begin the watch of an exchange that waits.
                for _ in range(3):
                    monitor = proxy.monitor.state()
                    for entry in tuple(monitor.sweeper._entries):
                        entry.tick(monitor.clock.monotonic())
                    await asyncio.sleep(0)
                yield piece

        return await proxy.forward(request, echo.url, body=slowly())

    client = await (await serving(app)).connect()
    await client.send(make_request("/", "Transfer-Encoding: chunked", method="POST"))
    for number in range(20):
        await client.send(b"2\r\n%02d\r\n" % number)
        await asyncio.sleep(0)
    reply = await client.ask(b"0\r\n\r\n")

    assert "".join(f"{number:02d}" for number in range(20)) == json.loads(reply.body)["body"]


async def test_a_client_that_leaves_its_own_stream_is_no_error(serving, proxy, app, records):
    """What Starlette raises then is the client's leaving."""
    left = []

    async with ScriptedOrigin([ReadUntil(b"\r\n\r\n"), ReadUntil()]) as origin:

        @app.post("/")
        async def transforms(request: Request):
            async def pieces():
                try:
                    async for piece in request.stream():
                        yield piece
                except ClientDisconnect:
                    left.append(True)
                    raise

            return await proxy.forward(request, origin.url, body=pieces())

        client = await (await serving(app)).connect()
        await client.send(
            make_request("/", "Transfer-Encoding: chunked", method="POST") + b"2\r\nab\r\n"
        )
        await origin.wait_until(lambda: any(b"ab" in sent for sent in origin.requests))
        client.leave()
        await eventually(lambda: records)

        assert ([True], 499, None) == (left, records[0].status, records[0].error)


async def test_an_iterator_that_fails_ends_the_exchange(forwarding, echo, records):
    """Its error is the endpoint's, and the upstream is not blamed."""

    async def failing():
        yield b"a"
        raise LookupError("no more")

    served = await forwarding(echo.url, errors=["uvicorn.error"], body=lambda _: failing())
    status = await served.status("/", method="POST")
    await eventually(lambda: echo.errors)
    echo.errors.clear()

    assert (500, None) == (status, records[0].error)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Own": "1", "Accept": "own"}, id="mapping"),
        pytest.param([("X-Own", "1"), ("Accept", "own")], id="pairs"),
        pytest.param((pair for pair in [("X-Own", "1"), ("Accept", "own")]), id="iterator"),
    ],
)
async def test_fields_are_given_instead_of_the_clients(forwarding, echo, headers):
    """Only the gateway's own are added."""
    seen = await (await forwarding(echo.url, headers=lambda _: headers)).see(
        "/", "X-Client: 1", "Cookie: a=b", "Accept: client"
    )

    assert {
        "host",
        "x-own",
        "accept",
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    } == {name for name, _ in seen.headers}
    assert ["own"] == seen.all("accept")


async def test_fields_are_given_beside_the_clients(forwarding, echo):
    """Those of the same name replace the client's; duplicates among them are kept."""
    seen = await (
        await forwarding(
            echo.url, extra_headers=[("Accept", "a"), ("Accept", "b"), ("X-Own", "1")]
        )
    ).see("/", "X-Client: 1", "Accept: client")

    assert (["a", "b"], ["1"], ["1"]) == (
        seen.all("accept"),
        seen.all("x-own"),
        seen.all("x-client"),
    )


async def test_both_kinds_of_fields_may_be_given(forwarding, echo):
    """Beside what stands instead of the client's."""
    seen = await (
        await forwarding(echo.url, headers={"X-A": "1", "X-B": "1"}, extra_headers={"X-B": "2"})
    ).see("/", "X-C: 1")

    assert (["1"], ["2"], []) == (seen.all("x-a"), seen.all("x-b"), seen.all("x-c"))


@pytest.mark.parametrize("name", ["headers", "extra_headers"])
async def test_host_may_be_given(forwarding, echo, name):
    """It is a field like any other to the caller."""
    seen = await (await forwarding(echo.url, **{name: {"Host": "example.org:81"}})).see("/")

    assert ["example.org:81"] == seen.all("host")


@pytest.mark.parametrize("name", ["headers", "extra_headers"])
@pytest.mark.parametrize(
    ("field", "words"),
    [
        pytest.param(("X-A", "a\r\nX-Evil: 1"), "control character", id="crlf"),
        pytest.param(("X-A", "a\nb"), "control character", id="lf"),
        pytest.param(("X-A", "a\0b"), "control character", id="nul"),
        pytest.param(("X A", "a"), "not a field name", id="name"),
        pytest.param(("X-A", "…"), "HTTP can carry", id="not-latin-1"),
        pytest.param(("Content-Length", "1"), "belongs to the connection", id="length"),
        pytest.param(("Transfer-Encoding", "chunked"), "belongs to the connection", id="coding"),
        pytest.param(("Connection", "close"), "belongs to the connection", id="connection"),
        pytest.param(("Host", "a b"), "not a host and a port", id="host"),
    ],
)
async def test_a_field_that_cannot_be_sent_is_refused(
    serving, echo, proxy, app, name, field, words
):
    """Nothing is sent."""

    @app.get("/")
    async def forwards(request: Request):
        with pytest.raises(ValueError, match=words):
            await proxy.forward(request, echo.url, **{name: [field]})
        return "refused"

    reply = await (await serving(app)).ask("/")

    assert (b'"refused"', 0) == (reply.body, echo.connections)


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        pytest.param("/new", True, "/new?a=1", id="path"),
        pytest.param("/new", False, "/new", id="path-without-query"),
        pytest.param("/new?b=2", True, "/new?b=2&a=1", id="path-with-its-own-query"),
        pytest.param("/new?b=2", False, "/new?b=2", id="its-own-query-alone"),
        pytest.param("new", False, "/new", id="no-slash"),
        pytest.param("", False, "/", id="empty"),
        pytest.param(
            "/a b/ü#x?q=ü y", False, "/a%20b/%C3%BC%23x?q=%C3%BC%20y", id="encoded-for-the-caller"
        ),
        pytest.param("/a\\b", False, "/a%5Cb", id="backslash-is-encoded"),
        pytest.param("/a%2Fb//c", False, "/a%2Fb//c", id="encoded-by-the-caller"),
        pytest.param(None, True, "/old?a=1", id="neither"),
        pytest.param(None, False, "/old", id="without-query"),
    ],
)
@pytest.mark.parametrize(
    "base", ["", "/base", "/base/"], ids=["no-base", "base", "base-with-slash"]
)
async def test_path_and_query_are_given(forwarding, echo, path, query, target, base):
    """Behind the URL's base path."""
    served = await forwarding(echo.url + base, path=path, forward_query=query)

    assert base.rstrip("/") + target == (await served.see("/old?a=1")).target


async def test_a_path_without_a_query_to_add(forwarding, echo):
    """A path's own query stands alone where the client has none."""
    assert "/new?b=2" == (await (await forwarding(echo.url, path="/new?b=2")).see("/old")).target


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"path": "/../x"}, id="dots"),
        pytest.param({"path": "/%2e%2e"}, id="encoded-dots"),
        pytest.param({"path": "/a\r\nX: y"}, id="crlf"),
        pytest.param({"path": "/a%zz"}, id="bad-escape"),
        pytest.param({"path": "/a\0"}, id="nul"),
        pytest.param({"method": "CONNECT"}, id="connect"),
        pytest.param({"method": "TRACE"}, id="trace"),
        pytest.param({"method": "A B"}, id="no-token"),
        pytest.param({"method": "GET\r\n"}, id="method-with-line-end"),
    ],
)
async def test_an_override_that_cannot_be_forwarded_is_refused(
    serving, echo, proxy, app, overrides
):
    """Nothing is sent."""

    @app.get("/")
    async def forwards(request: Request):
        with pytest.raises(ValueError, match="cannot be forwarded"):
            await proxy.forward(request, echo.url, **overrides)
        return "refused"

    reply = await (await serving(app)).ask("/")

    assert (b'"refused"', 0) == (reply.body, echo.connections)


async def test_content_that_json_cannot_hold_is_refused(serving, echo, proxy, app):
    """Nothing is sent."""

    @app.get("/")
    async def forwards(request: Request):
        with pytest.raises(TypeError):
            await proxy.forward(request, echo.url, body=object())
        with pytest.raises(ValueError, match="JSON"):
            await proxy.forward(request, echo.url, body=float("nan"))
        return "refused"

    reply = await (await serving(app)).ask("/")

    assert (b'"refused"', 0) == (reply.body, echo.connections)


async def test_timeouts_are_given(serving, proxy, app):
    """They come before those of pool and proxy; the endpoint may answer itself."""
    async with ScriptedOrigin([ReadHead()]) as origin:

        @app.get("/")
        async def forwards(request: Request):
            try:
                return await proxy.forward(request, origin.url, timeouts=Timeouts(first_byte=0.05))
            except UpstreamTimeoutError as error:
                return JSONResponse({"stage": error.stage.value}, 504)

        reply = await (await serving(app)).ask("/")

        assert (504, b'{"stage":"response_head"}') == (reply.status, reply.body)


async def test_timeouts_of_the_pool_hold(serving, proxy, app):
    """Where none are given."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        pool = UpstreamPool("slow", [origin.url], timeouts=Timeouts(first_byte=0.05))

        @app.get("/")
        async def forwards(request: Request):
            return await proxy.forward(request, pool)

        assert 504 == await (await serving(app)).status("/")


async def test_timeouts_of_the_proxy_hold(serving, records):
    """Where the pool has none either."""
    proxy = Proxy(timeouts=Timeouts(first_byte=0.05), on_exchange=records.append)
    app = FastAPI(lifespan=proxy.lifespan)
    async with ScriptedOrigin([ReadHead()]) as origin:

        @app.get("/")
        async def forwards(request: Request):
            return await proxy.forward(request, origin.url)

        assert 504 == await (await serving(app)).status("/")


# Upstreams.


async def test_a_pool_is_forwarded_to(forwarding, echo, records):
    """A pool that no route names, behind its destination's base path; a dead destination is passed over."""
    pool = UpstreamPool("pool", [DEAD, f"{echo.url}/base"], balancing=RoundRobin())
    seen = await (await forwarding(pool)).see("/x")

    assert ("/base/x", "pool", 2) == (seen.target, records[0].pool, records[0].attempts)


async def test_the_pool_of_an_origin_is_kept(forwarding, echo, proxy):
    """Two URLs of one origin share a pool, and its connections."""
    served = await forwarding(echo.url, path="/one")
    for _ in range(3):
        await served.see("/")

    assert (1, 1) == (len(proxy._url_pools), echo.connections)


@pytest.mark.requirement("S-20")
async def test_urls_of_one_origin_differ_in_their_base(serving, echo, proxy, app):
    """The base path is the URL's, not the pool's."""

    @app.get("/{name}")
    async def forwards(request: Request, name: str):
        return await proxy.forward(request, f"{echo.url}/{name}-base", path="/x")

    served = await serving(app)

    assert ("/a-base/x", "/b-base/x", 1) == (
        (await served.see("/a")).target,
        (await served.see("/b")).target,
        len(proxy._url_pools),
    )


@pytest.mark.parametrize("end", ["", "/base", "/base/", "/base//"])
async def test_a_unix_socket_is_forwarded_to(forwarding, tmp_path, end):
    """Its path is percent-encoded where a host stands, with or without a base path."""
    async with ScriptedOrigin([OK], unix=tmp_path / "origin.sock") as origin:
        reply = await (await forwarding(origin.url + end)).ask("/x")

        assert (b"ok", f"GET {end.rstrip('/')}/x HTTP/1.1".encode()) == (
            reply.body,
            bytes(origin.requests[0]).split(b"\r\n")[0],
        )


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://a", "http://a?x=1", "http://"])
@pytest.mark.requirement("S-19")
async def test_a_bad_url_is_refused(serving, proxy, app, url):
    """As in a declaration."""

    @app.get("/")
    async def forwards(request: Request):
        with pytest.raises(ValueError):
            await proxy.forward(request, url)
        return "refused"

    assert b'"refused"' == (await (await serving(app)).ask("/")).body


async def test_the_least_recently_used_pool_of_a_url_is_closed(proxy, monkeypatch):
    """Only so many are kept; one that is in use stays."""
    monkeypatch.setattr(imperative, "_MAX_URL_POOLS", 2)
    pools = proxy._url_pools
    async with proxy:
        first, _ = await pools.find("http://a")
        second, base = await pools.find("http://b/base")
        again, _ = await pools.find("http://a/other")
        for pool in (first, second):
            proxy._lifespan.use(pool)
        lease = first.state().lease(None)
        third, _ = await pools.find("http://c")
        evicted = (second.entered(), first.entered())
        fourth, _ = await pools.find("http://d")
        kept = [
            origin
            for origin in ("http://a", "http://b", "http://c", "http://d")
            if origin in pools._pools
        ]
        lease.release()

    assert (True, b"/base", (False, True), ["http://a", "http://d"], 2) == (
        again is first,
        base,
        evicted,
        kept,
        len(pools),
    )


async def test_a_pool_is_kept_where_all_are_in_use(proxy, monkeypatch):
    """Nothing that carries a request is closed for a new one."""
    monkeypatch.setattr(imperative, "_MAX_URL_POOLS", 1)
    async with proxy:
        leases = []
        for url in ("http://a", "http://b"):
            pool, _ = await proxy._url_pools.find(url)
            leases.append(pool.state().lease(None))
        count = len(proxy._url_pools)
        for lease in leases:
            lease.release()
        await proxy._url_pools.close()

    assert 2 == count


# The answer.


async def test_status_and_fields_may_be_edited(serving, proxy, app):
    """Until the response is returned."""
    async with ScriptedOrigin(
        [b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 1\r\nContent-Length: 4\r\n\r\nbody"]
    ) as origin:

        @app.get("/")
        async def forwards(request: Request):
            response = await proxy.forward(request, origin.url)
            response.status_code = 203
            response.headers["X-A"] = "2"
            del response.headers["X-B"]
            response.set_cookie("c", "1")
            return response

        reply = await (await serving(app)).ask("/")

        assert (203, [b"2"], [], 1, b"body") == (
            reply.status,
            reply.all("x-a"),
            reply.all("x-b"),
            len(reply.all("set-cookie")),
            reply.body,
        )


async def test_the_record_of_an_exchange_is_at_hand(serving, echo, proxy, app):
    """Who was asked, and how often."""
    exchanges = []

    @app.get("/")
    async def forwards(request: Request):
        response = await proxy.forward(request, echo.url)
        exchanges.append(response.exchange)
        return response

    await (await serving(app)).see("/")
    (exchange,) = exchanges

    assert ("forward", 1, echo.url, 200) == (
        exchange.route,
        exchange.attempts,
        exchange.destination,
        exchange.status,
    )


async def test_a_response_may_be_closed_instead(serving, echo, proxy, app, records):
    """What is not relayed is let go of."""

    @app.get("/")
    async def forwards(request: Request):
        response = await proxy.forward(request, echo.url)
        response.close()
        response.close()
        return "mine"

    reply = await (await serving(app)).ask("/")

    assert (b'"mine"', 1, True) == (reply.body, len(records), bool(records[0].ended))


async def test_a_failure_is_answered_as_a_problem(forwarding, records):
    """Uncaught, it is problem+json with its status."""
    reply = await (await forwarding(DEAD)).ask("/")

    assert (502, b"application/problem+json", UpstreamConnectError) == (
        reply.status,
        reply.get("content-type"),
        type(records[0].error),
    )


async def test_a_failure_may_be_caught(serving, echo, proxy, app):
    """The endpoint falls back to another upstream."""

    @app.get("/")
    async def forwards(request: Request):
        try:
            return await proxy.forward(request, DEAD)
        except GatewayError:
            return await proxy.forward(request, echo.url)

    assert "/" == (await (await serving(app)).see("/")).target


async def test_the_applications_handler_sees_a_failure_first(forwarding, app):
    """It decides the answer."""

    @app.exception_handler(GatewayError)
    async def handle(request: Request, error: GatewayError) -> Response:
        return JSONResponse({"error": type(error).__name__}, 599)

    reply = await (await forwarding(DEAD)).ask("/")

    assert (599, b'{"error":"UpstreamConnectError"}') == (reply.status, reply.body)


async def test_other_failures_are_answered_as_before(serving, proxy, app):
    """An error of the endpoint's own is the application's, and ours stay ours."""

    @app.get("/mine")
    async def mine():
        raise NoDestinationError("full", retry_after=2.5)

    @app.get("/fails")
    async def fails(request: Request):
        return await proxy.forward(request, DEAD)

    served = await serving(app)
    first = await served.status("/fails")
    reply = await served.ask("/mine")

    assert (502, 503, b"3") == (first, reply.status, reply.get("retry-after"))


async def test_a_refused_request_is_answered(forwarding, echo):
    """The guard stands before ``forward`` too."""
    served = await forwarding(echo.url)

    assert (400, 0) == (await served.status("/%2e%2e/x"), echo.connections)


async def test_a_loop_is_refused(forwarding, echo):
    """A request that comes around again is known by Via."""
    served = await forwarding(echo.url)

    assert (508, 0) == (await served.status("/", "Via: 1.1 gw"), echo.connections)


async def test_an_upstream_that_is_cut_off_breaks_the_connection(forwarding, records):
    """Once the head is sent there is no second answer."""
    async with ScriptedOrigin(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", Close()]
    ) as origin:
        reply = await (await forwarding(origin.url, errors=["uvicorn.error"])).ask("/")

        assert (200, False) == (reply.status, reply.complete)


async def test_a_client_that_leaves_cancels_the_upstream(forwarding, records):
    """While the head is waited for; nobody is blamed."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        served = await forwarding(origin.url)
        client = await served.connect()
        await client.send(make_request("/"))
        await origin.wait_until(lambda: origin.requests and b"\r\n\r\n" in origin.requests[0])
        client.leave()
        await origin.wait_until(lambda: origin.open_connections == 0)
        await eventually(lambda: records)

        assert (499, None) == (records[0].status, records[0].error)


async def test_a_client_that_leaves_while_it_is_answered_cancels_the_upstream(forwarding, records):
    """While the body is relayed."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"]) as origin:
        served = await forwarding(origin.url)
        client = await served.connect()
        await client.send(make_request("/"))
        await client.reader.readuntil(b"short")
        client.leave()
        await origin.wait_until(lambda: origin.open_connections == 0)
        await eventually(lambda: records)

        assert (499, None) == (records[0].status, records[0].error)


@pytest.mark.parametrize("has_handler", [False, True], ids=["problem", "handler"])
async def test_an_answer_that_expires_before_it_is_relayed_is_504(
    serving, echo, proxy, app, records, has_handler
):
    """An endpoint that keeps the response too long gets no half of it sent."""

    @app.get("/")
    async def keeps(request: Request):
        response = await proxy.forward(request, echo.url)
        response.exchange.interrupt(UpstreamTimeoutError("total time-out"))
        return response

    if has_handler:

        @app.exception_handler(UpstreamTimeoutError)
        async def handle(request: Request, error: GatewayError) -> Response:
            return JSONResponse({}, 599)

    status = await (await serving(app)).status("/")

    assert (599 if has_handler else 504, UpstreamTimeoutError) == (status, type(records[0].error))


async def test_a_destination_is_not_an_upstream_of_forward(serving, proxy, app):
    """A pool or a URL is."""

    @app.get("/")
    async def forwards(request: Request):
        with pytest.raises(AttributeError):
            await proxy.forward(request, Destination(DEAD))
        return "refused"

    assert b'"refused"' == (await (await serving(app)).ask("/")).body
