"""Many mixed requests with clients that leave: no response reaches another request, and nothing is left behind."""

import asyncio
import os
import random

import pytest

from proxyroutes import Destination, Proxy, Timeouts, UpstreamPool
from proxyroutes._state.clock import SystemClock
from proxyroutes._state.pools import DestinationState
from proxyroutes.testing import ScriptedOrigin, run_gateway
from proxyroutes.transports import Http1Transport
from proxyroutes.typing import Attempt, ForwardedHead
from tests.integration.support import PROTOCOLS, eventually

REQUESTS = int(os.environ.get("PROXYROUTES_SOAK_REQUESTS", "4000"))
CLIENTS = 32


async def echo(reader, writer):
    """Answer each request with the id in its path, in one of several framings."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            name = target.rpartition(b"/")[2]
            if b"content-length: " in head.lower():
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
            body = name * (1 if len(name) % 2 else 4000)
            field = b"HTTP/1.1 200 OK\r\nX-Id: " + name + b"\r\n"
            if method == b"HEAD":
                writer.write(field + b"Content-Length: %d\r\n\r\n" % len(body))
            elif name.endswith(b"7"):
                writer.write(field + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body))
                writer.write(body + b"\r\n0\r\n\r\n")
            else:
                writer.write(field + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def read_answer(reader, method):
    """The id in the head and the content of one response."""
    head = await reader.readuntil(b"\r\n\r\n")
    name = head.partition(b"x-id: ")[2].partition(b"\r\n")[0]
    if method == "HEAD":
        return name, b""
    if b"content-length: " in head:
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return name, await reader.readexactly(length)
    body = b""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunk = await reader.readexactly(size + 2)
        if not size:
            return name, body
        body += chunk[:-2]


async def ask_many(port, number, count, wrong):
    """One client: several requests on a connection, one in twenty left in the middle."""
    chance = random.Random(number)
    reader = writer = None
    for turn in range(count):
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        name = b"%d-%d" % (number, turn)
        method = chance.choice(["GET", "GET", "GET", "HEAD", "POST"])
        content = b"x" * chance.randrange(1, 5000) if method == "POST" else b""
        length = b"Content-Length: %d\r\n" % len(content) if content else b""
        line = method.encode() + b" /" + name + b" HTTP/1.1\r\nHost: a\r\n" + length
        writer.write(line + b"\r\n" + content)
        if chance.random() < 0.05:
            await asyncio.sleep(0)
            writer.transport.abort()
            writer = None
            continue
        found, body = await read_answer(reader, method)
        expected = b"" if method == "HEAD" else name * (1 if len(name) % 2 else 4000)
        if (found, body) != (name, expected):
            wrong.append((name, found, body[:40]))
    if writer is not None:
        writer.close()
        await writer.wait_closed()


@pytest.mark.requirement("S-30", "R-40", "R-48")
@pytest.mark.parametrize("http", PROTOCOLS[1:])
async def test_each_response_belongs_to_its_request(http):
    """With clients that leave in between; afterwards nothing is in flight."""
    async with ScriptedOrigin(echo) as origin:
        proxy = Proxy()
        pool = UpstreamPool("p", [origin.url])

        @proxy.route("/<path>", upstream=pool)
        async def api() -> None: ...

        wrong: list[object] = []
        async with run_gateway(proxy.build_app(), http=http) as gateway:
            async with asyncio.timeout(50 + REQUESTS / 200), asyncio.TaskGroup() as clients:
                for number in range(CLIENTS):
                    count = REQUESTS // CLIENTS
                    clients.create_task(ask_many(gateway.port, number, count, wrong))
            state = pool.state()
            await eventually(lambda: state.in_flight == 0 and len(state.sweeper) == 0)
            opened, idle = state.transport.connections(state.destinations[0])

        assert ([], opened) == (wrong, idle)


@pytest.mark.requirement("R-01", "R-02", "S-33")
async def test_cancelling_at_random_under_contention_loses_no_connection():
    """Two places, many requests, each cancelled at another moment; the pool goes on."""
    chance = random.Random(2)
    async with ScriptedOrigin(echo) as origin:
        bound = Http1Transport(max_connections=2, max_queue=64, queue_timeout=30.0).bind(
            clock=SystemClock(), tls=None
        )
        place = DestinationState.of(Destination(origin.url))

        async def send(name):
            head = ForwardedHead(b"GET", b"/" + name, [], None, None)
            response = await bound.send(head, None, place, Timeouts(), Attempt())
            try:
                content = response.take()
                while piece := await response.read():
                    content += piece
                return dict(response.fields)[b"x-id"], content[: len(name)]
            finally:
                response.abort()

        async def cancelled(name):
            task = asyncio.create_task(send(name))
            for _ in range(chance.randrange(0, 12)):
                await asyncio.sleep(0)
            if not task.cancel():
                assert (name, name) == task.result()
            await asyncio.wait((task,))

        async with asyncio.timeout(50):
            for batch in range(100):
                names = [b"%d-%d" % (batch, number) for number in range(20)]
                await asyncio.gather(*map(cancelled, names))

            assert (b"last", b"last") == await send(b"last")
        opened, idle = bound.connections(place)

        assert (True, opened) == (opened <= 2, idle)
        await bound.aclose()
