"""Sessions with peers that break the protocol, do not read, or never answer: nobody else pays for it."""

import asyncio
import gc
import logging
import random
import struct
import tracemalloc

import pytest
from attrs import frozen

from proxyroutes import HealthMonitor, Timeouts
from proxyroutes.testing import ManualClock
from tests.integration.support import eventually
from tests.integration.websocket_support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    SERVERS,
    TEXT,
    SessionOrigin,
    accept,
    closing,
    frame,
    nothing_left,
    open_sessions,
    values_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:remove second argument:DeprecationWarning"),
]


@pytest.fixture(params=SERVERS)
def ws(request):
    """The server's implementation of WebSockets."""
    return request.param


@pytest.fixture(autouse=True)
async def nothing_is_left(caplog):
    """Every test ends without a task of ours or an unhandled exception."""
    caplog.set_level(logging.INFO)
    async with nothing_left():
        yield


@pytest.fixture
async def origin():
    """An origin whose sessions the test plays."""
    async with SessionOrigin() as one:
        yield one

    assert [] == one.errors


BROKEN = {
    "rsv1": (frame(TEXT, b"x", rsv=4), 1002),
    "rsv2": (frame(TEXT, b"x", rsv=2), 1002),
    "reserved-opcode": (frame(3, b"x"), 1002),
    "reserved-control": (frame(11, b""), 1002),
    "fragmented-ping": (frame(PING, b"", fin=False), 1002),
    "long-ping": (frame(PING, b"x" * 126), 1002),
    "long-close": (frame(CLOSE, closing(1000, "x" * 124)), 1002),
    "continuation-of-nothing": (frame(CONTINUATION, b"x"), 1002),
    "message-in-a-message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "close-in-a-message": (frame(TEXT, b"x", fin=False) + frame(CLOSE, closing(1000)), 1002),
    "close-of-one-byte": (frame(CLOSE, b"\x03"), 1002),
    "close-1005": (frame(CLOSE, closing(1005)), 1002),
    "close-1006": (frame(CLOSE, closing(1006)), 1002),
    "close-999": (frame(CLOSE, closing(999)), 1002),
    "close-2999": (frame(CLOSE, closing(2999)), 1002),
    "close-bad-utf8": (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    "bad-utf8": (frame(TEXT, b"a\xffb"), 1007),
    "cut-utf8": (frame(TEXT, "€".encode()[:2]), 1007),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "bad-utf8-in-fragments": (
        frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28"),
        1007,
    ),
    "masked": (frame(TEXT, b"x", masked=True), 1002),
}


@pytest.mark.requirement("W-15")
@pytest.mark.parametrize(("sent", "code"), BROKEN.values(), ids=BROKEN)
async def test_an_upstream_that_breaks_the_protocol_is_failed(origin, sent, code):
    """With the code that says how; the client is closed cleanly, and got all that came before."""
    async with open_sessions(origin.url) as gateway:
        client, upstream = await gateway.open(origin)
        await upstream.send_raw(frame(TEXT, b"good") + sent)
        before = await client.message()
        towards_client = await client.closed()
        towards_upstream = (await upstream.closed())[0]
        record = await gateway.record()

    assert ((TEXT, b"good"), (1011, "the upstream broke the protocol"), code) == (
        before,
        towards_client,
        towards_upstream,
    )
    assert (True, "RelayInterruptedError") == (record.ending.faulty, type(record.error).__name__)


CLIENT_BROKEN = {
    "unmasked": frame(TEXT, b"x"),
    "rsv2": frame(TEXT, b"x", rsv=2, masked=True),
    "reserved-opcode": frame(3, b"x", masked=True),
    "long-ping": frame(PING, b"x" * 126, masked=True),
    "bad-utf8": frame(TEXT, b"a\xffb", masked=True),
}


@pytest.mark.requirement("W-15")
@pytest.mark.parametrize("sent", CLIENT_BROKEN.values(), ids=CLIENT_BROKEN)
async def test_a_client_that_breaks_the_protocol_is_failed(ws, origin, sent):
    """By its server; the upstream is closed cleanly, and gets nothing of it."""
    if ws == "wsproto" and sent == CLIENT_BROKEN["unmasked"]:
        pytest.skip("wsproto takes unmasked frames from clients")
    async with open_sessions(origin.url, ws=ws) as gateway:
        client, upstream = await gateway.open(origin)
        await client.send(TEXT, b"good")
        before = await upstream.message()
        await client.send_raw(sent)
        await client.closed()
        client.leave_gently()
        code = (await upstream.closed())[0]
        record = await gateway.record()

    assert ((TEXT, b"good"), True, "client") == (
        before,
        code in {1001, 1002, 1007},
        record.ending.side.value,
    )


# Sizes.


@pytest.mark.requirement("W-18")
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([(BINARY, 1001, True)], id="one-frame"),
        pytest.param([(TEXT, 600, False), (CONTINUATION, 401, True)], id="fragments"),
    ],
)
async def test_a_message_of_the_upstream_over_the_limit_is_a_1009(origin, pieces):
    """For both sides; one of exactly the limit passes."""
    async with open_sessions(origin.url, max_message_bytes=1000) as gateway:
        client, upstream = await gateway.open(origin)
        await upstream.send(BINARY, b"x" * 1000)
        whole = await client.message()
        for opcode, size, fin in pieces:
            await upstream.send(opcode, b"x" * size, fin=fin)
        got = (await client.closed(), (await upstream.closed())[0])

    assert ((BINARY, b"x" * 1000), ((1009, "message too big"), 1009)) == (whole, got)


@pytest.mark.requirement("W-18")
async def test_a_message_of_the_client_over_the_limit_is_a_1009(ws, origin):
    """For both sides, in bytes, not characters."""
    async with open_sessions(origin.url, ws=ws, max_message_bytes=1000) as gateway:
        client, upstream = await gateway.open(origin)
        await client.send(TEXT, "é".encode() * 500)
        whole = await upstream.message()
        await client.send(TEXT, "é".encode() * 500 + b"x")
        got = (await upstream.closed(), await client.closed())

    assert ((TEXT, "é".encode() * 500), ((1009, "message too big"),) * 2) == (whole, got)


async def test_without_a_limit_messages_have_any_size(origin):
    """None is none; the server in front has its own."""
    async with open_sessions(
        origin.url, max_message_bytes=None, server={"ws_max_size": 2**25}
    ) as gateway:
        client, upstream = await gateway.open(origin)
        sent = b"x" * (17 * 2**20)
        await upstream.send(BINARY, sent)
        got = await client.message()
        await client.close(1000)
        await upstream.closed()

    assert (BINARY, len(sent)) == (got[0], len(got[1]))


@pytest.mark.requirement("W-18")
async def test_the_limit_is_of_what_is_unpacked():
    """A small frame that unpacks to more is refused (RFC 7692)."""
    import zlib

    packer = zlib.compressobj(wbits=-15)
    packed = (packer.compress(b"x" * 100_000) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    async with SessionOrigin(
        lambda head: accept(head, b"Sec-WebSocket-Extensions: permessage-deflate")
    ) as origin:
        async with open_sessions(
            origin.url, compression=True, max_message_bytes=50_000
        ) as gateway:
            client, upstream = await gateway.open(origin)
            await upstream.send(BINARY, packed, rsv=4)
            got = (await client.closed())[0], (await upstream.closed())[0]

    assert (True, (1009, 1009)) == (len(packed) < 1000, got)


@pytest.mark.requirement("W-19")
async def test_compression_is_agreed_on_by_each_side_for_itself():
    """Off towards the upstream unless the route says so; what is unpacked is what the client gets."""
    import zlib

    packer = zlib.compressobj(wbits=-15)
    packed = (packer.compress(b"hello hello") + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    async with SessionOrigin(
        lambda head: accept(head, b"Sec-WebSocket-Extensions: permessage-deflate")
    ) as origin:
        async with open_sessions(origin.url, compression=True) as gateway:
            client, upstream = await gateway.open(origin)
            await upstream.send(TEXT, packed, rsv=4)
            got = await client.message()
            await client.close(1000)
            await upstream.closed()

    assert ((TEXT, b"hello hello"), [], True) == (
        got,
        values_of(client.head, b"sec-websocket-extensions"),
        values_of(upstream.head, b"sec-websocket-extensions")[0].startswith(b"permessage-deflate"),
    )


# Back-pressure.


async def fill(peer, payload, limit):
    """Send messages until the other side stops reading; how many went out."""
    for count in range(limit):
        try:
            async with asyncio.timeout(0.5):
                await peer.send(BINARY, payload, masked=False)
        except TimeoutError:
            return count
    return limit


@pytest.mark.requirement("W-17")
async def test_a_client_that_does_not_read_stops_the_upstream(ws):
    """1,000 messages of 1 MiB do not get into this process: the upstream is not read on."""
    sent = 0
    stalled = asyncio.Event()
    message = frame(BINARY, random.Random(1).randbytes(2**20))

    class Flood(SessionOrigin):
        async def flood(self, peer):
            nonlocal sent
            try:
                for _ in range(1000):
                    peer.writer.write(message)
                    await peer.writer.drain()
                    sent += 1
            except ConnectionError:
                pass

    async with Flood() as origin:
        async with open_sessions(origin.url, ws=ws) as gateway:
            client, upstream = await gateway.open(origin)
            # The test's own client must not read either.
            client.writer.transport.pause_reading()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            flood = asyncio.create_task(origin.flood(upstream))
            seen = -1
            while sent != seen or sent == 0:
                seen = sent
                for _ in range(200):
                    await asyncio.sleep(0.001)
            grown = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
            paused = not flood.done()
            stalled.set()
            client.leave()
            upstream.leave()
            flood.cancel()
            await asyncio.wait({flood})
            gc.collect()

    assert (True, True, True) == (paused, sent < 64, grown < 32 * 2**20)


@pytest.mark.requirement("W-17")
async def test_an_upstream_that_does_not_read_stops_the_client(ws, origin):
    """The other way round."""
    message = frame(BINARY, b"x" * 2**20, masked=True)
    async with open_sessions(origin.url, ws=ws, close_timeout=0.5) as gateway:
        client, upstream = await gateway.open(origin)
        upstream.writer.transport.pause_reading()
        sent = 0

        async def flood():
            nonlocal sent
            with pytest.raises(ConnectionError):
                while True:
                    client.writer.write(message)
                    await client.writer.drain()
                    sent += 1

        flooding = asyncio.create_task(flood())
        seen = -1
        while sent != seen or sent == 0:
            seen = sent
            for _ in range(100):
                await asyncio.sleep(0.001)
        stopped = (flooding.done(), sent < 64)
        upstream.leave()
        client.leave()
        await asyncio.wait({flooding})

    assert (False, True) == stopped


async def test_floods_of_tiny_frames_wait_in_bounded_numbers(origin):
    """Empty messages, empty fragments and pings cost no more than large ones."""
    async with open_sessions(origin.url) as gateway:
        client, upstream = await gateway.open(origin)
        await upstream.send_raw(frame(PING, b"") * 20_000)
        await upstream.send_raw(
            frame(TEXT, b"a", fin=False)
            + frame(CONTINUATION, b"", fin=False) * 50_000
            + frame(CONTINUATION, b"b")
        )
        message = await client.message()
        await upstream.send_raw(frame(TEXT, b"") * 50_000)
        for _ in range(50_000):
            await client.message()
        connection = next(iter(gateway.pool.state().websockets._connections))
        waiting = connection._waiting_bytes
        await client.close(1000)
        upstream.leave()

    assert ((TEXT, b"ab"), 0) == (message, waiting)


# Time.


@frozen
class Watched:
    """A clock and the keywords of a pool that lives by it."""

    clock: ManualClock
    pool: dict


@pytest.fixture
def watched():
    """A pool whose time the test tells."""
    clock = ManualClock()
    return Watched(clock, {"monitor": HealthMonitor(clock=clock)})


async def read_within(peer, opcode):
    """Read to the next frame of a kind."""
    while (got := await peer.read()) is not None:
        if got.opcode == opcode:
            return got
    return None


@pytest.mark.requirement("W-16")
async def test_pings_are_answered_on_each_side(ws, origin):
    """And do not reach the other one."""
    async with open_sessions(origin.url, ws=ws) as gateway:
        client, upstream = await gateway.open(origin)
        await upstream.send(PING, b"u")
        await client.send(PING, b"c")
        pongs = (await upstream.read(), await client.read())
        await client.send(TEXT, b"x")
        following = await upstream.message()
        await client.close(1000)
        await upstream.closed()

    assert ([(PONG, b"u"), (PONG, b"c")], (TEXT, b"x")) == (
        [(one.opcode, one.payload) for one in pongs],
        following,
    )


async def pass_time(clock, task):
    """Let the clock run, a second for each tick of the sessions' sweeper, until something has happened."""
    while not task.done():
        await clock.advance(1.0)
        await asyncio.sleep(0.01)
    return task.result()


@pytest.mark.requirement("W-16")
async def test_a_silent_upstream_is_pinged_and_lives_by_its_pong(origin, watched):
    """As long as it answers."""
    async with open_sessions(origin.url, proxy=watched.pool, ping_interval=5.0) as gateway:
        client, upstream = await gateway.open(origin)
        for _ in range(3):
            ping = await pass_time(watched.clock, asyncio.create_task(read_within(upstream, PING)))
            await upstream.send(PONG, ping.payload)
        await client.send(TEXT, b"x")
        alive = await upstream.message()
        await client.close(1000)
        await upstream.closed()

    assert (TEXT, b"x") == alive


@pytest.mark.requirement("W-16")
async def test_an_upstream_without_a_pong_is_lost(origin, watched):
    """After the time-out; the client is told."""
    async with open_sessions(
        origin.url, proxy=watched.pool, ping_interval=5.0, ping_timeout=5.0
    ) as gateway:
        client, upstream = await gateway.open(origin)
        got = await pass_time(watched.clock, asyncio.create_task(client.closed()))
        ping, end = await upstream.read(), await upstream.read()
        upstream.leave()
        record = await gateway.record()

    assert ((1011, "the upstream's connection was lost"), PING, None, "no pong") == (
        got,
        ping.opcode,
        end,
        record.ending.reason,
    )


@pytest.mark.requirement("W-20")
async def test_an_idle_session_is_closed_where_its_route_says_so(origin, watched):
    """Pongs count as signs of life, silence does not."""
    async with open_sessions(
        origin.url,
        proxy=watched.pool,
        ping_interval=None,
        timeouts=Timeouts(idle=30.0),
    ) as gateway:
        client, upstream = await gateway.open(origin)
        towards_client = asyncio.create_task(client.closed())
        got = await pass_time(watched.clock, towards_client)
        towards_upstream = await upstream.closed()

    assert ((1001, "idle for 30 s"),) * 2 == (got, towards_upstream)


@pytest.mark.requirement("W-20")
async def test_a_session_lasts_no_longer_than_its_route_says(origin, watched):
    """However busy it is."""
    async with open_sessions(
        origin.url,
        proxy=watched.pool,
        ping_interval=None,
        timeouts=Timeouts(idle=None, total=40.0),
    ) as gateway:
        client, upstream = await gateway.open(origin)
        got = await pass_time(watched.clock, asyncio.create_task(client.closed()))
        towards_upstream = await upstream.closed()

    assert ((1001, "lasted 40 s"),) * 2 == (got, towards_upstream)


async def test_the_time_outs_of_a_pool_do_not_end_sessions(origin, watched):
    """Those of HTTP are too short for one."""
    async with open_sessions(
        origin.url,
        proxy={**watched.pool, "timeouts": Timeouts(idle=2.0, total=2.0)},
        pool={"timeouts": Timeouts(idle=2.0, total=2.0)},
        ping_interval=None,
    ) as gateway:
        client, upstream = await gateway.open(origin)
        for _ in range(60):
            await watched.clock.advance(1.0)
            await asyncio.sleep(0.01)
        await client.send(TEXT, b"x")
        alive = await upstream.message()
        await client.close(1000)
        await upstream.closed()

    assert (TEXT, b"x") == alive


async def test_an_upstream_that_does_not_close_is_not_waited_for(origin):
    """After the time-out of the closing handshake its connection is broken off."""
    async with open_sessions(origin.url, close_timeout=0.1) as gateway:
        client, upstream = await gateway.open(origin)
        await client.close(1000)
        close, end = await upstream.read(), await upstream.read()
        upstream.leave()

    assert (CLOSE, None) == (close.opcode, end)


# Many.


async def test_nothing_is_left_of_many_sessions_that_end_in_every_way(ws):
    """300 of them, broken off by either side at any moment: no task, socket or lease stays."""
    chance = random.Random(4)
    endings = ("client-close", "client-leave", "origin-close", "origin-leave", "early-leave")

    async with SessionOrigin() as origin:
        async with open_sessions(origin.url, ws=ws, close_timeout=0.5) as gateway:

            async def one(how):
                if how == "early-leave":
                    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                    writer.write(b"GET /live HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n")
                    writer.transport.abort()
                    return
                client = await gateway.dial()
                upstream = await origin.session()
                for _ in range(chance.randrange(4)):
                    await client.send(TEXT, b"x" * chance.randrange(100_000))
                    await upstream.send(BINARY, b"y" * chance.randrange(100_000))
                side = client if how.startswith("client") else upstream
                if how.endswith("leave"):
                    side.leave()
                else:
                    await side.send(CLOSE, closing(4000))
                    side.leave_gently()
                await asyncio.sleep(0)
                client.leave()
                upstream.leave()

            for _ in range(30):
                await asyncio.gather(*(one(chance.choice(endings)) for _ in range(10)))
            await eventually(gateway.is_idle)
            await eventually(lambda: not gateway.running.server.server_state.connections)
            await eventually(lambda: origin.open_connections == 0)
            names = [task.get_name() for task in asyncio.all_tasks()]
            records = gateway.records
            counts = (len(records), len({id(one) for one in records}), len(records) > 100)

    assert ([], counts[0], True) == (
        [name for name in names if name.startswith("proxyroutes")],
        counts[1],
        counts[2],
    )


@pytest.mark.requirement("W-26")
async def test_silent_sessions_cost_no_work(origin, watched):
    """They are looked at four times a second, all of them by one timer."""
    async with open_sessions(origin.url, proxy=watched.pool) as gateway:
        pairs = [await gateway.open(origin) for _ in range(20)]
        state = gateway.pool.state()
        swept = (len(state.sweeper), len(state.monitor.sessions))
        for client, upstream in pairs:
            client.leave()
            upstream.leave()

    assert (0, 20) == swept
