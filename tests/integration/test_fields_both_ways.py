"""Which fields pass, which go and which are ours, in both directions."""

import pytest

from proxyroutes.settings import Forwarding
from proxyroutes.testing import Close, ScriptedOrigin
from tests.integration.support import (
    OK,
    forwarded_fields,
    make_request,
    one_transport,
    target_of,
    values_of,
)

OURS = {
    b"host",
    b"via",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
}


def clients_fields(received):
    """The forwarded fields that the client sent."""
    return [one for one in forwarded_fields(received) if one[0] not in OURS]


async def forward(serve, *lines, raw=None, **options):
    """Forward a request with these fields and give what the origin got."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, **options)
        reply = await gateway.ask(make_request("/", *lines) if raw is None else raw)

        assert 200 == reply.status
        return bytes(origin.requests[0])


async def relay(serve, head, body=b"ok", *, method="GET", **options):
    """Relay a response with this head and give what the client got."""
    async with ScriptedOrigin([head + b"\r\n\r\n" + body, Close()]) as origin:
        gateway = await serve(origin.url, **options)
        return await gateway.get(method=method)


# Requests.


@pytest.mark.requirement("H-22")
async def test_order_duplicates_and_empty_values_of_request_fields_are_kept(serve, http):
    """Field lines go out one for one, in the order in which they came."""
    received = await forward(serve, "X-B: 1", "X-A: 2", "X-B: 3", "X-Empty:", "X-A: 2", http=http)

    assert [
        (b"x-b", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"3"),
        (b"x-empty", b""),
        (b"x-a", b"2"),
    ] == clients_fields(received)


@pytest.mark.requirement("H-20")
async def test_nothing_is_invented_in_a_request(serve):
    """A request without fields has only those that are the gateway's own."""
    received = await forward(serve)

    assert OURS == {name for name, _ in forwarded_fields(received)}


@pytest.mark.requirement("H-23")
async def test_bytes_above_ascii_pass_to_the_upstream(serve, http):
    """Values are opaque bytes: neither Latin-1 nor UTF-8 is read into them."""
    received = await forward(
        serve, raw=b"GET / HTTP/1.1\r\nHost: a\r\nX-A: caf\xe9 \xc3\xa9\xff\r\n\r\n", http=http
    )

    assert [b"caf\xe9 \xc3\xa9\xff"] == values_of(received, "x-a")


@pytest.mark.requirement("H-25")
@one_transport
async def test_end_to_end_fields_pass_to_the_upstream(serve):
    """Credentials, conditions and ranges are the origin's business."""
    lines = [
        "Authorization: Basic eA==",
        "Referer: http://a.test/",
        'If-None-Match: "a"',
        "Range: bytes=0-1",
        'If-Range: "a"',
        "Accept-Encoding: gzip",
        "Last-Event-ID: 7",
        "Cache-Control: no-transform",
    ]
    received = await forward(serve, *lines)

    assert [line.split(": ", 1)[1].encode() for line in lines] == [
        value for _, value in clients_fields(received)
    ]


@pytest.mark.requirement("H-24")
@one_transport
async def test_several_cookie_lines_become_one(serve):
    """Pieces of ``Cookie`` are joined the way that RFC 9113 says."""
    received = await forward(serve, "Cookie: a=1", "X-A: 1", "Cookie: b=2")

    assert [b"a=1; b=2"] == values_of(received, "cookie")


HOP_BY_HOP = [
    "Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic eA==",
    "Proxy-Authenticate: Basic",
    "Proxy-Authentication-Info: x",
    "TE: trailers",
    "Trailer: X-A",
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
]


@pytest.mark.requirement("H-27")
@one_transport
async def test_hop_by_hop_fields_are_not_forwarded(serve, http):
    """What is between the client and the gateway stays there."""
    received = await forward(serve, *HOP_BY_HOP, "X-A: 1", http=http)

    assert [(b"x-a", b"1")] == clients_fields(received)


@pytest.mark.requirement("H-34")
@one_transport
async def test_an_upgrade_to_another_protocol_is_not_forwarded(serve):
    """A request for ``h2c`` is served as what it is without it."""
    received = await forward(
        serve,
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMA",
        http="h11",
    )

    assert [] == clients_fields(received)


@pytest.mark.requirement("H-27")
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Connection: X-Gone"], id="one"),
        pytest.param(["Connection: close, X-Gone"], id="list"),
        pytest.param(["Connection: x-gone"], id="lower-case"),
        pytest.param(["Connection: X-GONE"], id="upper-case"),
        pytest.param(["Connection: keep-alive", "Connection: X-Gone"], id="two-lines"),
        pytest.param(["Connection:  ,\t X-Gone ,, "], id="empty-elements"),
        pytest.param(["Connection: Keep-Alive,X-Gone"], id="no-space"),
    ],
)
@one_transport
async def test_fields_that_connection_names_are_not_forwarded(serve, lines):
    """Every spelling of an option takes its field away."""
    received = await forward(serve, "X-Gone: 1", *lines, "X-Kept: 2", "X-Gone: 3")

    assert [(b"x-kept", b"2")] == clients_fields(received)


@pytest.mark.requirement("H-28")
@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Proto", "Via", "Forwarded"])
@one_transport
async def test_connection_cannot_take_away_what_the_gateway_adds(serve, name):
    """What is ours comes after the client's options were obeyed."""
    received = await forward(serve, f"Connection: close, {name}")

    assert 1 == len(values_of(received, name.lower()))


@pytest.mark.requirement("H-29")
async def test_connection_cannot_take_away_framing_host_or_credentials(serve):
    """Naming an end-to-end field in ``Connection`` does nothing."""
    lines = ["Connection: Content-Length, Host, Cookie, Authorization, Content-Type"]
    kept = ["Content-Length: 3", "Cookie: a=1", "Authorization: x", "Content-Type: text/plain"]
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.ask(make_request("/", *lines, *kept, method="POST", body="abc"))
        received = bytes(origin.requests[0])

        assert {b"content-length", b"cookie", b"authorization", b"content-type"} == {
            name for name, _ in clients_fields(received)
        }
        assert received.endswith(b"\r\n\r\nabc")


@pytest.mark.requirement("S-21")
@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Real-IP",
        "X-Original-URL",
        "X-Original-Host",
        "X-Rewrite-URL",
    ],
)
@one_transport
async def test_what_a_client_says_of_hops_before_us_is_dropped(serve, name):
    """Nobody can pretend to come from elsewhere."""
    received = await forward(
        serve, f"{name}: forged", f"{name.lower()}: forged", server={"proxy_headers": False}
    )

    assert b"forged" not in received


@one_transport
async def test_the_gateway_says_where_the_request_came_from(serve, http):
    """Address, host and scheme of the client's side are set in both spellings."""
    received = await forward(serve, http=http)
    fields = dict(forwarded_fields(received))

    assert {
        b"x-forwarded-for": b"127.0.0.1",
        b"x-forwarded-host": b"gateway.test",
        b"x-forwarded-proto": b"http",
        b"forwarded": b'for=127.0.0.1;host="gateway.test";proto=http',
    } == {name: value for name, value in fields.items() if b"forwarded" in name}


@pytest.mark.requirement("S-25")
@one_transport
@pytest.mark.requirement("S-22")
async def test_the_clients_address_is_not_doubled_behind_a_trusted_proxy(serve):
    """Where the server takes the address from ``X-Forwarded-For`` it is said once."""
    received = await forward(serve, "X-Forwarded-For: 192.0.2.7", server={"proxy_headers": True})

    assert [b"192.0.2.7"] == values_of(received, "x-forwarded-for")


@pytest.mark.requirement("S-25")
@one_transport
async def test_a_forged_address_is_dropped_where_the_server_trusts_nobody(serve):
    """Without trusted proxies the address is the socket's."""
    received = await forward(serve, "X-Forwarded-For: 192.0.2.7", server={"proxy_headers": False})

    assert [b"127.0.0.1"] == values_of(received, "x-forwarded-for")


@pytest.mark.requirement("S-24")
@one_transport
async def test_an_ipv6_client_is_quoted_and_bracketed_in_forwarded(serve):
    """RFC 7239 has its own spelling of IPv6 addresses; ``X-Forwarded-For`` has none."""
    received = await forward(serve, "X-Forwarded-For: 2001:db8::7", server={"proxy_headers": True})

    assert [b"2001:db8::7"] == values_of(received, "x-forwarded-for")
    assert [b'for="[2001:db8::7]";host="gateway.test";proto=http'] == values_of(
        received, "forwarded"
    )


@pytest.mark.parametrize(
    ("forwarding", "names"),
    [
        pytest.param(Forwarding(mode="off"), set(), id="off"),
        pytest.param(Forwarding(x_forwarded=False), {b"forwarded"}, id="forwarded-only"),
        pytest.param(
            Forwarding(forwarded=False),
            {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"},
            id="x-forwarded-only",
        ),
    ],
)
@one_transport
async def test_forwarding_says_which_of_them_are_set(serve, forwarding, names):
    """What is not set is dropped all the same."""
    received = await forward(
        serve, "Forwarded: for=evil", "X-Forwarded-Host: evil", forwarding=forwarding
    )

    assert names == {name for name, _ in forwarded_fields(received) if b"forwarded" in name}
    assert b"evil" not in received


@one_transport
async def test_a_stripped_prefix_is_told_to_the_upstream(serve):
    """What of the public path the upstream does not see stands in ``X-Forwarded-Prefix``."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, path="/api/<path>", rewrite="/<path>", prefix="/outer")
        await gateway.get("/outer/api/a/b")

        assert b"/a/b" == target_of(origin.requests[0])
        assert [b"/outer/api"] == values_of(origin.requests[0], "x-forwarded-prefix")


@one_transport
async def test_an_inclusions_prefix_is_forwarded_where_there_is_no_rewrite(serve):
    """Without a rewrite the path goes out whole, and no prefix was stripped."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, path="/api/<path>", prefix="/outer")
        await gateway.get("/outer/api/a")

        assert b"/outer/api/a" == target_of(origin.requests[0])
        assert [] == values_of(origin.requests[0], "x-forwarded-prefix")


@pytest.mark.requirement("S-28")
@one_transport
async def test_identity_fields_of_the_client_are_dropped(serve):
    """A field that only the application may set never comes from outside."""
    received = await forward(
        serve, "X-User: admin", "x-user: root", "X_User: admin", identity_headers=["X-User"]
    )

    assert [] == clients_fields(received)


@pytest.mark.requirement("H-38")
@pytest.mark.parametrize(
    ("version", "lines", "via"),
    [
        pytest.param("1.1", [], b"1.1 here", id="none"),
        pytest.param("1.0", [], b"1.0 here", id="http-1.0"),
        pytest.param("1.1", ["Via: 1.0 there"], b"1.0 there, 1.1 here", id="one"),
        pytest.param(
            "1.1",
            ["Via: 1.0 a, 1.1 b (c)", "Via: 2 d"],
            b"1.0 a, 1.1 b (c), 2 d, 1.1 here",
            id="two-lines",
        ),
    ],
)
@one_transport
async def test_via_is_appended(serve, version, lines, via):
    """The protocol that the request came in and our name stand behind all earlier hops."""
    raw = make_request("/", *lines).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    received = await forward(serve, raw=raw, proxy={"via": "here"})

    assert [via] == values_of(received, "via")


@pytest.mark.requirement("H-38")
@one_transport
async def test_a_request_that_comes_around_again_is_answered_508(serve):
    """A loop ends at the gateway that sees its own name."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, proxy={"via": "here"})
        reply = await gateway.get("/", "Via: 1.1 there, 1.1 here, 1.1 elsewhere")

        assert 508 == reply.status
        assert 0 == origin.connections


@pytest.mark.requirement("H-06")
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        pytest.param({}, None, id="destination"),
        pytest.param({"host": "preserve"}, b"gateway.test", id="preserve"),
        pytest.param({"host": "other.test:81"}, b"other.test:81", id="literal"),
    ],
)
async def test_exactly_one_host_is_sent_by_the_routes_rule(serve, option, expected):
    """``Host`` is the destination's, the client's or a literal."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, **option)
        await gateway.get()
        destination = f"127.0.0.1:{origin.port}".encode()

        assert [expected or destination] == values_of(origin.requests[0], "host")


@pytest.mark.requirement("H-07")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_a_request_without_content_gets_no_framing(serve, method):
    """No content came, so none is announced."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get(method=method)

        assert [] == clients_fields(origin.requests[0])


@pytest.mark.requirement("H-08")
async def test_a_length_of_zero_is_kept(serve):
    """A content of no bytes stays announced as one."""
    received = await forward(
        serve, "Content-Length: 0", raw=make_request("/", "Content-Length: 0", method="POST")
    )

    assert [b"0"] == values_of(received, "content-length")


# Responses.


@pytest.mark.requirement("H-22")
async def test_response_fields_keep_order_and_duplicates(serve, http):
    """Lines of ``Set-Cookie`` are never joined, and empty values survive."""
    reply = await relay(
        serve,
        b"HTTP/1.1 200 OK\r\nX-B: 1\r\nSet-Cookie: a=1; Path=/\r\nX-A:\r\nSet-Cookie: b=2\r\nX-B: 3\r\nContent-Length: 2",
        http=http,
    )
    ours = {b"date", b"server", b"connection"}

    assert [
        (b"x-b", b"1"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"x-a", b""),
        (b"set-cookie", b"b=2"),
        (b"x-b", b"3"),
        (b"content-length", b"2"),
    ] == [one for one in reply.fields if one[0] not in ours]


@pytest.mark.requirement("H-23")
async def test_bytes_above_ascii_pass_to_the_client(serve, http):
    """Values of responses are opaque bytes too."""
    reply = await relay(
        serve, b"HTTP/1.1 200 OK\r\nX-A: caf\xe9 \xc3\xa9\r\nContent-Length: 2", http=http
    )

    assert b"caf\xe9 \xc3\xa9" == reply.get("x-a")


@pytest.mark.requirement("H-27")
@one_transport
async def test_hop_by_hop_fields_are_not_relayed(serve):
    """What is between the gateway and the upstream stays there."""
    lines = [
        *HOP_BY_HOP[1:],
        "Alt-Svc: h3",
        "Upgrade: h2c",
        "Connection: close, X-Gone",
        "X-Gone: 1",
    ]
    reply = await relay(
        serve, "\r\n".join(["HTTP/1.1 200 OK", *lines, "Content-Length: 2"]).encode()
    )

    assert {b"content-length", b"date", b"server"} == {name for name, _ in reply.fields}


@pytest.mark.requirement("H-45")
@one_transport
async def test_the_upstreams_close_is_not_the_clients(serve, http):
    """The client's connection goes on when the upstream ends its own."""
    async with ScriptedOrigin(
        [OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), Close()]
    ) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        first = await client.ask(make_request("/1"))
        second = await client.ask(make_request("/2"))

        assert [200, 200] == [first.status, second.status]
        assert [] == first.all("connection")


@pytest.mark.requirement("H-44")
@pytest.mark.parametrize(
    ("settings", "server"),
    [
        pytest.param({}, b"uvicorn", id="default"),
        pytest.param({"date_header": False}, b"uvicorn", id="no-date"),
        pytest.param({"server_header": False}, b"upstream", id="no-server"),
        pytest.param({"date_header": False, "server_header": False}, b"upstream", id="neither"),
    ],
)
@one_transport
async def test_date_and_server_come_once(serve, http, settings, server):
    """What the server in front adds is not said a second time, and what it does not add is the upstream's."""
    date = b"Tue, 15 Nov 1994 08:12:31 GMT"
    reply = await relay(
        serve,
        b"HTTP/1.1 200 OK\r\nDate: %s\r\nServer: upstream\r\nContent-Length: 2" % date,
        http=http,
        server=settings,
    )

    assert [server] == reply.all("server")
    assert 1 == len(reply.all("date"))
    assert (reply.get("date") == date) == (settings.get("date_header") is False)


@pytest.mark.requirement("H-10")
async def test_a_response_to_head_keeps_its_length_and_has_no_content(serve, http):
    """The length is that of the content that GET would have; the connection stays usable."""
    async with ScriptedOrigin(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", Close()], [OK]
    ) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        head = await client.ask(make_request("/", method="HEAD"), "HEAD")
        following = await client.ask(make_request("/"))

        assert b"1000" == head.get("content-length")
        assert b"ok" == following.body


@pytest.mark.requirement("H-11")
async def test_a_204_has_neither_length_nor_coding_nor_content(serve, http):
    """The connection stays usable behind it."""
    async with ScriptedOrigin(
        [b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Close()], [OK]
    ) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        empty = await client.ask(make_request("/"))
        following = await client.ask(make_request("/"))

        assert (204, []) == (
            empty.status,
            empty.all("content-length") + empty.all("transfer-encoding"),
        )
        assert b"ok" == following.body


@pytest.mark.requirement("H-12")
async def test_a_304_passes_its_fields_and_leaves_the_connection_usable(serve, http):
    """The length of a 304 is that of another message, which no server can be told."""
    script = [b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 100\r\n\r\n', Close()]
    async with ScriptedOrigin(script, [OK]) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        unchanged = await client.ask(make_request("/", 'If-None-Match: "a"'))
        following = await client.ask(make_request("/"))

        assert (304, b'"a"') == (unchanged.status, unchanged.get("etag"))
        assert b"ok" == following.body


@pytest.mark.requirement("H-13")
@pytest.mark.parametrize("length", [0, 5])
async def test_a_205_has_no_content(serve, http, length):
    """Whatever an upstream sends with it, the client gets none."""
    script = [
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: %d\r\n\r\n" % length + b"hello"[:length],
        Close(),
    ]
    async with ScriptedOrigin(script, [OK]) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        reset = await client.ask(make_request("/"))
        following = await client.ask(make_request("/"))

        assert (205, b"") == (reset.status, reset.body)
        assert b"ok" == following.body


@pytest.mark.requirement("H-18")
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_response_that_ends_with_its_connection_is_relayed_whole(serve, version):
    """An upstream without framing is believed, because there is nothing else to believe."""
    reply = await relay(serve, b"HTTP/%s 200 OK\r\nX-A: 1" % version, b"x" * 100_000)

    assert (b"x" * 100_000, True) == (reply.body, reply.complete)


@pytest.mark.requirement("H-21")
@pytest.mark.requirement("S-43")
async def test_a_coded_content_passes_as_it_is(serve):
    """Nothing is decoded: bytes, length and coding are the origin's."""
    body = b"\x1f\x8b not gzip at all"
    reply = await relay(
        serve, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d" % len(body), body
    )

    assert (b"gzip", body) == (reply.get("content-encoding"), reply.body)


@pytest.mark.requirement("H-17")
@one_transport
async def test_an_http_1_0_client_is_sent_no_chunks(serve):
    """Where the server knows better than to chunk, nothing of ours makes it."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\n\r\nok", Close()]) as origin:
        gateway = await serve(origin.url, http="h11")
        reply = await gateway.ask(make_request("/").replace(b"1.1", b"1.0"))

        assert ([], b"ok") == (reply.all("transfer-encoding"), reply.body)


@pytest.mark.requirement("H-40")
@pytest.mark.parametrize(
    "status", [b"999", b"600", b"101 Switching Protocols", b"103 Early Hints", b"199", b"100"]
)
@pytest.mark.requirement("H-32")
async def test_a_status_that_is_not_final_is_answered_502(serve, status):
    """An upstream's last word must be a final response; none of it reaches the client."""
    reply = await relay(serve, b"HTTP/1.1 " + status + b"\r\nX-Secret: 1", b"")

    assert 502 == reply.status
    assert [] == reply.all("x-secret")


@pytest.mark.requirement("H-31")
@pytest.mark.parametrize(
    "interim", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </a>"]
)
@pytest.mark.requirement("H-32")
async def test_an_interim_response_does_not_disturb_the_final_one(serve, interim):
    """What comes before the final response is not mistaken for it."""
    reply = await relay(
        serve, b"HTTP/1.1 " + interim + b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2"
    )

    assert (200, b"ok", []) == (reply.status, reply.body, reply.all("link"))


@pytest.mark.requirement("H-41")
@pytest.mark.parametrize(
    "line",
    [
        b"X-A: a\x00b",
        b"X-A: a\x01b",
        b"X-A: a\x7fb",
        b"X A: b",
        b"X-A : b",
        b"X(A: b",
        b"X-A: a\rb",
    ],
)
async def test_a_field_that_cannot_be_sent_on_is_answered_502(serve, line):
    """A response is refused before the server in front would break on it."""
    reply = await relay(serve, b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 2")

    assert 502 == reply.status


@pytest.mark.requirement("H-14")
@pytest.mark.usefixtures("broken_relays")
async def test_a_response_with_length_and_coding_never_has_both(serve, transport, request):
    """Ambiguous framing is refused, or the coding alone counts."""
    reply = await relay(
        serve,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"2\r\nok\r\n0\r\n\r\n",
    )

    assert 502 == reply.status or (b"ok", []) == (reply.body, reply.all("content-length"))


@pytest.mark.requirement("H-42")
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Content-Length: 2\r\nContent-Length: 3", id="two-lengths"),
        pytest.param(b"Content-Length: x", id="no-length"),
        pytest.param(b"Content-Length: -2", id="negative-length"),
        pytest.param(b"Transfer-Encoding: gzip", id="unknown-coding"),
    ],
)
async def test_a_response_with_broken_framing_is_answered_502(serve, lines):
    """Where a response ends is never guessed."""
    reply = await relay(serve, b"HTTP/1.1 200 OK\r\n" + lines)

    assert 502 == reply.status


# Location.


@pytest.mark.requirement("H-26")
@pytest.mark.parametrize("name", ["Location", "Content-Location"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("http://{origin}/v2/a?b#c", b"/outer/api/a?b#c", id="own-url"),
        pytest.param("/v2/a%2Fb", b"/outer/api/a%2Fb", id="own-path"),
        pytest.param(
            "http://{origin}/other", b"http://{origin}/other", id="outside-of-the-rewrite"
        ),
        pytest.param(
            "http://elsewhere.test/v2/a", b"http://elsewhere.test/v2/a", id="another-host"
        ),
        pytest.param("https://{origin}/v2/a", b"https://{origin}/v2/a", id="another-scheme"),
        pytest.param("a/b", b"a/b", id="relative"),
    ],
)
@one_transport
async def test_the_destinations_own_address_is_mapped_back(serve, name, value, expected):
    """The client is sent to the public address, the inclusion's prefix included."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        location = value.replace("{origin}", authority)
        writer.write(
            f"HTTP/1.1 302 Found\r\n{name}: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await reader.read()

    async with ScriptedOrigin(answer) as origin:
        authority = f"127.0.0.1:{origin.port}"
        gateway = await serve(
            origin.url, path="/api/<path>", rewrite="/v2/<path>", prefix="/outer"
        )
        reply = await gateway.get("/outer/api/x")

        assert expected.replace(b"{origin}", authority.encode()) == reply.get(name.lower())


@pytest.mark.requirement("S-27")
@one_transport
async def test_no_field_of_the_client_takes_part_in_a_mapped_location(serve):
    """A mapped address is relative: a forged ``Host`` cannot send the next client elsewhere."""
    async with ScriptedOrigin(
        [b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n"]
    ) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.ask(
            b"GET / HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Prefix: /evil\r\n\r\n"
        )

        assert b"/a" == reply.get("location")


@one_transport
async def test_a_location_is_kept_where_the_route_says_so(serve):
    """``location="keep"`` leaves the destination's address to the client."""
    async with ScriptedOrigin(
        [b"HTTP/1.1 302 Found\r\nLocation: /v2/a\r\nContent-Length: 0\r\n\r\n"]
    ) as origin:
        gateway = await serve(
            origin.url, path="/api/<path>", rewrite="/v2/<path>", location="keep"
        )
        reply = await gateway.get("/api/x")

        assert b"/v2/a" == reply.get("location")


@pytest.mark.requirement("S-38")
async def test_a_redirect_is_never_followed(serve):
    """The client decides where it goes."""
    async with (
        ScriptedOrigin([OK]) as elsewhere,
        ScriptedOrigin(
            [
                f"HTTP/1.1 307 Go\r\nLocation: {elsewhere.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
            ]
        ) as origin,
    ):
        gateway = await serve(origin.url)
        reply = await gateway.get()

        assert (307, f"{elsewhere.url}/x".encode()) == (reply.status, reply.get("location"))
        assert 0 == elsewhere.connections


@pytest.mark.requirement("S-31")
async def test_no_cookie_is_kept_between_requests(serve):
    """What one user is given is never sent for the next."""
    async with ScriptedOrigin(
        [OK.replace(b"OK\r\n", b"OK\r\nSet-Cookie: id=1\r\n"), Close()], [OK]
    ) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        await gateway.get()

        assert [] == values_of(origin.requests[1], "cookie")


async def test_a_base_path_stands_in_front_of_every_target(serve):
    """A destination may live below a path of its origin."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url + "/base")
        await gateway.get("/a?b=c")

        assert b"/base/a?b=c" == target_of(origin.requests[0])


# Behind other proxies.


@pytest.mark.requirement("S-22")
@one_transport
async def test_a_trusted_proxys_fields_are_continued(serve, lane):
    """What it says of the client is kept, and its own address is added."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url,
            lane=lane,
            forwarding=Forwarding(mode="append", trusted=["127.0.0.0/8"]),
            server={"proxy_headers": False},
        )
        await gateway.get(
            "/",
            "X-Forwarded-For: 192.0.2.1",
            "X-Forwarded-Proto: https",
            "Connection: X-Forwarded-For",
        )
        received = origin.requests[0]

        assert [[b"192.0.2.1, 127.0.0.1"], [b"https"]] == [
            values_of(received, name) for name in ("x-forwarded-for", "x-forwarded-proto")
        ]


@pytest.mark.requirement("S-25")
@one_transport
async def test_a_trusted_proxys_list_is_not_doubled_where_the_server_reads_it(serve):
    """The server's client is then the one that the list names, and no peer."""
    received = await forward(
        serve,
        "X-Forwarded-For: 192.0.2.1, 127.0.0.2",
        forwarding=Forwarding(mode="append", trusted=["127.0.0.0/8", "192.0.2.0/24"]),
        server={"proxy_headers": True},
    )

    assert [b"127.0.0.2"] == values_of(received, "x-forwarded-for")


@pytest.mark.requirement("H-39")
@one_transport
async def test_the_last_hop_of_options_answers_by_itself(serve, lane):
    """Nothing reaches the upstream, and the answer has no content."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane, methods=["GET", "OPTIONS"])
        last = await gateway.get("/", "Max-Forwards: 0", method="OPTIONS")
        assert 0 == origin.connections
        await gateway.get("/", "Max-Forwards: 5", method="OPTIONS")

        assert (204, b"GET, OPTIONS", b"") == (last.status, last.get("allow"), last.body)
        assert [b"4"] == values_of(origin.requests[0], "max-forwards")
