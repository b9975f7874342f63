"""Observers get the record of each exchange once, on every ending."""

import pytest

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
    return record.status, record.attempts, record.request_bytes, record.response_bytes


ENDINGS = [
    pytest.param([OK], make_request(), (200, 1, 0, 2), id="complete"),
    pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], make_request(), (204, 1, 0, 0), id="empty"),
    pytest.param(
        [b"HTTP/1.1 500 Oops\r\nContent-Length: 1\r\n\r\nx"],
        make_request(),
        (500, 1, 0, 1),
        id="500",
    ),
    pytest.param(
        [ReadHead(), ReadUntil(b"abc"), OK],
        make_request("/", "Content-Length: 3", method="POST", body="abc"),
        (200, 1, 3, 2),
        id="upload",
    ),
    pytest.param([ReadHead(), Reset()], make_request(), (502, 1, 0, 0), id="reset"),
    pytest.param(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", Close()],
        make_request(),
        (200, 1, 0, 5),
        id="cut-off",
    ),
    pytest.param(
        [OK],
        make_request("/", "Content-Length: 11", method="POST"),
        (413, 0, 0, 0),
        id="too-large",
    ),
    pytest.param([OK], make_request("/", "Via: 1.1 here"), (508, 0, 0, 0), id="loop"),
    pytest.param([OK], make_request("/", "Host: other.test"), (400, 0, 0, 0), id="refused"),
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
        assert 0.0 < record.started <= record.connected <= record.head <= record.ended


async def test_every_attempt_is_counted(serve, lane):
    """The record of an exchange that moved on tells of both attempts."""
    with refusing_destination() as url:
        async with ScriptedOrigin([OK]) as origin:
            gateway = await serve(url, origin.url, lane=lane)
            await gateway.get()
            record = await gateway.wait_for_record()

            assert (200, 2, 0, 2) == facts(record)


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
