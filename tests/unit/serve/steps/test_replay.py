"""Content that is kept to be sent again, and answers that are kept meanwhile."""

import asyncio

import pytest

from proxyroutes._serve.body import BufferedBody, IteratedBody, ReceivedBody
from proxyroutes._serve.steps.replay import ReplayedBody, begin_again, keep, replayed
from proxyroutes._serve.steps.streams import FilteredBody, Stream
from proxyroutes.exceptions import UpstreamProtocolError
from proxyroutes.filters import StreamFacts, by_chunk
from proxyroutes.policies import Retry
from proxyroutes.typing import ForwardedHead
from tests.unit.serve.scripted import Response, Server, make_exchange, piece

PUT = ForwardedHead(b"PUT", b"/", [], None, None)
POST = ForwardedHead(b"POST", b"/", [], None, None)


def received(server, length=None):
    """The content of a request."""
    exchange = make_exchange(server)
    return ReceivedBody(exchange, length, None), exchange


async def whole(body):
    """All of a content."""
    content = b""
    while chunk := await body.read():
        content += chunk
    return content


@pytest.mark.parametrize(
    ("head", "length", "wrapped"),
    [(PUT, None, True), (PUT, 9, True), (PUT, 70_000, False), (POST, 9, False)],
)
async def test_only_what_may_be_sent_again_is_kept(head, length, wrapped):
    """What is too long is not even begun to be kept."""
    body, exchange = received(Server(), length)
    kept = replayed(body, Retry(), head)
    exchange.end()

    assert wrapped == isinstance(kept, ReplayedBody)
    assert body.content_length == kept.content_length


async def test_nothing_is_kept_where_nothing_is_tried_again():
    """``Retry(attempts=1)``."""
    body, exchange = received(Server())
    exchange.end()

    assert body is replayed(body, Retry(attempts=1), PUT)


async def test_content_that_is_here_whole_is_begun_again():
    """It needs no buffer."""
    body = BufferedBody(b"abc")
    kept = replayed(body, Retry(), PUT)
    first = await whole(begin_again(kept))

    assert (body, b"abc", b"abc") == (kept, first, await whole(begin_again(kept)))
    assert None is begin_again(None)


async def test_a_read_that_was_cancelled_takes_nothing_away():
    """The next attempt gets what it would have got."""
    server = Server(piece(b"abc"))
    body, exchange = received(server)
    kept = replayed(body, Retry(), PUT)
    first = begin_again(kept)
    assert b"abc" == await first.read()
    reading = asyncio.create_task(first.read())
    await server.receiving.wait()
    await asyncio.sleep(0)
    reading.cancel()
    assert kept.replayable
    second = begin_again(kept)
    server.give(piece(b"def", more=False))

    assert b"abcdef" == await whole(second)
    await asyncio.wait([reading])
    exchange.end()


@pytest.mark.parametrize("settled", [False, True], ids=["at-once", "later"])
async def test_a_generator_that_was_cancelled_cannot_be_read_again(settled):
    """It has ended, and what is missing would not be missed."""
    waiting = asyncio.Event()

    async def chunks():
        yield b"abc"
        waiting.set()
        await asyncio.Event().wait()

    exchange = make_exchange()
    kept = replayed(IteratedBody(exchange, chunks()), Retry(), PUT)
    first = begin_again(kept)
    assert b"abc" == await first.read()
    assert kept.replayable
    reading = asyncio.create_task(first.read())
    await waiting.wait()
    reading.cancel()
    if settled:
        await asyncio.wait([reading])

    assert not kept.replayable
    await asyncio.wait([reading])
    exchange.end()


async def test_content_over_the_cap_is_let_go_of():
    """And is read on by whoever reads it."""
    body, exchange = received(Server(piece(b"abc"), piece(b"def"), piece(b"ghi", more=False)))
    kept = replayed(body, Retry(replay_bytes=5), PUT)
    first = begin_again(kept)
    assert b"abc" == await first.read()
    assert kept.replayable

    assert b"defghi" == await whole(first)
    assert (False, []) == (kept.replayable, kept._chunks)
    exchange.end()


# Answers.


async def test_a_response_that_is_here_is_kept_at_once():
    """Its connection is free."""
    upstream = Response(503, [(b"a", b"b")], b"busy", complete=True)
    kept = await keep(upstream, 10)

    assert (True, 1, 503, [(b"a", b"b")]) == (
        kept.complete,
        upstream.aborted,
        kept.status,
        kept.fields,
    )
    assert (b"busy", b"") == (kept.take(), await kept.read())
    kept.abort()


async def test_a_response_that_is_too_long_goes_on():
    """What was read of it comes first."""
    upstream = Response(503, [], b"aaaa", b"bbbb", b"cc")
    kept = await keep(upstream, 6)

    assert (False, 0) == (kept.complete, upstream.aborted)
    assert b"aaaabbbbcc" == await whole(kept)
    kept.abort()
    assert 1 == upstream.aborted


async def test_a_response_that_breaks_off_is_not_kept():
    """There is nothing that could be relayed."""
    with pytest.raises(UpstreamProtocolError):
        await keep(Response(503, [], b"a", UpstreamProtocolError("cut")), 10)


@pytest.mark.parametrize("filtered", [False, True], ids=["generator", "filter"])
async def test_what_a_cancelled_read_has_ended_does_not_look_complete(filtered):
    """Whoever reads on learns that something is missing."""
    waiting = asyncio.Event()

    async def chunks():
        yield b"abc"
        waiting.set()
        await asyncio.Event().wait()

    exchange = make_exchange()
    body = IteratedBody(exchange, chunks())
    if filtered:
        facts = StreamFacts(side="request", route="r", method="PUT", status=None, headers={})
        body = FilteredBody(Stream(exchange, body.read, (), (passing,), facts))
    assert b"abc" == await body.read()
    reading = asyncio.create_task(body.read())
    await waiting.wait()
    reading.cancel()
    await asyncio.wait([reading])

    with pytest.raises(UpstreamProtocolError, match="content was lost"):
        await body.read()
    exchange.end()


@by_chunk
async def passing(chunks):
    """Change nothing."""
    async for chunk in chunks:
        yield chunk
