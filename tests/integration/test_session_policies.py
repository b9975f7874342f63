"""Sessions and the policies of their pools: affinity, places, circuits, and what is tried again of a handshake."""

import asyncio
import functools
from contextlib import AsyncExitStack

import pytest

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.policies import CircuitBreaker, CookieAffinity, Hedge, Retry, RoundRobin
from proxyroutes.settings import Limits, Timeouts
from proxyroutes.testing import Close, ReadHead, ReadToEnd, ScriptedOrigin, Wait, run_gateway
from tests.integration import websocket_support
from tests.integration.support import OK, RawClient, eventually, refusing_destination
from tests.integration.websocket_support import (
    TEXT,
    SessionOrigin,
    accept,
    nothing_left,
    value_of,
    values_of,
)

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


# Peers that are left alone by their test do not answer a Close.
open_sessions = functools.partial(websocket_support.open_sessions, close_timeout=0.1)


@pytest.fixture(autouse=True)
async def nothing_is_left():
    """Every test ends without a task of ours and without an unhandled exception."""
    async with nothing_left():
        yield


@pytest.fixture(params=["router", "app"])
def lane(request):
    """The way of a handshake through the gateway."""
    return request.param


@pytest.mark.requirement("R-42")
async def test_a_handshake_begins_and_keeps_an_affinity(lane):
    """Its cookie comes with the 101, beside the upstream's own."""
    async with AsyncExitStack() as stack:
        origins = [
            await stack.enter_async_context(
                SessionOrigin(lambda head: accept(head, b"Set-Cookie: own=1"))
            )
            for _ in range(3)
        ]
        gateway = await stack.enter_async_context(
            open_sessions(
                *[origin.url for origin in origins],
                lane=lane,
                pool={"affinity": CookieAffinity(secret="s")},
            )
        )
        first = await gateway.dial()
        own, ours = values_of(first.head, b"set-cookie")
        cookie = ours.partition(b";")[0].decode()
        assert b"own=1" == own
        home = next(origin for origin in origins if origin.sessions.qsize())
        for _ in range(3):
            again = await gateway.dial("/live", f"Cookie: a=b; {cookie}")
            assert [b"own=1"] == values_of(again.head, b"set-cookie")

        assert 4 == home.sessions.qsize()


@pytest.mark.requirement("R-42")
async def test_http_and_sessions_share_an_affinity_across_processes():
    """What one gateway has set, another one with the same secret understands, for a session as for a request."""

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        who = writer.get_extra_info("sockname")[1]
        if b"upgrade: websocket" in head.lower():
            writer.write(accept(head, b"X-Who: %d" % who))
            await reader.read()
            return
        body = b"%d" % who
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.read()

    def gateway_of(*urls):
        proxy = Proxy()
        pool = UpstreamPool("p", urls, balancing=RoundRobin(), affinity=CookieAffinity(secret="s"))

        @proxy.route("/<path>", upstream=pool)
        async def api() -> None: ...

        @proxy.websocket("/<path>", upstream=pool)
        async def live() -> None: ...

        return proxy.build_app()

    async with AsyncExitStack() as stack:
        origins = [await stack.enter_async_context(ScriptedOrigin(serve)) for _ in range(4)]
        urls = [origin.url for origin in origins]
        one = await stack.enter_async_context(run_gateway(gateway_of(*urls)))
        other = await stack.enter_async_context(run_gateway(gateway_of(*reversed(urls[:3]))))
        client = await RawClient.connect(one.port)
        reply = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        cookie = reply.get("set-cookie").partition(b";")[0]
        await client.close()
        found = set()
        for gateway in (one, other):
            client = await RawClient.connect(gateway.port)
            await client.send(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                b"Cookie: %b\r\n\r\n" % cookie
            )
            head = await client.read_head()
            found.add(head.get("x-who"))
            client.leave()

    assert {reply.body} == found


async def test_places_count_sessions(lane):
    """One that is open has its place until both sides are closed; a handshake waits for it."""
    async with SessionOrigin() as origin:
        limits = Limits(max_in_flight=1, max_queue=1, queue_timeout=30.0)
        async with open_sessions(origin.url, lane=lane, pool={"limits": limits}) as gateway:
            limiter = gateway.state.rules.limiter
            first, upstream = await gateway.open(origin)
            waiting = asyncio.create_task(gateway.dial())
            await eventually(lambda: limiter.waiting)
            refused = await gateway.dial()
            assert (503, b"30") == (refused.status, value_of(refused.head, b"retry-after"))
            assert 1 == origin.connections
            await first.close(1000)
            await upstream.closed()
            second = await waiting
            assert 101 == second.status
            await second.send(TEXT, b"hello")
            assert (TEXT, b"hello") == await (await origin.session()).message()

        assert (0, 0) == (limiter.taken, limiter.waiting)


async def test_a_client_that_leaves_the_queue_of_handshakes_frees_its_turn(lane):
    """The upstream never hears of it."""
    async with SessionOrigin() as origin:
        limits = Limits(max_in_flight=1, max_queue=1, queue_timeout=30.0)
        async with open_sessions(origin.url, lane=lane, pool={"limits": limits}) as gateway:
            limiter = gateway.state.rules.limiter
            await gateway.open(origin)
            waiting = asyncio.create_task(gateway.dial())
            await eventually(lambda: limiter.waiting)
            gateway.peers[-1].leave()
            await eventually(lambda: not limiter.waiting)
            await asyncio.wait([waiting])
            waiting.exception()
            record = await gateway.record()

            assert (499, 1) == (record.status, origin.connections)
        assert 0 == limiter.taken


@pytest.mark.requirement("W-23")
async def test_a_handshake_moves_on_only_where_nothing_was_sent():
    """One that an upstream has seen is never made again, whatever the pool says of requests."""
    async with (
        SessionOrigin(lambda head: b"") as breaking,
        SessionOrigin() as good,
    ):
        retry = Retry(attempts=3, on=[503], backoff=None)
        with refusing_destination() as down:
            async with open_sessions(down, good.url, pool={"retry": retry}) as gateway:
                _, upstream = await gateway.open(good)
                upstream.leave()
                assert 2 == (await gateway.record()).attempts
        async with open_sessions(breaking.url, good.url, pool={"retry": retry}) as gateway:
            dialling = asyncio.create_task(gateway.dial())
            (await breaking.session()).leave()

            assert 502 == (await dialling).status
            assert (1, 1) == (breaking.connections, good.connections)


async def test_a_refusal_that_retries_ask_for_is_relayed():
    """A handshake is no request that may be repeated."""
    async with SessionOrigin(lambda head: BUSY) as origin, SessionOrigin() as good:
        retry = Retry(on=[503], backoff=None)
        async with open_sessions(origin.url, good.url, pool={"retry": retry}) as gateway:
            client = await gateway.dial()

    assert (503, b"busy", 0) == (client.status, client.body, good.connections)


async def test_a_circuit_opens_for_handshakes():
    """And a session that is open closes it again at its beginning, not at its end."""
    answers = [lambda head: BUSY] * 2 + [accept] * 2

    async with SessionOrigin(lambda head: answers.pop(0)(head)) as origin:
        breaker = CircuitBreaker(min_requests=2, open_for=0.05, trials=1)
        async with open_sessions(origin.url, pool={"breaker": breaker}) as gateway:
            for _ in range(2):
                assert b"busy" == (await gateway.dial()).body
            refused = await gateway.dial()
            assert (503, b"1") == (refused.status, value_of(refused.head, b"retry-after"))
            assert 2 == origin.connections
            await eventually(lambda: gateway.pool.status()[0].circuit == "half-open")
            client = await gateway.dial()
            assert (101, "closed") == (client.status, gateway.pool.status()[0].circuit)


# Hedging, on real sockets.


async def test_the_slower_of_two_is_aborted_at_once():
    """Its connection is closed while the other one's answer is relayed."""
    fast = [ReadHead(), OK, Close()]
    async with (
        ScriptedOrigin([ReadHead(), ReadToEnd()]) as slow,
        ScriptedOrigin(fast) as other,
    ):
        proxy = Proxy()
        pool = UpstreamPool("p", [slow.url, other.url], balancing=RoundRobin())

        @proxy.get("/<path>", upstream=pool, hedge=Hedge(after=0.02))
        async def api() -> None: ...

        async with run_gateway(proxy.build_app()) as gateway:
            client = await RawClient.connect(gateway.port)
            reply = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.close()
            await eventually(lambda: not slow.open_connections)

            assert (200, b"ok") == (reply.status, reply.body)
            assert [(0, 0), (0, 0)] == [(one.in_flight, one.failures) for one in pool.status()]
            assert 1 == slow.connections


async def test_pool_time_outs_hold_for_a_handshake():
    """As for a request."""
    never = asyncio.Event()

    async with ScriptedOrigin([ReadHead(), Wait(never)]) as origin:
        timeouts = Timeouts(first_byte=0.05)
        async with open_sessions(origin.url, pool={"timeouts": timeouts}) as gateway:
            assert 504 == (await gateway.dial()).status
        never.set()
