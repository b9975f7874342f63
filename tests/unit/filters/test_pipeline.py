"""A content on its way: what is closed, and when."""

import asyncio

from proxyroutes.filters import StreamFacts
from proxyroutes.filters._filter import to_filters
from proxyroutes.filters._pipeline import Pipeline
from tests.unit.filters.support import read_all, same
from tests.unit.serve.scripted import Response, turns

FACTS = StreamFacts(side="response", route="r", method="GET", status=200, headers={})


def make_pipeline(*items, filters=()):
    """A pipeline over these chunks; an event among them is waited for."""
    return Pipeline(Response(200, None, *items).read, (), to_filters(filters), FACTS)


async def test_a_stage_that_fails_while_it_is_closed_is_logged(caplog):
    """The others are closed all the same."""
    closed = []

    async def fails(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            raise KeyError("mine")

    async def holds(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            closed.append(True)

    stream = make_pipeline(b"a", b"b", filters=[holds, fails])
    await stream.read()
    await stream.aclose()

    assert [True] == closed
    assert "failed while it was closed" in caplog.text


async def test_a_stream_is_closed_once_nobody_reads():
    """A read that is under way is not interrupted by another task."""
    go = asyncio.Event()
    stream = make_pipeline(go, b"a", filters=[same])
    reading = asyncio.ensure_future(stream.read())
    await turns()
    closing = asyncio.ensure_future(stream.aclose())
    await turns()

    assert not closing.done()
    go.set()
    assert b"a" == await reading
    await closing


async def test_an_iterator_without_aclose_is_a_filter():
    """Not everything is a generator."""

    class Twice:
        def __init__(self, chunks):
            self._chunks = chunks

        def __aiter__(self):
            return self

        async def __anext__(self):
            return 2 * await anext(self._chunks)

    stream = make_pipeline(b"a", filters=[Twice])

    assert [b"aa"] == await read_all(stream)
    await stream.aclose()
