"""Section E: streaming and server-sent events, on raw sockets."""

import pytest

from proxyroutes.testing import ReadHead, ScriptedOrigin
from tests.integration.support import values_of


@pytest.mark.requirement("E-05")
async def test_fields_of_event_streams_pass(serve, http):
    """What a client reconnects with and what forbids to keep or change a stream pass untouched."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n"
        b"Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\nContent-Length: 9\r\n\r\n"
    )
    async with ScriptedOrigin([ReadHead(), head + b"data: 1\n\n"]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.get("/", "Last-Event-ID: 41 \xe9", "Accept: text/event-stream")

        assert [b"41 \xe9"] == values_of(origin.requests[0], "last-event-id")
        assert b"Text/Event-Stream; charset=utf-8" == reply.get("content-type")
        assert b"no-store, no-transform" == reply.get("cache-control")
        assert b"no" == reply.get("x-accel-buffering")
        assert b"data: 1\n\n" == reply.body


@pytest.mark.requirement("E-05")
async def test_a_204_that_ends_reconnecting_passes(serve, http):
    """A client of events that is told 204 does not come again: it must be told just that."""
    async with ScriptedOrigin([ReadHead(), b"HTTP/1.1 204 No Content\r\n\r\n"]) as origin:
        gateway = await serve(origin.url, http=http)
        reply = await gateway.get("/", "Accept: text/event-stream")

        assert (204, b"") == (reply.status, reply.body)
        assert 1 == origin.connections
