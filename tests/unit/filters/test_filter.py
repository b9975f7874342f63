"""Filters as values: what they are made of, and how a stream runs through one."""

import pytest

from proxyroutes.filters import (
    ServerSentEvent,
    StreamFacts,
    StreamFilter,
    by_chunk,
    by_event,
    by_line,
    by_record,
)
from proxyroutes.filters._filter import to_filters

FACTS = StreamFacts(side="response", route="r", method="GET", status=200, headers={})


async def stream(*chunks):
    """Chunks as they come."""
    for chunk in chunks:
        yield chunk


async def run(one, *chunks):
    """What comes out of a filter."""
    stages = one.open(stream(*chunks), FACTS)
    return [piece async for piece in stages[-1]]


async def test_a_filter_of_chunks_gets_them_as_they_come():
    """Nothing is put together or taken apart."""

    @by_chunk
    async def upper(chunks):
        async for chunk in chunks:
            yield chunk.upper()

    assert [b"A", b"BC"] == await run(upper, b"a", b"bc")


async def test_a_filter_of_lines_gets_whole_lines():
    """Each goes on by itself."""

    @by_line
    async def number(lines):
        count = 0
        async for line in lines:
            count += 1
            yield f"{count} {line}"

    assert [b"1 a\n", b"2 bc\n", b"3 d\n", b"4 e"] == await run(number, b"a\nb", b"c\nd\ne")


async def test_a_filter_of_events_sends_each_on_at_once():
    """Two events that have come together are two pieces."""

    @by_event
    async def loud(events):
        async for event in events:
            event.data = event.data.upper()
            yield event

    assert [b"data: A\n\n", b"data: B\n\n"] == await run(loud, b"data: a\n\ndata: b\n\n")


async def test_a_filter_of_records_drops_and_adds():
    """It yields as many as it likes."""

    @by_record(max_bytes=100)
    async def double(records):
        async for record in records:
            if record:
                yield record
                yield {"again": record}

    assert b'1\n{"again":1}\n2\n{"again":2}\n' == b"".join(await run(double, b"1\n0\n", b"2"))


async def test_a_filter_may_know_its_message():
    """A second parameter is given the facts."""

    async def tell(chunks, facts):
        async for chunk in chunks:
            yield chunk + facts.side.encode()

    assert [b"a response"] == await run(StreamFilter(tell), b"a ")


async def test_what_a_filter_has_yielded_is_not_held_back():
    """It is sent on although the filter drops what has come with it."""

    @by_record
    async def odd(records):
        async for record in records:
            if record % 2:
                yield record

    async def open_end():
        yield b"1\n2\n"
        raise AssertionError

    stages = odd.open(open_end(), FACTS)

    assert b"1\n" == await anext(stages[-1])


@pytest.mark.parametrize(
    ("decorator", "media_type", "fits"),
    [
        (by_chunk, "anything/else", True),
        (by_line, "", True),
        (by_event, "text/event-stream", True),
        (by_event, "application/json", False),
        (by_record, "application/x-ndjson", True),
        (by_record, "application/json", False),
    ],
)
def test_a_filter_is_meant_for_some_contents(decorator, media_type, fits):
    """Events and records are looked for where they are."""

    async def same(items):
        async for item in items:
            yield item

    assert fits == decorator(same).fits(media_type)


def test_media_types_are_given():
    """Without parameters; case does not count."""

    @by_event(media_types=["Text/X-Events"])
    async def same(items):
        async for item in items:
            yield item

    assert same.fits("text/x-events")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: by_line(max_bytes=0),
        lambda: by_event(max_bytes=-1),
        lambda: by_record(max_bytes=0),
    ],
)
def test_a_cap_is_at_least_one_byte(bad):
    """Nothing would pass."""
    with pytest.raises(ValueError, match="max_bytes"):
        bad()


@pytest.mark.parametrize(
    "bad",
    [
        lambda: by_chunk(media_types="text/plain"),
        lambda: StreamFilter(3),
        lambda: StreamFilter(lambda: None),
        lambda: StreamFilter(lambda a, b, c: None),
        lambda: StreamFilter(lambda a, *, b: None),
        lambda: to_filters("x"),
        lambda: to_filters(StreamFilter(stream)),
        lambda: to_filters(3),
    ],
    ids=["lone-type", "no-function", "none", "three", "keyword", "text", "lone-filter", "number"],
)
def test_what_cannot_be_a_filter_is_refused(bad):
    """It raises where it is written."""
    with pytest.raises(TypeError):
        bad()


async def test_a_function_that_gives_no_iterator_is_refused():
    """A coroutine function is not a generator function."""
    with pytest.raises(TypeError, match="async generator"):
        StreamFilter(lambda chunks: None).open(stream(), FACTS)


def test_a_bare_function_is_a_filter_of_chunks():
    """Nothing has to be decorated."""
    (one,) = to_filters([stream_of_chunks])

    assert (stream_of_chunks, None) == (one.function, one.framing)


async def stream_of_chunks(chunks):
    """Pass everything."""
    async for chunk in chunks:
        yield chunk


async def test_a_callable_without_signature_is_given_the_stream():
    """What cannot be looked into is taken at its word."""

    class Opaque:
        __signature__ = "none"

        def __call__(self, chunks):
            return chunks

    assert [b"a"] == await run(StreamFilter(Opaque()), b"a")


def test_an_event_is_a_value():
    """Two with the same parts are equal, whatever their bytes."""
    assert ServerSentEvent("a") == ServerSentEvent.parse(b"data:a\n\n")
