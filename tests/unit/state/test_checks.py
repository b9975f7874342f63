"""Kinds of checks: HTTP with content, connections, and functions; whatever one does, the loop lives."""

import asyncio

import pytest

from proxyroutes import Destination, HealthCheck, UpstreamPool
from proxyroutes.policies import WeightedRoundRobin
from proxyroutes.settings import FunctionCheck, TCPCheck
from tests.unit.state.test_health import (
    HEAD,
    A,
    Answer,
    B,
    Scripted,
    available,
    make,
    monitor,
    rounds,
    running,
    transport,
)

__all__ = ["monitor", "transport"]


# HTTP.


@pytest.mark.parametrize("content", ["ping", b"ping"], ids=["str", "bytes"])
async def test_a_probe_may_have_content(monitor, clock, content):
    """Sent anew each time."""
    seen = []

    class Reading(Scripted):
        async def send(self, head, body, destination, timeouts, attempt):
            """Read what is sent."""
            seen.append((head.method, head.content_length, await body.read(), await body.read()))
            return Answer(200)

    pool = make(monitor, Reading(), A, health=HealthCheck("/q", method="POST", body=content))
    async with running(monitor, pool):
        await rounds(clock, 1)
        assert [A] == available(pool)

    assert [(b"POST", 4, b"ping", b"")] * 2 == seen


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"body": b"x"}, "method='POST'"),
        ({"method": "GET /"}, "not a method"),
        ({"method": "CONNECT"}, "not a method"),
        ({"method": ""}, "not a method"),
        ({"path": "/a b"}, "percent-encoded"),
        ({"path": "/a\r\nx: y"}, "percent-encoded"),
        ({"path": "a"}, "starts with a slash"),
    ],
    ids=str,
)
def test_a_check_that_cannot_be_sent_is_refused(values, message):
    """Where it is written."""
    with pytest.raises(ValueError, match=message):
        HealthCheck(**values)


@pytest.mark.parametrize("kind", [HealthCheck, TCPCheck])
@pytest.mark.parametrize(
    "values",
    [{"timeout": 0}, {"interval": -1}, {"unhealthy_interval": 0}, {"rise": 0}, {"fall": 0}],
    ids=str,
)
def test_numbers_out_of_their_range_are_refused(kind, values):
    """In every kind of check."""
    with pytest.raises(ValueError, match="must be"):
        kind(**values)


def test_what_is_no_check_is_refused():
    """Instead of a failure when it is probed."""
    with pytest.raises(TypeError, match="a health check is a path"):
        UpstreamPool("p", [A], health=7)
    with pytest.raises(TypeError, match="a health check is a path"):
        Destination(A, health=7)


async def test_a_pool_that_leaves_within_a_probe_blames_nobody(monitor, clock):
    """Another one asks again by its own connections, at once."""
    gone = asyncio.Event()

    class Closing(Scripted):
        async def send(self, head, body, destination, timeouts, attempt):
            """Wait until it is closed, the first time."""
            self.asked.append(destination.origin)
            if len(self.asked) == 1:
                await gone.wait()
                raise RuntimeError("closed")
            return Answer(200)

        def __eq__(self, other):
            """Both pools share a check."""
            return isinstance(other, Closing)

        def __hash__(self):
            """As it says."""
            return 1

    check = HealthCheck("/", fall=1)
    first = make(monitor, Closing(), A, health=check)
    second_way = Closing(asked=[None])
    second = make(monitor, second_way, A, health=check)
    async with monitor:
        first.enter()
        second.enter()
        await clock.advance(0.0)
        await first.leave()
        gone.set()
        await clock.advance(0.0)
        status = second.status()[0]
        await second.leave()

    assert (True, "status 200", [None, A]) == (status.healthy, status.reason, second_way.asked)


# Functions.


async def test_a_function_is_the_check(monitor, transport, clock):
    """Of each destination that has none of its own, from its decoration on."""
    pool = make(monitor, transport, A, Destination(B, health="/own"), health=None)
    asked = []
    well = {A: True}

    @pool.probe(interval=5.0, rise=1, fall=1)
    async def ask(destination):
        """Say what the test says."""
        asked.append(destination)
        return well[destination.url]

    assert FunctionCheck(ask, interval=5.0, rise=1, fall=1) == pool.health
    async with running(monitor, pool):
        assert [A, B] == available(pool)
        assert [Destination(A)] == asked
        well[A] = False
        await clock.advance(6.0)
        assert ([B], "the check has failed") == (available(pool), pool.status()[0].reason)
        well[A] = None
        await clock.advance(6.0)
        assert ([A, B], "the check has passed") == (available(pool), pool.status()[0].reason)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (ValueError("the database is gone"), "ValueError: the database is gone"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 10**6), "ValueError: " + "x" * 188 + "..."),
        (ConnectionRefusedError("no"), "ConnectionRefusedError: no"),
        (asyncio.CancelledError(), "the check cancelled itself"),
        (0, "weight 0"),
        (-1, "ValueError: not a weight: -1"),
        (float("nan"), "ValueError: not a weight: nan"),
        (float("inf"), "ValueError: not a weight: inf"),
        ("yes", "TypeError: a check gives True, False, None or a weight, not str"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_function_that_fails_says_why(monitor, transport, clock, does, reason):
    """Its destination is unhealthy, and it is asked again."""
    pool = make(monitor, transport, A, B, health=None)
    asked = []

    @pool.probe
    async def ask(destination):
        """Fail for one."""
        asked.append(destination.url)
        if destination.url == B:
            return True
        if isinstance(does, BaseException):
            raise does
        return does

    async with running(monitor, pool):
        assert ([B], reason) == (available(pool), pool.status()[0].reason)
        await rounds(clock, 1)
        assert [2, 2] == [asked.count(A), asked.count(B)]


async def test_a_function_that_hangs_is_cancelled(monitor, transport, clock):
    """After its time; one that does not let itself be cancelled holds nobody up for long."""
    pool = make(monitor, transport, A, B, health=None)
    ended, stubborn = [], asyncio.Event()

    @pool.probe(timeout=3.0)
    async def ask(destination):
        """Hang, each in its own way."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(destination.url)
            if destination.url == B:
                await stubborn.wait()

    async with monitor:
        pool.enter()
        waiting = asyncio.create_task(pool.first_round())
        await clock.advance(2.9)
        assert not waiting.done()
        await clock.advance(0.2)
        await waiting
        assert [A, B] == ended
        assert ["no answer within 3.0 s"] * 2 == [one.reason for one in pool.status()]
        stubborn.set()
        await pool.leave()


@pytest.mark.parametrize("function", [lambda destination: True, 7, "ask"], ids=repr)
def test_a_function_that_does_not_wait_is_refused(function):
    """It would block the loop."""
    with pytest.raises(TypeError, match="a probe is an asynchronous function"):
        UpstreamPool("p", [A]).probe(function)


async def test_an_object_may_be_the_function(monitor, transport):
    """If its call is asynchronous."""

    class Ask:
        async def __call__(self, destination):
            """Say that all is well."""
            return True

    pool = make(monitor, transport, A, health=None)
    pool.probe(Ask())
    async with running(monitor, pool):
        assert "the check has passed" == pool.status()[0].reason


async def test_a_number_is_a_weight(monitor, transport, clock):
    """It takes the place of the declared one as long as it is given."""
    weights = {A: 3, B: 1}
    pool = make(monitor, transport, A, Destination(B, weight=50), health=None)
    pool.balancing = WeightedRoundRobin()

    @pool.probe(rise=1)
    async def ask(destination):
        """Give the weight of the test."""
        return weights[destination.url]

    async with running(monitor, pool):
        state = pool.state()

        def share():
            leases = [state.lease(HEAD) for _ in range(40)]
            for lease in leases:
                lease.release()
            return sum(lease.destination.host == "a.test" for lease in leases)

        assert 30 == share()
        weights[B] = 3.0
        await rounds(clock, 1)
        assert 20 == share()
        assert (50, 3.0) == (pool.status()[1].weight, pool.status()[1].effective_weight)
        weights[B] = None
        await rounds(clock, 1)
        assert 50.0 == pool.status()[1].effective_weight


# Connections.


async def test_a_connection_is_a_check(monitor, transport):
    """It is closed at once, and nothing is sent."""
    sent = []

    async def accept(reader, writer):
        sent.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = UpstreamPool("p", [f"http://127.0.0.1:{port}"], health=TCPCheck(), transport=transport)
    pool.enter()
    await pool.first_round()
    well = pool.status()[0]
    server.close()
    await server.wait_closed()
    pool.set_health(TCPCheck(fall=1))
    await pool.first_round()
    unwell = pool.status()[0]
    await pool.leave()

    assert (True, "connected", [b""]) == (well.healthy, well.reason, sent)
    assert False is unwell.healthy
    assert unwell.reason.startswith("ConnectionRefusedError: ")


async def test_a_connection_to_a_socket(tmp_path, transport):
    """The path is what counts."""
    path = tmp_path / "a.sock"
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
    url = f"http+unix://{str(path).replace('/', '%2F')}"
    pool = UpstreamPool("p", [url], health=TCPCheck(), transport=transport)
    pool.enter()
    await pool.first_round()
    status = pool.status()[0]
    await pool.leave()
    server.close()

    assert (True, "connected") == (status.healthy, status.reason)
