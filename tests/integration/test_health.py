"""Active health on real sockets: destinations that are down, killed and brought back."""

import asyncio
import socket

import pytest

from proxyroutes import HealthCheck, HealthMonitor, Proxy, UpstreamPool
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.integration.support import OK, RawClient, eventually, refusing_destination

pytestmark = pytest.mark.requirement("R-25", "R-26")
QUICK = HealthCheck("/healthz", interval=0.02, timeout=1.0, rise=1, fall=1)


async def answers(reader, writer):
    """Answer every request on a connection."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


def gateway_of(*urls, health=QUICK):
    """A gateway alone with one checked pool."""
    proxy = Proxy(monitor=HealthMonitor(interval=60.0))
    pool = UpstreamPool("p", urls, health=health)

    @proxy.route("/<path>", upstream=pool)
    async def api() -> None: ...

    return proxy.build_app(), pool


async def ask(port):
    """The status of one answer."""
    client = await RawClient.connect(port)
    reply = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.close()
    return reply.status, reply.get("retry-after")


@pytest.mark.requirement("R-29")
async def test_what_is_down_at_start_is_never_asked():
    """The first round is over before the gateway serves: no request meets a cold pool."""
    with refusing_destination() as down:
        async with ScriptedOrigin(answers) as origin:
            app, pool = gateway_of(down, origin.url)
            async with run_gateway(app) as gateway:
                assert {200} == {(await ask(gateway.port))[0] for _ in range(10)}
                first, second = pool.status()

    assert (False, 0, True) == (first.healthy, first.requests, second.healthy)
    assert first.reason.startswith("UpstreamConnectError")
    assert second.latency


@pytest.mark.requirement("R-30")
async def test_with_nothing_well_it_is_503_at_once():
    """And the client is told when to come again."""
    with refusing_destination() as down:
        app, _ = gateway_of(down)
        async with run_gateway(app) as gateway:
            assert (503, b"1") == await ask(gateway.port)


async def test_one_that_comes_up_is_used():
    """By its checks alone; and left again when it goes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with ScriptedOrigin(answers) as steady:
        app, pool = gateway_of(f"http://127.0.0.1:{port}", steady.url)
        async with run_gateway(app) as gateway:
            assert pool.status()[0].healthy is False
            writers = []

            async def keeps(reader, writer):
                writers.append(writer)
                try:
                    await answers(reader, writer)
                except (asyncio.IncompleteReadError, ConnectionError):
                    writer.close()

            server = await asyncio.start_server(keeps, "127.0.0.1", port)
            await eventually(lambda: pool.status()[0].healthy)
            await eventually_asked(gateway.port, pool, pool.status()[0].requests)
            server.close()
            for writer in writers:
                writer.transport.abort()
            await eventually(lambda: pool.status()[0].healthy is False)
            assert {200} == {(await ask(gateway.port))[0] for _ in range(10)}


async def eventually_asked(port, pool, before):
    """Ask until the first destination has had a request."""
    for _ in range(200):
        await ask(port)
        if pool.status()[0].requests > before:
            return
    pytest.fail("it was never asked again")


@pytest.mark.requirement("R-29")
async def test_a_lazy_start_does_not_wait():
    """Unknown counts as available."""
    async with ScriptedOrigin(answers) as origin:
        app, pool = gateway_of(origin.url)
        sent = []

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
        }
        await app({**scope, "headers": [(b"host", b"a")], "http_version": "1.1"}, receive, send)

        assert 200 == sent[0]["status"]
        await pool.close()
