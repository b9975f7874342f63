"""The stream behind the status page."""

import asyncio
import signal

import pytest

from proxyroutes import UpstreamPool
from proxyroutes._operate.status import feed as feed_module
from proxyroutes._operate.status.feed import EventStream, Feed
from proxyroutes.testing import ManualClock
from tests.unit.operate.status.support import make_board


class Viewer:
    """The server's side of one stream."""

    def __init__(self, feed, last_event_id=None):
        self.sent = []
        self.got = asyncio.Event()
        self.gone = asyncio.Event()
        self.blocked = False
        self.slow = None
        self.sending = asyncio.Event()
        stream = EventStream(feed, last_event_id)
        self.task = asyncio.create_task(stream({}, self.receive, self.send))

    async def receive(self):
        """Say nothing until the client has left."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        """Take a message; a client that does not read lets one wait for ever."""
        if self.blocked:
            await asyncio.Event().wait()
        if self.slow is not None:
            self.sending.set()
            await self.slow.wait()
        self.sent.append(message)
        self.got.set()

    async def next(self, count):
        """Wait for so many messages, the head included."""
        while len(self.sent) < count:
            self.got.clear()
            await self.got.wait()
        return self.sent[count - 1]

    @property
    def events(self):
        """Names of the events that were sent."""
        text = b"".join(one["body"] for one in self.sent[1:]).decode()
        return [line[7:] for line in text.splitlines() if line.startswith("event: ")]


@pytest.fixture
def clock():
    """The feed's clock."""
    return ManualClock()


@pytest.fixture
async def feed(clock):
    """A feed over one pool; the test ends by asserting that nothing of it is left."""
    feed = Feed(make_board(UpstreamPool("users", ["http://a:1"])), clock, lambda: False)
    feed.start()
    yield feed
    await feed.aclose()
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)

    assert 0 == feed.viewers
    assert 1 == len(asyncio.all_tasks())


async def test_a_viewer_gets_a_snapshot_and_then_ticks(feed, clock):
    """One for each second."""
    viewer = Viewer(feed)
    head = (await viewer.next(1))["headers"]
    await viewer.next(2)
    for _ in range(3):
        await clock.advance(1.0)
    await viewer.next(5)

    assert (b"content-type", b"text/event-stream; charset=utf-8") in head
    assert b"content-length" not in dict(head)
    # The first tick that anybody sees has nothing to be compared with.
    assert ["snapshot", "snapshot", "tick", "tick"] == viewer.events


async def test_nobody_watching_costs_no_ticks(feed, clock):
    """They are not made, and what changed is not collected."""
    await clock.advance(5.0)

    assert 0 == len(feed._ticks)
    assert 6 == feed.board.number


async def test_a_viewer_that_leaves_ends_its_stream(feed):
    """At once, and its task with it."""
    viewer = Viewer(feed)
    await viewer.next(2)
    assert 1 == feed.viewers
    viewer.gone.set()
    await viewer.task

    assert 0 == feed.viewers


async def test_a_viewer_that_is_cancelled_ends_its_stream(feed):
    """As a server does it that has waited for long enough."""
    viewer = Viewer(feed)
    await viewer.next(2)
    viewer.task.cancel()
    await asyncio.wait({viewer.task})

    assert viewer.task.cancelled()
    assert 0 == feed.viewers


async def test_the_end_of_the_feed_ends_every_stream(feed):
    """In good order."""
    viewers = [Viewer(feed), Viewer(feed)]
    for viewer in viewers:
        await viewer.next(2)
    await feed.aclose()
    for viewer in viewers:
        await viewer.task

    assert [False, False] == [viewer.sent[-1]["more_body"] for viewer in viewers]


async def test_a_server_that_stops_ends_every_stream(clock):
    """It waits for open streams before it tells the lifespan, so it is asked."""
    stopping = []
    feed = Feed(make_board(), clock, lambda: bool(stopping))
    feed.start()
    viewer = Viewer(feed)
    await viewer.next(2)
    stopping.append(True)
    await clock.advance(0.3)
    await viewer.task

    assert not viewer.sent[-1]["more_body"]
    await feed.aclose()


async def test_a_viewer_that_does_not_read_is_dropped(feed, clock, monkeypatch):
    """After a while; nothing is collected for it meanwhile."""
    monkeypatch.setattr(feed_module, "_STALL", 0.01)
    viewer = Viewer(feed)
    await viewer.next(2)
    viewer.blocked = True
    await clock.advance(1.0)
    await viewer.task

    assert viewer.sent[-1]["more_body"]


async def test_a_tick_while_another_is_sent_is_not_lost(feed, clock):
    """It follows at once, and does not wait for the next one."""
    viewer = Viewer(feed)
    await viewer.next(2)
    await clock.advance(1.0)
    await viewer.next(3)
    viewer.slow = asyncio.Event()
    feed.tick()
    await viewer.sending.wait()
    feed.tick()
    viewer.slow.set()
    await viewer.next(5)

    assert ["snapshot", "snapshot", "tick", "tick"] == viewer.events


def test_whoever_has_seen_all_gets_nothing():
    """Until the next tick."""
    feed = Feed(make_board(), ManualClock())

    assert (0, b"") == feed.after(0)


async def test_a_reconnected_viewer_goes_on_where_it_was(feed, clock):
    """With the ticks that it has missed, if they are still there."""
    viewer = Viewer(feed)
    await viewer.next(2)
    for _ in range(4):
        await clock.advance(1.0)
    await viewer.next(6)
    number = feed.board.number
    known = f"{feed.board.identity}-{number - 2}"
    again = Viewer(feed, known)
    await again.next(2)

    assert ["tick", "tick"] == again.events


@pytest.mark.parametrize(
    "last",
    ["", "other-3", "{identity}-", "{identity}-x", "{identity}-²", "{identity}-999999", "3"],
)
async def test_whoever_cannot_go_on_begins_anew(feed, clock, last):
    """An unknown process, a number that never was, what is no number."""
    watching = Viewer(feed)
    await watching.next(2)
    await clock.advance(1.0)
    viewer = Viewer(feed, last.format(identity=feed.board.identity))
    await viewer.next(2)

    assert ["snapshot"] == viewer.events


async def test_whoever_is_too_far_behind_begins_anew(feed, clock):
    """Only so many ticks are kept, whoever reads slowly."""
    viewer = Viewer(feed)
    await viewer.next(2)
    for _ in range(20):
        await clock.advance(1.0)

    assert b"event: snapshot" in feed.after(1)[1]
    assert 16 == len(feed._ticks)


def test_a_stopping_server_is_known_by_its_signal_handler(monkeypatch):
    """The handler of uvicorn is a method of the server; any other says nothing."""

    class Server:
        should_exit = False

        def handle_exit(self, number, frame):
            pass

    server = Server()
    monkeypatch.setattr(signal, "getsignal", lambda number: server.handle_exit)
    running = feed_module._server_is_stopping()
    server.should_exit = True
    stopping = feed_module._server_is_stopping()
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)

    assert (False, True, False) == (running, stopping, feed_module._server_is_stopping())


async def test_a_tick_that_fails_is_not_the_last_one(feed, clock, monkeypatch, caplog):
    """Whoever watches sees what comes after it; what is wrong is logged once, and not every second."""
    viewer = Viewer(feed)
    await viewer.next(2)
    with monkeypatch.context() as broken:
        broken.setattr(type(feed.board), "look", lambda board: 1 / 0)
        for _ in range(3):
            await clock.advance(1.0)
    await clock.advance(1.0)

    assert not feed._task.done()

    await viewer.next(3)
    failures = [one for one in caplog.records if one.name == "proxyroutes.status"]

    assert ["snapshot", "snapshot"] == viewer.events
    assert [("a tick of the status page failed", ZeroDivisionError)] == [
        (one.getMessage(), one.exc_info[0]) for one in failures
    ]
