"""Origins and networks that fail as they are told."""

import asyncio
from random import Random

import pytest

from proxyroutes.testing import (
    Fault,
    FaultProxy,
    FaultyOrigin,
    ManualClock,
    NetworkFaults,
    ReadHead,
    ReadToEnd,
    ScriptedOrigin,
    Wait,
)
from tests.integration.support import OK, RawClient, eventually, make_request


class Clients(list):
    """Connections that are closed together."""

    async def connect(self, port):
        """Open one."""
        self.append(await RawClient.connect(port))
        return self[-1]


@pytest.fixture
async def clients():
    """Clients that are closed with the test."""
    opened = Clients()
    yield opened
    for client in opened:
        client.leave()
        await client.close()


async def test_an_origin_without_faults_answers_all_that_it_is_asked(clients):
    """Requests of one connection, with content in either framing and without."""
    async with FaultyOrigin(b"hello") as origin:
        client = await clients.connect(origin.port)
        replies = [
            await client.ask(make_request()),
            await client.ask(make_request("/", "Content-Length: 3", method="POST", body="abc")),
            await client.ask(
                make_request(
                    "/", "Transfer-Encoding: chunked", method="POST", body="1\r\na\r\n0\r\n\r\n"
                )
            ),
            await client.ask(make_request(method="HEAD"), "HEAD"),
            await client.ask(make_request("/", "Connection: close")),
        ]

        assert [b"hello"] * 3 + [b""] + [b"hello"] == [reply.body for reply in replies]
        assert (5, [], 1) == (origin.answered, origin.failed, origin.connections)


ENDINGS = {
    Fault.CLOSE: b"",
    Fault.RESET: b"",
    Fault.GARBAGE: b"\x16\x03\x01 this is no response\r\n\r\n",
    Fault.CUT: b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab",
    Fault.RESET_IN_CONTENT: b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab",
}


@pytest.mark.parametrize("fault", ENDINGS, ids=lambda fault: fault.name)
async def test_a_fault_ends_the_connection_after_its_bytes(clients, fault):
    """The next connection is served."""
    async with FaultyOrigin(b"abcd") as origin:
        origin.fail_next(fault)
        client = await clients.connect(origin.port)
        await client.send(make_request())
        rest = await client.read_rest()
        again = await (await clients.connect(origin.port)).ask(make_request())

        # A reset may overtake what was sent before it.
        assert ENDINGS[fault].startswith(rest)
        assert rest == ENDINGS[fault] or fault is Fault.RESET_IN_CONTENT
        assert (b"abcd", [fault], 1) == (again.body, origin.failed, origin.answered)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.STALL], ids=lambda fault: fault.name)
async def test_a_fault_that_waits_keeps_the_connection(clients, fault):
    """Nothing more comes, and nothing ends."""
    async with FaultyOrigin(b"abcd") as origin:
        origin.fail_next(fault)
        client = await clients.connect(origin.port)
        await client.send(make_request())
        if fault is Fault.STALL:
            await client.read_head()
            await client.reader.readexactly(2)
        await origin.wait_until(lambda: origin.failed == [fault])
        more = asyncio.create_task(client.reader.read(1))
        await asyncio.sleep(0)

        assert not more.done()
        assert 1 == origin.open_connections
        more.cancel()
        await asyncio.wait((more,))


async def test_an_unavailable_origin_and_one_with_surplus_answer_on(clients):
    """These faults leave the connection as it is."""
    async with FaultyOrigin() as origin:
        origin.fail_next(Fault.UNAVAILABLE, Fault.SURPLUS)
        client = await clients.connect(origin.port)
        replies = [await client.ask(make_request()) for _ in range(2)]
        surplus = await client.read_reply()

        assert [503, 200, 200] == [reply.status for reply in (*replies, surplus)]
        assert [Fault.UNAVAILABLE, Fault.SURPLUS] == origin.failed


async def test_a_share_of_the_requests_fails_in_the_same_way_each_time(clients):
    """Faults are drawn from a seed."""
    seen = []
    for _ in range(2):
        async with FaultyOrigin(faults=[Fault.UNAVAILABLE], ratio=0.3, random=Random(7)) as origin:
            client = await clients.connect(origin.port)
            seen.append([(await client.ask(make_request())).status for _ in range(40)])

    assert seen[0] == seen[1]
    assert 5 < seen[0].count(503) < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"content": b"a"}, "two bytes"), ({"ratio": 1.5}, "share"), ({"ratio": -0.1}, "share")],
)
def test_an_origin_that_cannot_fail_as_told_is_a_mistake(arguments, message):
    """Values out of range say so."""
    with pytest.raises(ValueError, match=message):
        FaultyOrigin(**arguments)


# The network.


async def test_a_network_without_faults_passes_everything(clients):
    """Both directions, and the end of each of them."""
    async with (
        ScriptedOrigin([ReadHead(), ReadToEnd(), OK]) as origin,
        FaultProxy(origin.port) as network,
    ):
        client = await clients.connect(network.port)
        await client.send(make_request())
        client.writer.write_eof()
        reply = await client.read_reply()

        assert f"http://127.0.0.1:{network.port}" == network.url
        assert (b"ok", 1) == (reply.body, network.connections)


async def test_latency_holds_each_piece_back(clients):
    """Nothing has passed before its time."""
    clock = ManualClock()
    async with FaultyOrigin() as origin, FaultProxy(origin.port, clock=clock) as network:
        network.to_origin = NetworkFaults(latency=5.0)
        client = await clients.connect(network.port)
        await client.send(make_request())
        await eventually(lambda: clock.pending)

        assert [b""] == [bytes(one) for one in origin.requests] or not origin.requests
        await clock.advance(5.0)
        assert b"ok" == (await client.read_reply()).body


def test_jitter_and_rate_add_to_the_delay():
    """A piece waits for latency, a part of the jitter, and its share of the rate."""
    faults = NetworkFaults(latency=1.0, jitter=0.5, bytes_per_second=10)
    delays = {faults.delay(20, Random(seed)) for seed in range(20)}

    assert all(3.0 <= delay <= 3.5 for delay in delays)
    assert len(delays) > 1
    assert 0.0 == NetworkFaults().delay(20, Random(0))


@pytest.mark.parametrize(
    ("size", "pieces"), [(None, [b"abcde"]), (2, [b"ab", b"cd", b"e"]), (9, [b"abcde"])]
)
def test_pieces_have_at_most_the_size_that_is_set(size, pieces):
    """The rest is the last piece."""
    assert pieces == NetworkFaults(slice_bytes=size).pieces(b"abcde")


async def test_a_sliced_response_arrives_whole(clients):
    """Byte by byte, and nothing is lost."""
    async with FaultyOrigin(b"hello" * 20) as origin, FaultProxy(origin.port) as network:
        network.to_client = NetworkFaults(slice_bytes=1)
        network.to_origin = NetworkFaults(slice_bytes=1)
        reply = await (await clients.connect(network.port)).ask(make_request())

        assert b"hello" * 20 == reply.body


async def test_a_limit_closes_after_its_bytes(clients):
    """The client gets that many and no more."""
    async with FaultyOrigin(b"hello") as origin, FaultProxy(origin.port) as network:
        network.to_client = NetworkFaults(limit_bytes=20)
        client = await clients.connect(network.port)
        await client.send(make_request())

        assert b"HTTP/1.1 200 OK\r\nCon" == await client.read_rest()


async def test_a_black_hole_takes_everything(clients):
    """The origin hears nothing until it is over."""
    async with FaultyOrigin() as origin, FaultProxy(origin.port) as network:
        network.to_origin = NetworkFaults(black_hole=True)
        client = await clients.connect(network.port)
        await client.send(make_request("/lost"))
        await eventually(lambda: network.lost_bytes == len(make_request("/lost")))
        network.to_origin = NetworkFaults()
        reply = await client.ask(make_request("/found"))

        assert 200 == reply.status
        assert b"/lost" not in bytes(origin.requests[0])


async def test_a_reset_breaks_both_sides(clients):
    """Neither of them can go on."""
    gate = asyncio.Event()
    async with (
        ScriptedOrigin([ReadHead(), Wait(gate), OK]) as origin,
        FaultProxy(origin.port) as network,
    ):
        client = await clients.connect(network.port)
        await client.send(make_request())
        await eventually(lambda: origin.requests and origin.requests[0])
        network.reset()
        rest = await client.read_rest()
        gate.set()
        await origin.wait_until(lambda: not origin.open_connections)
        await eventually(lambda: not network.open_connections)

        assert b"" == rest


async def test_a_half_closed_network_still_takes_requests(clients):
    """The client hears the end, and what it sends still arrives."""
    async with (
        ScriptedOrigin([ReadHead(), ReadHead()]) as origin,
        FaultProxy(origin.port) as network,
    ):
        client = await clients.connect(network.port)
        await client.send(make_request("/one"))
        await eventually(lambda: origin.requests and b"/one" in origin.requests[0])
        network.half_close()
        ended = await client.read_rest()
        await client.send(make_request("/two"))
        await eventually(lambda: b"/two" in origin.requests[0])

        assert b"" == ended


async def test_a_network_goes_down_and_comes_back_on_its_port(clients):
    """Connections break, new ones are refused, and then there is service again."""
    async with FaultyOrigin() as origin, FaultProxy(origin.port) as network:
        client = await clients.connect(network.port)
        await client.ask(make_request())
        await network.go_down()
        rest = await client.read_rest()
        with pytest.raises(OSError, match="Connect call failed"):
            await clients.connect(network.port)
        await network.come_back()
        reply = await (await clients.connect(network.port)).ask(make_request())

        assert (b"", 200) == (rest, reply.status)


async def test_an_origin_that_is_not_there_closes_the_client(clients):
    """What cannot be passed on is closed."""
    async with FaultyOrigin() as origin:
        port = origin.port
    async with FaultProxy(port) as network:
        client = await clients.connect(network.port)

        assert b"" == await client.read_rest()


def test_a_network_that_was_not_started_has_no_port():
    """It says how to start it."""
    with pytest.raises(RuntimeError, match="async with"):
        assert FaultProxy(1).port


@pytest.mark.parametrize(
    "arguments",
    [
        {"latency": -1.0},
        {"jitter": -1.0},
        {"slice_bytes": 0},
        {"bytes_per_second": 0},
        {"limit_bytes": -1},
    ],
)
def test_faults_of_a_network_have_ranges(arguments):
    """A number out of its range is a mistake."""
    with pytest.raises(ValueError, match="must|seconds"):
        NetworkFaults(**arguments)
