"""Observers get the record of each exchange once, on every ending."""

import pytest

from proxyroutes import Timeouts
from proxyroutes.policies import Backoff, Retry
from proxyroutes.testing import Close, ReadHead, ReadUntil, Reset, ScriptedOrigin
from tests.integration.support import (
    OK,
    eventually,
    make_request,
    one_transport,
    refusing_destination,
)

pytestmark = [pytest.mark.requirement("R-50"), one_transport]


def facts(record):
    """What a record counts."""
    return (
        record.status,
        record.cause,
        record.attempts,
        record.request_bytes,
        record.response_bytes,
    )


ENDINGS = [
    pytest.param([OK], make_request(), (200, None, 1, 0, 2), id="complete"),
    pytest.param(
        [b"HTTP/1.1 204 No Content\r\n\r\n"], make_request(), (204, None, 1, 0, 0), id="empty"
    ),
    pytest.param(
        [b"HTTP/1.1 500 Oops\r\nContent-Length: 1\r\n\r\nx"],
        make_request(),
        (500, None, 1, 0, 1),
        id="500",
    ),
    pytest.param(
        [ReadHead(), ReadUntil(b"abc"), OK],
        make_request("/", "Content-Length: 3", method="POST", body="abc"),
        (200, None, 1, 3, 2),
        id="upload",
    ),
    pytest.param(
        [ReadHead(), Reset()], make_request(), (502, "upstream-protocol", 1, 0, 0), id="reset"
    ),
    pytest.param(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", Close()],
        make_request(),
        (200, "relay-interrupted", 1, 0, 5),
        id="cut-off",
    ),
    pytest.param(
        [OK],
        make_request("/", "Content-Length: 11", method="POST"),
        (413, "client-request", 0, 0, 0),
        id="too-large",
    ),
    pytest.param(
        [OK], make_request("/", "Via: 1.1 here"), (508, "client-request", 0, 0, 0), id="loop"
    ),
    pytest.param(
        [OK], make_request("/", "Host: other.test"), (400, "client-request", 0, 0, 0), id="refused"
    ),
]


@pytest.mark.usefixtures("broken_relays")
@pytest.mark.parametrize(("script", "raw", "expected"), ENDINGS)
async def test_a_record_is_emitted_once_with_what_happened(
    serve, lane, script, raw, expected, request
):
    """Status, attempts and bytes of both directions are there, whatever the end was."""
    async with ScriptedOrigin(script) as origin:
        # httptools lets two Host fields pass, so that it is the gateway that refuses them.
        gateway = await serve(origin.url, lane=lane, proxy={"via": "here"}, max_body_bytes=10)
        client = await gateway.connect()
        await client.ask(raw)
        client.leave()
        await eventually(gateway.is_idle)

        assert [expected] == [facts(record) for record in gateway.records]


async def test_a_record_has_the_times_and_names_of_its_exchange(serve, lane):
    """Route, pool, destination and the order of the times are those of the exchange."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get()
        record = await gateway.wait_for_record()

        assert ("forwarded", "GET", "pool", origin.url) == (
            record.route,
            record.method,
            record.pool,
            record.destination,
        )
        assert (
            0.0
            < record.started
            <= record.attempt.began_at
            <= record.connected
            <= record.head
            <= record.relayed
            <= record.ended
        )


async def test_a_record_knows_the_request_that_was_received(serve, lane):
    """Its scope is kept, also where the request was refused before an upstream was chosen."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get("/a?b=c")
        await gateway.get("/refused", "Host: other.test")
        await eventually(lambda: len(gateway.records) == 2)
        actual = [(one.scope["raw_path"], one.scope["query_string"]) for one in gateway.records]

        assert [(b"/a", b"b=c"), (b"/refused", b"")] == actual


async def test_a_destination_that_answers_nothing_is_a_time_out(serve, lane):
    """The cause names it, and the times of what did not happen have no value."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, lane=lane, timeouts=Timeouts(first_byte=0.05))
        await gateway.get()
        record = await gateway.wait_for_record()

        assert (504, "upstream-timeout", 1) == (
            record.status,
            record.cause,
            len(gateway.records),
        )
        assert record.connect_seconds is not None
        assert record.first_byte_seconds is None
        assert record.total_seconds >= 0.05 > record.overhead_seconds


async def test_nothing_available_is_a_cause_of_its_own(serve, lane):
    """No attempt was made: all of the time is the gateway's own."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        gateway.pool.state().available = ()
        await gateway.get()
        record = await gateway.wait_for_record()

        assert (503, "no-destination", 0, None) == (
            record.status,
            record.cause,
            record.attempts,
            record.connect_seconds,
        )
        assert record.total_seconds == record.overhead_seconds > 0.0


@pytest.mark.usefixtures("broken_relays")
async def test_a_server_that_stops_abandons_what_it_serves(serve, lane):
    """The exchange was cancelled from outside: nobody is to blame, and the record says so once."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, lane=lane, server={"timeout_graceful_shutdown": 0.01})
        client = await gateway.connect()
        await client.send(make_request())
        await eventually(lambda: origin.requests)
        gateway.running.server.should_exit = True
        record = await gateway.wait_for_record()
        await eventually(gateway.is_idle)

        assert ("abandoned", None, 1) == (record.cause, record.error, len(gateway.records))


async def test_an_observer_can_be_added_after_the_build(serve, lane):
    """As a decorator, and it sees what the others see."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        seen = []

        @gateway.proxy.on_exchange
        def observe(record):
            seen.append(record)

        await gateway.get()
        await eventually(lambda: seen)

        assert gateway.records == seen


async def test_every_attempt_is_counted(serve, lane):
    """The record of an exchange that moved on tells of both attempts."""
    with refusing_destination() as url:
        async with ScriptedOrigin([OK]) as origin:
            gateway = await serve(url, origin.url, lane=lane)
            await gateway.get()
            record = await gateway.wait_for_record()

            assert (200, None, 2, 0, 2) == facts(record)
            assert [url, origin.url] == [one.destination for one in record.tries]
            assert ["UpstreamConnectError", "NoneType"] == [
                type(one.failure).__name__ for one in record.tries
            ]


async def test_a_date_that_no_clock_has_is_no_time_to_wait(serve):
    """The answer is asked for again, and nothing of the first one is left behind."""
    busy = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
        b"Retry-After: 1 Jan 99999999999999999999 00:00:00 GMT\r\n\r\n"
    )
    async with ScriptedOrigin([ReadHead(), busy, ReadHead(), OK]) as origin:
        gateway = await serve(origin.url, pool={"retry": Retry(on=[503], backoff=Backoff())})
        await gateway.get()
        record = await gateway.wait_for_record()

        assert (200, 2, 2) == (record.status, record.attempts, len(record.tries))


async def test_an_observer_that_fails_harms_nobody(serve, caplog):
    """Its exception is logged, and the response and the other observers are as they were."""
    seen = []

    def fail(record):
        raise ValueError("an observer's own mistake")

    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, proxy={"on_exchange": (fail, seen.append)})
        reply = await gateway.get()
        await eventually(lambda: seen)

        assert (200, 1) == (reply.status, len(seen))
        assert "an observer of exchanges failed" in caplog.text
        caplog.clear()


async def test_an_exchange_is_logged_where_that_is_asked_for(serve, lane, caplog):
    """With the request as it was received, without what is secret in it."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane, proxy={"access_log": True})
        await gateway.get("/a%2Fb?token=secret&c=d", "User-Agent: test")
        await gateway.get("/refused", "Host: other.test")
        lines = caplog.records

        def own():
            return [one for one in lines if one.name == "proxyroutes.access"]

        await eventually(lambda: len(own()) == 2)
        first, second = own()

        assert ("127.0.0.1", "/a%2Fb", "token=[redacted]&c=d", "gateway.test", 200, None) == (
            first.client,
            first.path,
            first.query,
            first.host,
            first.status,
            first.cause,
        )
        assert ({"user-agent": "test"}, origin.url) == (first.request_headers, first.destination)
        assert ("/refused", 400, "client-request") == (second.path, second.status, second.cause)
