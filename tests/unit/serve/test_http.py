"""The way of an HTTP request: the attempt loop, and what is let go of on every ending."""

import asyncio
import json

import pytest

from proxyroutes._serve.body import BufferedBody, ReceivedBody
from proxyroutes._serve.exchange import ClientLeft
from proxyroutes._serve.head import read_request
from proxyroutes._serve.http import (
    attempts,
    open_exchange,
    read_body,
    record_refusal,
    timeouts_of,
)
from proxyroutes.exceptions import (
    ClientRequestError,
    NoDestinationError,
    RelayInterruptedError,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.settings import Timeouts
from proxyroutes.typing import ForwardedHead
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


async def test_a_request_is_forwarded_and_its_response_relayed():
    """From its match to its last byte."""
    route = make_route(Response(201, [(b"x", b"y")], b"ab", b"c"))
    server = await serve(route, make_scope("PATCH", b"/a%2Fb?c=d", (b"accept", b"e")))
    (head,) = route.transport.heads

    assert (b"PATCH", b"/a%2Fb?c=d", (b"accept", b"e")) == (
        head.method,
        head.target,
        head.fields[0],
    )
    assert (201, b"abc", True) == (server.status, server.body, server.complete)
    assert_all_is_let_go(route)
    assert (201, 1, None) == (
        route.records[0].status,
        route.records[0].attempts,
        route.records[0].error,
    )


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        pytest.param(make_scope("TRACE"), 405, id="method"),
        pytest.param(make_scope("GET", b"/a/../b"), 400, id="target"),
        pytest.param(make_scope("GET", b"/", (b"host", b"b")), 400, id="fields"),
        pytest.param(make_scope("GET", b"/", (b"via", b"1.1 here")), 508, id="loop"),
        pytest.param(make_scope("POST", b"/", (b"content-length", b"11")), 413, id="length"),
    ],
)
async def test_a_refused_request_is_answered_and_recorded(scope, status):
    """No destination is leased for it."""
    route = make_route(max_body_bytes=10)
    server = await serve(route, scope)

    assert status == server.status == json.loads(server.body)["status"]
    assert [] == route.transport.asked
    assert_all_is_let_go(route)
    assert (status, 0) == (route.records[0].status, route.records[0].attempts)


async def test_a_route_that_chooses_its_pool_is_not_served_the_short_way():
    """The choice is made by user code."""
    route = make_route()
    route.proxy = type(route.proxy)()

    async def choose(request):
        """Choose."""

    async def stub() -> None:
        """Say nothing."""

    route.proxy.route("/<path>", upstream=choose)(stub)
    with pytest.raises(TypeError, match="chooses its pool per request"):
        await serve(route)


async def test_a_field_that_cannot_be_sent_on_is_answered_502():
    """The upstream's response is let go of."""
    response = Response(200, [(b"a", b"\r\n")])
    route = make_route(response)
    server = await serve(route)

    assert (502, 1) == (server.status, response.aborted)
    assert_all_is_let_go(route)


async def test_a_broken_relay_is_raised_into_the_server():
    """Nothing else breaks the client's connection."""
    route = make_route(Response(200, [], b"a", UpstreamProtocolError("cut off")))
    server = Server()
    with pytest.raises(RelayInterruptedError):
        await serve(route, server=server)

    assert (200, False) == (server.status, server.complete)
    assert_all_is_let_go(route)
    assert (200, RelayInterruptedError) == (route.records[0].status, type(route.records[0].error))


# Attempts.


@pytest.mark.requirement("R-15")
@pytest.mark.parametrize(
    "failure",
    [REFUSED("refused"), UpstreamTimeoutError("late", stage=Stage.CONNECT)],
    ids=["refused", "late"],
)
async def test_a_connect_failure_moves_on(failure):
    """Each destination is asked at most once."""
    route = make_route(failure, Response(200, [], b"ok"), destinations=2)
    server = await serve(route)

    assert (200, b"ok") == (server.status, server.body)
    assert ["http://up1.test", "http://up2.test"] == route.transport.asked
    assert_all_is_let_go(route)
    assert (2, "http://up2.test", None) == (
        route.records[0].attempts,
        route.records[0].destination,
        route.records[0].error,
    )


@pytest.mark.requirement("R-18")
async def test_each_destination_is_asked_once_and_the_last_failure_counts():
    """There is no second round."""
    route = make_route(REFUSED("1"), REFUSED("2"), REFUSED("3"), destinations=3)
    server = await serve(route)

    assert 502 == server.status
    assert {"http://up1.test", "http://up2.test", "http://up3.test"} == set(route.transport.asked)
    assert_all_is_let_go(route)
    assert ("3", route.transport.asked[-1]) == (
        route.records[0].error.detail,
        route.records[0].error.destination,
    )


@pytest.mark.requirement("R-16")
@pytest.mark.parametrize(
    ("failure", "facts"),
    [
        pytest.param(REFUSED("x"), {"sent": True}, id="connect-failure-after-something-was-sent"),
        pytest.param(
            REFUSED("x"), {"body_consumed": True}, id="connect-failure-after-content-was-read"
        ),
        pytest.param(UpstreamProtocolError("x"), {}, id="protocol-error"),
        pytest.param(
            UpstreamTimeoutError("x", stage=Stage.RESPONSE_HEAD), {}, id="time-out-of-the-head"
        ),
    ],
)
async def test_any_other_failure_does_not_move_on(failure, facts):
    """The upstream may have seen the request, or its content is lost."""

    async def fail(body, attempt):
        for name, value in facts.items():
            setattr(attempt, name, value)
        return failure

    route = make_route(fail, destinations=2)
    server = await serve(route)

    assert failure.status_code == server.status
    assert 1 == len(route.transport.asked)
    assert facts.get("sent", False) == failure.sent
    assert_all_is_let_go(route)


async def test_the_facts_of_an_attempt_are_written_into_its_failure():
    """Where and whether something was sent, unless the transport has said it."""
    route = make_route(UpstreamProtocolError("x", destination="http://proxy.test"))
    await serve(route)

    assert "http://proxy.test" == route.records[0].error.destination


async def test_a_pool_without_a_destination_is_answered_503():
    """With a time after which to come again."""
    route = make_route()
    route.state.available = ()
    server = await serve(route)

    assert (503, (b"retry-after", b"1")) == (server.status, server.sent[0]["headers"][-1])
    assert_all_is_let_go(route)
    assert isinstance(route.records[0].error, NoDestinationError)


async def test_an_unknown_exception_goes_on_as_it_is():
    """A mistake in a transport is no failure of an upstream."""
    route = make_route(ZeroDivisionError("mistake"), destinations=2)
    with pytest.raises(ZeroDivisionError):
        await serve(route)

    assert 1 == len(route.transport.asked)
    assert_all_is_let_go(route)


@pytest.mark.requirement("H-46")
async def test_content_over_the_limit_is_answered_413_by_whoever_reads_it():
    """The transport lets the body's own exception out."""

    async def read(body, attempt):
        while await body.read():
            pass

    route = make_route(read, max_body_bytes=3)
    scope = make_scope("POST", b"/", (b"transfer-encoding", b"chunked"))
    server = await serve(route, scope, Server(piece(b"abc"), piece(b"d")))

    assert 413 == server.status
    assert_all_is_let_go(route)


# Endings while something is waited for.


async def wait_for_ever(body, attempt):
    """An attempt that never ends."""
    await asyncio.Event().wait()


async def read_for_ever(body, attempt):
    """An attempt that waits for content."""
    attempt.enter(Stage.REQUEST_BODY)
    while await body.read():
        pass


@pytest.mark.requirement("E-03")
async def test_a_client_that_leaves_while_content_is_waited_for_is_recorded_as_gone():
    """Nothing is sent, and nobody is blamed."""
    route = make_route(read_for_ever)
    server = Server(piece(b"a"), LEFT)
    await serve(route, make_scope("POST", b"/", (b"content-length", b"5")), server)

    assert [] == server.sent
    assert_all_is_let_go(route)
    assert (499, None, 1) == (
        route.records[0].status,
        route.records[0].error,
        route.records[0].request_bytes,
    )
    assert 0 == asyncio.current_task().cancelling()


@pytest.mark.requirement("E-03")
async def test_a_client_that_leaves_while_an_attempt_waits_is_recorded_as_gone():
    """The watch hears it, and the attempt is cancelled."""
    route = make_route(wait_for_ever, destinations=2)
    server = Server(LEFT)
    await serve(route, server=server)

    assert ([], 1) == (server.sent, len(route.transport.asked))
    assert_all_is_let_go(route)
    assert (499, None) == (route.records[0].status, route.records[0].error)


@pytest.mark.requirement("E-03")
async def test_a_client_that_leaves_while_the_response_is_waited_for_is_recorded_as_gone():
    """The head was sent; nothing is broken."""
    response = Response(200, [], b"a", asyncio.Event())
    route = make_route(response)
    server = Server(LEFT)
    await serve(route, server=server)

    assert (200, False, 1) == (server.status, server.complete, response.aborted)
    assert_all_is_let_go(route)
    assert (499, None) == (route.records[0].status, route.records[0].error)


async def pass_time(route, task):
    """Turn the clock until a task is done."""
    while not task.done():
        await route.clock.advance(1.0)
        await asyncio.wait([task], timeout=0.005)


@pytest.mark.requirement("R-10")
async def test_an_attempt_that_takes_too_long_is_answered_504():
    """The sweeper cancels it, and the cancellation becomes its reason."""
    route = make_route(wait_for_ever)
    server = Server()
    task = asyncio.create_task(serve(route, server=server))
    await pass_time(route, task)
    await task

    assert (504, 0) == (server.status, task.cancelling())
    assert_all_is_let_go(route)
    assert "connect time-out after 5.0 s" == route.records[0].error.detail


@pytest.mark.requirement("R-15")
async def test_a_connect_time_out_of_the_sweeper_moves_on():
    """The next attempt has all of its time again."""
    route = make_route(wait_for_ever, Response(200, [], b"ok"), destinations=2)
    server = Server()
    task = asyncio.create_task(serve(route, server=server))
    await pass_time(route, task)
    await task

    assert (200, 2) == (server.status, route.records[0].attempts)
    assert_all_is_let_go(route)


@pytest.mark.requirement("R-11")
async def test_no_attempt_is_made_after_the_total_time():
    """Though another destination is left."""

    async def use_it_up(body, attempt):
        (exchange,) = route.state.sweeper._entries
        exchange.started -= 60.0
        await asyncio.Event().wait()

    route = make_route(use_it_up, Response(), destinations=2, timeouts=Timeouts(total=60.0))
    server = await serve(route)

    assert (504, 1) == (server.status, len(route.transport.asked))
    assert_all_is_let_go(route)


@pytest.mark.parametrize("where", ["first-message", "attempt", "content", "relay", "problem"])
async def test_a_cancellation_from_outside_lets_go_of_everything(where):
    """At each place where something is waited for; and it stays a cancellation."""
    scope, server, stopped = make_scope(), Server(), asyncio.Event()
    response = Response(200, [], b"a", asyncio.Event())
    outcome = {
        "attempt": wait_for_ever,
        "content": read_for_ever,
        "relay": response,
        "problem": REFUSED("x"),
    }
    route = make_route(*[outcome[where]] if where in outcome else [])
    if where == "first-message":
        scope = make_scope(http_version="2")
        stopped = server.receiving
    elif where == "attempt":
        stopped = route.transport.waiting
    elif where == "content":
        scope = make_scope("POST", b"/", (b"content-length", b"5"))
        stopped = server.receiving
    elif where == "relay":
        stopped = response.reading
    else:

        async def block(message):
            stopped.set()
            await asyncio.Event().wait()

        server.before_send = block
    task = asyncio.create_task(serve(route, scope, server))
    await stopped.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert_all_is_let_go(route)


async def test_an_interruption_between_two_waits_is_raised_at_the_next():
    """The attempt that would follow is not made."""
    route = make_route(Response())
    exchange = open_exchange(route.plan, route.state, "GET", Server().receive)
    exchange.attach()
    exchange.interrupt(ClientLeft())

    with pytest.raises(ClientLeft):
        await attempts(
            exchange, route.state, ForwardedHead(b"GET", b"/", [], None, None), None, Timeouts()
        )

    assert ([], 0) == (route.transport.asked, route.state.in_flight)
    exchange.end()


# Content.


async def body_of(scope, *messages, **route):
    """The content of a request and its exchange."""
    compiled = make_route(**route)
    exchange = open_exchange(
        compiled.plan, compiled.state, scope["method"], Server(*messages).receive
    )
    received = read_request(scope, compiled.plan, compiled.found(scope))
    try:
        return await read_body(exchange, compiled.plan, scope, received), exchange
    finally:
        exchange.end()


@pytest.mark.requirement("H-07")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_request_without_framing_has_no_content(version):
    """And its client may be watched."""
    body, exchange = await body_of(make_scope("POST", http_version=version))

    assert (None, True) == (body, exchange.may_watch)


async def test_a_length_of_zero_is_an_empty_content():
    """Nothing is read for it."""
    body, exchange = await body_of(make_scope("POST", b"/", (b"content-length", b"0")))

    assert isinstance(body, BufferedBody)
    assert (0, True) == (body.content_length, exchange.may_watch)


@pytest.mark.requirement("H-08")
@pytest.mark.parametrize(
    ("field", "length"),
    [((b"content-length", b"5"), 5), ((b"transfer-encoding", b"chunked"), None)],
)
async def test_framed_content_is_streamed(field, length):
    """With its length, where it has one."""
    body, exchange = await body_of(make_scope("POST", b"/", field))

    assert isinstance(body, ReceivedBody)
    assert (length, False) == (body.content_length, exchange.may_watch)


async def test_http_2_shows_content_by_its_first_event():
    """It frames without fields."""
    body, _ = await body_of(
        make_scope("POST", http_version="2"), piece(b"a"), piece(b"b", more=False)
    )

    assert [b"a", b"b", b""] == [await body.read() for _ in range(3)]


async def test_http_2_without_content_has_none():
    """Its first event is its end."""
    body, exchange = await body_of(make_scope("GET", http_version="2"), piece(b"", more=False))

    assert (None, True) == (body, exchange.may_watch)


async def test_a_client_of_http_2_that_left_before_its_first_event_has_no_request():
    """What never came is not forwarded."""
    with pytest.raises(ClientLeft):
        await body_of(make_scope("POST", http_version="2"), LEFT)


@pytest.mark.requirement("H-46")
async def test_a_length_over_the_limit_is_refused():
    """Before anything is read."""
    with pytest.raises(ClientRequestError):
        await body_of(make_scope("POST", b"/", (b"content-length", b"11")), max_body_bytes=10)


# The rest.


@pytest.mark.parametrize(
    ("route", "pool", "expected"),
    [
        pytest.param(None, None, 60.0, id="proxy"),
        pytest.param(None, Timeouts(idle=2.0), 2.0, id="pool"),
        pytest.param(Timeouts(idle=1.0), Timeouts(idle=2.0), 1.0, id="route"),
    ],
)
async def test_the_nearest_time_outs_count(route, pool, expected):
    """Route, pool, proxy."""
    compiled = make_route(pool_timeouts=pool, timeouts=route)

    assert expected == timeouts_of(compiled.plan, compiled.state).idle


async def test_a_refusal_before_there_is_an_exchange_is_logged(caplog):
    """With the route that it would have taken."""
    caplog.set_level("INFO")
    route = make_route()
    record_refusal(route.plan, "GET", ClientRequestError("nonsense"))

    assert ["stub"] == [record.route for record in route.records]
    assert "route=stub" in caplog.messages[0]
    assert "detail=nonsense stage=select side=client sent=False" in caplog.messages[0]


async def test_the_record_of_a_refusal_has_no_client_behind_it():
    """Its channel has nothing to give."""
    route = make_route()
    record_refusal(route.plan, "GET", ClientRequestError("nonsense"))

    assert LEFT == await route.records[0].receive()
