"""The native transport's pool, its settings, and how it connects."""

import asyncio
import socket

import pytest

from proxyroutes import Destination
from proxyroutes._state.clock import SystemClock
from proxyroutes._state.pools import DestinationState
from proxyroutes.exceptions import ClientRequestError, NoDestinationError, UpstreamConnectError
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.testing import ScriptedOrigin
from proxyroutes.transports import Http1Transport
from proxyroutes.transports._connect import Addresses, connect
from proxyroutes.typing import Attempt, ForwardedHead

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def answer(reader, writer):
    """Answer every request on a connection."""
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass


class Wire:
    """A bound transport and one destination."""

    def __init__(self, origin, **settings):
        self.bound = Http1Transport(**settings).bind(clock=SystemClock(), tls=None)
        self.place = DestinationState.of(Destination(origin))

    async def send(self, fields=()):
        """Send a request and give its response."""
        head = ForwardedHead(b"GET", b"/", list(fields), None, None)
        return await self.bound.send(head, None, self.place, Timeouts(), Attempt())

    def connections(self):
        """Open and idle ones."""
        return self.bound.connections(self.place)


@pytest.mark.parametrize(
    "settings",
    [{"keep_alive": 0}, {"max_connections": 0}, {"max_idle": -1}, {"max_queue": -1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    """Where they are written."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        Http1Transport(**settings)


async def test_a_connection_is_used_again():
    """After a whole response to a whole request."""
    async with ScriptedOrigin(answer) as origin:
        wire = Wire(origin.url)
        for _ in range(3):
            assert b"ok" == (await wire.send()).take()

        assert ((1, 1), 1) == (wire.connections(), origin.connections)
        await wire.bound.aclose()


@pytest.mark.parametrize(
    "settings",
    [{"max_requests_per_connection": 1}, {"max_idle": 0}, {"max_age": 1e-9}, {"keep_alive": 1e-9}],
    ids=str,
)
@pytest.mark.requirement("R-04")
async def test_a_connection_that_has_served_enough_is_closed(settings):
    """By number, by age, or because there are enough."""
    async with ScriptedOrigin(answer) as origin:
        wire = Wire(origin.url, **settings)
        for _ in range(2):
            await wire.send()

        assert 2 == origin.connections
        await wire.bound.aclose()


@pytest.mark.requirement("R-05")
async def test_who_waits_gets_the_connection_that_becomes_free():
    """First come, first served."""
    go_on = asyncio.Event()

    async def slowly(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        writer.write(OK)
        await answer(reader, writer)

    async with ScriptedOrigin(slowly) as origin:
        wire = Wire(origin.url, max_connections=1, max_queue=1, queue_timeout=30.0)
        first = asyncio.create_task(wire.send())
        while not origin.requests:
            await asyncio.sleep(0)
        second = asyncio.create_task(wire.send())
        await asyncio.sleep(0)
        with pytest.raises(NoDestinationError, match="full"):
            await wire.send()
        go_on.set()

        assert [b"ok", b"ok"] == [(await first).take(), (await second).take()]
        assert ((1, 1), 1) == (wire.connections(), origin.connections)
        await wire.bound.aclose()


@pytest.mark.requirement("R-05")
async def test_who_waits_too_long_is_told_so():
    """With a hint when to come again."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]) as origin:
        wire = Wire(origin.url, max_connections=1, queue_timeout=0.01)
        held = await wire.send()
        with pytest.raises(NoDestinationError, match="in time") as caught:
            await wire.send()
        held.abort()

        assert (1.0, (0, 0)) == (caught.value.retry_after, wire.connections())
        await wire.bound.aclose()


@pytest.mark.requirement("R-05")
async def test_a_waiter_that_leaves_does_not_keep_its_place():
    """The next one gets the free place."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], answer) as origin:
        wire = Wire(origin.url, max_connections=1, queue_timeout=30.0)
        held = await wire.send()
        leaves, stays = asyncio.create_task(wire.send()), asyncio.create_task(wire.send())
        await asyncio.sleep(0)
        leaves.cancel()
        held.abort()

        assert b"ok" == (await stays).take()
        assert (True, (1, 1)) == (leaves.cancelled(), wire.connections())
        await wire.bound.aclose()


async def test_a_closed_pool_gives_nothing_to_who_waits():
    """They are told that there is no connection."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]) as origin:
        wire = Wire(origin.url, max_connections=1, queue_timeout=30.0)
        held = await wire.send()
        waits = asyncio.create_task(wire.send())
        await asyncio.sleep(0)
        await wire.bound.aclose()
        with pytest.raises(UpstreamConnectError, match="closed"):
            await waits
        held.abort()

        assert 1 == origin.connections


@pytest.mark.requirement("S-29")
async def test_a_line_end_in_a_field_is_never_sent():
    """The last look before the wire."""
    async with ScriptedOrigin(answer) as origin:
        wire = Wire(origin.url)
        with pytest.raises(ClientRequestError):
            await wire.send([(b"x", b"a\r\nevil: 1")])

        assert [] == [raw for raw in origin.requests if raw]
        await wire.bound.aclose()


def found(*addresses):
    """What a resolver says."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


async def test_the_next_address_is_tried_where_one_refuses(monkeypatch):
    """And the first that answers is taken."""
    async with ScriptedOrigin(answer) as origin:
        place = DestinationState.of(Destination(f"http://name.test:{origin.port}"))
        loop = asyncio.get_running_loop()

        async def resolve(*args, **kwargs):
            return found("127.0.0.9", "127.0.0.1")

        monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)
        addresses = Addresses(loop, place, 30.0)

        assert ("127.0.0.9", "127.0.0.1") == await addresses.find()
        monkeypatch.undo()
        wire = Wire(f"http://name.test:{origin.port}")
        pool = wire.bound._add_pool(wire.place)
        pool._addresses = addresses

        assert b"ok" == (await wire.send()).take()
        await wire.bound.aclose()


@pytest.mark.requirement("R-07")
async def test_the_last_good_addresses_stay_where_the_resolver_fails(monkeypatch):
    """They are resolved again after a failure, and kept if that fails too."""
    place = DestinationState.of(Destination("http://name.test"))
    loop = asyncio.get_running_loop()
    answers = [found("127.0.0.1"), OSError("resolver")]

    async def resolve(*args, **kwargs):
        result = answers.pop(0)
        if isinstance(result, OSError):
            raise result
        return result

    monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)
    addresses = Addresses(loop, place, 30.0)
    first, known = await addresses.find(), await addresses.find()
    addresses.failed()

    assert (("127.0.0.1",),) * 3 == (first, known, await addresses.find())
    assert [] == answers


async def test_a_name_without_addresses_is_a_connect_failure(monkeypatch):
    """Nothing was sent."""

    async def resolve(*args, **kwargs):
        return []

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)
    addresses = Addresses(loop, DestinationState.of(Destination("http://name.test")), 30.0)
    with pytest.raises(OSError, match="no addresses"):
        await connect(addresses, asyncio.Protocol, None, None)


async def test_a_connection_that_dies_on_its_way_to_who_waits_is_not_used():
    """It was handed over and lost in one turn of the loop; who waited opens another one."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], answer) as origin:
        wire = Wire(origin.url, max_connections=1, queue_timeout=30.0)
        held = await wire.send()
        (connection,) = wire.bound._pools[wire.place].connections
        waits = asyncio.create_task(wire.send())
        await asyncio.sleep(0)
        wire.bound._pools[wire.place].put_back(connection)
        connection.connection_lost(None)
        async with asyncio.timeout(5):
            second = await waits
        held.abort()

        assert (b"ok", (1, 1)) == (second.take(), wire.connections())
        await wire.bound.aclose()


async def test_a_connection_that_is_closed_as_soon_as_it_is_open_is_a_connect_failure(monkeypatch):
    """Nothing was sent on it, and nothing of it is kept."""
    opened = []

    async def lost(addresses, factory, context, server_name):
        connection = await connect(addresses, factory, context, server_name)
        connection.connection_lost(None)
        opened.append(connection)
        return connection

    async with ScriptedOrigin(answer) as origin:
        wire = Wire(origin.url)
        monkeypatch.setattr("proxyroutes.transports._http1_pool.connect", lost)
        async with asyncio.timeout(5):
            with pytest.raises(UpstreamConnectError):
                await wire.send()

        assert (1, (0, 0), set()) == (
            len(opened),
            wire.connections(),
            wire.bound._pools[wire.place].connections,
        )
        await wire.bound.aclose()


async def test_settings_of_tls_that_cannot_be_read_keep_no_place(tmp_path):
    """The failure is one to connect, each time anew."""
    wire = Wire("https://127.0.0.1:9", max_connections=1, queue_timeout=0.01)
    wire.bound._tls = TLS(ca=tmp_path / "absent.pem")
    for _ in range(2):
        with pytest.raises(UpstreamConnectError):
            await wire.send()

    assert (0, 0) == wire.connections()
    await wire.bound.aclose()


async def test_a_closed_transport_opens_nothing():
    """An exchange that moves on during the stop finds no new connection."""
    async with ScriptedOrigin(answer) as origin:
        wire = Wire(origin.url)
        await wire.bound.aclose()
        with pytest.raises(UpstreamConnectError, match="closed"):
            await wire.send()

        assert (0, (0, 0)) == (origin.connections, wire.connections())
