"""Further attempts: when there is one, where, after what, and what is let go of."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from proxyroutes._state.budgets import TRUST
from proxyroutes.exceptions import (
    GatewayError,
    NoDestinationError,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.filters import by_chunk
from proxyroutes.policies import Backoff, Retry, RetryBudget
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
)

REFUSED = UpstreamConnectError
OFF = Retry(attempts=1)


def broken():
    """An attempt that was sent and came to nothing."""
    return UpstreamProtocolError("closed", stage=Stage.RESPONSE_HEAD)


def sent_and(outcome, *, reads=0):
    """An outcome after the head was sent and so many pieces of content were read."""

    async def send(body, attempt):
        attempt.connected = attempt.sent = True
        attempt.enter(Stage.RESPONSE_HEAD)
        for _ in range(reads):
            await body.read()
            attempt.body_consumed = True
        return outcome

    return send


def retrying(*outcomes, destinations=2, scope=None, server=None, **keywords):
    """A route whose pool tries again without a wait, unless the retry is given."""
    retry = Retry(**{"backoff": None, **keywords.pop("retry", {})})
    return make_route(*outcomes, destinations=destinations, pool_retry=retry, **keywords)


async def whole(body):
    """All of a content."""
    content = b""
    while chunk := await body.read():
        content += chunk
    return content


def answering(*bodies):
    """An answer of 200 after all of the content was read; it is kept in the list."""

    async def send(body, attempt):
        bodies[0].append(await whole(body))
        return Response(200, [], b"ok")

    return send


# What is tried again.


@pytest.mark.requirement("R-15")
@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("GET", 200),
        ("HEAD", 200),
        ("OPTIONS", 200),
        ("PUT", 200),
        ("DELETE", 200),
        ("QUERY", 200),
        ("POST", 502),
        ("PATCH", 502),
    ],
)
async def test_a_broken_attempt_is_made_again_for_idempotent_methods(method, status):
    """At another destination."""
    route = retrying(sent_and(broken()), Response(200, [], b"ok"))
    server = await serve(route, make_scope(method))
    asked = ["http://up1.test", "http://up2.test"] if status == 200 else ["http://up1.test"]

    assert (status, asked) == (server.status, route.transport.asked)
    assert_all_is_let_go(route)


async def test_a_key_makes_a_post_repeatable():
    """The client says that sending it twice does no harm."""
    route = retrying(sent_and(broken()), Response(200, [], b"ok"))
    server = await serve(route, make_scope("POST", b"/", (b"idempotency-key", b'"8e03978e"')))

    assert 200 == server.status


async def test_a_post_is_tried_again_where_it_was_said_aloud():
    """By the recipe."""
    route = retrying(
        sent_and(broken()),
        Response(200, [], b"ok"),
        retry={"methods": ["POST"], "non_idempotent": True},
    )

    assert 200 == (await serve(route, make_scope("POST"))).status


@pytest.mark.requirement("R-18")
async def test_tries_run_out():
    """The last failure is answered."""
    route = retrying(*[sent_and(broken()) for _ in range(3)], destinations=3)
    server = await serve(route)

    assert (502, 2) == (server.status, len(route.transport.asked))
    assert_all_is_let_go(route)


async def test_a_broken_attempt_is_not_made_again_at_the_same_destination():
    """It may be this request that breaks it."""
    route = retrying(sent_and(broken()), destinations=1)

    assert 502 == (await serve(route)).status
    assert 0 == route.state.budgets.further


async def test_a_connect_failure_does_not_use_up_the_tries():
    """The request moves on, and may still be tried again once."""
    route = retrying(REFUSED("x"), sent_and(broken()), Response(200, [], b"ok"), destinations=3)
    server = await serve(route)

    assert (200, 3) == (server.status, route.records[0].attempts)


async def test_without_a_retry_only_connect_failures_move_on():
    """``retry=None`` of a pool."""
    route = make_route(REFUSED("x"), sent_and(broken()), destinations=3)
    server = await serve(route)

    assert (502, 2) == (server.status, len(route.transport.asked))


@pytest.mark.parametrize("error", [UpstreamTimeoutError, GatewayError])
async def test_a_time_out_is_tried_again_only_where_asked_for(error):
    """It has cost its time already."""
    late = UpstreamTimeoutError("late", stage=Stage.RESPONSE_HEAD)
    plain = retrying(sent_and(late))
    asking = retrying(sent_and(late), Response(200, [], b"ok"), retry={"on": [error]})

    assert 504 == (await serve(plain)).status
    assert 200 == (await serve(asking)).status


async def test_a_failure_of_the_gateway_is_not_tried_again():
    """It would be the same at each destination."""
    route = retrying(NoDestinationError("no place for a connection"))

    assert 503 == (await serve(route)).status


async def test_a_routes_own_retry_comes_first():
    """In both directions."""
    never = make_route(
        sent_and(broken()), destinations=2, pool_retry=Retry(backoff=None), retry=OFF
    )
    more = make_route(
        sent_and(broken()),
        sent_and(broken()),
        Response(200, [], b"ok"),
        destinations=3,
        pool_retry=OFF,
        retry=Retry(attempts=3, backoff=None),
    )

    assert [502, 200] == [(await serve(never)).status, (await serve(more)).status]


# Statuses.


async def test_a_status_is_an_answer_unless_asked_for():
    """A 503 of an upstream is relayed."""
    route = retrying(Response(503, [(b"x", b"y")], b"busy"), Response(200))

    assert (503, 1) == ((await serve(route)).status, len(route.transport.asked))


@pytest.mark.parametrize("destinations", [1, 2])
async def test_a_status_that_is_asked_for_is_tried_again(destinations):
    """At the same destination where there is no other."""
    busy = Response(503, [], b"busy", complete=True)
    route = retrying(
        busy, Response(200, [], b"ok"), destinations=destinations, retry={"on": [503]}
    )
    server = await serve(route)

    assert (200, b"ok", 1) == (server.status, server.body, busy.aborted)
    assert destinations == len(set(route.transport.asked))
    assert_all_is_let_go(route)


@pytest.mark.requirement("R-19")
@pytest.mark.parametrize(
    "later",
    [sent_and(broken()), REFUSED("x"), UpstreamTimeoutError("late", stage=Stage.RESPONSE_HEAD)],
    ids=["broken", "refused", "late"],
)
@pytest.mark.parametrize("complete", [True, False], ids=["at-once", "in-pieces"])
async def test_the_last_real_answer_is_relayed(later, complete):
    """Status, fields and content, where what followed it was no answer."""
    busy = Response(503, [(b"x", b"y")], b"very ", b"busy", complete=complete)
    route = retrying(busy, later, retry={"on": [503]})
    server = await serve(route)

    assert (503, b"very busy", True) == (server.status, server.body, server.complete)
    assert (b"x", b"y") in server.sent[0]["headers"]
    assert_all_is_let_go(route)
    record = route.records[0]
    assert (503, None, "http://up1.test", 2) == (
        record.status,
        record.error,
        record.destination,
        record.attempts,
    )


@pytest.mark.requirement("R-19")
async def test_the_later_of_two_answers_is_relayed():
    """The first one is let go of."""
    first = Response(503, [], b"1")
    route = retrying(first, Response(503, [], b"2"), retry={"on": [503]})

    assert b"2" == (await serve(route)).body
    assert 1 == first.aborted


async def test_a_long_answer_is_relayed_and_not_tried_again():
    """No more of it is kept than the cap."""
    long = Response(503, [], b"a" * 9, b"b" * 9, b"c")
    route = retrying(long, Response(200), retry={"on": [503], "replay_bytes": 10})
    server = await serve(route)

    assert (503, b"a" * 9 + b"b" * 9 + b"c") == (server.status, server.body)
    assert_all_is_let_go(route)


async def test_an_answer_that_breaks_off_while_it_is_kept_is_no_answer():
    """The next one counts, or its own failure."""
    cut = UpstreamProtocolError("cut off", stage=Stage.RESPONSE_BODY)
    good = retrying(Response(503, [], b"a", cut), Response(200, [], b"ok"), retry={"on": [503]})
    bad = retrying(Response(503, [], b"a", cut), REFUSED("x"), retry={"on": [503]})

    assert [200, 502] == [(await serve(good)).status, (await serve(bad)).status]
    assert_all_is_let_go(good)
    assert_all_is_let_go(bad)


# Content.


@pytest.mark.requirement("R-17")
@pytest.mark.parametrize(
    ("reads", "sizes"),
    [(0, [3, 4]), (1, [3, 4]), (2, [3, 4]), (3, [3, 4])],
    ids=["nothing", "a-piece", "all", "to-the-end"],
)
async def test_content_is_sent_again_whole(reads, sizes):
    """Byte for byte, however much of it the first attempt has taken."""
    got = []
    route = retrying(sent_and(broken(), reads=reads), answering(got))
    scope = make_scope("PUT", b"/", (b"transfer-encoding", b"chunked"))
    server = Server(piece(b"abc"), piece(b"defg", more=False))
    await serve(route, scope, server)

    assert (200, [b"abcdefg"]) == (server.status, got)
    assert_all_is_let_go(route)
    assert 7 == route.records[0].request_bytes


@pytest.mark.requirement("R-17")
@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize(("reads", "status"), [(1, 502), (0, 200)])
async def test_content_over_the_cap_is_not_sent_again(declared, reads, status):
    """Once some of it is gone."""
    got = []
    route = retrying(
        sent_and(broken(), reads=reads * 2), answering(got), retry={"replay_bytes": 5}
    )
    framing = (b"content-length", b"7") if declared else (b"transfer-encoding", b"chunked")
    server = Server(piece(b"abc"), piece(b"defg", more=False))
    await serve(route, make_scope("PUT", b"/", framing), server)

    assert (status, [b"abcdefg"] if status == 200 else []) == (server.status, got)
    assert_all_is_let_go(route)


async def test_content_of_a_post_is_not_kept():
    """Nobody will ask for it again."""
    route = retrying(Response(200))
    scope = make_scope("POST", b"/", (b"content-length", b"3"))
    await serve(route, scope, Server(piece(b"abc", more=False)))

    assert "ReceivedBody" == type(route.transport.bodies[0]).__name__


# Waiting.


class Random:
    """Always the same."""

    def __init__(self, value=0.5):
        self.value = value

    def random(self):
        """Give it."""
        return self.value

    def randrange(self, stop):
        """Give it as a whole number."""
        return int(self.value * stop)


async def waiting(route, scope=None):
    """Serve a request that comes to wait; gives the server and the task."""
    server = Server()
    task = asyncio.create_task(serve(route, scope or make_scope(), server))
    while not route.clock.pending:
        await asyncio.sleep(0)
    return server, task


async def test_a_try_waits_a_random_part_of_its_time():
    """On the pool's clock."""
    route = retrying(
        sent_and(broken()),
        Response(200),
        retry={"backoff": Backoff(base=0.1)},
        random=Random(0.5),
    )
    server, task = await waiting(route)
    await route.clock.advance(0.049)
    assert 1 == len(route.transport.asked)
    await route.clock.advance(0.002)
    await task

    assert 200 == server.status


@pytest.mark.requirement("R-19")
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_for(form):
    """In either of its forms, where it is longer than the back-off."""
    value = b"3"
    if form == "date":
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True).encode()
    busy = Response(503, [(b"retry-after", value)], b"busy", complete=True)
    route = retrying(busy, Response(200), destinations=1, retry={"on": [503]})
    server, task = await waiting(route)
    await route.clock.advance(1.5)
    assert 1 == len(route.transport.asked)
    assert 0 == route.state.in_flight, "nothing is held meanwhile"
    await route.clock.advance(1.6)
    await task

    assert 200 == server.status


async def test_a_wait_is_none_of_the_next_attempts_time():
    """It has all of its own, however long the wait was."""
    hanging = asyncio.Event()

    async def connect(body, attempt):
        await hanging.wait()
        return Response(200)

    busy = Response(503, [(b"retry-after", b"8")], b"busy", complete=True)
    route = retrying(
        busy, connect, destinations=1, retry={"on": [503]}, timeouts=Timeouts(connect=2.0)
    )
    server, task = await waiting(route)
    (exchange,) = route.state.sweeper._entries
    for _ in range(8):
        await route.clock.advance(1.0)
        exchange.tick(route.clock.monotonic())
    assert 2 == len(route.transport.asked)
    exchange.tick(route.clock.monotonic())
    await route.clock.advance(1.0)
    exchange.tick(route.clock.monotonic())
    hanging.set()
    await task

    assert 200 == server.status


@pytest.mark.parametrize(
    ("value", "keywords"),
    [
        (b"11", {}),
        (b"99999999999999999999999999", {}),
        (b"3", {"timeouts": Timeouts(total=2.0)}),
    ],
    ids=["longer-than-allowed", "for-ever", "longer-than-the-total-time"],
)
async def test_a_retry_after_that_is_too_long_is_relayed(value, keywords):
    """The client may wait for it by itself."""
    route = retrying(
        Response(503, [(b"retry-after", value)], b"busy"),
        destinations=1,
        retry={"on": [503]},
        **keywords,
    )
    server = await serve(route)

    assert (503, b"busy") == (server.status, server.body)


@pytest.mark.parametrize("value", [b"", b"soon", b"-1", b"1.5", b"\xb2"])
async def test_a_retry_after_that_is_none_is_no_wait(value):
    """It is no reason to fail."""
    busy = Response(503, [(b"retry-after", value)], b"busy")
    route = retrying(busy, Response(200), destinations=1, retry={"on": [503]})

    assert 200 == (await serve(route)).status


@pytest.mark.requirement("R-11")
async def test_the_total_time_ends_a_wait():
    """With the answer that is there, or 504."""

    def at(*outcomes, **retry):
        return retrying(
            *outcomes,
            retry={"backoff": Backoff(base=5.0, most=5.0), **retry},
            random=Random(0.9),
            timeouts=Timeouts(total=60.0),
        )

    statuses = []
    for route in (at(sent_and(broken())), at(Response(503, [], b"busy"), on=[503])):
        server, task = await waiting(route)
        (exchange,) = route.state.sweeper._entries
        exchange.started -= 60.0
        await task
        statuses.append(server.status)
        assert_all_is_let_go(route)

    assert [504, 503] == statuses


@pytest.mark.requirement("R-16")
async def test_a_client_that_leaves_during_a_wait_ends_it():
    """No attempt is made for nobody."""
    route = retrying(
        sent_and(broken()), retry={"backoff": Backoff(base=5.0, most=5.0)}, random=Random()
    )
    server, task = await waiting(route)
    server.give(LEFT)
    await task

    assert ([], 1) == (server.sent, len(route.transport.asked))
    assert_all_is_let_go(route)
    assert (499, None) == (route.records[0].status, route.records[0].error)


@pytest.mark.parametrize("where", ["wait", "second-attempt", "keeping"])
async def test_a_cancellation_from_outside_lets_go_of_everything(where):
    """At each place where further attempts wait."""
    stopped = asyncio.Event()

    async def hang(body, attempt):
        stopped.set()
        await asyncio.Event().wait()

    if where == "wait":
        route = retrying(
            sent_and(broken()), retry={"backoff": Backoff(base=5.0, most=5.0)}, random=Random()
        )
        _, task = await waiting(route)
    else:
        kept = Response(503, [], b"a", asyncio.Event())
        route = (
            retrying(sent_and(broken()), hang)
            if where == "second-attempt"
            else retrying(kept, retry={"on": [503]})
        )
        task = asyncio.create_task(serve(route))
        await (stopped if where == "second-attempt" else kept.reading).wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert_all_is_let_go(route)


@pytest.mark.requirement("R-16")
async def test_a_client_that_leaves_during_the_second_attempt_ends_it():
    """It counts against nobody."""

    async def hang(body, attempt):
        attempt.enter(Stage.RESPONSE_HEAD)
        await asyncio.Event().wait()

    route = retrying(sent_and(broken()), hang)
    server = Server(LEFT)
    await serve(route, server=server)

    assert ([], 2) == (server.sent, len(route.transport.asked))
    assert_all_is_let_go(route)


# The budget.


async def test_a_dead_pool_gets_no_more_than_the_budget():
    """200 requests, 40 further attempts and the floor."""
    outcomes = [sent_and(broken()) for _ in range(1000)]
    route = retrying(*outcomes, destinations=2, rules={"outliers": None})
    for _ in range(200):
        assert 502 == (await serve(route)).status

    assert 200 + 40 + 3 == len(route.transport.asked)


async def test_a_pool_that_refuses_gets_no_more_than_the_budget():
    """Moving on is a further attempt too, where nobody has answered."""
    outcomes = [REFUSED("x") for _ in range(1000)]
    route = retrying(*outcomes, destinations=3, rules={"outliers": None})
    for _ in range(200):
        assert 502 == (await serve(route)).status

    assert 200 + 40 + 3 == len(route.transport.asked)


async def test_a_request_moves_on_to_one_that_answers_whatever_the_budget_says():
    """Half of the requests meet one that is down, and none fails."""
    outcomes = []
    for _ in range(100):
        outcomes += [REFUSED("x"), Response(200), Response(200)]
    route = retrying(
        *outcomes,
        rules={"outliers": None},
        retry={"budget": RetryBudget(ratio=0.0, floor=1)},
    )
    statuses = {(await serve(route)).status for _ in range(200)}

    assert {200} == statuses


async def test_trust_ends_when_one_dies_that_has_answered():
    """So many requests may move on to it until it is known; then the budget is asked."""
    route = retrying(
        Response(200),
        Response(200),
        *[REFUSED("x") for _ in range(100)],
        rules={"outliers": None},
        retry={"budget": RetryBudget(ratio=0.0, floor=0)},
    )
    for _ in range(30):
        await serve(route)

    first, second = route.state.destinations
    assert (0, 0) == (first.trust, second.trust)
    assert 30 + 1 == len(route.transport.asked) <= 30 + TRUST


async def test_equal_budgets_of_a_pool_are_one():
    """Whichever routes they stand at."""
    route = make_route(
        *[sent_and(broken()) for _ in range(9)],
        destinations=2,
        rules={"outliers": None},
        pool_retry=Retry(backoff=None),
        retry=Retry(attempts=3, backoff=None),
    )
    budgets = route.state.budgets
    while budgets.spend(RetryBudget(), 0):
        pass
    assert 502 == (await serve(route)).status

    assert 1 == len(route.transport.asked)


# One repetition by the transport.


async def test_the_transport_repeats_once_for_one_exchange():
    """What it has sent again is not multiplied by further attempts."""
    allowed = []

    def note(outcome, *, repeated=False):
        async def send(body, attempt):
            allowed.append(attempt.may_repeat)
            attempt.sent = True
            attempt.repeated = repeated
            return outcome

        return send

    route = retrying(
        note(broken(), repeated=True), note(broken()), destinations=3, retry={"attempts": 3}
    )
    route.transport.outcomes.append(note(Response(200)))
    await serve(route)

    assert [True, False, False] == allowed


async def test_destinations_that_are_gone_meanwhile_leave_the_failure():
    """It says more than that nobody is left."""
    route = retrying(
        sent_and(broken()), retry={"backoff": Backoff(base=5.0, most=5.0)}, random=Random()
    )
    server, task = await waiting(route)
    route.state.available = ()
    await route.clock.advance(5.0)
    await task

    assert (502, "closed") == (server.status, route.records[0].error.detail)
    assert_all_is_let_go(route)


@by_chunk
async def swap(chunks):
    """One letter for another."""
    async for chunk in chunks:
        yield chunk.replace(b"b", b"x")


@pytest.mark.requirement("R-17")
async def test_filtered_content_is_sent_again():
    """What is here whole is filtered anew for each attempt; what streams is kept as it was filtered."""
    got = []

    async def break_off(body, attempt):
        attempt.sent = True
        await body.read()
        attempt.body_consumed = True
        return UpstreamProtocolError("closed", stage=Stage.RESPONSE_HEAD)

    async def answer(body, attempt):
        content = b""
        while chunk := await body.read():
            content += chunk
        got.append(content)
        return Response(200)

    route = make_route(
        break_off,
        answer,
        destinations=2,
        pool_retry=Retry(backoff=None),
        request_filters=[swap],
    )
    server = await serve(
        route,
        make_scope("PUT", b"/", (b"content-length", b"4"), (b"content-type", b"text/plain")),
        Server(piece(b"ab"), piece(b"ba", more=False)),
    )

    assert (200, [b"axxa"]) == (server.status, got)


@pytest.mark.parametrize(
    "value",
    [
        b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        b"Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
    ],
)
async def test_a_date_that_no_calendar_has_asks_for_no_wait(value):
    """What an upstream sends there can be anything; nothing stays held because of it."""
    busy = Response(503, [(b"retry-after", value)], b"busy")
    route = retrying(busy, Response(200, [], b"ok"), retry={"on": [503]})

    assert 200 == (await serve(route)).status
    assert_all_is_let_go(route)
