"""Destinations that come and go under traffic, on real sockets: nothing that is in flight is lost before its time."""

import asyncio

import pytest

from proxyroutes import HealthMonitor, Proxy, UpstreamPool
from proxyroutes.policies import Hedge
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.integration.support import OK, eventually
from tests.integration.test_outliers import ask, gateway_of, replies
from tests.integration.websocket_support import (
    CLOSE,
    TEXT,
    SessionOrigin,
    accept,
    dial,
    nothing_left,
    open_sessions,
)


def slow(release):
    """An origin's way to send half of its answer and the rest when the test says so."""

    async def serve(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK[:-1])
            await release.wait()
            writer.write(OK[-1:])

    return serve


@pytest.mark.requirement("R-45")
async def test_an_exchange_ends_in_its_grace_time():
    """While the others are asked by everybody else, and its connection is closed after it."""
    release = asyncio.Event()
    async with ScriptedOrigin(slow(release)) as old, ScriptedOrigin(replies(OK)) as new:
        app, pool = gateway_of(old.url)
        async with run_gateway(app) as gateway:
            first = asyncio.create_task(ask(gateway.port))
            await eventually(lambda: pool.state().in_flight)
            (destination,) = pool.state().destinations
            pool.add(new.url)
            draining = asyncio.create_task(pool.drain(old.url, grace=60.0))
            answers = [await ask(gateway.port) for _ in range(10)]
            assert [200] * 10 == answers
            assert not draining.done()
            release.set()

            assert (0, 200) == (await draining, await first)
            assert (0, 0) == pool.state().transport.connections(destination)
            assert 1 == destination.requests


@pytest.mark.parametrize("sent", [b"", OK[:-1]], ids=["before-the-head", "within-the-content"])
@pytest.mark.requirement("R-45")
async def test_an_exchange_is_cut_after_its_grace_time(sent):
    """503 before the head was sent; after it a broken connection; and nobody is to blame."""

    async def hang(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await reader.read()

    async with ScriptedOrigin(hang) as old, ScriptedOrigin(replies(OK)) as new:
        app, pool = gateway_of(old.url, new.url)
        async with run_gateway(app) as gateway:
            first = asyncio.create_task(ask(gateway.port))
            await eventually(lambda: old.connections and pool.state().in_flight)
            if sent:
                attempt = next(iter(pool.state().sweeper._entries))
                await eventually(lambda: attempt.status == 200)

            assert 1 == await pool.drain(old.url, grace=0.0)
            assert ("cut" if sent else 503) == await first
            assert (0, 0) == (pool.status()[0].failures, pool.state().in_flight)


@pytest.mark.parametrize("drained", [0, 1], ids=["first", "second"])
@pytest.mark.requirement("R-45")
async def test_one_of_two_racing_attempts_is_cut_after_its_grace_time(drained):
    """The other one goes on, and answers the request."""
    release = asyncio.Event()

    async def hang(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.write(OK)
        await reader.read()

    async with ScriptedOrigin(hang) as one, ScriptedOrigin(hang) as two:
        origins = [one, two]
        app, pool = gateway_of(one.url, two.url, route={"hedge": Hedge(after=0.01)})
        async with run_gateway(app) as gateway:
            asking = asyncio.create_task(ask(gateway.port))
            await eventually(lambda: one.connections and two.connections)
            destination = pool.state().destinations[drained]

            assert (1, 0) == (
                await pool.drain(origins[drained].url, grace=0.0),
                destination.in_flight,
            )
            release.set()
            assert (200, 0, 0) == (await asking, destination.failures, pool.state().in_flight)


@pytest.mark.requirement("R-45")
async def test_both_of_two_racing_attempts_are_cut_after_their_grace_time():
    """Nobody is left: 503, and nobody is to blame."""

    async def hang(reader, writer):
        await reader.read()

    async with ScriptedOrigin(hang) as one, ScriptedOrigin(hang) as two:
        app, pool = gateway_of(one.url, two.url, route={"hedge": Hedge(after=0.01)})
        async with run_gateway(app) as gateway:
            asking = asyncio.create_task(ask(gateway.port))
            await eventually(lambda: one.connections and two.connections)
            cut = [await pool.drain(origin.url, grace=0.0) for origin in (one, two)]

            assert ([1, 1], 503) == (cut, await asking)
            assert [0, 0] == [status.failures for status in pool.status()]
            assert 0 == pool.state().in_flight


async def test_traffic_sees_nothing_of_changes():
    """A hundred requests at a time, while destinations come, go and are drained."""
    async with (
        ScriptedOrigin(replies(OK)) as one,
        ScriptedOrigin(replies(OK)) as two,
        ScriptedOrigin(replies(OK)) as three,
    ):
        app, pool = gateway_of(one.url, two.url)
        async with run_gateway(app) as gateway:
            running = True
            answers = []

            async def keep_asking():
                while running:
                    answers.append(await ask(gateway.port))

            askers = [asyncio.create_task(keep_asking()) for _ in range(20)]
            for _ in range(5):
                seen = len(answers)
                pool.add(three.url)
                pool.set_weight(one.url, 3)
                await eventually(lambda seen=seen: len(answers) > seen + 20)
                pool.remove(two.url)
                await pool.drain(one.url, grace=60.0)
                pool.add(two.url)
                pool.undrain(one.url)
                pool.remove(three.url)
            running = False
            await asyncio.gather(*askers)

    assert {200} == set(answers)
    assert len(answers) > 100


@pytest.mark.parametrize("own_monitor", [False, True], ids=["proxys-monitor", "own-monitor"])
@pytest.mark.parametrize("lane", ["router", "app"])
@pytest.mark.requirement("W-22")
async def test_a_session_is_closed_with_1001_after_its_grace_time(lane, own_monitor):
    """On both sides; until then it goes on."""
    options = {"monitor": HealthMonitor()} if own_monitor else {}
    async with SessionOrigin() as origin, SessionOrigin() as other:
        async with open_sessions(origin.url, lane=lane, pool=options) as gateway:
            client, upstream = await gateway.open(origin)
            gateway.pool.add(other.url)
            destination = gateway.pool.state().destinations[0]
            draining = asyncio.create_task(gateway.pool.drain(origin.url, grace=0.2))
            await client.send(TEXT, b"still here")
            assert (TEXT, b"still here") == await upstream.message()
            _, elsewhere = await gateway.open(other)
            to_upstream, to_client = await asyncio.gather(upstream.closed(), client.closed())

            assert (1, 0) == (await draining, destination.in_flight)
            assert [1001, 1001] == [to_upstream[0], to_client[0]]
            await elsewhere.close(1000)
            assert CLOSE == (await elsewhere.read()).opcode
            elsewhere.leave_gently()
            await gateway.record(2)


@pytest.mark.parametrize("held", ["watch", "accept"])
@pytest.mark.requirement("W-22")
async def test_a_session_that_is_about_to_open_is_ended_after_its_grace_time(held):
    """Its upstream has accepted, and its client is not accepted yet: 503 before that, 1001 in it."""
    reached, goes_on, answers, records = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    def hold(app):
        """An application behind a server that takes its time."""

        async def serve(scope, receive, send):
            async def slow_receive():
                try:
                    return await receive()
                except asyncio.CancelledError:
                    if held == "watch" and not reached.is_set():
                        reached.set()
                        await goes_on.wait()
                    raise

            async def slow_send(message):
                if message["type"] == "websocket.accept" and held == "accept":
                    reached.set()
                    await goes_on.wait()
                await send(message)

            await app(scope, slow_receive, slow_send)

        return serve

    async def answer_late(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        await answers.wait()
        writer.write(accept(head))
        # Its Close frame, or the end.
        await reader.read(1)
        writer.close()

    async with ScriptedOrigin(answer_late) as origin, nothing_left():
        proxy = Proxy(on_exchange=records.append)
        pool = UpstreamPool("pool", [origin.url])

        @proxy.websocket("/live", upstream=pool)
        async def live() -> None: ...

        async with run_gateway(hold(proxy.build_app())) as running:
            dialling = asyncio.create_task(dial(running.port, "/live"))
            await eventually(lambda: origin.connections)
            state = pool.state()
            (record,) = state.sweeper._entries
            # It has waited long enough to be watched.
            await eventually(lambda: record.body._watch)
            answers.set()
            await reached.wait()
            draining = asyncio.create_task(pool.drain(origin.url, grace=0.0))
            await eventually(
                lambda: (
                    record.interruption
                    or any(one.ending for one in state.monitor.sessions._entries)
                )
            )
            goes_on.set()
            client = await dialling

            assert 1 == await draining
            assert 0 == state.destinations[0].in_flight
            ended = client.status if held == "watch" else (await client.closed())[0]
            client.leave()
            await eventually(lambda: records)

    assert {"watch": (503, "NoDestinationError"), "accept": (1001, "NoneType")}[held] == (
        ended,
        type(records[0].error).__name__,
    )
    assert 0 == state.in_flight == len(state.sweeper) == len(state.monitor.sessions)
