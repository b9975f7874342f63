"""The content of a received request."""

import asyncio

import pytest

from proxyroutes._serve.body import (
    BodyRecorder,
    BufferedBody,
    IteratedBody,
    ReceivedBody,
    check_length,
    too_large,
)
from proxyroutes._serve.exchange import ClientLeft
from proxyroutes.exceptions import ClientRequestError
from tests.unit.serve.scripted import LEFT, Server, make_exchange, piece, turns


async def read_all(body):
    """Read a body to its end."""
    chunks = []
    while chunk := await body.read():
        chunks.append(chunk)
    return chunks


def received(server, *, length=None, limit=None, first=None):
    """A body with its exchange."""
    exchange = make_exchange(server)
    exchange.may_watch = True
    return ReceivedBody(exchange, length, limit, first), exchange


async def test_pieces_are_read_one_by_one_and_counted():
    """Empty ones are passed over, and the end is an empty one for ever."""
    server = Server(piece(b"a"), piece(b""), piece(b"bc"), piece(b"", more=False))
    body, exchange = received(server)

    assert [b"a", b"bc"] == await read_all(body)
    assert b"" == await body.read()
    assert 3 == exchange.request_bytes


async def test_a_last_piece_may_hold_content():
    """The end is noted with it, and not waited for."""
    body, _ = received(Server(piece(b"a", more=False)))

    assert [b"a"] == await read_all(body)


async def test_messages_have_defaults():
    """ASGI lets a server leave out what is empty."""
    body, _ = received(Server({"type": "http.request"}))

    assert [] == await read_all(body)


async def test_the_first_message_may_have_been_read_already():
    """HTTP/2 shows content by its first event only."""
    body, _ = received(Server(piece(b"b", more=False)), first=piece(b"a"))

    assert [b"a", b"b"] == await read_all(body)


async def test_the_client_is_not_watched_while_its_content_is_read():
    """Two readers of one channel would steal from each other."""
    body, exchange = received(Server(piece(b"a"), piece(b"", more=False)))
    seen = [exchange.may_watch]
    await body.read()
    seen.append(exchange.may_watch)
    await body.read()

    assert [False, False, True] == [*seen, exchange.may_watch]


async def test_the_client_stalls_while_its_next_piece_is_waited_for():
    """A time-out is blamed on the side that was waited for."""
    server = Server()
    body, exchange = received(server)
    reading = asyncio.create_task(body.read())
    await turns()
    waiting = exchange.client_stalls
    server.give(piece(b"a"))
    await reading

    assert [True, False] == [waiting, exchange.client_stalls]


async def test_a_cancelled_read_ends_the_clients_stall():
    """Whatever ended it."""
    server = Server()
    body, exchange = received(server)
    reading = asyncio.create_task(body.read())
    await turns()
    reading.cancel()
    await asyncio.wait([reading])

    assert (True, False) == (reading.cancelled(), exchange.client_stalls)


@pytest.mark.requirement("H-15")
async def test_a_client_that_leaves_is_no_end_of_its_content():
    """A cut upload never looks complete, and the task that reads is left alone, so that it can clean up."""
    body, _ = received(Server(piece(b"a"), LEFT))
    await body.read()

    with pytest.raises(ClientLeft):
        await body.read()

    assert 0 == asyncio.current_task().cancelling()
    await asyncio.sleep(0)


# Listening while nobody reads.


async def test_what_is_heard_while_nobody_reads_is_kept_for_the_reader():
    """One message at most: its content is neither lost nor read ahead without bound."""
    server = Server(piece(b"a"), piece(b"b", more=False))
    body, exchange = received(server)
    await body.listen()
    again = body.listen()

    assert (None, 1, False) == (again, len(server.messages), exchange.may_watch)
    assert [b"a", b"b"] == await read_all(body)


async def test_a_reader_that_comes_while_somebody_listens_gets_what_was_heard():
    """Two readers of one channel do not steal from each other."""
    server = Server()
    body, exchange = received(server)
    listening = body.listen()
    reading = asyncio.create_task(body.read())
    await turns()
    stalls = exchange.client_stalls
    server.give(piece(b"a"))

    assert (b"a", True) == (await reading, listening.done())
    assert (True, False) == (stalls, exchange.client_stalls)


async def test_only_one_listens():
    """A second one would take what belongs behind the first."""
    body, _ = received(Server())
    listening = body.listen()

    assert body.listen() is None
    listening.cancel()
    await asyncio.wait([listening])


async def test_a_reader_reads_itself_after_its_listener_was_stopped():
    """What was not heard is still to come."""
    server = Server()
    body, _ = received(server)
    listening = body.listen()
    reading = asyncio.create_task(body.read())
    await turns()
    listening.cancel()
    server.give(piece(b"a"))

    assert b"a" == await reading


@pytest.mark.requirement("E-03")
@pytest.mark.parametrize("heard", [LEFT, OSError("broken")], ids=["leaves", "breaks"])
async def test_a_client_that_leaves_while_nobody_reads_interrupts_the_exchange(heard):
    """And whoever reads afterwards is told too."""
    body, exchange = received(Server(heard))
    await body.listen()

    assert isinstance(exchange.interruption, ClientLeft)
    with pytest.raises(ClientLeft):
        await body.read()


async def test_the_client_may_be_watched_once_the_last_of_its_content_was_heard():
    """Nothing more of it can be stolen."""
    body, exchange = received(Server(piece(b"a", more=False)))
    await body.listen()

    assert exchange.may_watch
    assert [b"a"] == await read_all(body)


async def test_nobody_listens_behind_the_end():
    """The watch does."""
    body, _ = received(Server(piece(b"a", more=False)))
    await read_all(body)

    assert body.listen() is None


@pytest.mark.requirement("H-46")
async def test_what_was_heard_counts_when_it_is_read():
    """The limit and the record speak of what was read."""
    body, exchange = received(Server(piece(b"abcd")), limit=3)
    await body.listen()
    before = exchange.request_bytes

    with pytest.raises(ClientRequestError):
        await body.read()

    assert (0, 4) == (before, exchange.request_bytes)


# The limit.


@pytest.mark.requirement("H-46")
async def test_the_first_byte_over_the_limit_is_refused():
    """Up to it everything passes."""
    body, _ = received(Server(piece(b"ab"), piece(b"c"), piece(b"d")), limit=3)
    before = [await body.read(), await body.read()]

    with pytest.raises(ClientRequestError) as caught:
        await body.read()

    assert ([b"ab", b"c"], 413) == (before, caught.value.status_code)


def test_a_refused_size_names_the_limit():
    """For the log; the client is told the title."""
    error = too_large(10)

    assert ("the content is larger than 10 bytes", "Content too large") == (
        error.detail,
        error.title,
    )


@pytest.mark.parametrize(("length", "limit"), [(None, 1), (1, None), (1, 1), (0, 0), (None, None)])
def test_a_length_within_the_limit_passes(length, limit):
    """An unknown one too: it is looked at while it is read."""
    check_length(length, limit)


def test_a_length_over_the_limit_is_refused():
    """Before anything is read."""
    with pytest.raises(ClientRequestError) as caught:
        check_length(2, 1)

    assert 413 == caught.value.status_code


async def test_a_buffered_body_can_be_read_again():
    """After it was rewound."""
    body = BufferedBody(b"abc")
    first = await read_all(body)
    body.rewind()

    assert ([b"abc"], [b"abc"], 3) == (first, await read_all(body), body.content_length)


async def test_an_empty_buffered_body_has_a_length():
    """No content is known to be none."""
    body = BufferedBody(b"")

    assert ([], 0) == (await read_all(body), body.content_length)


def recorder(*messages, limit=10, idle=None):
    """A recorder over a server that gives these messages."""
    return BodyRecorder(
        Server(*messages).receive, limit, idle, lambda refusal: ValueError(refusal.detail)
    )


async def test_what_user_code_reads_is_kept():
    """Then the content is there though its channel is empty."""
    record = recorder(piece(b"ab"), piece(b"c", more=False))
    messages = [await record(), await record()]

    assert [b"ab", b"c"] == [message["body"] for message in messages]
    assert (b"abc", True) == (await record.content(), record.touched)


async def test_what_user_code_left_is_read():
    """Whoever reads, all of it is forwarded."""
    record = recorder(piece(b"ab"), piece(b"c", more=False))
    await record()

    assert b"abc" == await record.content()


async def test_an_untouched_recorder_says_so():
    """Then the content can still be streamed."""
    assert not recorder().touched


@pytest.mark.requirement("H-46")
async def test_a_recorder_refuses_more_than_its_limit():
    """With the exception that it was told to make."""
    record = recorder(piece(b"12345"), piece(b"123456"))
    await record()

    with pytest.raises(ValueError, match="larger than 10 bytes"):
        await record()


async def test_a_client_that_leaves_ends_the_recording():
    """User code sees the message; who asks for the whole content is told."""
    record = recorder(piece(b"ab"), LEFT, LEFT)
    await record()

    assert LEFT == await record()
    with pytest.raises(ClientLeft):
        await record.content()


async def test_an_iterated_body_has_no_length_and_no_empty_pieces():
    """Bytes-like pieces are made bytes."""

    async def chunks():
        yield b"a"
        yield b""
        yield bytearray(b"b")

    exchange = make_exchange()
    body = IteratedBody(exchange, chunks())

    assert ([b"a", b"b"], None) == (await read_all(body), body.content_length)
    assert b"" == await body.read()


async def test_the_client_is_not_watched_while_content_is_made():
    """It may be made of what the client sends."""

    async def chunks():
        yield b"a"

    exchange = make_exchange()
    exchange.may_watch = True
    body = IteratedBody(exchange, chunks())
    seen = [exchange.may_watch]
    await read_all(body)

    assert [False, True] == [*seen, exchange.may_watch]
