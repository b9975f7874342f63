"""Hedging: the first good answer of two wins, and the other one is aborted at once."""

import asyncio

import pytest

from proxyroutes.exceptions import (
    NoDestinationError,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
)
from proxyroutes.policies import Hedge, Retry, RetryBudget
from proxyroutes.settings import Timeouts
from tests.unit.serve.scripted import (
    LEFT,
    Response,
    Server,
    assert_all_is_let_go,
    make_route,
    make_scope,
    piece,
    serve,
    turns,
)


class Slow:
    """An attempt that comes to something when it is told to."""

    def __init__(self):
        self.attempt = None
        self.cancelled = False
        self._outcome = asyncio.get_running_loop().create_future()

    def come_to(self, outcome):
        """Let it end."""
        self._outcome.set_result(outcome)

    async def __call__(self, body, attempt):
        """Wait."""
        self.attempt = attempt
        attempt.connected = attempt.sent = True
        attempt.enter(Stage.RESPONSE_HEAD)
        try:
            return await self._outcome
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def hedged(*outcomes, destinations=2, pool_retry=None, hedge=None, **route):
    """A route that asks a second destination after a second."""
    return make_route(
        *outcomes,
        destinations=destinations,
        pool_retry=pool_retry,
        hedge=hedge or Hedge(1.0),
        rules={"outliers": None},
        **route,
    )


async def start(route, scope=None, server=None):
    """Begin to serve a request."""
    server = server or Server()
    task = asyncio.create_task(serve(route, scope or make_scope(), server))
    await turns()
    return server, task


async def both_under_way(*, first=None, second=None, **keywords):
    """A request whose second attempt has begun."""
    first, second = first or Slow(), second or Slow()
    route = hedged(first, second, **keywords)
    server, task = await start(route)
    await route.clock.advance(1.0)
    assert 2 == len(route.transport.asked) == len(set(route.transport.asked))
    return route, first, second, server, task


async def end(route, task):
    """Nothing is left."""
    await asyncio.wait([task])
    await turns()
    assert_all_is_let_go(route)
    names = [one.get_name() for one in asyncio.all_tasks()]
    assert not [name for name in names if "hedge" in name]


async def test_a_fast_answer_needs_no_second_attempt():
    """Nobody else is asked."""
    route = hedged(Response(200, [], b"ok"))
    server, task = await start(route)
    await end(route, task)

    assert (200, 1, 0) == (server.status, route.records[0].attempts, route.clock.pending)


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_answer_wins(winner):
    """The other one is aborted at once, and counts against nobody."""
    route, *tries, server, task = await both_under_way()
    tries[winner].come_to(Response(200, [], b"ok"))
    await end(route, task)

    assert (200, b"ok", True) == (server.status, server.body, tries[1 - winner].cancelled)
    record = route.records[0]
    assert (2, route.transport.asked[winner], None, route.transport.asked) == (
        record.attempts,
        record.destination,
        record.error,
        [one.destination for one in record.tries],
    )
    assert [0] == list({one.in_flight for one in route.state.destinations})


async def test_both_answers_in_one_turn():
    """One is relayed, the other one let go of."""
    route, first, second, server, task = await both_under_way()
    loser = Response(200, [], b"2")
    first.come_to(Response(200, [], b"1"))
    second.come_to(loser)
    await end(route, task)

    assert (b"1", 1) == (server.body, loser.aborted)


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    "failure", [UpstreamProtocolError("x"), UpstreamConnectError("x")], ids=["broken", "refused"]
)
async def test_a_failure_waits_for_the_other_one(failing, failure):
    """And is charged to who has failed."""
    route, *tries, server, task = await both_under_way()
    charged = route.state.destinations[failing]
    charged.trust = 5
    tries[failing].come_to(failure)
    await turns()
    assert not task.done()
    tries[1 - failing].come_to(Response(200, [], b"ok"))
    await end(route, task)

    assert (200, 0) == (server.status, charged.trust)


async def test_two_failures_are_one():
    """The later one is answered; there is no third attempt."""
    route, first, second, server, task = await both_under_way(pool_retry=Retry(backoff=None))
    first.come_to(UpstreamProtocolError("1"))
    await turns()
    second.come_to(UpstreamProtocolError("2"))
    await end(route, task)

    assert (502, "2", 2) == (
        server.status,
        route.records[0].error.detail,
        route.records[0].attempts,
    )


async def test_a_status_that_is_asked_for_waits_for_the_other_one():
    """It is relayed where nothing better comes."""
    retry = Retry(on=[503], backoff=None)
    statuses = []
    for other in (Response(200), UpstreamProtocolError("x"), Response(503)):
        route, first, second, server, task = await both_under_way(pool_retry=retry)
        busy = Response(503, [], b"busy")
        first.come_to(busy)
        await turns()
        assert not task.done()
        second.come_to(other)
        await end(route, task)
        statuses.append(server.status)

    assert [200, 503, 503] == statuses


async def test_a_first_failure_before_its_time_is_tried_again_as_usual():
    """There is nothing to hedge any more."""
    route = hedged(
        UpstreamConnectError("x"), Response(200), destinations=2, pool_retry=Retry(backoff=None)
    )
    server, task = await start(route)
    await end(route, task)

    assert (200, 0) == (server.status, route.clock.pending)


@pytest.mark.parametrize(
    "scope",
    [
        make_scope("POST"),
        make_scope("PUT", b"/", (b"content-length", b"3")),
        make_scope("PATCH", b"/", (b"idempotency-key", b"k")),
    ],
    ids=["not-idempotent", "content", "key"],
)
async def test_only_idempotent_requests_without_content_are_hedged(scope):
    """Others may be done twice, or cannot be sent twice at a time."""
    slow = Slow()
    route = hedged(slow)
    _, task = await start(route, scope, Server(piece(b"abc", more=False)))
    await route.clock.advance(5.0)
    slow.come_to(Response(200))
    await end(route, task)

    assert 1 == route.records[0].attempts


@pytest.mark.parametrize(
    ("destinations", "hedge"),
    [(1, Hedge(1.0)), (2, Hedge(1.0, budget=RetryBudget(ratio=0.0, floor=0)))],
    ids=["nobody-else", "no-budget"],
)
async def test_there_may_be_nobody_to_ask(destinations, hedge):
    """Or the budget forbids it; the first attempt goes on."""
    slow = Slow()
    route = hedged(slow, destinations=destinations, hedge=hedge)
    server, task = await start(route)
    await route.clock.advance(5.0)
    slow.come_to(Response(200))
    await end(route, task)

    assert (200, 1) == (server.status, route.records[0].attempts)


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("how", ["leaves", "cancelled"])
async def test_an_ending_from_outside_lets_go_of_both(when, how):
    """With one under way and with two; nobody is blamed."""
    first, second = Slow(), Slow()
    route = hedged(first, second)
    server, task = await start(route)
    if when == "during":
        await route.clock.advance(1.0)
    for one in route.state.destinations:
        one.trust = 5
    if how == "leaves":
        server.give(LEFT)
    else:
        task.cancel()
    await end(route, task)

    assert (how == "cancelled", []) == (task.cancelled(), server.sent)
    assert first.cancelled
    assert second.cancelled == (when == "during")
    assert [5, 5] == [one.trust for one in route.state.destinations]


@pytest.mark.requirement("R-11")
async def test_a_time_out_ends_both():
    """It is the later attempt's, that had less time."""
    route, first, second, server, task = await both_under_way(timeouts=Timeouts(first_byte=3.0))
    while not task.done():
        await route.clock.advance(1.0)
        await asyncio.wait([task], timeout=0.005)
    await end(route, task)

    assert (504, True, True) == (server.status, first.cancelled, second.cancelled)
    assert "http://up2.test" == route.records[0].error.destination


async def test_an_unknown_exception_ends_the_race():
    """A mistake in a transport is no failure of an upstream."""
    route, first, second, _, task = await both_under_way()
    second.come_to(ZeroDivisionError("mistake"))
    await end(route, task)

    assert isinstance(task.exception(), ZeroDivisionError)
    assert first.cancelled


async def test_a_response_that_comes_as_it_is_given_up_is_let_go_of():
    """A transport may not notice that it was cancelled."""

    class Stubborn(Slow):
        async def __call__(self, body, attempt):
            try:
                return await super().__call__(body, attempt)
            except asyncio.CancelledError:
                return late

    late = Response(200)
    route, _, second, server, task = await both_under_way(first=Stubborn())
    second.come_to(Response(200, [], b"ok"))
    await end(route, task)

    assert (b"ok", 1) == (server.body, late.aborted)


@pytest.mark.parametrize("how", ["leaves", "cancelled"])
async def test_a_response_that_comes_as_the_client_leaves_is_let_go_of(how):
    """Whichever of the two it is."""

    class Stubborn(Slow):
        async def __call__(self, body, attempt):
            try:
                return await super().__call__(body, attempt)
            except asyncio.CancelledError:
                self.late = Response(200)
                return self.late

    route, first, second, server, task = await both_under_way(first=Stubborn(), second=Stubborn())
    if how == "leaves":
        server.give(LEFT)
    else:
        task.cancel()
    await end(route, task)

    assert [1, 1] == [first.late.aborted, second.late.aborted]


@pytest.mark.parametrize("drained", [0, 1])
async def test_a_response_that_comes_as_its_destination_is_drained_is_let_go_of(drained):
    """The other attempt goes on, and its answer is the one that is relayed."""

    class Stubborn(Slow):
        async def __call__(self, body, attempt):
            try:
                return await super().__call__(body, attempt)
            except asyncio.CancelledError:
                return late

    late = Response(200, [], b"late")
    tries = [Slow(), Slow()]
    tries[drained] = Stubborn()
    route, *_, server, task = await both_under_way(first=tries[0], second=tries[1])
    (asked,) = [
        one for one in route.state.destinations if one.origin == route.transport.asked[drained]
    ]
    counts = [route.state.sweeper.cut(asked) for _ in range(2)]
    await turns()
    assert ([1, 0], 0, 1, 1) == (counts, asked.in_flight, late.aborted, route.state.in_flight)
    tries[1 - drained].come_to(Response(200, [], b"ok"))
    await end(route, task)

    assert (200, b"ok", None) == (server.status, server.body, route.records[0].error)
    assert [drained] == [
        number
        for number, one in enumerate(route.records[0].tries)
        if isinstance(one.failure, NoDestinationError)
    ]


def test_a_number_out_of_its_range_is_refused():
    """Where it is written."""
    with pytest.raises(ValueError, match="after must be greater than 0"):
        Hedge(after=0.0)
