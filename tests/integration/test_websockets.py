"""Sessions from end to end on real sockets, behind every WebSocket implementation that uvicorn has."""

import asyncio
import json
import logging

import pytest
from websockets.version import version as websockets_version

from proxyroutes import Timeouts
from proxyroutes.testing import ScriptedOrigin
from tests.integration.support import refusing_destination
from tests.integration.websocket_support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    SERVERS,
    TEXT,
    UPGRADE,
    SessionOrigin,
    accept,
    frame,
    nothing_left,
    open_sessions,
    value_of,
    values_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:remove second argument:DeprecationWarning"),
]


@pytest.fixture(params=SERVERS)
def ws(request):
    """The server's implementation of WebSockets."""
    return request.param


@pytest.fixture(params=["router", "app"])
def lane(request):
    """The way of a handshake through the gateway."""
    return request.param


@pytest.fixture(autouse=True)
async def nothing_is_left(caplog):
    """Every test ends without a task of ours, an unhandled exception or an error in our log."""
    caplog.set_level(logging.INFO)
    async with nothing_left():
        yield
    errors = [one for one in caplog.get_records("call") if one.levelno >= logging.ERROR]

    assert [] == [one.getMessage() for one in errors if one.name.startswith("proxyroutes")]


@pytest.fixture
async def origin():
    """An origin whose sessions the test plays."""
    async with SessionOrigin() as one:
        yield one

    assert [] == one.errors


# The handshake.


@pytest.mark.requirement("W-01")
async def test_a_client_is_accepted_only_after_the_upstream_has_accepted(ws, lane):
    """And nothing that the client sends meanwhile reaches the upstream before its 101."""
    async with SessionOrigin(lambda head: b"") as origin:
        async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
            dialling = asyncio.create_task(
                gateway.dial(surplus=frame(TEXT, b"early", masked=True))
            )
            upstream = await origin.session()
            before = (dialling.done(), origin.requests[0].partition(b"\r\n\r\n")[2])
            await upstream.send_raw(accept(upstream.head))
            client = await dialling
            await client.send(TEXT, b"hello")
            got = await upstream.message()
            # Some servers drop what comes with the handshake, others keep it for later.
            if got == (TEXT, b"early"):
                got = await upstream.message()
            await client.close(1000)
            await upstream.closed()

    assert (False, b"", 101, (TEXT, b"hello")) == (*before, client.status, got)


@pytest.mark.requirement("W-02")
@pytest.mark.parametrize("status", [200, 301, 401, 403, 404, 500, 503])
async def test_an_upstreams_refusal_reaches_the_client(ws, lane, status):
    """With its status, its content and its fields, never as a 101."""
    reply = (
        b"HTTP/1.1 %d Some Reason\r\nContent-Length: 4\r\nContent-Type: text/x\r\nX-Why: because\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nSec-WebSocket-Version: 8\r\n"
        b"Location: http://elsewhere.test/\r\n\r\nnope" % status
    )
    async with SessionOrigin(lambda head: reply) as origin:
        async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
            client = await gateway.dial()
            record = await gateway.record()

    assert (status, b"nope", b"because", b"text/x", [b"a=1", b"b=2"], None) == (
        client.status,
        client.body,
        value_of(client.head, b"x-why"),
        value_of(client.head, b"content-type"),
        values_of(client.head, b"set-cookie"),
        value_of(client.head, b"sec-websocket-version"),
    )
    assert (status, None, None, None) == (
        record.status,
        record.error,
        record.ending,
        record.cause,
    )


@pytest.mark.requirement("W-02")
async def test_a_chunked_refusal_is_whole():
    """Whatever its framing."""
    reply = (
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    )
    async with SessionOrigin(lambda head: reply) as origin:
        async with open_sessions(origin.url) as gateway:
            client = await gateway.dial()

    assert (403, b"abcde") == (client.status, client.body)


@pytest.mark.requirement("W-02")
async def test_a_refusal_without_a_length_ends_with_its_connection():
    """As in any response."""
    reply = b"HTTP/1.1 403 No\r\n\r\nabc"
    async with SessionOrigin(lambda head: reply) as origin:
        async with open_sessions(origin.url) as gateway:
            client = await gateway.dial()

    assert (403, b"abc") == (client.status, client.body)


@pytest.mark.requirement("W-03")
async def test_an_unreachable_upstream_is_a_502(ws, lane):
    """As an HTTP response with a problem."""
    with refusing_destination() as url:
        async with open_sessions(url, ws=ws, lane=lane) as gateway:
            client = await gateway.dial()
            record = await gateway.record()

    assert (502, b"application/problem+json", 502, "UpstreamConnectError") == (
        client.status,
        value_of(client.head, b"content-type"),
        json.loads(client.body)["status"],
        type(record.error).__name__,
    )


@pytest.mark.requirement("W-03")
async def test_a_silent_upstream_is_a_504(ws, lane):
    """After the time-out of the handshake."""
    async with SessionOrigin(lambda head: b"") as origin:
        timeouts = Timeouts(first_byte=0.1)
        async with open_sessions(origin.url, ws=ws, lane=lane, timeouts=timeouts) as gateway:
            client = await gateway.dial()
            upstream = await origin.session()
            gone = await upstream.read()
            upstream.leave()

    assert (504, None) == (client.status, gone)


@pytest.mark.requirement("W-03")
async def test_a_pools_time_outs_hold_for_its_handshakes():
    """Where the route says none."""
    async with SessionOrigin(lambda head: b"") as origin:
        pool = {"timeouts": Timeouts(first_byte=0.1)}
        async with open_sessions(origin.url, pool=pool) as gateway:
            client = await gateway.dial()
            upstream = await origin.session()
            await upstream.read()
            upstream.leave()
            record = await gateway.record()

    assert (504, "upstream-timeout") == (client.status, record.cause)


@pytest.mark.requirement("W-03")
async def test_a_pool_without_a_destination_is_a_503(origin):
    """With Retry-After."""
    async with open_sessions(origin.url) as gateway:
        gateway.pool.state().available = ()
        client = await gateway.dial()

    assert (503, b"1") == (client.status, value_of(client.head, b"retry-after"))


@pytest.mark.requirement("W-04")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda head: accept(head, key=b"d3Jvbmc="), id="wrong-accept"),
        pytest.param(lambda head: accept(head).replace(b"Sec-WebSocket-Accept", b"X"), id="none"),
        pytest.param(lambda head: accept(head, b"Sec-WebSocket-Accept: eA=="), id="two-accepts"),
        pytest.param(lambda head: accept(head).replace(b"websocket", b"h2c", 1), id="upgrade"),
        pytest.param(
            lambda head: accept(head).replace(b"Upgrade: websocket", b"X: y"), id="no-upgrade"
        ),
        pytest.param(
            lambda head: accept(head).replace(b"Connection: Upgrade", b"Connection: close"),
            id="connection",
        ),
        pytest.param(lambda head: accept(head, b"Sec-WebSocket-Protocol: x"), id="subprotocol"),
        pytest.param(
            lambda head: accept(head, b"Sec-WebSocket-Protocol: a, b"), id="two-subprotocols"
        ),
        pytest.param(
            lambda head: accept(head, b"Sec-WebSocket-Extensions: permessage-deflate"),
            id="extension",
        ),
        pytest.param(lambda head: accept(head, b"Content-Length: 3"), id="length"),
        pytest.param(lambda head: b"SSH-2.0-x\r\n\r\n", id="no-http"),
        pytest.param(lambda head: b"HTTP/1.1 999 x\r\n\r\n", id="status"),
        pytest.param(lambda head: b"HTTP/1.1 101 x\r\nX: %b" % (b"y" * 70_000), id="huge"),
        pytest.param(
            lambda head: b"HTTP/1.1 103 x\r\n\r\n" * 20 + accept(head), id="interim-flood"
        ),
    ],
)
async def test_an_answer_that_is_none_is_a_502(answer):
    """Nothing but a 101 that fits the request opens a session."""
    async with SessionOrigin(answer) as origin:
        async with open_sessions(origin.url) as gateway:
            client = await gateway.dial("/live", "Sec-WebSocket-Protocol: a, b")
            (await origin.session()).leave()

    assert 502 == client.status


async def test_interim_responses_before_the_101_are_passed_over():
    """A 103 is no answer to the handshake."""
    async with SessionOrigin(
        lambda head: b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + accept(head, b"X-Late: 1")
    ) as origin:
        async with open_sessions(origin.url) as gateway:
            client, upstream = await gateway.open(origin)
            await client.close(1000)
            await upstream.closed()

    assert (b"1", None) == (value_of(client.head, b"x-late"), value_of(client.head, b"link"))


@pytest.mark.requirement("W-05")
@pytest.mark.parametrize(("offered", "chosen"), [("a, b", b"b"), ("a, b", None), (None, None)])
async def test_the_upstream_chooses_the_subprotocol(ws, lane, offered, chosen):
    """Of all that the client offers, in its order; no offer sends no field."""
    lines = () if chosen is None else (b"Sec-WebSocket-Protocol: " + chosen,)
    own = () if offered is None else (f"Sec-WebSocket-Protocol: {offered}",)
    async with SessionOrigin(lambda head: accept(head, *lines)) as origin:
        async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
            client, upstream = await gateway.open(origin, "/live", *own)
            await client.close(1000)
            await upstream.closed()

    assert ([offered.encode()] if offered else [], [chosen] if chosen else []) == (
        values_of(upstream.head, b"sec-websocket-protocol"),
        values_of(client.head, b"sec-websocket-protocol"),
    )


@pytest.mark.requirement("W-06")
async def test_fields_pass_and_those_of_the_hop_are_made_anew(ws, lane):
    """In both directions."""
    lines = (b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Own: yes", b"Keep-Alive: 3")
    async with SessionOrigin(lambda head: accept(head, *lines)) as origin:
        async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
            client, upstream = await gateway.open(
                origin,
                "/live",
                "Cookie: c=1",
                "Authorization: Bearer t",
                "Origin: https://page.test",
                "X-Mine: 1",
                "X-Forwarded-For: 6.6.6.6",
                "Sec-WebSocket-Extensions: permessage-deflate",
            )
            await client.close(1000)
            await upstream.closed()
            address = origin.url.removeprefix("http://").encode()
    names = ("cookie", "authorization", "origin", "x-mine", "x-forwarded-for", "x-forwarded-proto")
    head = upstream.head

    assert [b"c=1", b"Bearer t", b"https://page.test", b"1", b"127.0.0.1", b"http"] == [
        value_of(head, name.encode()) for name in names
    ]
    assert (1, [b"13"], [], [address], [b"websocket"]) == (
        len(values_of(head, b"sec-websocket-key")),
        values_of(head, b"sec-websocket-version"),
        values_of(head, b"sec-websocket-extensions"),
        values_of(head, b"host"),
        values_of(head, b"upgrade"),
    )
    assert ([b"a=1", b"b=2"], [b"yes"], [], 1) == (
        values_of(client.head, b"set-cookie"),
        values_of(client.head, b"x-own"),
        values_of(client.head, b"keep-alive"),
        len(values_of(client.head, b"sec-websocket-accept")),
    )
    assert UPGRADE[2].partition(": ")[2].encode() != value_of(head, b"sec-websocket-key")


@pytest.mark.requirement("W-07")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param({"upgrade": (*UPGRADE[:2], UPGRADE[3])}, id="no-key"),
        pytest.param({"upgrade": (*UPGRADE[:3], "Sec-WebSocket-Version: 8")}, id="version"),
        pytest.param({"method": "POST"}, id="method"),
    ],
)
async def test_a_handshake_that_is_none_opens_no_session(ws, origin, case):
    """Whoever sees it first refuses it; the upstream is not dialled, and no byte behind it goes anywhere."""
    if (
        ws not in {"wsproto", "websockets"}
        and "method" in case
        and websockets_version.startswith("12.")
    ):
        pytest.skip("this server never answers it with websockets 12")
    async with open_sessions(origin.url, ws=ws) as gateway:
        client = await gateway.dial("/live", **case)

    assert (True, 0) == (400 <= client.status < 500, origin.connections)


async def call(app, **scope):
    """Hand a scope to the application as a server without the denial extension does."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    whole = {
        "type": "websocket",
        "path": "/live",
        "raw_path": b"/live",
        "query_string": b"",
        "headers": [(b"host", b"gateway.test")],
        "subprotocols": [],
        **scope,
    }
    await app(whole, receive, send)
    return sent


@pytest.mark.requirement("W-07")
async def test_another_version_is_answered_426(origin):
    """By the gateway itself, where a server lets it pass; the version that is understood is named (RFC 6455 §4.4)."""
    async with open_sessions(origin.url) as gateway:
        headers = [(b"host", b"gateway.test"), (b"sec-websocket-version", b"8")]
        extensions = {"websocket.http.response": {}}
        app = gateway.proxy.build_app()
        sent = await call(app, headers=headers, extensions=extensions)

    assert (426, True, 0) == (
        sent[0]["status"],
        (b"sec-websocket-version", b"13") in sent[0]["headers"],
        origin.connections,
    )


@pytest.mark.requirement("W-07")
@pytest.mark.parametrize(
    "own",
    [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
    ids=["length", "chunked"],
)
async def test_a_handshake_with_content_is_refused(origin, own):
    """By the gateway itself, where a server lets it pass: the bytes behind it could be read as anything."""
    async with open_sessions(origin.url) as gateway:
        headers = [(b"host", b"gateway.test"), own]
        extensions = {"websocket.http.response": {}}
        sent = await call(gateway.proxy.build_app(), headers=headers, extensions=extensions)

    assert (400, 0) == (sent[0]["status"], origin.connections)


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_client_that_leaves_as_it_is_accepted_is_let_go_of(origin, how):
    """Its upstream too, and nothing of it is left to be looked at."""
    async with open_sessions(origin.url) as gateway:
        accepting = asyncio.Event()

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            if message["type"] == "websocket.accept":
                accepting.set()
                if how == "fails":
                    raise OSError("the client is gone")
                await asyncio.Event().wait()

        scope = {"type": "websocket", "path": "/live", "raw_path": b"/live", "query_string": b""}
        scope |= {"headers": [(b"host", b"gateway.test")], "subprotocols": []}
        serving = asyncio.create_task(gateway.proxy.build_app()(scope, receive, send))
        await accepting.wait()
        if how == "is cancelled":
            serving.cancel()
        await asyncio.wait([serving])
        upstream = await origin.session()
        while await upstream.read():
            pass
        upstream.leave()
        record = await gateway.record()

    assert (how == "is cancelled", {"fails": 499}.get(how, 101), None) == (
        serving.cancelled(),
        record.status,
        record.error,
    )


@pytest.mark.requirement("W-02")
async def test_a_server_without_denials_is_told_to_close(origin):
    """Which it answers with 403."""
    async with open_sessions(origin.url) as gateway:
        gateway.pool.state().available = ()
        sent = await call(gateway.proxy.build_app())

    assert [("websocket.close", 1011)] == [(one["type"], one["code"]) for one in sent]


@pytest.mark.requirement("W-08")
@pytest.mark.parametrize(
    "target",
    [
        "/ws/../admin",
        "/ws/%2e%2e/admin",
        "/ws/..%2fadmin",
        "/ws/%5c..%5cadmin",
        "/ws/a%00",
        "/a%zz",
    ],
)
async def test_the_rules_for_paths_hold_for_sessions(ws, lane, origin, target):
    """A target that two parties could read differently is refused before anybody sees it."""
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client = await gateway.dial(target)

    # Where no route has such a path, the server answers that.
    assert (True, 0) == (client.status in {400, 403}, origin.connections)


@pytest.mark.requirement("W-09")
async def test_target_and_query_arrive_byte_for_byte(ws, lane, origin):
    """Escapes, their case, double slashes and odd queries."""
    target = "/a%2Fb//c%20d;v=1/%c3%A9?q=%41&&x=+;y&z"
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin, target)
        await client.close(1000)
        await upstream.closed()

    assert target.encode() == upstream.head.split(b" ")[1]


@pytest.mark.requirement("W-09")
async def test_a_rewrite_is_filled_with_raw_text(lane, origin):
    """What is captured is what came, an inclusion's prefix left out."""
    prefix = "" if lane == "app" else "/p"
    async with open_sessions(
        origin.url + "/base",
        lane=lane,
        path="/<room>/<path>",
        rewrite="/v2/<path>/of/<room>",
        prefix=prefix,
    ) as gateway:
        client, upstream = await gateway.open(origin, prefix + "/a%20b/c%2Fd?x")
        await client.close(1000)
        await upstream.closed()

    assert b"/base/v2/c%2Fd/of/a%20b?x" == upstream.head.split(b" ")[1]


@pytest.mark.requirement("W-10")
async def test_a_redirect_is_not_followed():
    """It is an answer as any other."""
    async with SessionOrigin() as elsewhere:
        reply = b"HTTP/1.1 302 Found\r\nLocation: %b/x\r\nContent-Length: 0\r\n\r\n" % (
            elsewhere.url.encode()
        )
        async with SessionOrigin(lambda head: reply) as origin:
            async with open_sessions(origin.url) as gateway:
                client = await gateway.dial()
                expected = elsewhere.url.encode() + b"/x"

    assert (302, expected, 0) == (
        client.status,
        value_of(client.head, b"location"),
        elsewhere.connections,
    )


# Messages.


@pytest.mark.requirement("W-11")
async def test_messages_keep_kind_order_and_bounds(ws, lane, origin):
    """Empty ones too, and those that came in fragments."""
    messages = [
        (TEXT, "grüß".encode()),
        (BINARY, b"\x00\xff"),
        (TEXT, b""),
        (BINARY, b""),
        (TEXT, b"x" * 70_000),
        (BINARY, b"y" * 300_000),
        (TEXT, b"last"),
    ]
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin)
        for one, other in ((client, upstream), (upstream, client)):
            for opcode, payload in messages:
                await one.send(opcode, payload)

            assert messages == [await other.message() for _ in messages]
            await one.send(TEXT, "a€".encode()[:2], fin=False)
            await one.send(CONTINUATION, b"", fin=False)
            await one.send(PING, b"between")
            await one.send(CONTINUATION, "a€".encode()[2:])
            pong = await one.read()

            assert ((PONG, b"between"), (TEXT, "a€".encode())) == (
                (pong.opcode, pong.payload),
                await other.message(),
            )
        await client.close(1000)
        await upstream.closed()
        record = await gateway.record()
    size = sum(len(payload) for _, payload in messages) + 4

    assert (8, 8, size, size, 101) == (
        record.request_messages,
        record.response_messages,
        record.request_bytes,
        record.response_bytes,
        record.status,
    )


@pytest.mark.requirement("W-12")
async def test_what_comes_with_the_101_is_delivered(ws):
    """In the same segment."""
    async with SessionOrigin(
        lambda head: accept(head) + frame(TEXT, b"one") + frame(BINARY, b"two")[:3]
    ) as origin:
        async with open_sessions(origin.url, ws=ws) as gateway:
            client, upstream = await gateway.open(origin)
            first = await client.message()
            await upstream.send_raw(b"wo")
            second = await client.message()
            await client.send(TEXT, b"at once")
            third = await upstream.message()
            await client.close(1000)
            await upstream.closed()

    assert [(TEXT, b"one"), (BINARY, b"two"), (TEXT, b"at once")] == [first, second, third]


@pytest.mark.requirement("W-12")
async def test_a_last_word_before_the_close_is_delivered(ws):
    """Messages and a Close frame in one segment with the 101, and the connection closed behind them."""
    async with SessionOrigin(
        lambda head: (
            accept(head) + frame(TEXT, b"bye") + frame(CLOSE, (4000).to_bytes(2, "big") + b"done")
        )
    ) as origin:
        async with open_sessions(origin.url, ws=ws) as gateway:
            client, upstream = await gateway.open(origin)
            upstream.leave_gently()
            got = (await client.message(), await client.closed())

    assert ((TEXT, b"bye"), (4000, "done")) == got


# The end.


@pytest.mark.requirement("W-13")
@pytest.mark.parametrize("code", [1000, 1001, 1008, 1009, 1011, 3000, 4999])
async def test_a_clients_close_reaches_the_upstream(ws, lane, origin, code):
    """With its code and its reason."""
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin)
        await client.close(code, "grüße")
        got = await upstream.closed()
        record = await gateway.record()

    assert ((code, "grüße"), ("client", code)) == (
        got,
        (record.ending.side.value, record.ending.code),
    )


@pytest.mark.requirement("W-13")
@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 1012, 1013, 3000, 4999])
async def test_an_upstreams_close_reaches_the_client(ws, lane, origin, code):
    """With its code and its reason."""
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin)
        await upstream.close(code, "grüße")
        got = await client.closed()
        answer = await upstream.read()
        upstream.leave_gently()
        record = await gateway.record()

    assert ((code, "grüße"), (CLOSE, code), ("upstream", code), None) == (
        got,
        (answer.opcode, answer.code),
        (record.ending.side.value, record.ending.code),
        record.cause,
    )


@pytest.mark.requirement("W-13")
async def test_a_close_without_a_code_stays_one_where_it_can(ws, origin):
    """ASGI cannot say it to a client: it gets 1000, never 1005."""
    async with open_sessions(origin.url, ws=ws) as gateway:
        client, upstream = await gateway.open(origin)
        await client.close()
        towards_upstream = await upstream.closed()
        client, upstream = await gateway.open(origin)
        await upstream.close()
        towards_client = await client.closed()
        upstream.leave_gently()

    assert ((None, ""), (1000, "")) == (towards_upstream, towards_client)


@pytest.mark.requirement("W-14")
async def test_a_client_that_vanishes_closes_the_upstream(ws, lane, origin):
    """At once, with 1001, and counts against nobody."""
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin)
        client.leave()
        got = await upstream.closed()
        record = await gateway.record()

    assert ((1001, ""), None, "client", "client-left") == (
        got,
        record.error,
        record.ending.side.value,
        record.cause,
    )


@pytest.mark.requirement("W-14")
@pytest.mark.parametrize("how", ["leave", "leave_gently"])
async def test_an_upstream_that_vanishes_closes_the_client(ws, lane, origin, how):
    """At once, with 1011, and it is the upstream's failure."""
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin)
        getattr(upstream, how)()
        got = await client.closed()
        record = await gateway.record()

    assert (
        (1011, "the upstream's connection was lost"),
        "relay-interrupted",
        "session",
    ) == (
        got,
        record.cause,
        record.error.stage.value,
    )


@pytest.mark.requirement("W-14")
async def test_a_client_that_leaves_while_the_upstream_is_dialled_cancels_it(ws):
    """The connection to the upstream is closed, and the record says 499."""
    async with SessionOrigin(lambda head: b"") as origin:
        async with open_sessions(origin.url, ws=ws) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(
                b"GET /live HTTP/1.1\r\nHost: a\r\n" + "\r\n".join(UPGRADE).encode() + b"\r\n\r\n"
            )
            upstream = await origin.session()
            writer.transport.abort()
            gone = await upstream.read()
            upstream.leave()
            record = await gateway.record()

    assert (None, 499, "client-left") == (gone, record.status, record.cause)


@pytest.mark.requirement("W-22")
async def test_a_server_that_stops_ends_sessions_on_both_sides(ws, lane, origin):
    """The upstream gets 1001; what the client gets is the server's to say."""
    async with open_sessions(origin.url, ws=ws, lane=lane) as gateway:
        client, upstream = await gateway.open(origin)
        gateway.running.server.should_exit = True
        got = await upstream.closed()
        code, _ = await client.closed()

    assert ((1001, ""), True) == (got, code in {1001, 1012})


@pytest.mark.requirement("W-22")
async def test_a_gateway_that_stops_ends_sessions_on_both_sides(ws, origin):
    """With 1001, within the grace time, where the gateway's own life ends before the server's."""
    async with open_sessions(origin.url, ws=ws) as gateway:
        client, upstream = await gateway.open(origin)
        stopping = asyncio.create_task(gateway.pool.state().aclose())
        got = (await upstream.closed(), await client.closed())
        await stopping
        record = await gateway.record()

    assert (((1001, "the gateway stops"),) * 2, "gateway") == (got, record.ending.side.value)


# Destinations.


@pytest.mark.requirement("W-23")
async def test_a_connect_failure_moves_on(origin, lane):
    """Nothing was sent; the next destination is dialled."""
    with refusing_destination() as url:
        async with open_sessions(url, origin.url, lane=lane) as gateway:
            for _ in range(2):
                client, upstream = await gateway.open(origin)
                await client.close(1000)
                await upstream.closed()
            await gateway.record(2)

    assert [1, 2] == sorted(record.attempts for record in gateway.records)


@pytest.mark.requirement("W-23")
async def test_a_handshake_that_was_sent_is_not_sent_again(origin):
    """Another destination is not asked once the first one may have seen it."""
    async with ScriptedOrigin(lambda reader, writer: reader.readuntil(b"\r\n\r\n")) as broken:
        async with open_sessions(broken.url, origin.url) as gateway:
            client = await gateway.dial()

    assert (502, 0) == (client.status, origin.connections)


@pytest.mark.requirement("W-24")
async def test_a_session_holds_its_lease_until_both_sides_are_closed(origin):
    """And counts as in flight at its destination, but at no HTTP connection."""
    async with open_sessions(origin.url) as gateway:
        client, upstream = await gateway.open(origin)
        state = gateway.pool.state()
        during = (state.in_flight, state.destinations[0].in_flight)
        connections = state.transport.connections(state.destinations[0])
        await client.close(1000)
        got = await upstream.read()
        # The upstream has not answered yet.
        closing = state.in_flight
        upstream.leave_gently()
        await gateway.record()
        after = state.in_flight

    assert ((1, 1), (0, 0), CLOSE, 1, 0) == (during, connections, got.opcode, closing, after)


# Origins.


@pytest.mark.requirement("W-21")
@pytest.mark.parametrize(
    ("origins", "status"),
    [
        (("https://app.test",), 101),
        (("HTTPS://APP.test",), 101),
        ((), 101),
        (("https://app.test.evil.test",), 403),
        (("https://evil-app.test",), 403),
        (("http://app.test",), 403),
        (("https://app.test:444",), 403),
        (("null",), 403),
        (("",), 403),
    ],
)
async def test_only_pages_of_allowed_origins_get_a_session(origin, lane, origins, status):
    """Compared whole; the upstream is not dialled for others."""
    async with open_sessions(
        origin.url, lane=lane, allowed_origins=["https://app.test"]
    ) as gateway:
        client = await gateway.dial("/live", *(f"Origin: {one}" for one in origins))
        if status == 101:
            upstream = await origin.session()
            await client.close(1000)
            await upstream.closed()

    assert (status, int(status == 101)) == (client.status, origin.connections)


@pytest.mark.requirement("W-21")
async def test_two_origins_are_refused(origin):
    """Even if one of them is allowed: who knows which one the upstream believes."""
    async with open_sessions(origin.url, allowed_origins=["https://app.test"]) as gateway:
        headers = [
            (b"host", b"gateway.test"),
            (b"origin", b"https://app.test"),
            (b"origin", b"https://app.test"),
        ]
        extensions = {"websocket.http.response": {}}
        sent = await call(gateway.proxy.build_app(), headers=headers, extensions=extensions)

    assert (403, 0) == (sent[0]["status"], origin.connections)
