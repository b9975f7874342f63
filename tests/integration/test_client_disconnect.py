"""A client that leaves cancels the upstream at once, in every phase, and counts against nobody."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import pytest

from proxyroutes.testing import ReadHead, ScriptedOrigin
from proxyroutes.transports import ASGITransport
from tests.integration.support import (
    PROTOCOLS,
    eventually,
    make_request,
    one_transport,
    silent_destination,
)

pytestmark = [pytest.mark.requirement("E-03"), pytest.mark.requirement("R-40")]

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.fixture(scope="session", params=PROTOCOLS)
def http(request):
    """The parser of the server in front, and ours that writes at once."""
    return request.param


@pytest.fixture(params=["closes", "resets"])
def leave(request):
    """How the client goes away."""

    def go(client):
        if request.param == "closes":
            client.writer.close()
        else:
            client.leave()

    return go


@pytest.fixture
def stopwatch(request, capsys):
    """Print how long it took from the client's leaving to a claim's coming true."""

    @contextlib.asynccontextmanager
    async def measure(claim):
        started = time.perf_counter()
        yield
        await eventually(claim)
        taken = (time.perf_counter() - started) * 1000
        with capsys.disabled():
            print(f"\ncancel latency {taken:6.1f} ms  {request.node.name}")

    return measure


def connecting_to(url):
    """Number of sockets of this host that wait for a destination to accept."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    # The remote address, and SYN_SENT.
    return sum(line.split()[2].endswith(port) and line.split()[3] == "02" for line in lines)


async def assert_nobody_is_blamed(gateway, caplog):
    """The record says that the client had left, and nothing was logged of it."""
    record = await gateway.wait_for_record()

    assert (499, None, "client-left", 1) == (
        record.status,
        record.error,
        record.cause,
        len(gateway.records),
    )
    assert [] == [one.getMessage() for one in caplog.records if one.levelno > logging.INFO]


async def test_while_connecting(serve, http, lane, leave, stopwatch, caplog):
    """The attempt to connect ends with the client."""
    with silent_destination() as url:
        fillers = connecting_to(url)
        gateway = await serve(url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request())
        await eventually(lambda: connecting_to(url) > fillers)
        async with stopwatch(lambda: connecting_to(url) == fillers):
            leave(client)

        await assert_nobody_is_blamed(gateway, caplog)


@pytest.mark.parametrize(
    "line", ["Content-Length: 100", "Transfer-Encoding: chunked"], ids=["length", "chunked"]
)
async def test_while_sending(serve, http, lane, leave, stopwatch, caplog, line):
    """An upload that ends too early is no complete request to the upstream."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request("/", line, method="POST", body="5\r\nhello\r\n"))
        await eventually(lambda: origin.requests and b"hello" in origin.requests[0])
        async with stopwatch(lambda: not origin.open_connections):
            leave(client)

        await assert_nobody_is_blamed(gateway, caplog)
        assert not bytes(origin.requests[0]).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("body", ["", "hello"], ids=["without-content", "with-content"])
async def test_while_waiting_for_the_head(serve, http, lane, leave, stopwatch, caplog, body):
    """Nobody waits for an answer that nobody wants."""
    lines = [f"Content-Length: {len(body)}"] if body else []
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request("/", *lines, method="POST", body=body))
        await eventually(
            lambda: (
                origin.requests and bytes(origin.requests[0]).endswith(b"\r\n\r\n" + body.encode())
            )
        )
        async with stopwatch(lambda: not origin.open_connections):
            leave(client)

        await assert_nobody_is_blamed(gateway, caplog)


@pytest.mark.parametrize("body", ["", "hello"], ids=["without-content", "with-content"])
async def test_while_relaying(serve, http, lane, leave, stopwatch, caplog, body):
    """A stream without an end ends with the client, also while nothing comes."""
    lines = [f"Content-Length: {len(body)}"] if body else []
    async with ScriptedOrigin([STREAM]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request("/", *lines, method="POST", body=body))
        await client.read_head()
        await client.read_chunk()
        async with stopwatch(lambda: not origin.open_connections):
            leave(client)

        await assert_nobody_is_blamed(gateway, caplog)


async def test_while_relaying_to_a_client_that_does_not_read(serve, http, lane, stopwatch, caplog):
    """Back-pressure does not hide that the client has left."""

    async def flood(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async with ScriptedOrigin(flood) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        client.writer.transport.pause_reading()
        await client.send(make_request())
        (exchange,) = await swept(gateway)
        await stalls(lambda: exchange.response_bytes)
        async with stopwatch(lambda: not origin.open_connections):
            client.leave()

        await assert_nobody_is_blamed(gateway, caplog)


@pytest.mark.usefixtures("duplex")
async def test_while_both_directions_flow(serve, http, lane, leave, stopwatch, caplog):
    """A response that began before the end of its request ends with the client too."""
    async with ScriptedOrigin([STREAM]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(
            make_request("/", "Transfer-Encoding: chunked", method="POST", body="1\r\na\r\n")
        )
        await client.read_head()
        await client.read_chunk()
        async with stopwatch(lambda: not origin.open_connections):
            leave(client)

        await assert_nobody_is_blamed(gateway, caplog)


@one_transport
async def test_an_application_in_process_that_answers_without_reading_is_left_too(serve):
    """A response that began before its request was read ends with the client, though nobody reads the request."""
    left, over = asyncio.Event(), asyncio.Event()

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        try:
            await over.wait()
        except asyncio.CancelledError:
            left.set()
            raise
        await send({"type": "http.response.body", "body": b""})

    gateway = await serve("http://app.test", transport=ASGITransport(answer))
    client = await gateway.connect()
    await client.send(make_request("/", "Content-Length: 3", method="POST", body="abc"))
    await client.read_head()
    await client.read_chunk()
    client.leave()
    try:
        await eventually(left.is_set, seconds=0.5)
    finally:
        over.set()


async def test_after_many_have_left_the_gateway_serves_on(serve, lane):
    """Nothing of an abandoned exchange stays behind."""
    served = asyncio.Event()

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if served.is_set():
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await reader.read()

    async with ScriptedOrigin(answer) as origin:
        gateway = await serve(origin.url, lane=lane)
        clients = [await gateway.connect() for _ in range(20)]
        for client in clients:
            await client.send(make_request())
        await eventually(lambda: origin.connections == 20)
        for client in clients:
            client.leave()
        await gateway.wait_for_record(20)
        await eventually(gateway.is_idle)
        served.set()
        reply = await gateway.get()

        assert (200, b"ok") == (reply.status, reply.body)
        assert [499] * 20 == [record.status for record in gateway.records[:20]]


@one_transport
async def test_a_client_that_leaves_after_its_response_is_not_noted(serve, http, lane):
    """What was complete stays complete."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.ask(make_request())
        client.leave()
        record = await gateway.wait_for_record()

        assert (200, 1) == (record.status, len(gateway.records))


async def swept(gateway):
    """Wait for the exchanges that run now."""
    sweeper = gateway.pool.state().sweeper
    await eventually(lambda: len(sweeper))
    return list(sweeper._entries)


async def stalls(read):
    """Wait until a number has stopped to grow."""
    before = -1
    while before != (before := read()) or not before:
        await asyncio.sleep(0.05)
