"""The same verdict behind every server: nothing that is refused behind one gets through behind another."""

import asyncio
import importlib.util
import re

import h11
import pytest
import pytest_asyncio

from proxyroutes.testing import ScriptedOrigin
from tests.conformance.servers import COMMANDS, MODULES, serve_in_process
from tests.integration.support import (
    OK,
    RawClient,
    eventually,
    forwarded_fields,
    make_request,
    target_of,
)
from tests.integration.test_request_guard import CHUNKED, CHUNKS, PASSED, REFUSED, post

SMUGGLED = ("S-01-length-and-coding", "S-01-coding-and-length", "S-01-zero-length-and-coding")
MADE_ONE = {(name, "granian") for name in SMUGGLED}
"""Where a server takes the coding for the framing and the length away, before anybody else sees the request."""
STRICTER = {("H-01-brackets", "uvicorn-zttp"), ("H-01-brackets", "granian")}
"""Where a server refuses what we would forward."""

FIELDS = b"Content-Type: text/plain\r\nX-Kept: yes\r\n"
RESPONSES = {
    "plain": b"HTTP/1.1 200 OK\r\n" + FIELDS + b"Content-Length: 2\r\n\r\nok",
    "204-length": b"HTTP/1.1 204 No Content\r\nX-Kept: yes\r\nContent-Length: 5\r\n\r\n",
    "204-chunked": b"HTTP/1.1 204 No Content\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n",
    "304-length": b'HTTP/1.1 304 Not Modified\r\nX-Kept: yes\r\nETag: "a"\r\nContent-Length: 100\r\n\r\n',
    "205-body": b"HTTP/1.1 205 Reset Content\r\nX-Kept: yes\r\nContent-Length: 2\r\n\r\nok",
    "103-first": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"
    + FIELDS
    + b"Content-Length: 2\r\n\r\nok",
    "hop-by-hop": b"HTTP/1.1 200 OK\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=1\r\n"
    b"Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nTrailer: X\r\nX-Kept: yes\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: t\r\n\r\n",
    "dated": b"HTTP/1.1 200 OK\r\nX-Kept: yes\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nServer: origin\r\nContent-Length: 2\r\n\r\nok",
    "obs-text": b"HTTP/1.1 200 OK\r\nX-Kept: caf\xe9\r\nContent-Length: 2\r\n\r\nok",
    "length-and-chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "999": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
    "unasked-101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "only-103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "control-in-value": b"HTTP/1.1 200 OK\r\nX-Bad: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "space-in-name": b"HTTP/1.1 200 OK\r\nX Bad: a\r\nContent-Length: 2\r\n\r\nok",
    "empty-name": b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok",
    "garbage": b"\x16\x03\x01garbage\r\n\r\n",
    "2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
}
BROKEN = {
    "cut-length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "cut-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
}
HEADS = re.compile(rb"(?:HTTP/1.1 1.*?\r\n\r\n)?.*?\r\n\r\n", re.DOTALL)
"""An interim response, if there is one, and the head of the final one."""
CLOSING = {"only-103", "garbage", *BROKEN}


class Origin:
    """Answers by the name in the target; what it does not know is answered in a plain way.

    Attributes:
        heads: The head of each request.
        cut: Requests whose content did not come to its end.
        left: Streams whose client has gone.
    """

    def __init__(self):
        self.scripted = ScriptedOrigin(self.serve)
        self.heads = []
        self.cut = 0
        self.left = 0

    async def serve(self, reader, writer):
        """Answer the requests of one connection."""
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            self.heads.append(head)
            name = target_of(head).rpartition(b"/")[2].decode("latin-1")
            if name == "events":
                await self.stream(reader, writer)
                return
            if b"transfer-encoding: chunked" in head:
                try:
                    await reader.readuntil(b"0\r\n\r\n")
                except asyncio.IncompleteReadError:
                    self.cut += 1
                    return
            elif length := re.search(rb"content-length: (\d+)", head):
                await reader.readexactly(int(length[1]))
            content = {**RESPONSES, **BROKEN}.get(name, OK)
            if head.startswith(b"HEAD"):
                content = HEADS.match(content)[0]
            writer.write(content)
            await writer.drain()
            if name in CLOSING:
                return

    async def stream(self, reader, writer):
        """Send one event, and say when the other side is gone."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"9\r\ndata: 1\n\n\r\n"
        )
        await writer.drain()
        await reader.read()
        self.left += 1


def installed(name):
    """Whether a server can be started here."""
    return name not in MODULES or importlib.util.find_spec(MODULES[name]) is not None


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[name for name in COMMANDS if installed(name)]
)
async def behind(request):
    """A gateway behind a server in a process of its own, and its origin."""
    origin = Origin()
    async with origin.scripted, serve_in_process(request.param, origin.scripted.url) as server:
        yield server, origin


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def connect(behind):
    """Open connections to the server; they are closed with the test."""
    clients = []

    async def connect():
        clients.append(await RawClient.connect(behind[0].port))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


async def exchange(client, raw, method="GET"):
    """The reply to raw bytes, or None where the connection was closed without one."""
    try:
        return await client.ask(raw, method)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


@pytest.mark.requirement("S-08")
@pytest.mark.parametrize(("raw", "status"), REFUSED)
async def test_a_request_is_refused_behind_every_server(behind, connect, raw, status):
    """Nothing of it reaches the origin, whoever refuses it; ours has its own status."""
    server, origin = behind
    asked = len(origin.heads)
    name = next(one.id for one in REFUSED if one.values[0] is raw)
    reply = await exchange(await connect(), raw)
    if (name, server.name) in MADE_ONE:
        got = forwarded_fields(origin.heads[-1])

        assert [(b"transfer-encoding", b"chunked")] == [
            field for field in got if field[0] in {b"transfer-encoding", b"content-length"}
        ]
        return
    own = reply is not None and reply.get("content-type") == b"application/problem+json"

    assert asked == len(origin.heads)
    assert reply is None or (status == reply.status if own else 400 <= reply.status < 600)


@pytest.mark.requirement("S-08")
@pytest.mark.parametrize(("raw", "target"), PASSED)
async def test_a_target_is_forwarded_as_it_came_behind_every_server(behind, connect, raw, target):
    """The same bytes reach the origin, whoever read them first."""
    server, origin = behind
    name = next(one.id for one in PASSED if one.values[0] is raw)
    asked = len(origin.heads)
    reply = await exchange(await connect(), raw)
    if (name, server.name) in STRICTER:
        assert (400, asked) == (reply.status, len(origin.heads))
        return

    assert 200 == reply.status
    assert target == target_of(origin.heads[-1])


@pytest.mark.requirement("S-08")
@pytest.mark.parametrize("body", CHUNKS)
async def test_a_malformed_chunk_is_no_end_behind_any_server(behind, connect, body):
    """The origin gets no complete request of a broken one."""
    server, origin = behind
    client = await connect()
    asked = len(origin.heads)
    await client.send(post(CHUNKED, body=b""))
    await eventually(lambda: len(origin.heads) > asked)
    cut = origin.cut
    await client.send(body)
    rest = await client.read_rest()
    await eventually(lambda: origin.cut > cut)

    assert not rest.startswith(b"HTTP/1.1 2")


FRAMING = {"content-length", "transfer-encoding"}


def framing_of(reply):
    """Which framing fields a reply has, in order."""
    return [name for name, _ in reply.fields if name.decode() in FRAMING]


@pytest.mark.requirement("S-08", "H-11", "H-12", "H-13", "H-14", "H-27", "H-32", "H-33", "H-40")
@pytest.mark.requirement("H-41", "H-42", "H-43", "H-44")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_is_one_and_whole_behind_every_server(behind, connect, name, method):
    """A second request on the client's connection gets its own answer, and no reply is framed in two ways."""
    server, _ = behind
    client = await connect()
    reply = await client.ask(make_request("/" + name, method=method), method)
    again = await client.ask(make_request("/plain"))
    expected = h11_verdict(name)
    bodyless = method == "HEAD" or reply.status in {204, 304}

    assert expected == reply.status or (name, method) in BODY_IS_WRONG
    assert reply.complete
    assert len(framing_of(reply)) == (0 if reply.status in {204, 304} else 1) or bodyless
    assert 1 == len(reply.all("date"))
    assert len(reply.all("server")) <= 1
    assert [] == reply.all("x-gone") + reply.all("keep-alive") + reply.all("upgrade")
    assert [] == reply.all("proxy-authenticate") + reply.all("trailer") + reply.all("x-trailer")
    assert (200, b"ok", [b"yes"]) == (again.status, again.body, again.all("x-kept"))
    if expected == 502:
        assert b"application/problem+json" == reply.get("content-type")
    elif name != "205-body":
        assert reply.all("x-kept") in ([b"yes"], [b"caf\xe9"])


BODY_IS_WRONG = {("length-and-chunked", "HEAD")}
"""Where framing of content that is not there does not matter."""
BAD = list(RESPONSES)[list(RESPONSES).index("length-and-chunked") :]


def h11_verdict(name):
    """The status that a response must have for the client."""
    if name in BAD:
        return 502
    return int(name[:3]) if name[:3] in {"204", "304", "205"} else 200


@pytest.mark.requirement("H-16")
@pytest.mark.parametrize("name", BROKEN)
async def test_a_response_that_is_cut_off_does_not_look_whole_behind_any_server(
    behind, connect, name
):
    """The client's connection breaks."""
    server, _ = behind
    client = await connect()
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target="/" + name, headers=[("host", "gateway.test")])
    await client.send(connection.send(request) + connection.send(h11.EndOfMessage()))
    connection.receive_data(await client.read_rest())
    connection.receive_data(b"")
    with pytest.raises(h11.RemoteProtocolError):
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass


@pytest.mark.requirement("E-01", "E-02", "E-03")
async def test_a_stream_begins_at_once_and_ends_with_its_client_behind_every_server(
    behind, connect
):
    """The first event comes while the stream is open, and the origin hears that the client has left."""
    server, origin = behind
    before = origin.left
    client = await connect()
    await client.send(make_request("/events"))
    reply = await client.read_head()
    first = await client.read_chunk()
    client.leave()

    assert (200, b"data: 1\n\n") == (reply.status, first)
    await eventually(lambda: origin.left > before)
