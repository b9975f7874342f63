"""``_serve/steps/content.py``."""

import asyncio

import pytest

from proxyroutes._serve.steps.content import ClientChannel

LEFT = {"type": "http.disconnect"}


def part(body, *, more=True):
    """One event of a request's content."""
    return {"type": "http.request", "body": body, "more_body": more}


class Source:
    """A receive channel that gives what it is fed, and counts who reads it at once."""

    def __init__(self):
        self.events = asyncio.Queue()
        self.readers = self.most_readers = 0

    def feed(self, *events):
        """Let these come."""
        for event in events:
            self.events.put_nowait(event)

    async def receive(self):
        """The next event."""
        self.readers += 1
        self.most_readers = max(self.readers, self.most_readers)
        try:
            return await self.events.get()
        finally:
            self.readers -= 1


async def settle():
    """Let every task go on until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def source():
    """A channel that is empty."""
    return Source()


async def test_one_reader_reads_at_a_time(source):
    """Those who watch wait for the one that reads."""
    channel = ClientChannel(source.receive)
    tasks = [asyncio.create_task(channel.watch()) for _ in range(3)]
    tasks.append(asyncio.create_task(channel.read()))
    await settle()
    source.feed(part(b"a"), LEFT)
    results = await asyncio.gather(*tasks)

    assert ([LEFT, LEFT, LEFT, part(b"a")], 1) == (results, source.most_readers)


async def test_what_comes_while_one_watches_is_kept_in_order(source):
    """Nothing is stolen from who reads later."""
    channel = ClientChannel(source.receive)
    watch = asyncio.create_task(channel.watch())
    source.feed(part(b"a"), part(b"b"), part(b"c", more=False))
    await settle()
    read = [(await channel.read())["body"] for _ in range(3)]
    source.feed(LEFT)

    assert ([b"a", b"b", b"c"], LEFT, LEFT) == (read, await watch, await channel.read())


async def test_who_watches_keeps_no_more_than_a_little(source):
    """The client is held back by what nobody reads; room is made by reading."""
    channel = ClientChannel(source.receive)
    watch = asyncio.create_task(channel.watch())
    source.feed(part(b"x" * 65_536), part(b"y"), LEFT)
    await settle()
    before = source.events.qsize()
    await channel.read()

    assert (2, LEFT) == (before, await watch)


async def test_another_one_takes_the_place_of_a_cancelled_reader(source):
    """Its event is not lost either."""
    channel = ClientChannel(source.receive)
    first, second = (asyncio.create_task(channel.watch()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    source.feed(LEFT)

    assert (LEFT, True, 1) == (await second, first.cancelled(), source.most_readers)


async def test_a_waiter_that_is_cancelled_is_forgotten(source):
    """Those that stay are still woken."""
    channel = ClientChannel(source.receive)
    first, second, third = (asyncio.create_task(channel.watch()) for _ in range(3))
    await settle()
    second.cancel()
    await settle()
    source.feed(LEFT)

    assert [LEFT, LEFT] == await asyncio.gather(first, third)


async def test_a_channel_that_fails_fails_for_everybody():
    """Nobody waits for ever."""

    async def broken():
        raise OSError("gone")

    channel = ClientChannel(broken)
    results = await asyncio.gather(channel.read(), channel.watch(), return_exceptions=True)

    assert [OSError, OSError] == [type(result) for result in results]


def test_the_servers_own_fields_are_still_found():
    """They are kept at the object behind the channel."""

    class Cycle:
        default_headers = ((b"server", b"s"),)

        async def receive(self): ...

    assert Cycle.default_headers == ClientChannel(Cycle().receive).default_headers
