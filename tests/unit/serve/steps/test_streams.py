"""The content of one message on its way through filters: failures, cancellation, and what is let go of."""

import asyncio
import gzip

import pytest

from proxyroutes._serve.exchange import ClientLeft
from proxyroutes._serve.steps.streams import (
    EAGER_BYTES,
    FilteredBody,
    FilteredResponse,
    Stream,
)
from proxyroutes.exceptions import (
    ClientRequestError,
    FilterError,
    Side,
    UpstreamProtocolError,
)
from proxyroutes.filters import StreamFacts
from proxyroutes.filters._filter import to_filters
from tests.unit.filters.support import read_all, same
from tests.unit.serve.scripted import Response, make_exchange, turns

RESPONSE = StreamFacts(side="response", route="r", method="GET", status=200, headers={})
REQUEST = StreamFacts(side="request", route="r", method="POST", status=None, headers={})


def source(*items):
    """A content's own ``read``: an exception is raised, an event waited for."""
    return Response(200, None, *items).read


def make_stream(*items, filters=(), facts=RESPONSE, codings=(), exchange=None, limit=None):
    """A stream over these chunks."""
    return Stream(
        exchange or make_exchange(),
        source(*items),
        codings,
        to_filters(filters),
        facts,
        limit,
    )


async def upper(chunks):
    """Change everything."""
    async for chunk in chunks:
        yield chunk.upper()


async def test_a_stream_ends_once():
    """After its end there is its end."""
    stream = make_stream(b"a", b"b", filters=[upper])

    assert [b"A", b"B"] == await read_all(stream)
    assert b"" == await stream.read()


async def test_empty_pieces_are_passed_over():
    """An empty one would be the end."""

    async def sparse(chunks):
        async for chunk in chunks:
            yield b""
            yield bytearray(chunk)
        yield b""

    assert [b"a"] == await read_all(make_stream(b"a", filters=[sparse]))


async def test_a_stream_without_filters_is_decoded():
    """Decoders come first."""
    coded = gzip.compress(b"abc")
    stream = make_stream(coded[:5], coded[5:], filters=[same], codings=[b"gzip"])

    assert b"abc" == b"".join(await read_all(stream))


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamProtocolError("cut"),
        ClientLeft(),
        ClientRequestError("too large", status_code=413),
    ],
    ids=["upstream", "left", "request"],
)
@pytest.mark.parametrize("way", ["passes", "swallows", "replaces"])
async def test_the_sources_failure_is_the_streams(failure, way):
    """Whatever a filter makes of it."""

    async def handles(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            if way == "passes":
                raise
            if way == "replaces":
                raise KeyError("mine") from error

    stream = make_stream(b"a", failure, filters=[handles])

    assert b"a" == await stream.read()
    with pytest.raises(type(failure)) as caught:
        await stream.read()
    assert failure is caught.value


async def test_a_filters_own_failure_is_nobody_elses():
    """Neither the client nor the upstream is to blame."""

    async def fails(chunks):
        async for _ in chunks:
            raise KeyError("mine")
        yield b""

    with pytest.raises(FilterError) as caught:
        await make_stream(b"a", filters=[fails]).read()

    assert (502, Side.GATEWAY) == (caught.value.status_code, caught.value.side)
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_filter_may_raise_an_error_of_the_gateway():
    """It is not wrapped."""

    async def refuses(chunks):
        raise ClientRequestError("no", status_code=422)
        yield b""

    with pytest.raises(ClientRequestError) as caught:
        await make_stream(b"a", filters=[refuses], facts=REQUEST).read()

    assert (422, None) == (caught.value.status_code, caught.value.__cause__)


async def test_a_filter_may_refuse_before_it_begins():
    """By the facts alone; a function that gives an iterator is called at once."""

    def refuses(chunks, facts):
        raise ClientRequestError(f"no {facts.method}", status_code=422)

    with pytest.raises(ClientRequestError) as caught:
        make_stream(b"a", filters=[refuses], facts=REQUEST)

    assert (422, "no POST") == (caught.value.status_code, caught.value.detail)


@pytest.mark.parametrize("content", [b"plain", gzip.compress(b"abc")[:-1]], ids=["plain", "cut"])
async def test_a_broken_coding_is_the_senders_failure(content):
    """Also where a filter would end as if nothing had happened."""

    async def swallows(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except Exception:
            yield b"fine"

    stream = make_stream(content, filters=[swallows], codings=[b"gzip"])
    with pytest.raises(UpstreamProtocolError):
        await read_all(stream)


async def test_the_limit_is_the_decoded_contents():
    """It is what the route allows its client."""
    stream = make_stream(
        gzip.compress(bytes(101)), filters=[same], codings=[b"gzip"], facts=REQUEST, limit=100
    )
    with pytest.raises(ClientRequestError) as caught:
        await read_all(stream)

    assert 413 == caught.value.status_code


async def test_cancelling_a_read_cancels_the_source():
    """The filters end where they stand, and nothing is read afterwards."""
    never = asyncio.Event()
    ended = []

    async def holds(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            ended.append(True)

    stream = make_stream(never, filters=[holds])
    reading = asyncio.ensure_future(stream.read())
    await turns()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert [True] == ended


async def test_the_end_of_an_exchange_closes_every_stage():
    """The last one first, each of them, in a task that somebody owns."""
    order = []

    def closing(name):
        async def holds(chunks):
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                await asyncio.sleep(0)
                order.append(name)

        return holds

    exchange = make_exchange()
    stream = make_stream(b"a", b"b", filters=[closing("1"), closing("2")], exchange=exchange)
    await stream.read()
    exchange.end()
    await turns()

    assert ["2", "1"] == order
    assert b"" == await stream.read()


def test_a_stream_whose_loop_is_gone_is_left_to_it():
    """Nothing can be awaited any more."""
    kept = []

    async def begin():
        exchange = make_exchange()
        kept.extend((exchange, make_stream(b"a", filters=[same], exchange=exchange)))

    asyncio.run(begin())
    exchange, stream = kept
    stream.release(exchange)


# Bodies and responses.


async def test_a_filtered_body_has_no_length():
    """It is sent in chunks."""
    body = FilteredBody(make_stream(b"abc", filters=[same]))

    assert (None, b"abc") == (body.content_length, await body.read())


def filtered(upstream, *filters):
    """A response whose content is filtered."""
    stream = Stream(make_exchange(), upstream.read, (), to_filters(filters or [upper]), RESPONSE)
    return FilteredResponse(upstream, stream, [])


async def test_a_short_content_that_is_here_is_filtered_at_once():
    """Its length is known before the head is sent."""
    response = filtered(Response(200, None, b"a", b"b", complete=True))
    await response.begin()

    assert (True, b"AB", b"AB", b"") == (
        response.complete,
        response.here,
        response.take(),
        await response.read(),
    )


async def test_a_content_that_is_not_here_is_not_waited_for():
    """Its head is sent before it comes."""
    response = filtered(Response(200, None, asyncio.Event()))
    await response.begin()

    assert (False, b"") == (response.complete, response.here)


async def test_a_content_that_grows_is_a_stream_again():
    """Memory is bounded, whatever a filter makes of it."""

    async def grows(chunks):
        async for chunk in chunks:
            for _ in range(10):
                yield chunk * (EAGER_BYTES // 2)

    response = filtered(Response(200, None, b"ab", complete=True), grows)
    await response.begin()
    first = await response.read()
    rest = 0
    while piece := await response.read():
        rest += len(piece)

    assert (False, EAGER_BYTES, 9 * EAGER_BYTES) == (response.complete, len(first), rest)


async def test_what_is_not_content_is_the_upstreams():
    """Status, reason, trailers and how it was parsed."""
    upstream = Response(201, None, strict=True)
    response = filtered(upstream)
    response.abort()

    assert (201, b"", [], True, 1) == (
        response.status,
        response.reason,
        response.trailers,
        response.strict,
        upstream.aborted,
    )
