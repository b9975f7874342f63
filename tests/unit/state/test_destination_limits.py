"""Limits of one destination: exchanges at once, and requests in an interval of the monitor."""

import asyncio

import pytest

from proxyroutes import Destination, HealthMonitor, Limits, Proxy, UpstreamPool
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies import RoundRobin
from proxyroutes.testing import ScriptedOrigin, run_gateway
from proxyroutes.typing import ForwardedHead
from tests.integration.support import OK, RawClient, eventually
from tests.integration.websocket_support import SessionOrigin, dial, nothing_left

HEAD = ForwardedHead(b"GET", b"/", [], None, None)


def pool_of(clock, *destinations, interval=10.0, **keywords):
    """A pool that is asked in turn."""
    monitor = HealthMonitor(clock=clock, interval=interval)
    return UpstreamPool("p", destinations, monitor=monitor, balancing=RoundRobin(), **keywords)


def asked(pool, times):
    """Hosts of leases, each given back at once."""
    hosts = ""
    for _ in range(times):
        lease = pool.state().lease(HEAD)
        hosts += lease.destination.host
        lease.release()
    return hosts


async def test_exchanges_at_once(clock):
    """A full one is passed over until a place is free; with all full there is nothing."""
    pool = pool_of(clock, Destination("http://a", max_in_flight=2), "http://b")
    held = [pool.state().lease(HEAD) for _ in range(6)]
    assert 2 == sum(lease.destination.host == "a" for lease in held)
    assert "bbb" == asked(pool, 3)
    assert "2 in flight, its limit" == pool.status()[0].reason
    assert not pool.status()[0].available

    for lease in held:
        lease.release()
    assert {"a", "b"} == set(asked(pool, 4))

    alone = pool_of(clock, Destination("http://a", max_in_flight=1))
    lease = alone.state().lease(HEAD)
    with pytest.raises(NoDestinationError) as raised:
        alone.state().lease(HEAD)
    assert 1.0 == raised.value.retry_after
    lease.release()
    lease.release()
    assert "aa" == asked(alone, 2)


async def test_requests_in_an_interval(clock):
    """Given back or not; counted anew when the interval is over, whoever asks meanwhile."""
    pool = pool_of(clock, Destination("http://a", max_requests=3), "http://b")
    assert 3 == asked(pool, 20).count("a")
    assert "3 requests in this interval, its limit" == pool.status()[0].reason

    await clock.advance(9.9)
    assert 0 == asked(pool, 20).count("a")
    await clock.advance(0.2)
    assert pool.status()[0].available
    assert 3 == asked(pool, 20).count("a")
    await clock.advance(35.0)
    assert 3 == asked(pool, 20).count("a")
    await clock.advance(4.8)
    assert 0 == asked(pool, 4).count("a"), "the interval that began at 40 ends at 50"
    await clock.advance(0.2)
    assert 2 == asked(pool, 4).count("a")
    await pool.close()


async def test_alone_and_over_its_requests(clock):
    """503 until the interval is over."""
    pool = pool_of(clock, Destination("http://a", max_requests=2))
    assert "aa" == asked(pool, 2)
    with pytest.raises(NoDestinationError):
        pool.state().lease(HEAD)
    await clock.advance(10.0)
    assert "aa" == asked(pool, 2)
    await pool.close()


async def test_a_full_level_overflows_to_the_next(clock):
    """And is used again as soon as it has room."""
    pool = pool_of(
        clock, Destination("http://a", max_in_flight=1), Destination("http://b", priority=1)
    )
    lease = pool.state().lease(HEAD)
    assert "bb" == asked(pool, 2)
    lease.release()
    assert "aa" == asked(pool, 2)


async def test_panic_keeps_limits(clock):
    """They protect the destination, healthy or not."""
    pool = pool_of(clock, Destination("http://a", max_in_flight=1), "http://b", panic=True)
    state = pool.state()
    for destination in state.destinations:
        state.ejections.out[destination] = None
    state.refresh()
    held = [state.lease(HEAD) for _ in range(4)]
    assert 1 == sum(lease.destination.host == "a" for lease in held)


async def test_a_queue_on_sockets():
    """HTTP and sessions wait for one destination, and are served one after the other; one that leaves is passed over."""
    async with SessionOrigin() as origin:
        proxy = Proxy()
        limits = Limits(queue_timeout=30.0)
        pool = UpstreamPool("p", [Destination(origin.url, max_in_flight=1)], limits=limits)

        @proxy.websocket("/<path>", upstream=pool)
        async def live() -> None: ...

        async with nothing_left(), run_gateway(proxy.build_app()) as gateway:
            state = pool.state()
            first = await dial(gateway.port, "/first")
            peer = await origin.session()
            leaving = []
            waiting = []
            for known in (leaving, None):
                task = asyncio.create_task(dial(gateway.port, "/next", known=known))
                waiting.append(task)
                await eventually(lambda: state.queue.waiting == len(waiting))
            leaving[0].leave()
            await eventually(lambda: state.queue.waiting == 1)
            assert 1 == origin.connections
            peer.leave()
            second = await waiting[1]
            assert (101, 2) == (second.status, origin.connections)
            await asyncio.wait(waiting)
            waiting[0].exception()
            for one in (first, second, await origin.session()):
                one.leave()
            await eventually(lambda: not state.in_flight)

    assert 0 == state.queue.waiting


async def test_limits_on_sockets():
    """A held response keeps the only place; its end gives it back."""
    release = []

    async def hold(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        release.append(lambda: writer.write(b"k"))
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)

    async with ScriptedOrigin(hold) as origin:
        proxy = Proxy()
        pool = UpstreamPool(
            "p", [Destination(origin.url, max_in_flight=1)], limits=Limits(max_queue=0)
        )

        @proxy.route("/<path>", upstream=pool)
        async def api() -> None: ...

        async with run_gateway(proxy.build_app()) as gateway:
            first = await RawClient.connect(gateway.port)
            await first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: release)
            second = await RawClient.connect(gateway.port)
            refused = await second.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (503, b"1") == (refused.status, refused.get("retry-after"))
            release[0]()
            assert b"ok" == (await first.read_reply()).body
            await eventually(lambda: pool.status()[0].available)
            assert 200 == (await second.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status
            await first.close()
            await second.close()
