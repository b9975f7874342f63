"""What reaches the socket of a server that writes at once: how often, in which order, and how much of it waits."""

import asyncio

import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from proxyroutes.server import HttpProtocol
from tests.unit.server_support import Wire, turns

GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"


def connect(app, protocol_class=HttpProtocol):
    """A connection of a server with this application."""
    config = Config(app, lifespan="off", log_config=None, access_log=False)
    config.load()
    protocol = protocol_class(config=config, server_state=ServerState(), app_state={})
    wire = Wire()
    protocol.connection_made(wire)
    return protocol, wire


def answer(*pieces, between=None):
    """An application that answers with these pieces of content."""

    async def app(scope, receive, send):
        size = sum(len(piece) for piece in pieces)
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            if between is not None:
                await between.wait()
            more = number < len(pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    return app


async def test_a_response_is_one_write():
    """It is two with uvicorn's own protocol, or this test would show nothing."""
    protocol, wire = connect(answer(b"hello"))
    other, other_wire = connect(answer(b"hello"), HttpToolsProtocol)
    protocol.data_received(GET)
    other.data_received(GET)
    await turns()

    assert 1 == len(wire.written)
    assert wire.written[0].endswith(b"\r\n\r\nhello")
    assert 2 == len(other_wire.written)
    assert b"".join(other_wire.written) == wire.written[0]


async def test_a_head_does_not_wait_for_its_content():
    """It is written in the turn after it was made, and so is each piece."""
    between = asyncio.Event()
    protocol, wire = connect(answer(b"hel", b"lo", between=between))
    protocol.data_received(GET)
    await turns()

    assert 1 == len(wire.written)
    assert wire.written[0].endswith(b"\r\n\r\n")

    between.set()
    await turns()

    assert [b"hello"] == wire.written[1:]


async def test_responses_to_requests_in_a_row_keep_their_order():
    """Those that were sent at once, too."""
    protocol, wire = connect(answer(b"hello"))
    protocol.data_received(GET * 3)
    await turns(30)

    assert 3 == b"".join(wire.written).count(b"\r\n\r\nhello")


async def test_a_connection_is_closed_behind_its_last_response():
    """And not before."""
    protocol, wire = connect(answer(b"hello"))
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
    await turns()

    assert wire.closed
    assert 1 == len(wire.written)
    assert wire.written[0].endswith(b"\r\n\r\nhello")


async def test_a_refusal_of_uvicorn_is_written_before_it_closes():
    """What is no HTTP is answered with 400."""
    protocol, wire = connect(answer(b"hello"))
    protocol.data_received(b"what\r\n\r\n")
    await turns()

    assert wire.closed
    assert b"".join(wire.written).startswith(b"HTTP/1.1 400 ")


async def test_nothing_is_written_to_a_connection_that_closes():
    """The client may leave between a write and the next turn; the wire would say so."""
    protocol, wire = connect(answer(b"hello"))
    protocol.data_received(GET)
    await asyncio.sleep(0)
    wire.closed = True
    await turns()

    assert [] == wire.written


@pytest.mark.parametrize("size", [1, 10, 1000, 40_000, 65_536, 65_537, 200_000])
async def test_whoever_writes_on_within_a_turn_is_not_gathered_without_end(size):
    """At most 64 KiB wait; beyond them the transport is given what it may say it has enough of."""
    protocol, wire = connect(answer(b""))
    sent = bytearray()
    for number in range(200_000 // size + 20):
        piece = number.to_bytes(4, "big") * (size // 4 + 1)
        protocol.transport.write(piece[:size])
        sent += piece[:size]

        assert len(sent) - sum(map(len, wire.written)) <= 65_536

    await turns(2)

    assert sent == b"".join(wire.written)


async def test_what_changes_after_it_was_written_is_sent_as_it_was():
    """A buffer may be used again as soon as it was given away."""
    protocol, wire = connect(answer(b""))
    buffer = bytearray(b"first")
    protocol.transport.write(memoryview(buffer)[1:4])
    protocol.transport.write(buffer)
    buffer[:] = b"other"
    await turns(2)

    assert [b"irsfirst"] == wire.written
