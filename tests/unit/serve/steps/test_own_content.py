"""Content that passes through the application's hands."""

import pytest

from proxyroutes._serve.exchange import ClientLeft
from proxyroutes._serve.steps.own_content import BodyRecorder, IteratedBody
from tests.unit.serve.scripted import LEFT, Server, make_exchange, piece


async def read_all(body):
    """Read a body to its end."""
    chunks = []
    while chunk := await body.read():
        chunks.append(chunk)
    return chunks


def recorder(*messages, limit=10):
    """A recorder over a server that gives these messages."""
    return BodyRecorder(
        Server(*messages).receive, limit, lambda limit: ValueError(f"over {limit}")
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

    with pytest.raises(ValueError, match="over 10"):
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
