"""One exchange: its record, its time-outs, and the watch for a client that leaves."""

import asyncio

import pytest

from proxyroutes._serve.body import ReceivedBody
from proxyroutes._serve.exchange import ClientLeft
from proxyroutes.exceptions import ClientRequestError, Side, Stage, UpstreamTimeoutError
from proxyroutes.settings import Timeouts
from proxyroutes.testing import ManualClock
from tests.unit.serve.scripted import LEFT, Server, make_exchange, piece, turns

LIMITS = Timeouts(connect=1.0, first_byte=2.0, idle=3.0)
PATIENT = Timeouts(connect=None, first_byte=None, idle=None)


def at_stage(stage, timeouts=LIMITS):
    """An exchange whose attempt has come to a stage."""
    exchange = make_exchange(timeouts=timeouts)
    attempt = exchange.begin_attempt("http://up.test")
    if stage is not Stage.CONNECT:
        attempt.sent = True
        attempt.enter(stage)
    return exchange, attempt


# The record.


async def test_an_exchange_is_swept_until_it_ends():
    """It enters itself, and takes itself out."""
    exchange = make_exchange()
    sweeper = exchange._sweeper
    before = len(sweeper)
    exchange.end()

    assert (1, 0) == (before, len(sweeper))
    await sweeper.aclose()


@pytest.mark.requirement("R-50")
async def test_observers_get_the_record_once():
    """A second end does nothing."""
    seen = []
    exchange = make_exchange(None, seen.append)
    exchange.end()
    exchange.end()

    assert [exchange] == seen
    assert exchange.ended >= exchange.started > 0.0


@pytest.mark.requirement("R-50")
async def test_an_observer_that_fails_does_not_keep_the_record_from_the_others(caplog):
    """Its exception is logged."""
    seen = []

    def fail(record):
        raise ValueError("mistake")

    make_exchange(None, fail, seen.append).end()

    assert 1 == len(seen)
    assert "an observer of exchanges failed" in caplog.text


async def test_attempts_are_counted_and_the_last_destination_is_kept():
    """Each has facts of its own."""
    exchange = make_exchange()
    first = exchange.begin_attempt("http://a")
    second = exchange.begin_attempt("http://b")

    assert (2, "http://b", second) == (exchange.attempts, exchange.destination, exchange.attempt)
    assert first is not second


async def test_the_time_of_the_head_is_noted():
    """On the loop's clock."""
    exchange = make_exchange()
    exchange.mark_head()

    assert exchange.head >= exchange.started


# Time-outs.


@pytest.mark.requirement("R-10")
@pytest.mark.parametrize(
    ("stage", "limit", "name"),
    [
        (Stage.CONNECT, 1.0, "connect"),
        (Stage.RESPONSE_HEAD, 2.0, "first_byte"),
        (Stage.REQUEST_BODY, 3.0, "idle"),
        (Stage.RESPONSE_BODY, 3.0, "idle"),
    ],
)
async def test_each_stage_has_its_time_out(stage, limit, name):
    """It counts from the last progress, and not a moment earlier."""
    exchange, attempt = at_stage(stage)
    exchange.tick(10.0)
    exchange.tick(10.0 + limit - 0.01)
    before = exchange.interruption
    exchange.tick(10.0 + limit)
    error = exchange.interruption

    assert before is None
    assert isinstance(error, UpstreamTimeoutError)
    assert f"{name} time-out after {limit} s" == error.detail
    assert (stage, Side.UPSTREAM, attempt.sent) == (error.stage, error.side, error.sent)


@pytest.mark.requirement("E-04")
@pytest.mark.requirement("R-12")
@pytest.mark.parametrize("what", ["request", "response", "attempt", "stage"])
async def test_progress_in_either_direction_starts_the_time_anew(what):
    """A stream may last for days."""
    exchange, attempt = at_stage(Stage.RESPONSE_BODY)
    for second in range(100):
        exchange.tick(second * 2.9)
        if what == "request":
            exchange.request_bytes += 1
        elif what == "response":
            exchange.response_bytes += 1
        elif what == "attempt":
            attempt.progress += 1
        else:
            attempt.enter(Stage.RESPONSE_BODY)

    assert exchange.interruption is None


async def test_no_time_out_fires_where_none_is_set():
    """None waits for ever."""
    for stage in (Stage.CONNECT, Stage.RESPONSE_HEAD, Stage.RESPONSE_BODY):
        exchange, _ = at_stage(stage, PATIENT)
        exchange.tick(0.0)
        exchange.tick(1e9)

        assert exchange.interruption is None


async def test_time_before_the_first_attempt_belongs_to_no_stage():
    """Only the total counts there."""
    exchange = make_exchange(timeouts=LIMITS)
    exchange.tick(0.0)
    exchange.tick(100.0)

    assert exchange.interruption is None


@pytest.mark.requirement("H-47")
async def test_a_client_that_stalls_its_upload_is_blamed_with_408():
    """The upstream waits as long as the gateway does."""
    exchange, _ = at_stage(Stage.REQUEST_BODY)
    exchange.client_stalls = True
    exchange.tick(0.0)
    exchange.tick(3.0)
    error = exchange.interruption

    assert isinstance(error, ClientRequestError)
    assert (408, Stage.REQUEST_BODY, Side.CLIENT) == (error.status_code, error.stage, error.side)


async def test_a_client_that_stalls_its_response_is_blamed():
    """There is no status left to say it with."""
    exchange, _ = at_stage(Stage.RESPONSE_BODY)
    exchange.client_stalls = True
    exchange.tick(0.0)
    exchange.tick(3.0)
    error = exchange.interruption

    assert (Stage.RESPONSE_BODY, Side.CLIENT) == (error.stage, error.side)


@pytest.mark.requirement("R-11")
@pytest.mark.parametrize("attempted", [False, True])
async def test_the_total_time_ends_any_stage(attempted):
    """And every further attempt."""
    exchange = make_exchange(timeouts=Timeouts(total=60.0))
    if attempted:
        exchange.begin_attempt("http://up.test")
    exchange.started -= 59.0
    exchange.tick(0.0)
    before = (exchange.interruption, exchange.expired)
    exchange.started -= 1.0
    exchange.tick(0.0)
    error = exchange.interruption

    assert (None, False) == before
    assert exchange.expired
    assert ("total time-out after 60.0 s", Stage.CONNECT if attempted else Stage.SELECT) == (
        error.detail,
        error.stage,
    )


# Interruption.


async def waits(exchange, waiting, ended):
    """Wait the way that an attempt does, and give what settled it."""
    exchange.attach()
    exchange.enter()
    waiting.set()
    try:
        await ended.wait()
    except asyncio.CancelledError:
        exchange.leave()
        reason = exchange.settle()
        if reason is None:
            raise
        return reason
    exchange.leave()
    return None


async def test_an_interruption_ends_the_wait_with_its_reason():
    """The task is as if it had never been cancelled."""
    exchange, waiting = make_exchange(), asyncio.Event()
    task = asyncio.create_task(waits(exchange, waiting, asyncio.Event()))
    await waiting.wait()
    left = ClientLeft()
    exchange.interrupt(left)

    assert left is await task
    assert 0 == task.cancelling()


async def test_the_first_interruption_counts():
    """What comes later changes nothing."""
    exchange = make_exchange()
    first = ClientLeft()
    exchange.interrupt(first)
    exchange.interrupt(UpstreamTimeoutError("late"))

    assert first is exchange.interruption


async def test_a_client_that_left_behind_a_time_out_is_not_forgotten():
    """The time-out may be mended by another attempt; that nobody waits for it cannot."""
    exchange = make_exchange()
    exchange.interrupt(UpstreamTimeoutError("late"))
    exchange.interrupt(ClientLeft())
    exchange.resume()

    with pytest.raises(ClientLeft):
        exchange.enter()


async def test_an_interruption_before_the_wait_is_raised_at_its_begin():
    """No task is cancelled that does other things."""
    exchange = make_exchange()
    left = ClientLeft()
    exchange.interrupt(left)

    with pytest.raises(ClientLeft) as caught:
        exchange.enter()

    assert left is caught.value
    assert 0 == asyncio.current_task().cancelling()


async def test_an_interruption_after_the_wait_cancels_nobody():
    """The task goes on to other things."""
    exchange = make_exchange()
    exchange.enter()
    exchange.leave()
    exchange.interrupt(ClientLeft())
    await asyncio.sleep(0)

    assert 0 == asyncio.current_task().cancelling()


async def test_an_interruption_from_the_task_itself_does_not_cancel_it():
    """Who finds the reason raises it, and has to clean up undisturbed."""
    exchange = make_exchange()
    exchange.enter()
    exchange.interrupt(ClientLeft())
    await asyncio.sleep(0)

    assert 0 == asyncio.current_task().cancelling()


async def test_a_cancellation_from_outside_stays_one():
    """It was not ours to settle."""
    exchange, waiting = make_exchange(), asyncio.Event()
    task = asyncio.create_task(waits(exchange, waiting, asyncio.Event()))
    await waiting.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_a_cancellation_from_outside_wins_over_an_interruption():
    """A server that stops its tasks is obeyed."""
    exchange, waiting = make_exchange(), asyncio.Event()
    task = asyncio.create_task(waits(exchange, waiting, asyncio.Event()))
    await waiting.wait()
    exchange.interrupt(ClientLeft())
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_another_attempt_begins_with_a_clean_slate():
    """What a further destination mends is no reason any more."""
    exchange, _ = at_stage(Stage.CONNECT)
    exchange.interrupt(UpstreamTimeoutError("connect"))
    exchange.resume()
    exchange.enter()
    exchange.leave()
    exchange.tick(100.0)

    assert exchange.interruption is None


async def test_an_exchange_without_a_task_cannot_settle():
    """Nobody attached it."""
    exchange = make_exchange()
    exchange._task = None
    exchange.enter()
    exchange.interrupt(ClientLeft())

    assert exchange.settle() is None


# The watch.


async def watched(server, *, may_watch=True):
    """An exchange that has waited for longer than a tick."""
    exchange = make_exchange(server)
    exchange.may_watch = may_watch
    exchange.tick(0.0)
    exchange.tick(0.0)
    await turns()
    return exchange


async def finish(exchange):
    """End an exchange and its watch."""
    exchange.end()
    await exchange._sweeper.aclose()


async def test_a_fast_exchange_is_not_watched():
    """The first tick only notes that it waits."""
    server = Server()
    exchange = make_exchange(server)
    exchange.may_watch = True
    exchange.tick(0.0)
    await turns()

    assert not server.receiving.is_set()
    await finish(exchange)


async def test_a_client_is_not_watched_while_others_read_its_channel():
    """They hear it leave."""
    server = Server()
    exchange = await watched(server, may_watch=False)

    assert not server.receiving.is_set()
    await finish(exchange)


async def test_a_client_that_leaves_interrupts_the_exchange():
    """Whatever else it had sent."""
    exchange = await watched(Server(piece(b"late"), LEFT))

    assert isinstance(exchange.interruption, ClientLeft)
    await finish(exchange)


async def test_a_channel_that_fails_has_no_client_behind_it():
    """A server that breaks is a client that is gone."""
    exchange = await watched(Server(OSError("broken")))

    assert isinstance(exchange.interruption, ClientLeft)
    await finish(exchange)


@pytest.mark.requirement("E-03")
async def test_a_client_is_listened_to_while_nobody_reads_its_content():
    """A transport that does not take the content would hear of nothing."""
    server = Server(LEFT)
    exchange = make_exchange(server)
    ReceivedBody(exchange, None, None)
    exchange.tick(0.0)
    exchange.tick(0.0)
    await turns()

    assert isinstance(exchange.interruption, ClientLeft)
    await finish(exchange)


async def test_nobody_listens_while_the_content_is_read():
    """Who reads hears more."""
    server = Server()
    exchange = make_exchange(server)
    reading = asyncio.create_task(ReceivedBody(exchange, None, None).read())
    await turns()
    exchange.tick(0.0)
    exchange.tick(0.0)
    await turns()

    assert {asyncio.current_task(), reading} == asyncio.all_tasks()
    reading.cancel()
    await finish(exchange)


async def test_listening_ends_with_the_exchange():
    """No task is left."""
    exchange = make_exchange(Server())
    ReceivedBody(exchange, None, None)
    for _ in range(3):
        exchange.tick(0.0)
    await turns()
    listening = len(asyncio.all_tasks())
    exchange.end()
    await turns()

    assert (2, 1) == (listening, len(asyncio.all_tasks()))
    await finish(exchange)


async def test_there_is_one_watch():
    """Further ticks start no other."""
    exchange = await watched(Server())
    exchange.tick(0.0)
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "proxyroutes-watch-route"]

    assert 1 == len(tasks)
    await finish(exchange)


async def test_the_watch_ends_with_the_exchange():
    """No task is left."""
    exchange = await watched(Server())
    exchange.end()
    await turns()

    assert {asyncio.current_task()} == asyncio.all_tasks()
    await finish(exchange)


async def test_a_sweeper_ticks_its_exchanges():
    """Time-outs fire without anybody's help but the clock's."""
    clock = ManualClock()
    exchange = make_exchange(timeouts=LIMITS, clock=clock)
    exchange.begin_attempt("http://up.test")
    waiting = asyncio.Event()
    task = asyncio.create_task(waits(exchange, waiting, asyncio.Event()))
    await waiting.wait()
    while not task.done():
        await clock.advance(0.5)
        await asyncio.wait([task], timeout=0.01)

    assert "connect time-out after 1.0 s" == (await task).detail
    await finish(exchange)
