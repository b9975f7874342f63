"""Filters of content on real sockets: what they change, what is corrected for them, and how they fail."""

import asyncio
import gzip
import json
import zlib

import brotli
import pytest
from fastapi import Body, Depends, FastAPI, Request, Response
from starlette.responses import StreamingResponse

from proxyroutes import Forward, ForwardedRequest, Proxy, UpstreamPool
from proxyroutes.exceptions import ClientRequestError, FilterError
from proxyroutes.filters import by_chunk, by_event, by_line, by_record
from proxyroutes.policies import Retry
from proxyroutes.settings import HeaderRules
from proxyroutes.testing import Close, ReadHead, ReadToEnd, ReadUntil, ScriptedOrigin, Wait
from tests.integration.support import (
    OK,
    eventually,
    make_request,
    one_transport,
    values_of,
)

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"


@by_chunk
async def upper(chunks):
    """Change every byte that can be."""
    async for chunk in chunks:
        yield chunk.upper()


@by_line
async def number(lines):
    """Make content longer."""
    count = 0
    async for line in lines:
        count += 1
        yield f"{count}:{line}"


def response(body, *lines, status=b"200 OK"):
    """A response with a length."""
    head = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, head, len(body), body)


async def ask(serve, script, *lines, method="GET", body=None, **options):
    """The reply to one request, and what the origin got."""
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, **options)
        fields = [*lines] if body is None else [*lines, f"Content-Length: {len(body)}"]
        raw = make_request("/", *fields, method=method) + (body or b"")
        reply = await gateway.ask(raw, method)
        return reply, bytes(origin.requests[0]) if origin.requests else b""


async def test_a_response_is_filtered(serve, lane):
    """Its length is that of what is sent, in every way that a request takes."""
    reply, _ = await ask(serve, [response(b"a\nb\n")], lane=lane, response_filters=(number,))

    assert (b"1:a\n2:b\n", True) == (reply.body, reply.complete)


@one_transport
async def test_a_content_that_is_here_whole_has_its_new_length(serve):
    """Short contents are not sent in chunks for being filtered."""
    reply, _ = await ask(serve, [response(b"a\nb\n")], response_filters=(number,))

    assert b"8" == reply.get("content-length")


async def test_a_request_is_filtered(serve, lane):
    """It is sent in chunks, because nobody knows how long it will be."""
    script = [ReadHead(), ReadUntil(), OK]
    reply, received = await ask(
        serve, script, method="POST", body=b"a\nb", lane=lane, request_filters=(number, upper)
    )

    assert 200 == reply.status
    assert b"1:A\n2:B" == unchunked(received)
    assert [] == values_of(received, "content-length")


def unchunked(received):
    """The content of a chunked request."""
    _, _, rest = received.partition(b"\r\n\r\n")
    content = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        content += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return content


@one_transport
async def test_what_is_said_of_other_bytes_is_dropped(serve):
    """Validators, digests and ranges belong to the content that is not sent."""
    lines = [
        b'ETag: "1"',
        b"Digest: sha-256=x",
        b"Content-Digest: sha-256=:eA==:",
        b"Repr-Digest: sha-256=:eA==:",
        b"Content-MD5: eA==",
        b"Accept-Ranges: bytes",
        b"Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT",
        b"Content-Type: text/plain",
    ]
    reply, _ = await ask(serve, [response(b"a", *lines)], response_filters=(upper,))

    assert {b"content-length", b"last-modified", b"content-type"} == {
        name for name, _ in reply.fields
    } - {b"date", b"server"}


@one_transport
async def test_what_is_said_of_a_filtered_request_is_dropped(serve):
    """The upstream would refuse a digest of other bytes."""
    _, received = await ask(
        serve,
        [ReadHead(), ReadUntil(), OK],
        "Content-MD5: eA==",
        "Content-Digest: sha-256=:eA==:",
        "Content-Type: text/plain",
        method="POST",
        body=b"a",
        request_filters=(upper,),
    )

    assert [[], [], [b"text/plain"]] == [
        values_of(received, name) for name in ("content-md5", "content-digest", "content-type")
    ]


@one_transport
async def test_ranges_and_unknown_codings_are_not_asked_for(serve):
    """A part cannot be filtered, and neither can what cannot be read."""
    _, received = await ask(
        serve,
        [response(b"a")],
        "Range: bytes=0-1",
        'If-Range: "a"',
        "Accept-Encoding: gzip;q=0.5, compress, br, *",
        response_filters=(upper,),
    )

    assert [[], [], [b"gzip;q=0.5, br"]] == [
        values_of(received, name) for name in ("range", "if-range", "accept-encoding")
    ]


@pytest.mark.parametrize("lines", [[], ["Accept-Encoding: compress"]], ids=["none", "unknown"])
@one_transport
async def test_plain_content_is_asked_for_where_the_client_takes_no_other(serve, lines):
    """What no filter is meant for passes as it comes: the client must be able to read it."""
    _, received = await ask(serve, [response(b"a")], *lines, response_filters=(upper,))

    assert [b"identity"] == values_of(received, "accept-encoding")


@pytest.mark.parametrize(
    ("coding", "code"),
    [
        pytest.param(b"gzip", gzip.compress, id="gzip"),
        pytest.param(b"deflate", zlib.compress, id="deflate"),
        pytest.param(b"br", brotli.compress, id="br"),
    ],
)
@one_transport
async def test_a_coded_response_is_decoded(serve, coding, code):
    """It is sent on without its coding."""
    script = [response(code(b"a\nb\n"), b"Content-Encoding: " + coding)]
    reply, _ = await ask(serve, script, response_filters=(number,))

    assert (b"1:a\n2:b\n", []) == (reply.body, reply.all("content-encoding"))


@one_transport
async def test_a_coded_request_is_decoded(serve):
    """It is forwarded without its coding."""
    _, received = await ask(
        serve,
        [ReadHead(), ReadUntil(), OK],
        "Content-Encoding: gzip",
        method="POST",
        body=gzip.compress(b"a\nb\n"),
        request_filters=(number,),
    )

    assert b"1:a\n2:b\n" == unchunked(received)
    assert [] == values_of(received, "content-encoding")


@one_transport
async def test_content_that_no_filter_is_meant_for_passes_as_it_is(serve):
    """Its coding, length and validators too."""
    coded = gzip.compress(b"{}")
    script = [
        response(coded, b"Content-Encoding: gzip", b'ETag: "1"', b"Content-Type: application/json")
    ]

    @by_event
    async def broken(events):
        raise AssertionError
        yield

    reply, _ = await ask(serve, script, response_filters=(broken,))

    assert (coded, b"gzip", b'"1"') == (
        reply.body,
        reply.get("content-encoding"),
        reply.get("etag"),
    )


@one_transport
async def test_filters_nest_as_middleware_does(serve):
    """Requests pass proxy, route and pool in this order, responses the other way round."""

    def mark(name):
        async def marking(chunks):
            async for chunk in chunks:
                yield chunk + name

        return marking

    reply, received = await ask(
        serve,
        [ReadHead(), ReadUntil(), response(b"r")],
        method="POST",
        body=b"q",
        proxy={"request_filters": [mark(b"-proxy")], "response_filters": [mark(b"-proxy")]},
        pool={"request_filters": [mark(b"-pool")], "response_filters": [mark(b"-pool")]},
        request_filters=[mark(b"-1"), mark(b"-2")],
        response_filters=[mark(b"-1"), mark(b"-2")],
    )

    assert (b"q-proxy-1-2-pool", b"r-pool-1-2-proxy") == (unchunked(received), reply.body)


@one_transport
async def test_an_event_passes_at_once(serve):
    """The head comes before the first event, and each event before the next."""
    first, second = asyncio.Event(), asyncio.Event()

    @by_event
    async def shout(events):
        async for event in events:
            event.data = event.data.upper()
            yield event

    script = [SSE, Wait(first), b"data: a\n\n", Wait(second), b"data: b\n\ndata: c", Close()]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, response_filters=(shout,))
        client = await gateway.connect()
        await client.send(make_request())
        head = await client.read_head()
        first.set()
        one = await client.read_chunk()
        second.set()
        rest = [await client.read_chunk() for _ in range(3)]

        assert 200 == head.status
        assert (b"data: A\n\n", [b"data: B\n\n", b"data: C\n\n", b""]) == (one, rest)


@pytest.mark.usefixtures("broken_relays")
@pytest.mark.requirement("S-41")
@one_transport
async def test_an_event_that_does_not_end_breaks_the_relay(serve):
    """It is neither kept nor passed unfiltered, and the upstream is to blame."""

    @by_event(max_bytes=1000)
    async def same(events):
        async for event in events:
            yield event

    async with ScriptedOrigin([SSE + b"data: a\n\ndata: " + b"x" * 2000]) as origin:
        gateway = await serve(origin.url, response_filters=(same,))
        reply = await gateway.get()
        record = await gateway.wait_for_record()

        assert (b"data: a\n\n", False) == (reply.body, reply.complete)
        assert "larger than 1000 bytes" in str(record.error)


async def test_a_request_line_over_its_cap_is_answered_413(serve):
    """The client is to blame."""

    @by_line(max_bytes=10)
    async def same(lines):
        async for line in lines:
            yield line

    reply, _ = await ask(
        serve, [ReadHead(), ReadUntil()], method="POST", body=b"x" * 11, request_filters=(same,)
    )

    assert 413 == reply.status


@one_transport
async def test_a_request_that_is_no_record_is_answered_400(serve):
    """It is not forwarded unfiltered."""

    @by_record
    async def same(records):
        async for record in records:
            yield record

    reply, _ = await ask(
        serve,
        [ReadHead(), ReadUntil()],
        "Content-Type: application/x-ndjson",
        method="POST",
        body=b"{",
        request_filters=(same,),
    )

    assert 400 == reply.status


@pytest.mark.requirement("S-43")
@one_transport
async def test_a_bomb_in_a_request_is_answered_413(serve):
    """It does not unfold in memory, and not at the upstream either."""
    bomb = gzip.compress(bytes(50_000_000))
    reply, received = await ask(
        serve,
        [ReadHead(), ReadUntil()],
        "Content-Encoding: gzip",
        method="POST",
        body=bomb,
        request_filters=(upper,),
    )

    assert 413 == reply.status
    assert len(received) < 20_000_000


@one_transport
async def test_the_limit_of_a_route_counts_decoded_bytes_too(serve):
    """A small content that unfolds to a large one is a large one."""
    reply, _ = await ask(
        serve,
        [ReadHead(), ReadUntil()],
        "Content-Encoding: gzip",
        method="POST",
        body=gzip.compress(b"a" * 5000),
        request_filters=(upper,),
        max_body_bytes=1000,
    )

    assert 413 == reply.status


@one_transport
async def test_a_request_in_an_unknown_coding_is_answered_415(serve):
    """The client is told which ones are understood."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, request_filters=(upper,))
        reply = await gateway.ask(
            make_request("/", "Content-Encoding: compress", "Content-Length: 1", method="POST")
            + b"x"
        )

        assert (415, 0) == (reply.status, origin.connections)
        assert b"gzip" in reply.get("accept-encoding")


@one_transport
async def test_a_response_in_an_unknown_coding_is_answered_502(serve):
    """It is not passed unfiltered."""
    script = [response(b"x", b"Content-Encoding: compress")]
    reply, _ = await ask(serve, script, response_filters=(upper,))

    assert 502 == reply.status


@one_transport
async def test_a_part_that_was_not_asked_for_is_answered_502(serve):
    """It is not passed unfiltered."""
    script = [response(b"x", b"Content-Range: bytes 0-0/9", status=b"206 Partial Content")]
    reply, _ = await ask(serve, script, "Range: bytes=0-0", response_filters=(upper,))

    assert 502 == reply.status


@pytest.mark.usefixtures("broken_relays")
@one_transport
async def test_a_coded_response_that_is_cut_off_breaks_the_relay(serve):
    """A content that is complete for HTTP and cut for its coding never looks complete."""
    body = gzip.compress(bytes(range(256)) * 2000)[:-9]
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    reply, _ = await ask(serve, [head, body[:100], body[100:]], response_filters=(upper,))

    assert 502 == reply.status or not reply.complete


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@one_transport
async def test_a_304_and_a_head_are_about_the_filtered_content(serve, method):
    """They say nothing of the other bytes, and no filter is begun."""

    @by_chunk
    async def broken(chunks):
        raise AssertionError
        yield

    status = b"200 OK" if method == "HEAD" else b"304 Not Modified"
    script = [b'HTTP/1.1 %b\r\nETag: "1"\r\nContent-Length: 10\r\n\r\n' % status, Close()]
    reply, _ = await ask(serve, script, method=method, response_filters=(broken,))

    assert [[], []] == [reply.all("etag"), reply.all("content-length")]


@pytest.mark.parametrize("status", [b"204 No Content", b"205 Reset Content"])
@one_transport
async def test_a_response_without_content_is_not_filtered(serve, status):
    """There is nothing to filter."""

    @by_chunk
    async def adds(chunks):
        async for chunk in chunks:
            yield chunk
        yield b"more"

    script = [b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status]
    reply, _ = await ask(serve, script, response_filters=(adds,))

    assert (int(status[:3]), b"") == (reply.status, reply.body)


@one_transport
async def test_a_filter_may_add_and_end_early(serve):
    """What it leaves of the upstream's content is not waited for."""

    @by_line
    async def head(lines):
        async for line in lines:
            yield line
            yield "end\n"
            return

    script = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n", ReadToEnd()]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, response_filters=(head,))
        reply = await gateway.get()
        await eventually(lambda: not origin.open_connections)

        assert (b"a\nend\n", True) == (reply.body, reply.complete)


# Failures.


@by_chunk
async def fails(chunks):
    """Raise at the first chunk."""
    async for _ in chunks:
        raise KeyError("secret")
    yield b""


@one_transport
async def test_a_filter_that_raises_before_the_head_is_answered_502(serve, lane):
    """Nobody else is to blame, and nothing of the exception is shown."""
    async with ScriptedOrigin([response(b"a")]) as origin:
        gateway = await serve(origin.url, lane=lane, response_filters=(fails,))
        reply = await gateway.get()
        record = await gateway.wait_for_record()

        assert 502 == reply.status
        assert b"secret" not in reply.body
        assert isinstance(record.error, FilterError)
        assert "secret" in str(record.error)


@pytest.mark.usefixtures("broken_relays")
async def test_a_filter_that_raises_behind_the_head_breaks_the_relay(serve, lane):
    """The client cannot take it for a complete response."""

    @by_chunk
    async def later(chunks):
        async for chunk in chunks:
            yield chunk
            raise KeyError("secret")

    script = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", ReadToEnd()]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, lane=lane, response_filters=(later,))
        reply = await gateway.get()
        await eventually(lambda: not origin.open_connections)

        assert (200, b"abc", False) == (reply.status, reply.body, reply.complete)


async def test_a_request_filter_that_raises_is_answered_502(serve):
    """The upstream's connection is closed: its request was not complete."""
    async with ScriptedOrigin([ReadHead(), ReadUntil()]) as origin:
        gateway = await serve(origin.url, request_filters=(fails,))
        reply = await gateway.ask(make_request("/", "Content-Length: 1", method="POST") + b"x")
        await eventually(lambda: not origin.open_connections)

        assert 502 == reply.status
        assert not bytes(origin.requests[0]).endswith(b"0\r\n\r\n")


async def test_a_request_filter_may_refuse_the_request(serve):
    """An error of the gateway's own keeps its status."""

    @by_line
    async def refuse(lines):
        async for line in lines:
            if "forbidden" in line:
                raise ClientRequestError("a forbidden word", status_code=422)
            yield line

    reply, _ = await ask(
        serve,
        [ReadHead(), ReadUntil()],
        method="POST",
        body=b"a\nforbidden\n",
        request_filters=(refuse,),
    )

    assert 422 == reply.status


@pytest.mark.usefixtures("broken_relays")
@one_transport
async def test_a_filter_cannot_make_a_cut_response_look_complete(serve):
    """What it catches of the upstream's failure is raised again at its end."""

    @by_chunk
    async def forgives(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except Exception:
            yield b"[cut]"

    script = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Close()]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, response_filters=(forgives,))
        reply = await gateway.get()

        assert not reply.complete


@pytest.mark.parametrize("content", ["text", 3, None])
@one_transport
async def test_a_filter_of_chunks_that_yields_no_bytes_is_answered_502(serve, content):
    """What cannot be sent is not sent."""

    async def wrong(chunks):
        async for _ in chunks:
            yield content

    reply, _ = await ask(serve, [response(b"a")], response_filters=(wrong,))

    assert 502 == reply.status


@one_transport
async def test_a_filter_that_cannot_begin_is_answered_502(serve):
    """A function that gives no iterator is known only when it is called."""
    reply, _ = await ask(serve, [response(b"a")], response_filters=(lambda chunks: None,))

    assert 502 == reply.status


async def test_a_client_that_leaves_ends_the_filters(serve, lane):
    """What they clean up is cleaned up, and the upstream is let go of."""
    ended = asyncio.Event()

    @by_event
    async def holds(events):
        try:
            async for event in events:
                yield event
        finally:
            ended.set()

    async with ScriptedOrigin([SSE + b"data: a\n\n", ReadToEnd()]) as origin:
        gateway = await serve(origin.url, lane=lane, response_filters=(holds,))
        client = await gateway.connect()
        await client.send(make_request())
        await client.read_head()
        await client.read_chunk()
        client.leave()
        await asyncio.wait_for(ended.wait(), 10)
        await eventually(lambda: not origin.open_connections)
        record = await gateway.wait_for_record()

        assert record.error is None


@one_transport
async def test_a_slow_client_slows_the_upstream_down_through_filters(serve):
    """Nothing piles up in between."""
    sent = 0
    block = b"x" * 65_536

    async def endless(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        try:
            while True:
                writer.write(block)
                await writer.drain()
                sent += len(block)
        except ConnectionError:
            pass

    async with ScriptedOrigin(endless) as origin:
        gateway = await serve(origin.url, response_filters=(upper,))
        client = await gateway.connect()
        await client.send(make_request())
        await client.read_head()
        seen = -1
        while seen != sent:
            seen = sent
            for _ in range(200):
                await asyncio.sleep(0)
        client.leave()

        assert sent < 40_000_000


# Other ways to a filter.


async def test_a_response_that_is_forwarded_by_hand_is_filtered_by_its_pool(serving):
    """``proxy.forward`` gives the filtered stream."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(), response(b"a\nb\n")]) as origin:
        pool = UpstreamPool("p", [origin.url], request_filters=[upper], response_filters=[number])
        proxy = Proxy()
        app = FastAPI(lifespan=proxy.lifespan)

        @app.post("/")
        async def by_hand(request: Request) -> Response:
            return await proxy.forward(request, pool, body=b"made")

        served = await serving(app)
        reply = await served.ask(method="POST", body="sent")

        assert (b"1:a\n2:b\n", b"MADE") == (reply.body, unchunked(bytes(origin.requests[0])))


async def test_a_content_that_a_stub_has_read_is_filtered(serving):
    """The stub sees what the client sent, the upstream what the filter made."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(), OK]) as origin:
        proxy = Proxy()
        seen = []

        @proxy.post("/", upstream=origin.url, max_body_bytes=100, request_filters=[upper])
        async def checked(word: str = Body()) -> None:
            seen.append(word)

        app = FastAPI()
        app.include_router(proxy.build_router())
        served = await serving(app)
        reply = await served.ask(
            "/", "Content-Type: application/json", method="POST", body=json.dumps("word")
        )

        assert (200, ["word"], b'"WORD"') == (
            reply.status,
            seen,
            unchunked(bytes(origin.requests[0])),
        )


async def test_a_stub_and_rules_come_after_the_filters(serving):
    """Fields that a rule writes are not dropped as those of other bytes."""
    async with ScriptedOrigin([response(b"a", b'ETag: "1"')]) as origin:
        proxy = Proxy()

        @proxy.get(
            "/",
            upstream=origin.url,
            response_filters=[upper],
            response_headers=HeaderRules(set={"ETag": 'W/"own"'}),
            dependencies=[Depends(lambda: None)],
        )
        async def stub(request: ForwardedRequest) -> None:
            assert request.method == "GET"

        app = FastAPI()
        app.include_router(proxy.build_router())
        reply = await (await serving(app)).ask()

        assert (b"A", [b'W/"own"']) == (reply.body, reply.all("etag"))


async def test_an_application_in_the_same_process_is_filtered(serving):
    """A streaming response of an ASGI app passes the same filters."""
    upstream = FastAPI()

    @upstream.get("/")
    async def events() -> StreamingResponse:
        async def produce():
            yield "data: a\n"
            yield "\ndata: b\n\n"

        return StreamingResponse(produce(), media_type="text/event-stream")

    @by_event
    async def shout(events):
        async for event in events:
            event.data = event.data.upper()
            yield event

    proxy = Proxy()

    @proxy.get("/", upstream=upstream, response_filters=[shout])
    async def stub() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    reply = await (await serving(app)).ask()

    assert b"data: A\n\ndata: B\n\n" == reply.body


async def test_a_client_that_asks_for_no_content_does_not_turn_filters_off(serving):
    """What a stub reads, and may keep for others, is filtered by what was asked of the upstream."""
    async with ScriptedOrigin([response(b"a\n", b"Connection: close")]) as origin:
        proxy = Proxy()
        seen = []

        @proxy.route("/", upstream=origin.url, response_filters=[upper])
        async def cached(forward: Forward) -> Response:
            got = await forward(method="GET")
            seen.append(await got.read(limit=100))
            return got

        app = FastAPI()
        app.include_router(proxy.build_router())
        served = await serving(app)
        replies = [await served.ask(method=method) for method in ("HEAD", "GET")]

        assert ([200, 200], [b"A\n", b"A\n"]) == ([one.status for one in replies], seen)


async def test_a_stub_that_wraps_the_exchange_reads_the_filtered_content(serving):
    """What it reads is what the client would get, of whichever pool it asks."""
    async with (
        ScriptedOrigin([response(b"a\n", status=b"503 Busy")]) as first,
        ScriptedOrigin([response(b"b\n", b"X-Origin: 2")]) as second,
    ):
        main = UpstreamPool("main", [first.url], retry=None, response_filters=[upper])
        other = UpstreamPool(
            "other",
            [second.url],
            response_filters=[number],
            response_headers=HeaderRules(remove=["x-origin"]),
        )
        proxy = Proxy()
        seen = []

        @proxy.get("/", upstream=main, response_filters=[upper])
        async def wraps(forward: Forward) -> Response:
            busy = await forward()
            seen.append(await busy.read(limit=100))
            return await forward(upstream=other)

        app = FastAPI()
        app.include_router(proxy.build_router())
        reply = await (await serving(app)).ask()

        assert ([b"A\n"], b"1:B\n", []) == (seen, reply.body, reply.all("x-origin"))


async def test_a_filtered_request_is_tried_again(serve):
    """What the filter has made is kept for the next attempt, and the filter runs once."""
    begun = []

    @by_chunk
    async def counted(chunks):
        begun.append(True)
        async for chunk in chunks:
            yield chunk.upper()

    script = [ReadHead(), ReadUntil(), b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
    async with (
        ScriptedOrigin(script) as first,
        ScriptedOrigin([ReadHead(), ReadUntil(), OK]) as second,
    ):
        retry = Retry(on=[503])
        gateway = await serve(
            first.url, second.url, pool={"retry": retry}, request_filters=(counted,)
        )
        raw = make_request("/", "Content-Length: 3", method="PUT") + b"abc"
        reply = await gateway.ask(raw)

        assert (200, [True]) == (reply.status, begun)
        assert [b"ABC", b"ABC"] == [unchunked(bytes(one.requests[0])) for one in (first, second)]
