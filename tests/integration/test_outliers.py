"""Passive health on real sockets: destinations that fail are left alone, clients that leave change nothing."""

import asyncio
from collections import Counter

import pytest

from proxyroutes import Proxy, Timeouts, UpstreamPool
from proxyroutes.policies import OutlierDetection, RoundRobin
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.integration.support import OK, RawClient, eventually, refusing_destination

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"


def replies(reply, *, close=False):
    """An origin's way to answer every request."""

    async def serve(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            if close:
                writer.close()
                return

    return serve


def gateway_of(*urls, timeouts=None, route=None, **keywords):
    """A gateway alone with one pool that is asked in turn."""
    proxy = Proxy()
    pool = UpstreamPool("p", urls, balancing=RoundRobin(), timeouts=timeouts, **keywords)

    @proxy.route("/<path>", upstream=pool, **(route or {}))
    async def api() -> None: ...

    return proxy.build_app(), pool


async def ask(port):
    """The status of one answer, or the failure to read it."""
    client = await RawClient.connect(port)
    try:
        reply = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return reply.status if reply.complete else "cut"
    except (asyncio.IncompleteReadError, ConnectionError):
        return "cut"
    finally:
        await client.close()


async def test_one_that_refuses_is_ejected_without_a_failed_request():
    """Connect failures move on, and after the fifth nobody tries it any more."""
    with refusing_destination() as down:
        async with ScriptedOrigin(replies(OK)) as origin:
            app, pool = gateway_of(down, origin.url)
            async with run_gateway(app) as gateway:
                assert {200} == {await ask(gateway.port) for _ in range(30)}
                first = pool.status()[0]

    assert (False, 5, 1) == (first.available, first.requests, first.ejections)


@pytest.mark.parametrize(
    ("reply", "close", "seen"),
    [(BUSY, False, 503), (CUT, True, "cut"), (b"nonsense\r\n\r\n", True, 502), (b"", True, 502)],
    ids=["busy", "cut-off", "not-http", "closed"],
)
async def test_one_that_fails_is_ejected(reply, close, seen):
    """Five clients see it, no further one."""
    async with (
        ScriptedOrigin(replies(reply, close=close)) as bad,
        ScriptedOrigin(replies(OK)) as good,
    ):
        app, pool = gateway_of(bad.url, good.url, retry=None)
        async with run_gateway(app) as gateway:
            counted = Counter([await ask(gateway.port) for _ in range(40)])
            assert 1 == pool.status()[0].ejections

    assert {seen: 5, 200: 35} == counted


async def test_one_that_hangs_is_ejected():
    """A time-out of the upstream is its failure."""

    async def hang(reader, writer):
        await reader.read()

    async with ScriptedOrigin(hang) as bad, ScriptedOrigin(replies(OK)) as good:
        app, pool = gateway_of(
            bad.url,
            good.url,
            timeouts=Timeouts(first_byte=0.05),
            outliers=OutlierDetection(consecutive=2),
        )
        async with run_gateway(app) as gateway:
            counted = Counter([await ask(gateway.port) for _ in range(10)])
            assert 1 == pool.status()[0].ejections

    assert {504: 2, 200: 8} == counted


@pytest.mark.requirement("R-31", "H-15")
async def test_clients_that_leave_eject_nobody():
    """However many."""

    async def hang(reader, writer):
        await reader.read()

    async with ScriptedOrigin(hang) as first, ScriptedOrigin(hang) as second:
        app, pool = gateway_of(first.url, second.url)
        async with run_gateway(app) as gateway:
            for number in range(24):
                client = await RawClient.connect(gateway.port)
                client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await eventually(
                    lambda number=number: sum(one.requests for one in pool.status()) == number + 1
                )
                client.writer.transport.abort()
            await eventually(lambda: not any(one.in_flight for one in pool.status()))
            assert [(True, 0)] * 2 == [(one.available, one.ejections) for one in pool.status()]


@pytest.mark.requirement("R-31")
async def test_clients_that_stall_eject_nobody():
    """Neither in the middle of an upload nor by not reading: nobody gets a destination out that way."""

    async def stream(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async with ScriptedOrigin(stream) as first, ScriptedOrigin(stream) as second:
        app, pool = gateway_of(
            first.url,
            second.url,
            timeouts=Timeouts(idle=0.1),
            outliers=OutlierDetection(consecutive=2),
        )
        async with run_gateway(app) as gateway:
            for start in (
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ):
                clients = [await RawClient.connect(gateway.port) for _ in range(8)]
                for client in clients:
                    await client.send(start)
                    client.reader._transport.pause_reading()
                await eventually(lambda: any(one.in_flight for one in pool.status()))
                await eventually(lambda: not any(one.in_flight for one in pool.status()))
                for client in clients:
                    client.writer.transport.abort()
            assert 16 == sum(one.requests for one in pool.status())
            assert [(True, 0)] * 2 == [(one.available, one.ejections) for one in pool.status()]
