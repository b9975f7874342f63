"""Twenty slow streams at once: what the gateway keeps of each is little, in both directions."""

import asyncio
import contextlib

import pytest

from proxyroutes.testing import ScriptedOrigin
from tests.integration.support import RawClient, make_request
from tests.integration.test_memory import Path, forget_peak, gateway_process, memory_of, stalls

STREAMS = 20
MOST = 2 * 2**20
PIECE = bytes(2**18)

pytestmark = [
    pytest.mark.requirement("E-06", "S-41"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"),
    pytest.mark.timeout(120),
]


class SlowOrigin:
    """Sends without end, or takes nothing; what has passed is counted."""

    def __init__(self):
        self.scripted = ScriptedOrigin(self.serve)
        self.sent = 0
        self.over = asyncio.Event()

    async def serve(self, reader, writer):
        """Serve one request."""
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /small"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            return
        if head.startswith(b"POST"):
            writer.transport.pause_reading()
            await self.over.wait()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(PIECE)
            await writer.drain()
            self.sent += len(PIECE)


@contextlib.asynccontextmanager
async def measured(transport):
    """A gateway in a process of its own that has served before; gives its origin, number and port."""
    origin = SlowOrigin()
    async with origin.scripted, gateway_process(transport, origin.scripted.url) as (pid, port):
        clients = [await RawClient.connect(port) for _ in range(STREAMS)]
        for client in clients:
            await client.ask(make_request("/small"))
            await client.close()
        forget_peak(pid)
        yield origin, pid, port


@pytest.mark.parametrize("transport", ["Http1Transport", "HttpxTransport"])
async def test_readers_that_do_not_read_cost_little_each(transport):
    """Every stream stands still, and the gateway has grown by less than 2 MiB for each."""
    async with measured(transport) as (origin, pid, port):
        before = memory_of(pid, "VmRSS")
        clients = [await RawClient.connect(port) for _ in range(STREAMS)]
        for client in clients:
            client.writer.transport.pause_reading()
            await client.send(make_request("/events"))
        await stalls(lambda: origin.sent)
        grown = memory_of(pid, "VmHWM") - before
        for client in clients:
            client.leave()
            await client.close()

        assert STREAMS < origin.scripted.connections
        assert grown < STREAMS * MOST


@pytest.mark.parametrize("transport", ["Http1Transport", "HttpxTransport"])
async def test_uploads_to_an_upstream_that_does_not_read_cost_little_each(transport):
    """Every client is stopped, and the gateway has grown by less than 2 MiB for each."""
    async with measured(transport) as (origin, pid, port):
        before = memory_of(pid, "VmRSS")
        clients = [await RawClient.connect(port) for _ in range(STREAMS)]
        sent = 0

        async def upload(client):
            nonlocal sent
            await client.send(make_request("/", "Transfer-Encoding: chunked", method="POST"))
            while True:
                await client.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                sent += len(PIECE)

        uploads = [asyncio.create_task(upload(client)) for client in clients]
        await stalls(lambda: sent)
        grown = memory_of(pid, "VmHWM") - before
        # A server that has stopped to read does not hear that its clients leave: the upstream ends it.
        origin.over.set()
        for task in uploads:
            task.cancel()
        await asyncio.wait(uploads)
        for client in clients:
            client.leave()
            await client.close()

        assert grown < STREAMS * MOST
