"""A connect failure moves on to the next destination: nothing was sent, and nothing of the content was read."""

import pytest

from proxyroutes.settings import Timeouts
from proxyroutes.testing import Close, ReadHead, ReadUntil, Reset, ScriptedOrigin
from tests.integration.support import OK, make_request, refusing_destination, silent_destination

pytestmark = pytest.mark.requirement("R-15")


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_refused_connection_moves_on_to_the_next_destination(serve, lane, method):
    """Whatever the method: the first destination has seen nothing of it."""
    with refusing_destination() as url:
        async with ScriptedOrigin([OK]) as origin:
            gateway = await serve(url, origin.url, lane=lane)
            reply = await gateway.get(method=method)
            record = await gateway.wait_for_record()

            assert 200 == reply.status
            assert (2, origin.url) == (record.attempts, record.destination)
            assert record.error is None


async def test_a_connect_time_out_moves_on_to_the_next_destination(serve, lane):
    """A destination that never accepts has seen nothing either."""
    with silent_destination() as url:
        async with ScriptedOrigin([OK]) as origin:
            gateway = await serve(url, origin.url, lane=lane, timeouts=Timeouts(connect=0.1))
            reply = await gateway.get()
            record = await gateway.wait_for_record()

            assert (200, 2) == (reply.status, record.attempts)


@pytest.mark.requirement("R-16")
@pytest.mark.parametrize(
    ("line", "body"),
    [
        pytest.param("Content-Length: 5", "hello", id="length"),
        pytest.param("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", id="chunked"),
    ],
)
async def test_the_content_is_whole_at_the_destination_that_is_reached(
    serve, http, lane, line, body
):
    """No byte of it was read before there was a connection."""
    with refusing_destination() as url:
        async with ScriptedOrigin([ReadHead(), ReadUntil(body[-4:].encode()), OK]) as origin:
            gateway = await serve(url, origin.url, http=http, lane=lane)
            reply = await gateway.ask(make_request("/", line, method="POST", body=body))
            record = await gateway.wait_for_record()

            assert (200, 2, 5) == (reply.status, record.attempts, record.request_bytes)
            assert bytes(origin.requests[0]).endswith(b"\r\n\r\n" + body.encode())


@pytest.mark.requirement("H-35")
async def test_a_client_that_expects_100_gets_one_though_the_first_destination_refuses(
    serve, http
):
    """The content is asked for once, when somebody is there to take it."""
    with refusing_destination() as url:
        async with ScriptedOrigin([ReadHead(), ReadUntil(b"abc"), OK]) as origin:
            gateway = await serve(url, origin.url, http=http)
            client = await gateway.connect()
            await client.send(
                make_request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")
            )
            interim = await client.read_head()
            reply = await client.ask(b"abc")

            assert (100, 200) == (interim.status, reply.status)


@pytest.mark.requirement("R-18")
async def test_each_destination_is_asked_once_and_the_last_failure_counts(serve, lane, caplog):
    """Where all refuse, the answer is 502 and the log names the last one."""
    with (
        refusing_destination() as first,
        refusing_destination() as second,
        refusing_destination() as third,
    ):
        gateway = await serve(first, second, third, lane=lane)
        reply = await gateway.get()
        record = await gateway.wait_for_record()
        lines = [
            one.getMessage() for one in caplog.records if "exchange failed" in one.getMessage()
        ]

        assert 502 == reply.status
        assert 3 == record.attempts
        assert [1, 1, 1] == [one.requests for one in gateway.pool.state().destinations]
        assert 1 == len(lines)
        assert f"destination={record.destination}" in lines[0]


@pytest.mark.requirement("R-16")
@pytest.mark.parametrize(
    ("method", "pool"), [("GET", {"retry": None}), ("POST", {})], ids=["retries-off", "POST"]
)
async def test_a_failure_after_the_request_was_sent_does_not_move_on(serve, method, pool):
    """The first destination may have seen it."""
    async with ScriptedOrigin([ReadHead(), Reset()]) as first, ScriptedOrigin([OK]) as second:
        gateway = await serve(first.url, second.url, pool=pool)
        reply = await gateway.get(method=method)

        assert 502 == reply.status
        assert (1, 0) == (first.connections, second.connections)


async def test_the_other_destinations_go_on_in_turn(serve):
    """One that refuses does not take the others' turns."""
    with refusing_destination() as url:
        async with ScriptedOrigin([OK, Close()]) as first, ScriptedOrigin([OK, Close()]) as second:
            gateway = await serve(url, first.url, second.url)
            replies = [await gateway.get() for _ in range(6)]

            assert [200] * 6 == [reply.status for reply in replies]
            assert first.connections
            assert second.connections
