"""Mirrors on real sockets: whatever the shadow does, the request goes its way; and what becomes of each copy is known."""

import asyncio
import contextlib
from collections import Counter

import pytest
from fastapi import FastAPI

from proxyroutes import BuildError, ForwardedRequest, HealthMonitor, Proxy, UpstreamPool
from proxyroutes._serve.steps import asking
from proxyroutes.policies import FirstAvailable, Mirror
from proxyroutes.settings import HeaderRules, Timeouts
from proxyroutes.testing import ScriptedOrigin, run_gateway
from proxyroutes.testing.origin import ReadHead, Reset, Wait
from proxyroutes.transports import ASGITransport
from tests.integration.support import (
    OK,
    RawClient,
    eventually,
    make_request,
    refusing_destination,
    silent_destination,
    target_of,
    values_of,
)

CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def reading(answer=CLOSING):
    """An origin that reads a whole request before it answers."""

    async def serve(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")
        elif b"content-length: " in head:
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
        writer.write(answer)
        await writer.drain()
        writer.close()

    return serve


READING = reading()


class Running:
    """A gateway with a route that is mirrored."""

    def __init__(self, running, mirror, pools, records):
        self.port = running.port
        self.mirror = mirror
        self.pools = pools
        self.records = records

    async def ask(self, *args, **options):
        """Send one request over a connection of its own."""
        client = await RawClient.connect(self.port)
        try:
            return await client.ask(make_request(*args, **options))
        finally:
            await client.close()

    async def settled(self, **expected):
        """Wait until the counts are these."""
        counts = self.mirror.counts
        await eventually(lambda: {name: getattr(counts, name) for name in expected} == expected)


@contextlib.asynccontextmanager
async def mirrored(primary, shadow, *, lane="router", stub=None, route=None, **options):
    """Serve a mirrored route; at the end no copy and no lease is left."""
    pools = [UpstreamPool("primary", [primary]), UpstreamPool("shadow", [shadow])]
    records = []
    mirror = Mirror(to=pools[1], **options)
    proxy = Proxy(on_exchange=records.append)

    async def plain() -> None: ...

    proxy.route("/<path>", upstream=pools[0], mirror=mirror, **(route or {}))(stub or plain)
    if lane == "app":
        app = proxy.build_app()
    else:
        app = FastAPI(openapi_url=None)
        app.include_router(proxy.build_router())
    async with run_gateway(app) as running:
        states = [pool.state() for pool in pools]
        yield Running(running, mirror, pools, records)
    await eventually(lambda: not any(state.in_flight for state in states))
    assert [] == mirror_tasks()


def mirror_tasks():
    """Copies that are being sent or compared."""
    return [one for one in asyncio.all_tasks() if "proxyroutes-mirror" in one.get_name()]


def content_of(request):
    """The content of a request as an origin got it."""
    return bytes(request).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("lane", ["router", "app"])
async def test_a_copy_goes_to_the_mirror_and_its_answer_to_nobody(lane):
    """Method, target, fields and content are the same, and the copy says what it is."""
    other = b"HTTP/1.1 500 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad"
    async with (
        ScriptedOrigin(READING) as primary,
        ScriptedOrigin(reading(other)) as shadow,
        mirrored(primary.url, shadow.url, lane=lane) as gateway,
    ):
        reply = await gateway.ask(
            "/a%2Fb?c=d", "X-A: 1", "Content-Length: 5", method="PUT", body="hello"
        )
        await gateway.settled(sent=1, answered=1, failed=0, dropped=0)
        (one,), (copy,) = primary.requests, shadow.requests

    assert (200, b"ok") == (reply.status, reply.body)
    assert (b"/a%2Fb?c=d", [b"1"], b"hello") == (
        target_of(copy),
        values_of(copy, "x-a"),
        content_of(copy),
    )
    assert ([], [b"1"]) == tuple(values_of(got, "x-proxyroutes-shadow") for got in (one, copy))
    assert 1 == len(gateway.records)


async def test_a_client_cannot_mark_its_requests_as_copies():
    """The mark is deleted from what clients send: an upstream may believe it."""
    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([CLOSING]) as shadow,
        mirrored(primary.url, shadow.url, share=0.0) as gateway,
    ):
        await gateway.ask("/", "X-Proxyroutes-Shadow: 1", "X_Proxyroutes_Shadow: 1")

    assert [] == values_of(primary.requests[0], "x-proxyroutes-shadow")
    assert b"hadow" not in bytes(primary.requests[0])


@pytest.mark.parametrize(
    ("lines", "body", "expected"),
    [
        pytest.param(
            ["Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n", b"hello", id="chunked"
        ),
        pytest.param(
            ["Transfer-Encoding: chunked"], "0\r\n\r\n", b"", id="empty-of-unknown-length"
        ),
        pytest.param(["Content-Length: 0"], "", b"", id="empty"),
    ],
)
async def test_a_content_of_any_framing_is_copied(lines, body, expected):
    """The copy has all of it, with its length."""
    async with (
        ScriptedOrigin(READING) as primary,
        ScriptedOrigin(READING) as shadow,
        mirrored(primary.url, shadow.url) as gateway,
    ):
        reply = await gateway.ask("/", *lines, method="POST", body=body)
        await gateway.settled(answered=1)
        (copy,) = shadow.requests

    assert 200 == reply.status
    assert (expected, [b"%d" % len(expected)]) == (
        content_of(copy),
        values_of(copy, "content-length"),
    )


async def test_a_shadow_that_hangs_slows_nobody():
    """The client has its answer while the copy still waits; its time-out ends it."""
    never = asyncio.Event()
    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([ReadHead(), Wait(never)]) as shadow,
        mirrored(primary.url, shadow.url, timeout=0.1) as gateway,
    ):
        replies = [await gateway.ask() for _ in range(3)]
        await gateway.settled(sent=3, failed=3, answered=0)
        state = gateway.pools[1].state()
        await eventually(lambda: not state.in_flight)

    assert [200] * 3 == [one.status for one in replies]


@pytest.mark.parametrize("broken", ["refuses", "silent", "resets", "garbage"])
async def test_a_shadow_that_breaks_breaks_nobody(broken):
    """No connection, no answer, a reset, an answer that is none."""
    scripts = {"resets": [ReadHead(), Reset()], "garbage": [b"SMTP\r\n\r\n"]}
    async with contextlib.AsyncExitStack() as stack:
        primary = await stack.enter_async_context(ScriptedOrigin([CLOSING]))
        if broken == "refuses":
            url = stack.enter_context(refusing_destination())
        elif broken == "silent":
            url = stack.enter_context(silent_destination())
        else:
            url = (await stack.enter_async_context(ScriptedOrigin(scripts[broken]))).url
        gateway = await stack.enter_async_context(mirrored(primary.url, url, timeout=0.2))
        reply = await gateway.ask()
        await gateway.settled(sent=1, failed=1, answered=0, dropped=0)
        record = gateway.records[0]

    assert (200, None, "primary", 1) == (
        reply.status,
        record.error,
        record.pool,
        record.attempts,
    )


async def test_the_gateway_stops_though_a_shadow_hangs():
    """Copies end with the mirror's pool."""
    never = asyncio.Event()
    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([ReadHead(), Wait(never)]) as shadow,
        mirrored(primary.url, shadow.url, timeout=3600.0) as gateway,
    ):
        await gateway.ask()
        await shadow.wait_until(lambda: bool(shadow.requests and shadow.requests[0]))

    assert (1, 1) == (gateway.mirror.counts.sent, gateway.mirror.counts.failed)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        pytest.param(["Content-Length: 9"], "123456789", id="length"),
        pytest.param(["Transfer-Encoding: chunked"], "9\r\n123456789\r\n0\r\n\r\n", id="chunked"),
    ],
)
async def test_a_content_over_the_limit_is_not_copied(lines, body):
    """It reaches its own upstream whole; the copy is dropped and counted."""
    async with (
        ScriptedOrigin(READING) as primary,
        ScriptedOrigin(READING) as shadow,
        mirrored(primary.url, shadow.url, max_body_bytes=8) as gateway,
    ):
        reply = await gateway.ask("/", *lines, method="POST", body=body)
        await gateway.settled(sent=0, dropped=1)
        got = content_of(primary.requests[0])

    assert (200, True, 0) == (reply.status, b"123456789" in got, len(shadow.requests))


async def test_no_more_copies_are_sent_than_are_allowed_at_once():
    """Further ones are dropped; the requests themselves are not."""
    go = asyncio.Event()
    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([ReadHead(), Wait(go), CLOSING]) as shadow,
        mirrored(primary.url, shadow.url, max_in_flight=2) as gateway,
    ):
        replies = [await gateway.ask() for _ in range(5)]
        await gateway.settled(sent=2, dropped=3)
        go.set()
        await gateway.settled(answered=2)
        replies.append(await gateway.ask())
        await gateway.settled(sent=3, answered=3, dropped=3)

    assert [200] * 6 == [one.status for one in replies]


async def test_half_an_upload_is_not_copied():
    """A client that leaves in the middle, and an upstream that answers before the end: no copy, and none is kept."""
    async with (
        ScriptedOrigin([ReadHead(), CLOSING]) as primary,
        ScriptedOrigin(READING) as shadow,
        mirrored(primary.url, shadow.url) as gateway,
    ):
        client = await RawClient.connect(gateway.port)
        await client.send(make_request("/", "Content-Length: 9", method="POST", body="1234"))
        early = await client.read_head()
        client.leave()
        await gateway.settled(dropped=1, sent=0)

    assert (200, 0) == (early.status, len(shadow.requests))


@pytest.mark.parametrize("mirrors", [True, False], ids=["mirrored", "not-mirrored"])
async def test_an_upload_is_tried_again_though_it_is_copied(mirrors):
    """A destination breaks while it waits for the rest of the content; the next one and the shadow get all of it."""
    cut = asyncio.Event()

    async def break_off(reader, writer):
        await reader.readuntil(b"con")
        writer.transport.abort()
        cut.set()

    async with (
        ScriptedOrigin(break_off) as first,
        ScriptedOrigin(READING) as second,
        ScriptedOrigin(READING) as shadow,
    ):
        shadows = UpstreamPool("shadow", [shadow.url])
        balancing = FirstAvailable()
        pool = UpstreamPool("primary", [first.url, second.url], balancing=balancing)
        mirror = Mirror(to=shadows)
        records = []
        proxy = Proxy(on_exchange=records.append)

        @proxy.put("/<path>", upstream=pool, mirror=mirror if mirrors else None)
        async def upload() -> None: ...

        async with run_gateway(proxy.build_app()) as running:
            client = await RawClient.connect(running.port)
            await client.send(make_request("/x", "Content-Length: 7", method="PUT") + b"con")
            await cut.wait()
            await eventually(lambda: second.connections)
            reply = await client.ask(b"tent")
            await eventually(lambda: mirror.counts.answered == mirrors)
            await client.close()

    assert (200, [2]) == (reply.status, [one.attempts for one in records])
    assert [b"content"] * (1 + mirrors) == [
        content_of(one) for one in (*second.requests, *shadow.requests)
    ]


async def test_a_client_that_leaves_takes_its_copy_along_only_while_it_is_kept():
    """The slot of a copy that will not be whole is given back."""
    never = asyncio.Event()
    async with (
        ScriptedOrigin([ReadHead(), Wait(never)]) as primary,
        ScriptedOrigin(READING) as shadow,
        mirrored(primary.url, shadow.url, max_in_flight=1) as gateway,
    ):
        for count in (1, 2):
            client = await RawClient.connect(gateway.port)
            await client.send(make_request("/", "Content-Length: 9", method="POST", body="1234"))
            await primary.wait_until(lambda count=count: len(primary.requests) == count)
            client.leave()
            await gateway.settled(dropped=count, sent=0)

    assert [499, 499] == [record.status for record in gateway.records]


async def test_a_share_of_the_requests_is_copied():
    """By the monitor's randomness: 40 of 200 within five standard deviations."""
    seen = Counter()

    async def count(scope, receive, send):
        seen[dict(scope["headers"]).get(b"x-proxyroutes-shadow", b"")] += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    pools = [
        UpstreamPool(name, ["http://asgi.internal"], transport=ASGITransport(count))
        for name in ("primary", "shadow")
    ]
    mirror = Mirror(to=pools[1], share=0.2)
    proxy = Proxy()

    @proxy.route("/", upstream=pools[0], mirror=mirror)
    async def api() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        client = await RawClient.connect(running.port)
        for _ in range(200):
            await client.ask(make_request())
        await eventually(lambda: mirror.counts.answered == mirror.counts.sent)
        await client.close()

    assert 200 == seen[b""]
    assert abs(seen[b"1"] - 40) < 29
    assert (seen[b"1"], 0) == (mirror.counts.sent, mirror.counts.dropped)


async def test_answers_are_compared():
    """Status, fields and content of both, once both are there; the client's is untouched."""
    compared = []
    shadow_answer = (
        b"HTTP/1.1 202 Ok\r\nContent-Length: 3\r\nX-B: 2\r\nConnection: close\r\n\r\nnew"
    )
    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([shadow_answer]) as shadow,
        mirrored(primary.url, shadow.url, compare=compared.append) as gateway,
    ):
        reply = await gateway.ask("/a?b=c")
        await gateway.settled(compared=1)
        (one,) = compared

    assert b"ok" == reply.body
    assert ("GET", "/a?b=c", "plain") == (one.method, one.target, one.route)
    assert ((200, b"ok", True), (202, b"new", True)) == tuple(
        (side.status, side.body, side.complete) for side in (one.primary, one.shadow)
    )
    assert ("x-b", "2") in one.shadow.headers
    assert min(one.primary.seconds, one.shadow.seconds) > 0.0


async def test_only_a_part_of_large_answers_is_kept():
    """A stream of the client's goes on as long as it likes; the comparison has its beginning."""
    compared = []
    large = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n" + b"x" * 300_000
    )
    async with (
        ScriptedOrigin([large]) as primary,
        ScriptedOrigin([large]) as shadow,
        mirrored(primary.url, shadow.url, compare=compared.append, max_body_bytes=1000) as gateway,
    ):
        reply = await gateway.ask()
        await gateway.settled(compared=1)
        (one,) = compared

    assert 300_000 == len(reply.body)
    assert [(b"x" * 1000, False)] * 2 == [
        (side.body, side.complete) for side in (one.primary, one.shadow)
    ]


async def test_an_answer_that_the_client_did_not_wait_for_is_not_compared():
    """There is nothing whole to compare with."""
    compared = []
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"
    never = asyncio.Event()
    async with (
        ScriptedOrigin([head, Wait(never)]) as primary,
        ScriptedOrigin([CLOSING]) as shadow,
        mirrored(primary.url, shadow.url, compare=compared.append) as gateway,
    ):
        client = await RawClient.connect(gateway.port)
        await client.send(make_request())
        await client.read_head()
        await gateway.settled(answered=1)
        client.leave()
        await eventually(lambda: gateway.records)
        await eventually(lambda: not mirror_tasks())

    assert ([], 0) == (compared, gateway.mirror.counts.compared)


@pytest.mark.parametrize("kind", ["sync", "async", "hangs"])
async def test_a_comparison_that_fails_is_logged_and_hurts_nobody(caplog, kind):
    """It runs in the copy's own time."""

    def fail(comparison):
        raise KeyError(comparison.route)

    async def fail_later(comparison):
        fail(comparison)

    async def hang(comparison):
        await asyncio.Event().wait()

    compare = {"sync": fail, "async": fail_later, "hangs": hang}[kind]
    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([CLOSING]) as shadow,
        mirrored(primary.url, shadow.url, compare=compare, timeout=0.2) as gateway,
    ):
        statuses = [(await gateway.ask()).status for _ in range(2)]
        await eventually(lambda: caplog.text.count("a comparison failed") == 2)
        await gateway.settled(answered=2, compared=0)

    assert [200, 200] == statuses


async def test_a_stub_s_edits_are_copied():
    """The copy is what is forwarded, not what was received."""

    async def stub(request: ForwardedRequest) -> None:
        request.headers["x-user"] = "a"

    async with (
        ScriptedOrigin([CLOSING]) as primary,
        ScriptedOrigin([CLOSING]) as shadow,
        mirrored(primary.url, shadow.url, stub=stub) as gateway,
    ):
        reply = await gateway.ask()
        await gateway.settled(answered=1)

    assert 200 == reply.status
    assert [b"a"] == values_of(shadow.requests[0], "x-user")


async def test_a_validated_content_is_copied():
    """What the gateway has buffered anyway is sent to both."""

    async def stub(item: dict[str, int]) -> None: ...

    async with (
        ScriptedOrigin(READING) as primary,
        ScriptedOrigin(READING) as shadow,
        mirrored(
            primary.url, shadow.url, stub=stub, route={"max_body_bytes": 100, "methods": ["POST"]}
        ) as gateway,
    ):
        reply = await gateway.ask(
            "/",
            "Content-Type: application/json",
            "Content-Length: 7",
            method="POST",
            body='{"a":1}',
        )
        await gateway.settled(answered=1)

    assert 200 == reply.status
    assert [b'{"a":1}'] * 2 == [content_of(one.requests[0]) for one in (primary, shadow)]


async def test_a_request_that_fails_before_it_is_sent_gives_its_copy_up(monkeypatch):
    """Its slot is free for others, and nothing waits for an answer to compare."""

    def fail(*args):
        raise RuntimeError(len(args))

    async with (
        ScriptedOrigin(READING) as primary,
        ScriptedOrigin(READING) as shadow,
        mirrored(primary.url, shadow.url, max_in_flight=1, compare=lambda pair: None) as gateway,
    ):
        asked = ("/", "Content-Length: 2")
        with monkeypatch.context() as patched:
            patched.setattr(asking, "outgoing", fail)
            failed = await gateway.ask(*asked, method="POST", body="hi")
        await gateway.settled(sent=0, dropped=1)
        reply = await gateway.ask(*asked, method="POST", body="hi")
        await gateway.settled(sent=1, answered=1, compared=1, dropped=1)

    assert (500, 200) == (failed.status, reply.status)


async def test_a_stream_that_goes_on_is_not_waited_for(caplog):
    """The copy ends after its time, without a comparison and without a word."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
    never = asyncio.Event()
    compared = []
    async with (
        ScriptedOrigin([head, Wait(never)]) as primary,
        ScriptedOrigin([CLOSING]) as shadow,
        mirrored(primary.url, shadow.url, compare=compared.append, timeout=0.1) as gateway,
    ):
        client = await RawClient.connect(gateway.port)
        await client.send(make_request())
        await client.read_head()
        await gateway.settled(answered=1)
        await eventually(lambda: not mirror_tasks())
        client.leave()

    assert ([], False) == (compared, "comparison failed" in caplog.text)


async def test_each_pool_has_its_own_rules():
    """What the request's own pool adds, such as a secret, is not the mirror's business; the route's rules hold for both."""
    async with ScriptedOrigin(READING) as primary, ScriptedOrigin(READING) as shadow:
        pools = [
            UpstreamPool(
                name, [origin.url], request_headers=HeaderRules(set={f"x-{name}": "secret"})
            )
            for name, origin in (("primary", primary), ("shadow", shadow))
        ]
        mirror = Mirror(to=pools[1])
        proxy = Proxy(request_headers=HeaderRules(set={"x-route": "1"}))

        @proxy.route("/", upstream=pools[0], mirror=mirror)
        async def api() -> None: ...

        async with run_gateway(proxy.build_app()) as running:
            client = await RawClient.connect(running.port)
            await client.ask(make_request("/", "Content-Length: 2", method="POST", body="hi"))
            await eventually(lambda: mirror.counts.answered)
            await client.close()
        names = [
            [name for name in ("x-route", "x-primary", "x-shadow") if values_of(got, name)]
            for got in (primary.requests[0], shadow.requests[0])
        ]

    assert [["x-route", "x-primary"], ["x-route", "x-shadow"]] == names
    assert b"hi" == content_of(shadow.requests[0])


async def test_the_shadow_s_pool_has_its_own_time_outs_and_monitor():
    """It starts with the gateway and takes the proxy's monitor."""
    with refusing_destination() as url:
        monitor = HealthMonitor()
        shadow = UpstreamPool("shadow", [url], timeouts=Timeouts(connect=1.0))
        proxy = Proxy(monitor=monitor, mirror=Mirror(to=shadow))

        @proxy.route("/", upstream=url)
        async def api() -> None: ...

        async with proxy:
            entered = shadow.entered()

    assert (True, False, True) == (entered, shadow.entered(), shadow.monitor is monitor)


class Unbound:
    """A transport that cannot be opened."""

    def bind(self, **options):
        """Fail."""
        raise OSError(sorted(options))


async def test_a_pool_that_cannot_be_opened_breaks_nobody(caplog):
    """It is the mirror's trouble: the request does not know of it."""
    shadow = UpstreamPool("shadow", ["http://127.0.0.1:9"], transport=Unbound())
    async with ScriptedOrigin([CLOSING]) as primary:
        mirror = Mirror(to=shadow, max_in_flight=1)
        proxy = Proxy()

        @proxy.route("/", upstream=primary.url, mirror=mirror)
        async def api() -> None: ...

        async with run_gateway(proxy.build_app(), lifespan="off") as running:
            statuses = []
            for _ in range(2):
                client = await RawClient.connect(running.port)
                statuses.append((await client.ask(make_request())).status)
                await client.close()

    assert ([200, 200], 2) == (statuses, mirror.counts.failed)
    assert "a mirror's pool failed" in caplog.text


@pytest.mark.parametrize(
    "mirror", ["http://127.0.0.1:9", Mirror(to="http://127.0.0.1:9")], ids=["url", "to-a-url"]
)
def test_a_mirror_that_is_none_is_a_mistake(mirror):
    """The build reports it."""
    proxy = Proxy()

    @proxy.route("/", upstream="http://127.0.0.1:9", mirror=mirror)
    async def api() -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_router()

    assert "mirror is a Mirror(to=pool)" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"share": 1.5}, ValueError, id="share"),
        pytest.param({"share": -0.1}, ValueError, id="negative-share"),
        pytest.param({"max_body_bytes": -1}, ValueError, id="bytes"),
        pytest.param({"max_in_flight": 0}, ValueError, id="in-flight"),
        pytest.param({"timeout": 0.0}, ValueError, id="timeout"),
        pytest.param({"compare": 5}, TypeError, id="compare"),
    ],
)
def test_a_mirror_that_cannot_be_is_refused(options, error):
    """It raises where it is written."""
    with pytest.raises(error):
        Mirror(to=UpstreamPool("shadow", ["http://127.0.0.1:9"]), **options)
