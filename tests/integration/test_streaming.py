"""Content passes as it comes, in both directions."""

import asyncio

import pytest

from proxyroutes.settings import Timeouts
from proxyroutes.testing import Close, ReadHead, ReadUntil, ScriptedOrigin, Wait
from tests.integration.support import (
    OK,
    PROTOCOLS,
    eventually,
    make_request,
    one_transport,
    refusing_destination,
    silent_destination,
    values_of,
)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture(scope="session", params=PROTOCOLS)
def http(request):
    """The parser of the server in front, and ours that writes at once."""
    return request.param


def chunk(content):
    """A chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(content), content)


async def origin_has(origin, length):
    """Wait until an origin has got so many bytes on its first connection."""
    await eventually(lambda: len(origin.requests[0]) >= length)


@pytest.mark.requirement("E-01")
@pytest.mark.requirement("E-02")
async def test_events_arrive_one_by_one_and_the_head_before_them(serve, http, lane):
    """Each event is with the client before the upstream makes the next, and the head before the first."""
    turn = [asyncio.Event() for _ in range(4)]
    script = [STREAM_HEAD]
    for number, event in enumerate(turn[:3]):
        script += [Wait(event), chunk(b"data: %d\n\n" % number)]
    async with ScriptedOrigin([*script, Wait(turn[3]), b"0\r\n\r\n"]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request())
        head = await client.read_head()
        events = []
        for event in turn:
            event.set()
            events.append(await client.read_chunk())

        assert b"text/event-stream" == head.get("content-type")
        assert [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n", b""] == events


@pytest.mark.requirement("E-02")
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
async def test_a_head_does_not_wait_for_content(serve, head):
    """However its end is marked, a response begins with its head."""
    more = asyncio.Event()
    async with ScriptedOrigin([head, Wait(more), b"hello", Close()]) as origin:
        gateway = await serve(origin.url)
        client = await gateway.connect()
        await client.send(make_request())
        reply = await client.read_head()
        more.set()
        await client._read_content(reply)

        assert b"hello" == reply.body


@pytest.mark.requirement("E-08")
async def test_a_character_that_is_cut_in_two_passes_whole(serve):
    """Nothing on the way takes bytes for text."""
    more = asyncio.Event()
    script = [STREAM_HEAD, chunk(b"\xe2\x82"), Wait(more), chunk(b"\xac"), b"0\r\n\r\n"]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url)
        client = await gateway.connect()
        await client.send(make_request())
        await client.read_head()
        first = await client.read_chunk()
        more.set()
        second = await client.read_chunk()

        assert (b"\xe2\x82", b"\xac", b"") == (first, second, await client.read_chunk())


@pytest.mark.requirement("H-19")
@pytest.mark.parametrize("size", [0, 1, 70_000, 1_048_576])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_content_passes_byte_for_byte_both_ways(serve, size, chunked):
    """What was sent is what is received, however it is framed."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    if chunked:
        framing, body = (
            b"Transfer-Encoding: chunked",
            (chunk(content) if content else b"") + b"0\r\n\r\n",
        )
    else:
        framing, body = b"Content-Length: %d" % size, content

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            received = b""
            while length := int(await reader.readuntil(b"\r\n"), 16):
                received += (await reader.readexactly(length + 2))[:-2]
            await reader.readexactly(2)
        else:
            received = await reader.readexactly(size)

        assert content == received
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body)
        await reader.read()

    async with ScriptedOrigin(answer) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.ask(make_request("/", framing.decode(), method="POST") + body)
        record = await gateway.wait_for_record()

        assert [] == origin.errors
        assert (200, True) == (reply.status, reply.complete)
        assert content == reply.body
        assert (size, size) == (record.request_bytes, record.response_bytes)


@pytest.mark.requirement("H-08")
@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        pytest.param("Content-Length: 9", [b"one", b"two", b"six"], id="length"),
        pytest.param(
            "Transfer-Encoding: chunked",
            [chunk(b"one"), chunk(b"two"), chunk(b"six"), b"0\r\n\r\n"],
            id="chunked",
        ),
    ],
)
async def test_an_upload_arrives_piece_by_piece_in_its_own_framing(
    serve, http, lane, line, pieces
):
    """The upstream has each piece before the client sends the next, and the framing is the client's."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(pieces[-1]), OK]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request("/", line, method="POST"))
        await eventually(lambda: origin.requests and b"\r\n\r\n" in origin.requests[0])
        before = len(origin.requests[0])
        for piece in pieces:
            before += len(piece)
            await client.send(piece)
            await origin_has(origin, before)
        reply = await client.read_reply()
        name, _, value = line.lower().partition(": ")

        assert 200 == reply.status
        assert [value.encode()] == values_of(origin.requests[0], name)
        assert 1 == len(
            values_of(origin.requests[0], "content-length")
            + values_of(origin.requests[0], "transfer-encoding")
        )


@pytest.mark.requirement("E-07")
@pytest.mark.usefixtures("duplex")
async def test_both_directions_flow_at_once(serve, http, lane):
    """An upstream that answers while the request goes on is heard while it does."""

    async def echo(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM_HEAD)
        while length := int(await reader.readuntil(b"\r\n"), 16):
            writer.write(chunk((await reader.readexactly(length + 2))[:-2].upper()))
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with ScriptedOrigin(echo) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request("/", "Transfer-Encoding: chunked", method="POST"))
        await client.read_head()
        heard = []
        for word in (b"one", b"two", b"six"):
            await client.send(chunk(word))
            heard.append(await client.read_chunk())
        await client.send(b"0\r\n\r\n")

        assert [b"ONE", b"TWO", b"SIX", b""] == [*heard, await client.read_chunk()]


@pytest.mark.requirement("H-36")
@pytest.mark.usefixtures("duplex")
@pytest.mark.parametrize("closes", [True, False], ids=["and-closes", "and-stays"])
async def test_a_final_response_during_an_upload_reaches_the_client(serve, http, closes):
    """The upload stops, the response is relayed, and the upstream's connection is not used again."""
    answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"
    async with ScriptedOrigin([answer, *([Close()] if closes else [])]) as origin:
        gateway = await serve(origin.url, http=http)
        client = await gateway.connect()
        await client.send(
            make_request("/", "Transfer-Encoding: chunked", method="POST") + chunk(b"one")
        )
        reply = await client.read_reply()
        client.leave()
        await eventually(lambda: not origin.open_connections)

        assert (401, b"no") == (reply.status, reply.body)
        assert not bytes(origin.requests[0]).endswith(b"0\r\n\r\n")


# Expect: 100-continue.


@pytest.mark.requirement("H-35")
async def test_a_client_that_expects_100_gets_one_and_the_upstream_is_not_asked(serve, http, lane):
    """The server in front says 100 once the content is wanted; the expectation ends at the gateway."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(b"abc"), OK]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(
            make_request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")
        )
        interim = await client.read_head()
        reply = await client.ask(b"abc")

        assert (100, 200) == (interim.status, reply.status)
        assert [] == values_of(origin.requests[0], "expect")


@pytest.mark.requirement("H-35")
@one_transport
@pytest.mark.parametrize(
    ("target", "lines", "status"),
    [
        pytest.param("/", ["Content-Length: 100"], 413, id="too-large"),
        pytest.param("/a/../b", ["Content-Length: 3"], 400, id="bad-target"),
        pytest.param("/", ["Content-Length: 3", "Via: 1.1 here"], 508, id="loop"),
    ],
)
async def test_no_100_is_sent_before_a_refusal(serve, http, lane, target, lines, status):
    """A client that waits to be asked for its content is not asked for what nobody wants."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url, http=http, lane=lane, max_body_bytes=10, proxy={"via": "here"}
        )
        reply = await gateway.ask(
            make_request(target, "Expect: 100-continue", *lines, method="POST")
        )

        assert status == reply.status
        assert 0 == origin.connections


@pytest.mark.requirement("H-35")
async def test_no_100_is_sent_where_no_upstream_is_there(serve, http, lane):
    """The content is asked for once there is a connection to send it over."""
    with refusing_destination() as url:
        gateway = await serve(url, http=http, lane=lane)
        reply = await gateway.ask(
            make_request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")
        )

        assert 502 == reply.status


@pytest.mark.requirement("H-35")
@one_transport
async def test_no_100_is_sent_while_a_connection_is_waited_for(serve, http):
    """However long that takes."""
    with silent_destination() as url:
        gateway = await serve(url, http=http, timeouts=Timeouts(connect=0.2))
        reply = await gateway.ask(
            make_request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")
        )

        assert 504 == reply.status
