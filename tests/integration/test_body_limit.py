"""``max_body_bytes``: more than is allowed is answered 413 before the upstream has the whole of it."""

import pytest

from proxyroutes.testing import ReadHead, ReadUntil, ScriptedOrigin
from tests.integration.support import OK, eventually, make_request

pytestmark = pytest.mark.requirement("H-46")

CHUNKED = "Transfer-Encoding: chunked"


async def test_a_declared_length_over_the_limit_is_refused_at_once(serve, http, lane):
    """Nothing of the content is read, and no upstream is asked."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, max_body_bytes=10)
        reply = await gateway.ask(make_request("/", "Content-Length: 11", method="POST"))

        assert 413 == reply.status
        assert b"application/problem+json" == reply.get("content-type")
        assert 0 == origin.connections


async def test_a_stream_over_the_limit_is_cut_before_its_end(serve, http, lane):
    """The byte that is too much ends the exchange: the upstream never sees a complete request."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(), OK]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, max_body_bytes=10)
        client = await gateway.connect()
        await client.send(make_request("/", CHUNKED, method="POST") + b"a\r\n0123456789\r\n")
        await eventually(
            lambda: (
                bytes(origin.requests[0]).endswith(b"a\r\n0123456789\r\n")
                if origin.requests
                else False
            )
        )
        reply = await client.ask(b"1\r\nx\r\n0\r\n\r\n")
        await eventually(lambda: not origin.open_connections)
        record = await gateway.wait_for_record()

        assert 413 == reply.status
        assert bytes(origin.requests[0]).endswith(b"a\r\n0123456789\r\n")
        assert (413, 1) == (record.status, record.attempts)


@pytest.mark.parametrize(
    ("line", "body"),
    [
        pytest.param("Content-Length: 10", "0123456789", id="length"),
        pytest.param(CHUNKED, "a\r\n0123456789\r\n0\r\n\r\n", id="chunked"),
        pytest.param("Content-Length: 0", "", id="empty"),
    ],
)
async def test_content_up_to_the_limit_passes(serve, http, lane, line, body):
    """The limit itself is allowed."""
    async with ScriptedOrigin(
        [ReadHead(), ReadUntil(body[-4:].encode()), OK] if body else [OK]
    ) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, max_body_bytes=10)
        reply = await gateway.ask(make_request("/", line, method="POST", body=body))

        assert 200 == reply.status
        assert bytes(origin.requests[0]).endswith(body.encode())


async def test_the_connection_ends_after_a_refused_stream(serve, http):
    """What is left of the content is not read as a request."""
    async with ScriptedOrigin([ReadHead(), ReadUntil(), OK]) as origin:
        gateway = await serve(origin.url, http=http, max_body_bytes=1)
        client = await gateway.connect()
        reply = await client.ask(make_request("/", CHUNKED, method="POST") + b"2\r\nab\r\n")

        assert 413 == reply.status
        assert b"" == await client.read_rest()
