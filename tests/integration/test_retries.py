"""Retries on real sockets: destinations that are killed and come back under load, and clients that see nothing of it."""

import asyncio
from collections import Counter

import pytest

from proxyroutes.policies import Backoff, OutlierDetection, Retry, RetryBudget
from proxyroutes.settings import Limits, Timeouts
from proxyroutes.testing import (
    Close,
    ReadHead,
    ReadToEnd,
    ReadUntil,
    Reset,
    ScriptedOrigin,
    Wait,
)
from proxyroutes.transports import Http1Transport
from tests.integration.support import (
    OK,
    eventually,
    make_request,
    one_transport,
    refusing_destination,
)

CLIENTS = 16


def busy(who):
    """An origin that has no time for anybody."""
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n"
    return ScriptedOrigin([ReadHead(), head + b"X-Who: %d\r\n\r\nbusy" % who, Close()])


class Service:
    """A destination that can be killed like a process, and started again at the same port."""

    def __init__(self):
        self.port = 0
        self.requests = 0
        self.parked = 0
        self._server = None
        self._writers = set()
        self._go_on = asyncio.Event()
        self._go_on.set()

    @property
    def url(self):
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                if not self._go_on.is_set():
                    self.parked += 1
                    await self._go_on.wait()
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def park(self):
        """Answer nobody from here on."""
        self._go_on.clear()

    async def kill(self):
        """Be gone, with whatever was under way."""
        self._server.close()
        self._go_on.set()
        await eventually(self._is_gone)

    def _is_gone(self):
        """A connection that was accepted a moment ago is only known a turn later."""
        for writer in tuple(self._writers):
            writer.transport.abort()
        return not self._writers


@pytest.fixture
async def services():
    """Two of them."""
    both = [Service(), Service()]
    for one in both:
        await one.start()
    yield both
    for one in both:
        await one.kill()


class Load:
    """Clients that ask one thing after another, and what they saw."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.seen = Counter()
        self.ended = False

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *args):
        self.ended = True
        await asyncio.gather(*self._tasks)

    async def _ask(self):
        client = await self.gateway.connect()
        while not self.ended:
            reply = await client.ask(make_request())
            self.seen[reply.status if reply.complete else "cut"] += 1

    async def pass_on(self, count):
        """Wait until so many more were answered."""
        wanted = self.seen.total() + count
        await eventually(lambda: self.seen.total() >= wanted)


one_request_each = Http1Transport(max_requests_per_connection=1)
"""So that no request is saved by the transport, which repeats it where a connection that was reused has died."""


@one_transport
@pytest.mark.parametrize(
    "over", [Http1Transport(), one_request_each], ids=["reused", "fresh-connections"]
)
async def test_a_destination_is_killed_and_comes_back_under_load(serve, services, lane, over):
    """No client sees a failure: neither those in flight there, nor those that come after."""
    first, second = services
    pool = {"outliers": OutlierDetection(ejection=0.2, decay=0.1)}
    gateway = await serve(first.url, second.url, lane=lane, pool=pool, transport=over)
    async with Load(gateway) as load:
        await load.pass_on(300)
        first.park()
        await eventually(lambda: first.parked >= 4)
        await first.kill()
        await load.pass_on(300)
        asked = first.requests
        await first.start()
        await eventually(lambda: first.requests > asked)
        await load.pass_on(100)

    assert {200} == set(load.seen)


@one_transport
async def test_without_retries_only_those_in_flight_fail(serve, services):
    """A request that finds no connection moves on in any case."""
    first, second = services
    pool = {"retry": None}
    gateway = await serve(first.url, second.url, pool=pool, transport=one_request_each)
    async with Load(gateway) as load:
        await load.pass_on(300)
        first.park()
        await eventually(lambda: first.parked >= 4)
        await first.kill()
        in_flight = first.parked
        await load.pass_on(300)

    assert {200, 502} == set(load.seen)
    assert in_flight == load.seen[502]


@one_transport
async def test_a_dead_pool_gets_no_more_than_the_budget(serve):
    """200 clients at once, with tries to spare: 40 further attempts and the floor."""
    with refusing_destination() as first, refusing_destination() as second:
        pool = {"outliers": None, "retry": Retry(attempts=5)}
        gateway = await serve(first, second, pool=pool)
        replies = await asyncio.gather(*[gateway.get() for _ in range(200)])
        attempts = sum(one.requests for one in gateway.pool.status())

    assert {502} == {reply.status for reply in replies}
    assert attempts <= 200 + 40 + 3


@one_transport
async def test_a_pool_that_breaks_off_gets_no_more_than_the_budget(serve):
    """It accepts, reads and closes; what was sent is counted there."""
    async with (
        ScriptedOrigin([ReadHead(), Close()]) as first,
        ScriptedOrigin([ReadHead(), Close()]) as second,
    ):
        pool = {"outliers": None, "retry": Retry(attempts=5, backoff=None)}
        gateway = await serve(first.url, second.url, pool=pool)
        replies = await asyncio.gather(*[gateway.get() for _ in range(200)])
        sent = len(first.requests) + len(second.requests)

    assert {502} == {reply.status for reply in replies}
    assert 200 < sent <= 200 + 40 + 3


@pytest.mark.requirement("R-15")
async def test_a_break_after_the_request_was_sent_is_tried_again(serve, lane):
    """For a GET; the client sees one answer."""
    async with ScriptedOrigin([ReadHead(), Reset()]) as first, ScriptedOrigin([OK]) as second:
        gateway = await serve(first.url, second.url, lane=lane)
        reply = await gateway.get()
        record = await gateway.wait_for_record()

        assert (200, 2, second.url) == (reply.status, record.attempts, record.destination)


@pytest.mark.requirement("R-16")
@pytest.mark.usefixtures("broken_relays")
async def test_nothing_is_tried_again_once_the_client_has_a_byte(serve):
    """Its connection is broken instead."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    async with ScriptedOrigin([cut, Close()]) as first, ScriptedOrigin([OK]) as second:
        gateway = await serve(first.url, second.url, pool={"retry": Retry(attempts=3)})
        reply = await gateway.get()

        assert (200, False, 0) == (reply.status, reply.complete, second.connections)


@pytest.mark.requirement("R-17")
@pytest.mark.parametrize(
    ("line", "pieces"),
    [("Content-Length: 6", [b"abc", b"def"]), ("Transfer-Encoding: chunked", None)],
    ids=["length", "chunked"],
)
@pytest.mark.usefixtures("duplex")
async def test_an_upload_is_sent_again_from_the_buffer(serve, http, lane, line, pieces):
    """Byte for byte, with what the client has not sent yet behind it."""
    pieces = pieces or [b"3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n"]
    async with (
        ScriptedOrigin([ReadUntil(b"abc"), Reset()]) as first,
        ScriptedOrigin([ReadUntil(b"def"), OK, Close()]) as second,
    ):
        gateway = await serve(first.url, second.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(make_request("/", line, method="PUT") + pieces[0])
        await eventually(lambda: second.connections)
        reply = await client.ask(pieces[1])
        record = await gateway.wait_for_record()

        assert (200, 2, 6) == (reply.status, record.attempts, record.request_bytes)
        content = bytes(second.requests[0]).partition(b"\r\n\r\n")[2]
        assert b"abc" in content
        assert b"def" in content


@pytest.mark.requirement("R-19")
async def test_the_last_answer_is_relayed_with_its_fields_and_content(serve, lane):
    """When tries run out."""
    async with busy(1) as first, busy(2) as second:
        retry = Retry(on=[503], backoff=Backoff(base=0.001))
        gateway = await serve(first.url, second.url, lane=lane, retry=retry)
        reply = await gateway.get()
        record = await gateway.wait_for_record()
        last = b"1" if record.destination == first.url else b"2"

        assert (503, b"busy", last) == (reply.status, reply.body, reply.get("x-who"))
        assert (2, None) == (record.attempts, record.error)


@pytest.mark.requirement("R-19")
async def test_an_answer_is_relayed_though_what_followed_it_failed(serve, lane):
    """It was real, and 502 is not."""
    async with busy(1) as origin:
        with refusing_destination() as down:
            retry = Retry(on=[503], backoff=None)
            gateway = await serve(origin.url, down, lane=lane, retry=retry)
            replies = [await gateway.get() for _ in range(4)]

            assert {(503, b"1")} == {(one.status, one.get("x-who")) for one in replies}


@pytest.mark.requirement("R-16")
async def test_a_client_that_leaves_ends_the_wait(serve, lane):
    """No lease, no task and no connection is left, and nobody is asked again."""
    async with busy(1) as origin:
        retry = Retry(on=[503], backoff=Backoff(base=60.0, most=60.0))
        gateway = await serve(origin.url, lane=lane, retry=retry)
        client = await gateway.connect()
        await client.send(make_request())
        await eventually(lambda: origin.requests and not gateway.pool.state().in_flight)
        client.leave()
        record = await gateway.wait_for_record()

        assert (499, 1) == (record.status, record.attempts)
        assert not origin.open_connections


@pytest.mark.requirement("R-16")
async def test_a_client_that_leaves_ends_the_second_attempt(serve, lane):
    """The upstream's connection is closed at once, and nobody is blamed."""
    async with (
        ScriptedOrigin([ReadHead(), Reset()]) as first,
        ScriptedOrigin([ReadHead(), ReadToEnd()]) as second,
    ):
        gateway = await serve(first.url, second.url, lane=lane)
        client = await gateway.connect()
        await client.send(make_request())
        await eventually(lambda: second.requests)
        client.leave()
        record = await gateway.wait_for_record()
        await eventually(gateway.is_idle)
        await eventually(lambda: not second.open_connections)

        assert (499, 2) == (record.status, record.attempts)
        assert [1, 0] == [one.failures for one in gateway.pool.status()]


@pytest.mark.requirement("R-11")
async def test_the_total_time_holds_for_all_attempts(serve, lane):
    """However many there are."""
    never = asyncio.Event()
    async with (
        ScriptedOrigin([ReadHead(), Wait(never)]) as first,
        ScriptedOrigin([ReadHead(), Wait(never)]) as second,
    ):
        gateway = await serve(
            first.url,
            second.url,
            lane=lane,
            retry=Retry(attempts=50, on=[503], budget=RetryBudget(floor=50)),
            timeouts=Timeouts(total=0.1),
        )
        reply = await gateway.get()
        never.set()

        assert 504 == reply.status


# Limits and the queue.


@one_transport
@pytest.mark.requirement("R-05")
@pytest.mark.parametrize("at", ["pool", "route"])
async def test_a_queue_is_served_in_turn_and_bounded(serve, lane, at):
    """One place, two that wait, and 503 with a time for the others."""
    go_on = asyncio.Event()
    limits = Limits(max_in_flight=1, max_queue=2, queue_timeout=5.0)
    where = {"pool": {"limits": limits}} if at == "pool" else {"limits": limits}
    async with ScriptedOrigin([ReadHead(), Wait(go_on), OK, Close()]) as origin:
        gateway = await serve(origin.url, lane=lane, **where)
        tasks = [asyncio.create_task(gateway.get()) for _ in range(6)]
        await eventually(lambda: sum(task.done() for task in tasks) == 3)
        await eventually(lambda: origin.requests)
        go_on.set()
        replies = await asyncio.gather(*tasks)

        assert Counter({200: 3, 503: 3}) == Counter(reply.status for reply in replies)
        assert 3 == len(origin.requests)
        assert {b"5"} == {one.get("retry-after") for one in replies if one.status == 503}
        await eventually(lambda: len(gateway.records) == 6)
        waited = [bool(one.queued) for one in gateway.records if one.status == 200]

        assert [False, True, True] == sorted(waited)


@one_transport
@pytest.mark.requirement("R-05")
async def test_a_client_that_leaves_the_queue_frees_its_turn(serve, lane):
    """The upstream never hears of it."""
    go_on = asyncio.Event()
    async with ScriptedOrigin([ReadHead(), Wait(go_on), OK, Close()]) as origin:
        gateway = await serve(
            origin.url,
            lane=lane,
            pool={"limits": Limits(max_in_flight=1, max_queue=1, queue_timeout=30.0)},
        )
        first = asyncio.create_task(gateway.get())
        await eventually(lambda: origin.requests)
        leaving = await gateway.connect()
        await leaving.send(make_request())
        limiter = gateway.pool.state().rules.limiter
        await eventually(lambda: limiter.waiting)
        leaving.leave()
        await eventually(lambda: not limiter.waiting)
        third = asyncio.create_task(gateway.get())
        await eventually(lambda: limiter.waiting)
        go_on.set()

        assert [200, 200] == [(await task).status for task in (first, third)]
        assert 2 == len(origin.requests)
        assert 0 == limiter.taken
