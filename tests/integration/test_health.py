"""Active health on real sockets: destinations that are down, killed and brought back."""

import asyncio
import socket

import pytest

from proxyroutes import HealthCheck, HealthMonitor, Proxy, UpstreamPool
from proxyroutes.policies import LeastLatency
from proxyroutes.testing import ManualClock, ScriptedOrigin, run_gateway
from tests.integration.support import OK, RawClient, eventually, refusing_destination

pytestmark = pytest.mark.requirement("R-25", "R-26")
QUICK = HealthCheck("/healthz", interval=0.02, timeout=1.0, rise=1, fall=1)


async def answers(reader, writer):
    """Answer every request on a connection."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


def gateway_of(*urls, health=QUICK, **keywords):
    """A gateway alone with one checked pool."""
    proxy = Proxy(monitor=HealthMonitor(interval=60.0))
    pool = UpstreamPool("p", urls, health=health, **keywords)

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


def endless(reply):
    """An origin whose checks are answered with content that has no end."""

    async def serve(reader, writer):
        while b"/healthz" not in await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
        writer.write(reply)
        while not writer.transport.is_closing():
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()

    return serve


def says(reply):
    """An origin whose checks are answered with this, and all else well."""

    async def serve(reader, writer):
        while True:
            asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(reply if b"/healthz" in asked else OK)

    return serve


HUGE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (endless(HUGE), "more than 1 MiB of content"),
        (says(MOVED), "status 302"),
        (says(b""), "no answer within 1.0 s"),
        (says(b"nonsense\r\n\r\n"), "UpstreamProtocolError"),
    ],
    ids=["endless", "redirects", "hangs", "not-http"],
)
async def test_a_bad_answer_to_a_check_is_unhealthy_with_its_reason(serve, reason):
    """The others are asked meanwhile, and the loop lives."""
    check = HealthCheck("/healthz", method="GET", timeout=1.0)
    async with ScriptedOrigin(serve) as bad, ScriptedOrigin(answers) as good:
        app, pool = gateway_of(bad.url, good.url, health=check)
        async with run_gateway(app) as gateway:
            assert {200} == {(await ask(gateway.port))[0] for _ in range(5)}
            first, second = pool.status()

    assert (False, True, 0) == (first.healthy, second.healthy, first.requests)
    assert first.reason.startswith(reason)


def probes(origin):
    """How many an origin has got."""
    return sum(received.count(b"HEAD /healthz") for received in origin.requests)


async def test_twenty_pools_over_one_origin_probe_once_an_interval():
    """Whatever the routes and apps that use them."""
    async with ScriptedOrigin(answers) as origin:
        monitor = HealthMonitor(interval=60.0)
        pools = [
            UpstreamPool(f"p{number}", [origin.url], monitor=monitor, health="/healthz")
            for number in range(20)
        ]
        async with monitor:
            for pool in pools:
                pool.enter()
            await asyncio.gather(*[pool.first_round() for pool in pools])
            monitor.interval = 30.0
            await eventually(lambda: probes(origin) >= 2)
            for pool in pools:
                await pool.leave()

    assert 2 == probes(origin)


async def test_the_faster_one_is_asked_without_a_check():
    """Its first bytes are what counts; time passes when the slow one answers."""
    clock = ManualClock()

    async def slow(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await clock.advance(0.1)
            writer.write(OK)

    async with ScriptedOrigin(slow) as far, ScriptedOrigin(answers) as near:
        app, pool = gateway_of(
            far.url,
            near.url,
            health=None,
            balancing=LeastLatency(),
            monitor=HealthMonitor(clock=clock),
        )
        async with run_gateway(app) as gateway:
            for _ in range(20):
                assert 200 == (await ask(gateway.port))[0]
            first, second = pool.status()

    assert first.requests <= 1
    assert 20 == first.requests + second.requests
    assert 0.0 == second.first_byte
