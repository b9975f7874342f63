"""What the gateway lets through and what it refuses, byte by byte, whatever server stands in front of it."""

import asyncio
import logging

import pytest
import pytest_asyncio

from proxyroutes.testing import Close, ReadHead, ReadUntil, ScriptedOrigin
from tests.integration.support import (
    OK,
    eventually,
    make_request,
    one_transport,
    open_gateway,
    target_of,
    values_of,
)

HOST = b"Host: gateway.test\r\n"
END = b"\r\n\r\n"


def row(requirement, name, *values):
    """Make a row of a table."""
    return pytest.param(
        *values, id=f"{requirement}-{name}", marks=pytest.mark.requirement(requirement)
    )


def with_fields(*lines, method=b"GET", target=b"/", version=b"1.1", body=b""):
    """Make a request of raw field lines."""
    return b"%s %s HTTP/%s\r\n%s%s\r\n%s" % (
        method,
        target,
        version,
        HOST,
        b"".join(line + b"\r\n" for line in lines),
        body,
    )


def with_target(target, method=b"GET"):
    """Make a request for a raw target."""
    return with_fields(target=target, method=method)


def post(*lines, body=b"abc"):
    """Make a request with content and raw field lines."""
    return with_fields(*lines, method=b"POST", body=body)


CL3 = b"Content-Length: 3"
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKED_BODY = b"3\r\nabc\r\n0\r\n\r\n"

REFUSED = [
    row("S-01", "length-and-coding", post(CL3, CHUNKED, body=CHUNKED_BODY), 400),
    row("S-01", "coding-and-length", post(CHUNKED, CL3, body=CHUNKED_BODY), 400),
    row(
        "S-01",
        "zero-length-and-coding",
        post(b"Content-Length: 0", CHUNKED, body=CHUNKED_BODY),
        400,
    ),
    row("S-02", "gzip-chunked", post(b"Transfer-Encoding: gzip, chunked", body=CHUNKED_BODY), 400),
    row(
        "S-02",
        "chunked-identity",
        post(b"Transfer-Encoding: chunked, identity", body=CHUNKED_BODY),
        400,
    ),
    row("S-02", "xchunked", post(b"Transfer-Encoding: xchunked", body=CHUNKED_BODY), 400),
    row("S-02", "identity", post(b"Transfer-Encoding: identity"), 400),
    row("S-02", "empty-element", post(b"Transfer-Encoding: ,chunked", body=CHUNKED_BODY), 400),
    row("S-02", "two-lines", post(CHUNKED, CHUNKED, body=CHUNKED_BODY), 400),
    row("S-02", "vertical-tab", post(b"Transfer-Encoding: \x0bchunked", body=CHUNKED_BODY), 400),
    row("S-02", "no-break-space", post(b"Transfer-Encoding: \xa0chunked", body=CHUNKED_BODY), 400),
    row("S-02", "quoted", post(b'Transfer-Encoding: "chunked"', body=CHUNKED_BODY), 400),
    row(
        "S-02",
        "http-1.0",
        with_fields(CHUNKED, method=b"POST", version=b"1.0", body=CHUNKED_BODY),
        400,
    ),
    row("S-03", "plus", post(b"Content-Length: +3"), 400),
    row("S-03", "minus", post(b"Content-Length: -3"), 400),
    row("S-03", "hex", post(b"Content-Length: 0x3"), 400),
    row("S-03", "underscore", post(b"Content-Length: 1_0", body=b"0123456789"), 400),
    row("S-03", "list", post(b"Content-Length: 3, 4"), 400),
    row("S-03", "two-lines", post(CL3, b"Content-Length: 4"), 400),
    row("S-03", "empty", post(b"Content-Length: "), 400),
    row("S-03", "23-digits", post(b"Content-Length: 10000000000000000000003"), 400),
    row("S-03", "19-digits", post(b"Content-Length: 1000000000000000000"), 400),
    row("S-05", "space-before-colon", with_fields(b"Name : v"), 400),
    row("S-05", "space-first", b"GET / HTTP/1.1\r\n Name: v\r\n" + HOST + b"\r\n", 400),
    row("S-05", "empty-name", with_fields(b": v"), 400),
    row("S-05", "no-colon", with_fields(b"Name"), 400),
    row("S-05", "nul-in-value", with_fields(b"Name: a\x00b"), 400),
    row("S-05", "cr-in-value", with_fields(b"Name: a\rb"), 400),
    row("S-05", "name-no-token", with_fields(b"Na(me: v"), 400),
    row("S-05", "8-bit-name", with_fields(b"Na\xe9me: v"), 400),
    row("S-07", "escape-in-value", with_fields(b"Name: a\x1bb"), 400),
    row("S-07", "backspace-in-value", with_fields(b"Name: a\x08b"), 400),
    row("S-07", "delete-in-value", with_fields(b"Name: a\x7fb"), 400),
    row("S-10", "at", with_target(b"@evil.test/"), 400),
    row("S-10", "port-at", with_target(b":80@evil.test/"), 400),
    row("S-10", "no-slash", with_target(b"x"), 400),
    row("S-10", "question-mark", with_target(b"?a=b"), 400),
    row("S-10", "backslash", with_target(b"\\evil.test\\x"), 400),
    row("S-11", "dots", with_target(b"/a/../b"), 400),
    row("S-11", "dot", with_target(b"/a/./b"), 400),
    row("S-11", "dots-at-end", with_target(b"/a/.."), 400),
    row("S-11", "dot-at-end", with_target(b"/."), 400),
    row("S-11", "encoded-dots", with_target(b"/a/%2e%2e/b"), 400),
    row("S-11", "upper-case", with_target(b"/a/%2E%2E/b"), 400),
    row("S-11", "mixed-case", with_target(b"/a/%2e%2E/b"), 400),
    row("S-11", "half-encoded", with_target(b"/a/.%2e/b"), 400),
    row("S-11", "other-half-encoded", with_target(b"/a/%2e./b"), 400),
    row("S-11", "encoded-dot", with_target(b"/a/%2e/b"), 400),
    row("S-11", "parameter", with_target(b"/a/..;x/b"), 400),
    row("S-11", "encoded-parameter", with_target(b"/a/..%3bx/b"), 400),
    row("S-11", "nul", with_target(b"/a/..%00/b"), 400),
    row("S-11", "backslash", with_target(b"/a/..\\b"), 400),
    row("S-11", "encoded-backslash", with_target(b"/a/..%5cb"), 400),
    row("S-11", "encoded-backslashes", with_target(b"/a%5c..%5cb"), 400),
    row("S-11", "encoded-slash", with_target(b"/a%2f..%2fb"), 400),
    row("S-11", "encoded-slash-upper-case", with_target(b"/a%2F..%2Fb"), 400),
    row("S-14", "nul", with_target(b"/a%00b"), 400),
    row("S-14", "lf", with_target(b"/a%0ab"), 400),
    row("S-14", "cr", with_target(b"/a%0Db"), 400),
    row("S-14", "crlf", with_target(b"/a%0d%0aX:%20y"), 400),
    row("S-14", "bad-escape", with_target(b"/a%zzb"), 400),
    row("S-14", "half-escape", with_target(b"/a%2"), 400),
    row("S-14", "bare-percent", with_target(b"/100%"), 400),
    row("S-14", "raw-control", with_target(b"/a\x01b"), 400),
    row("S-14", "raw-tab", with_target(b"/a\tb"), 400),
    row("S-14", "raw-delete", with_target(b"/a\x7fb"), 400),
    row("S-14", "raw-8-bit", with_target(b"/caf\xe9"), 400),
    row("S-14", "raw-8-bit-query", with_target(b"/?q=caf\xe9"), 400),
    row("H-03", "connect-path", with_target(b"/x", method=b"CONNECT"), 405),
    row("H-39", "trace", with_target(b"/x", method=b"TRACE"), 405),
    row("H-06", "no-host", b"GET / HTTP/1.1\r\n\r\n", 400),
    row("H-06", "two-hosts", with_fields(b"Host: other.test"), 400),
    row("H-06", "the-same-host-twice", with_fields(b"Host: gateway.test"), 400),
    row("H-06", "host-with-path", b"GET / HTTP/1.1\r\nHost: a.test/evil\r\n\r\n", 400),
    row("H-06", "host-with-user", b"GET / HTTP/1.1\r\nHost: u@a.test\r\n\r\n", 400),
    row("H-06", "host-with-space", b"GET / HTTP/1.1\r\nHost: a.test b.test\r\n\r\n", 400),
    row("H-06", "host-list", b"GET / HTTP/1.1\r\nHost: a.test, b.test:x\r\n\r\n", 400),
    row("H-06", "host-port-no-number", b"GET / HTTP/1.1\r\nHost: a.test:80a\r\n\r\n", 400),
    row("H-37", "unknown-expectation", post(CL3, b"Expect: a-miracle"), 417),
    row("H-46", "target-too-long", with_target(b"/" + b"a" * 17_000), 414),
    row("H-46", "query-too-long", with_target(b"/?" + b"a" * 17_000), 414),
    row(
        "H-46",
        "too-many-fields",
        with_fields(*[b"X-%d: y" % number for number in range(100)]),
        431,
    ),
    row(
        "H-46",
        "too-large-fields",
        with_fields(*[b"X-%d: " % number + b"y" * 8_000 for number in range(5)]),
        431,
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(http, lane, transport):
    """One gateway and its origin for a whole table."""
    answer = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with (
        ScriptedOrigin([answer, Close()]) as origin,
        open_gateway(origin.url, http=http, lane=lane, transport=transport()) as gateway,
    ):
        yield gateway, origin
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.requirement("S-08")
@one_transport
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("raw", "status"), REFUSED)
async def test_a_refused_request_reaches_no_upstream(guarded, caplog, raw, status):
    """What two parties could read differently is answered with its status, and nothing of it is forwarded."""
    gateway, origin = guarded
    asked = origin.connections
    reply = await gateway.ask(raw)
    # Where the server refuses first, any refusal counts.
    own = reply.get("content-type") == b"application/problem+json"
    await eventually(gateway.is_idle)

    assert status == reply.status if own else 400 <= reply.status < 500
    assert asked == origin.connections
    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.requirement("S-09")
@one_transport
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("raw", "status"), [one for one in REFUSED if one.id.startswith(("S-01", "S-11", "H-06"))]
)
async def test_a_connection_is_closed_after_a_refusal(guarded, raw, status):
    """What follows a refused request on its connection is not read as a request."""
    gateway, origin = guarded
    asked = origin.connections
    client = await gateway.connect()
    reply = await client.ask(raw + make_request("/second"))
    rest = await client.read_rest()

    assert reply.status in {status, 400}
    assert b"" == rest
    assert asked == origin.connections


CHUNKS = [
    row("S-04", "hex-prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
    row("S-04", "plus", b"+3\r\nabc\r\n0\r\n\r\n"),
    row("S-04", "space-first", b" 3\r\nabc\r\n0\r\n\r\n"),
    row("S-04", "minus", b"-3\r\nabc\r\n0\r\n\r\n"),
    row("S-04", "lf-in-extension", b"3;\nabc\r\n0\r\n\r\n"),
    row("S-04", "bare-lf", b"3\nabc\r\n0\r\n\r\n"),
    row("S-04", "bare-cr", b"3\rabc\r\n0\r\n\r\n"),
    row("S-04", "overflow", b"1" + b"0" * 24 + b"\r\nabc\r\n0\r\n\r\n"),
    row("S-04", "too-long", b"3\r\nabcd\r\n0\r\n\r\n"),
    row("S-04", "no-crlf-after-content", b"3\r\nabc0\r\n\r\n"),
]


@pytest.mark.parametrize("body", CHUNKS)
async def test_a_malformed_chunk_never_becomes_a_complete_request(serve, http, body):
    """The upstream gets no end of a body that the client's own framing broke."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(), OK]) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        await client.send(post(CHUNKED, body=b""))
        await eventually(lambda: origin.connections)
        await client.send(body)
        reply = await client.read_rest()
        await eventually(lambda: not origin.open_connections)

        assert not bytes(origin.requests[0]).endswith(b"0\r\n\r\n")
        assert not reply.startswith(b"HTTP/1.1 2")


PASSED = [
    row("H-01", "escapes", with_target(b"/a%2Fb%2fc/%41?x=%2f%2F"), b"/a%2Fb%2fc/%41?x=%2f%2F"),
    row("H-01", "plus-and-semicolon", with_target(b"/a+b;c=d?e+f;g"), b"/a+b;c=d?e+f;g"),
    row("H-01", "empty-segments", with_target(b"//a///b//"), b"//a///b//"),
    row("H-01", "brackets", with_target(b'/[a]{b}|c^`"<>?[d]{e}|'), b'/[a]{b}|c^`"<>?[d]{e}|'),
    row("H-01", "question-marks", with_target(b"/a?b?c??"), b"/a?b?c??"),
    row("H-01", "8000-octets", with_target(b"/" + b"a" * 8_000), b"/" + b"a" * 8_000),
    row("H-01", "utf-8", with_target(b"/caf%C3%A9/%E2%82%AC"), b"/caf%C3%A9/%E2%82%AC"),
    row("S-11", "three-dots", with_target(b"/.../..a/a../.a"), b"/.../..a/a../.a"),
    row("S-11", "dots-in-query", with_target(b"/?../.."), b"/?../.."),
    row("S-13", "two-slashes", with_target(b"//evil.test/x"), b"//evil.test/x"),
    row("S-15", "reserved", with_target(b"/%2f%5c%25%3b%23%3f"), b"/%2f%5c%25%3b%23%3f"),
    row("S-16", "double-encoding", with_target(b"/%252e%252e/%252f"), b"/%252e%252e/%252f"),
    row("S-37", "query", with_target(b"/?a=1;b=2&&%zz&=&%00"), b"/?a=1;b=2&&%zz&=&%00"),
]


@pytest.mark.requirement("S-12")
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("raw", "target"), PASSED)
async def test_a_target_is_forwarded_byte_for_byte(guarded, raw, target):
    """What passes the guard goes out as it came: nothing is decoded, encoded or resolved."""
    gateway, origin = guarded
    reply = await gateway.ask(raw)
    await eventually(gateway.is_idle)

    assert 200 == reply.status
    assert target == target_of(origin.requests[-1])


@pytest.mark.requirement("S-13")
async def test_a_double_slash_behind_a_rewritten_prefix_stays_a_path(serve, http):
    """What is left after a prefix was taken away never names a host."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http, path="/api/<path>", rewrite="/<path>")
        await gateway.get("/api//evil.test/x")

        assert b"//evil.test/x" == target_of(origin.requests[0])
        assert [origin.url.removeprefix("http://").encode()] == values_of(
            origin.requests[0], "host"
        )


@pytest.mark.requirement("H-02")
@pytest.mark.requirement("S-18")
async def test_an_absolute_form_never_chooses_the_upstream(serve, http):
    """A target with an authority is refused, or its path alone is forwarded to the configured destination."""
    async with ScriptedOrigin([OK]) as evil, ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http)
        authority = evil.url.removeprefix("http://").encode()
        reply = await gateway.ask(with_target(b"http://" + authority + b"/x"))
        seen = [target_of(one) for one in origin.requests]

        assert ((400, []) if http == "h11" else (200, [b"/x"])) == (reply.status, seen)
        assert 0 == evil.connections


@pytest.mark.requirement("S-17")
async def test_a_fragment_is_never_forwarded(serve, http):
    """A target with a fragment is refused where the server shows it; httptools cuts it off before."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.ask(with_target(b"/a#b"))
        seen = [target_of(one) for one in origin.requests]

        assert ((400, []) if http == "h11" else (200, [b"/a"])) == (reply.status, seen)


@pytest.mark.requirement("S-17")
async def test_a_fragment_behind_a_query_is_never_forwarded(serve, http):
    """The same holds where it stands behind a query."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.ask(with_target(b"/a?q#b"))
        seen = [target_of(one) for one in origin.requests]

        assert ((400, []) if http == "h11" else (200, [b"/a?q"])) == (reply.status, seen)


@pytest.mark.requirement("H-03")
@one_transport
async def test_connect_is_never_forwarded(serve, http):
    """A tunnel is refused, and nobody is asked for one."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.ask(b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n")

        assert 400 <= reply.status < 500
        assert 0 == origin.connections


@pytest.mark.requirement("H-03")
@one_transport
async def test_connect_is_answered_405(serve):
    """A client that asks for a tunnel is told that it is the method that is refused."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http="h11")
        reply = await gateway.ask(b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n")

        assert 405 == reply.status


@pytest.mark.requirement("H-05")
@one_transport
async def test_an_asterisk_is_no_path(serve, http):
    """``OPTIONS *`` is answered by the gateway and never becomes the path of a route."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.ask(with_target(b"*", method=b"OPTIONS"))

        assert reply.status in {200, 400, 404}
        assert 0 == origin.connections


@pytest.mark.requirement("S-06")
@pytest.mark.parametrize(
    "line",
    [
        "X_Forwarded_For: 1.2.3.4",
        "Transfer_Encoding: chunked",
        "Content_Length: 7",
        "X_User: admin",
        "X-Forwarded_Host: evil",
    ],
)
async def test_a_name_with_an_underscore_that_reads_like_one_of_ours_is_dropped(serve, http, line):
    """An application that takes ``_`` for ``-`` is not told a second value of what the gateway says."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http, identity_headers=["X-User"])
        await gateway.get("/", line, "Other_Name: kept")
        name = line.partition(":")[0].lower()

        assert [] == values_of(origin.requests[0], name)
        assert [b"kept"] == values_of(origin.requests[0], "other_name")


@pytest.mark.requirement("H-04")
@pytest.mark.parametrize("method", ["FOO", "PROPFIND", "QUERY", "get", "M-SEARCH"])
async def test_an_unknown_method_is_forwarded_in_its_own_case(serve, method):
    """A method is a token with case: it is never made over to one that is known."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http="h11")
        await gateway.get("/", method=method)

        assert method.encode() == bytes(origin.requests[0]).split(b" ")[0]


@one_transport
async def test_a_refusal_is_a_problem_document_that_shows_nothing(serve, http):
    """The answer to a refused request names a stable type and no part of the request."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.get("/secret/../b")

        assert b"application/problem+json" == reply.get("content-type")
        assert b"secret" not in reply.body
        assert b"close" == reply.get("connection")
