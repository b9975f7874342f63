"""Section R: reliability and faults, on raw sockets and in processes of their own."""

import ast
import asyncio
import signal
from pathlib import Path

import pytest

import proxyroutes
from proxyroutes.testing import Close, ReadHead, ScriptedOrigin, Wait
from proxyroutes.transports import Http1Transport
from tests.conformance.servers import serve_in_process
from tests.conformance.test_servers import installed
from tests.integration.support import (
    DEADLINE,
    OK,
    RawClient,
    eventually,
    forwarded_fields,
    make_request,
    one_transport,
    refusing_destination,
)
from tests.integration.websocket_support import UPGRADE, SessionOrigin

GRACE = {
    "uvicorn-h11": ["--timeout-graceful-shutdown", "1"],
    "uvicorn-httptools": ["--timeout-graceful-shutdown", "1"],
    "uvicorn-ours": ["--timeout-graceful-shutdown", "1"],
    "hypercorn": ["--graceful-timeout", "1"],
    "granian": ["--workers-kill-timeout", "1"],
}
EXITS = dict.fromkeys(("uvicorn-h11", "uvicorn-httptools", "uvicorn-ours"), -signal.SIGTERM)
"""uvicorn raises the signal again once it has stopped in good order; the others end with 0."""
ACCEPTS_WHILE_IT_STOPS = {"hypercorn"}
EVENT = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n"
)


@pytest.mark.requirement("R-45", "W-22")
@pytest.mark.parametrize("name", [name for name in GRACE if installed(name)])
async def test_a_signal_stops_a_loaded_gateway_in_good_order(name):
    """What runs ends, new work is refused, streams and sessions are closed, and the process is gone."""
    release = asyncio.Event()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/slow" in head:
            await release.wait()
            writer.write(OK)
        else:
            writer.write(EVENT)
        await writer.drain()
        await reader.read()

    async with (
        ScriptedOrigin(serve) as origin,
        SessionOrigin() as sessions,
        serve_in_process(
            name, origin.url, arguments=GRACE[name], PROXYROUTES_TEST_SESSIONS=sessions.url
        ) as server,
    ):
        clients = [await RawClient.connect(server.port) for _ in range(12)]
        slow, streams, session = clients[:8], clients[8:11], clients[11]
        for client in slow:
            await client.send(make_request("/slow"))
        for client in streams:
            await client.send(make_request("/events"))
            await client.read_head()
            await client.read_chunk()
        opened = await session.ask(make_request("/live", *UPGRADE))
        upstream = await sessions.session()
        await origin.wait_until(lambda: origin.connections == 11)
        server.terminate()
        if name not in ACCEPTS_WHILE_IT_STOPS:
            await refuses(server.port)
        release.set()
        answers = [await client.read_reply() for client in slow]
        rests = [await client.read_rest() for client in streams]
        last = await session.read_rest()
        code = await upstream.closed()
        async with asyncio.timeout(DEADLINE):
            exit_code = await server.process.wait()
        await eventually(lambda: not origin.open_connections)
        log = server.log.read_text()
        for client in clients:
            await client.close()

    assert 101 == opened.status
    assert [(200, b"ok")] * 8 == [(one.status, one.body) for one in answers]
    # Never the last chunk: a stream that was cut off does not look complete.
    assert not [rest for rest in rests if b"0\r\n\r\n" in rest]
    assert last[:1] in {b"\x88", b""}
    assert 1001 == code[0]
    assert EXITS.get(name, 0) == exit_code
    assert "Task was destroyed" not in log
    assert "Warning" not in log
    assert "never retrieved" not in log


async def refuses(port):
    """Wait until nobody is accepted any more."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                client = await RawClient.connect(port)
            except OSError:
                return
            await client.close()
            await asyncio.sleep(0.01)


@pytest.mark.requirement("R-03")
@one_transport
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_a_kept_connection_that_the_upstream_closes_costs_no_request(serve, method):
    """One that may be sent again is, on a fresh connection, where no byte of an answer came."""
    first, second = [ReadHead(), OK, ReadHead(), Close()], [ReadHead(), OK]
    async with ScriptedOrigin(first, second) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        reply = await gateway.get("/again", method=method)

        assert 200 == reply.status
        assert 2 == origin.connections
        assert bytes(origin.requests[1]).startswith(method.encode() + b" /again ")


@pytest.mark.requirement("R-03", "R-15")
@one_transport
@pytest.mark.parametrize(
    ("method", "lines", "body"),
    [
        ("POST", ["Content-Length: 3"], "abc"),
        ("POST", [], ""),
        ("PATCH", [], ""),
        ("PUT", ["Content-Length: 3"], "abc"),
    ],
)
async def test_what_may_have_been_done_is_not_sent_twice(serve, method, lines, body):
    """A request that is not idempotent, or whose content is gone, fails instead."""
    first, second = [ReadHead(), OK, ReadHead(), Close()], [ReadHead(), OK]
    async with ScriptedOrigin(first, second) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        reply = await gateway.ask(make_request("/again", *lines, method=method, body=body))

        assert 502 == reply.status
        assert 1 == b"".join(bytes(one) for one in origin.requests).count(b" /again ")


@pytest.mark.requirement("R-03", "R-16")
@one_transport
async def test_a_request_with_half_an_answer_is_not_sent_twice(serve):
    """A byte of an answer shows that the request was seen."""
    first = [ReadHead(), OK, ReadHead(), b"HTTP/1.1 2", Close()]
    async with ScriptedOrigin(first, [ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        reply = await gateway.get("/again")

        assert 502 == reply.status
        assert 1 == origin.connections


@pytest.mark.requirement("R-06")
@one_transport
async def test_a_destination_that_hangs_takes_no_place_of_another(serve):
    """Each destination has its own connections: those of the other are free."""
    never = asyncio.Event()
    async with (
        ScriptedOrigin([ReadHead(), Wait(never)]) as stuck,
        ScriptedOrigin([ReadHead(), *[OK, ReadHead()] * 20]) as well,
    ):
        transport = Http1Transport(max_connections=2, max_queue=0)
        gateway = await serve(stuck.url, well.url, transport=transport, pool={"outliers": None})
        hanging, replies = [], []
        for _ in range(8):
            client = await gateway.connect()
            before = stuck.connections
            await client.send(make_request())
            reader = asyncio.create_task(client.read_reply())
            await eventually(lambda r=reader, n=before: r.done() or stuck.connections > n)
            (replies if reader.done() else hanging).append(reader)
        statuses = sorted(task.result().status for task in replies)
        for task in hanging:
            task.cancel()

        assert 2 == stuck.connections == len(hanging)
        assert [200, 200, 200, 200, 503, 503] == statuses


@pytest.mark.requirement("R-21")
async def test_what_one_attempt_adds_is_there_once_in_the_next(serve):
    """A request that is asked of a second destination has each field of this hop once."""
    with refusing_destination() as dead:
        async with ScriptedOrigin([ReadHead(), OK, ReadHead(), OK]) as origin:
            gateway = await serve(dead, origin.url)
            replies = [await gateway.get("/", "Via: 1.0 before") for _ in range(2)]
            fields = [
                forwarded_fields(one + b"\r\n\r\n")
                for received in origin.requests
                for one in bytes(received).split(b"\r\n\r\n")[:-1]
            ]
            doubled = [
                name
                for received in fields
                for name in {name for name, _ in received}
                if sum(known == name for known, _ in received) > 1
            ]

        assert [200, 200] == [reply.status for reply in replies]
        assert [] == doubled
        assert all(1 == dict(received)[b"via"].count(b"proxyroutes") for received in fields)


@pytest.mark.requirement("R-39")
def test_only_the_monotonic_clock_is_asked():
    """A clock that somebody sets must not open or close anything: the time of day decides nothing."""
    asked = []
    for path in Path(proxyroutes.__file__).parent.rglob("*.py"):
        if path.parent.name in {"_operate", "testing"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "time.time",
                "datetime.now",
                "datetime.datetime.now",
                "datetime.utcnow",
            }:
                asked.append(path.name)

    # A Retry-After that is a date says a time of day; it delays one attempt and changes no state.
    assert ["further.py"] == asked


@pytest.mark.requirement("R-01", "S-30", "S-33")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + OK.replace(b"ok", b"no"),
        b"HTTP/1.1 204 No Content\r\n\r\n" + OK.replace(b"ok", b"no"),
        b"HTTP/1.1 304 Not Modified\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        + OK.replace(b"ok", b"no"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["second-response", "after-204", "after-304", "after-chunks", "late-100"],
)
async def test_surplus_bytes_reach_nobody(serve, answer):
    """The next request gets its own answer, over another connection."""
    async with ScriptedOrigin([ReadHead(), answer], [ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        reply = await gateway.get("/next")

        assert (200, b"ok") == (reply.status, reply.body)
        assert 2 == origin.connections


@pytest.mark.requirement("S-30")
async def test_a_line_end_after_a_response_is_no_part_of_the_next(serve):
    """An empty line between two responses belongs to neither."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n"
    async with ScriptedOrigin([ReadHead(), answer, ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        replies = [await gateway.get() for _ in range(2)]

        assert [(200, b"ok")] * 2 == [(reply.status, reply.body) for reply in replies]
        assert [[b"2"]] * 2 == [reply.all("content-length") for reply in replies]


@pytest.mark.requirement("S-30", "H-10")
async def test_content_after_head_reaches_nobody(serve):
    """An upstream that answers HEAD with content loses its connection."""
    body = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"
    )
    async with ScriptedOrigin([ReadHead(), body], [ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        client = await gateway.connect()
        head = await client.ask(make_request(method="HEAD"), "HEAD")
        reply = await client.ask(make_request("/next"))

        assert [b"42"] == head.all("content-length")
        assert (200, b"ok") == (reply.status, reply.body)
        assert 2 == origin.connections
