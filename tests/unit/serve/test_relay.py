"""An upstream's response on its way to the client."""

import asyncio
import gc

import pytest

from proxyroutes._build.responses import RelayResponse
from proxyroutes._serve.exchange import ClientLeft
from proxyroutes._serve.relay import Answer, server_fields
from proxyroutes.exceptions import (
    RelayInterruptedError,
    Side,
    Stage,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.typing import ForwardedHead
from tests.unit.serve.scripted import Response, Server, make_exchange, make_route, make_scope

HEAD = ForwardedHead(b"GET", b"/", [], None, None)


def answered(response, server=None, **route):
    """An answer with its exchange, its lease and its route."""
    compiled = make_route(**route)
    exchange = make_exchange(server)
    exchange.begin_attempt("http://up1.test")
    return Answer(exchange, response, compiled.state.lease(HEAD)), exchange, compiled


async def broken(answer, send):
    """Relay and give the interruption."""
    with pytest.raises(RelayInterruptedError) as caught:
        await answer.relay(send)
    return caught.value


async def test_the_time_of_the_head_is_noted():
    """With the answer's beginning."""
    answer, exchange, _ = answered(Response())

    assert exchange.head > 0.0
    answer.close()


# Fields.


@pytest.mark.requirement("H-40")
@pytest.mark.parametrize("status", [100, 101, 103, 199, 600, 999])
async def test_a_status_that_is_not_final_is_refused(status):
    """Its response and its lease are let go of."""
    response = Response(status)
    answer, _, route = answered(response)

    with pytest.raises(UpstreamProtocolError) as caught:
        answer.prepare(route.plan, None)

    assert "http://up1.test" == caught.value.destination
    assert (1, 0) == (response.aborted, route.state.in_flight)


@pytest.mark.requirement("H-41")
@pytest.mark.parametrize(
    "field", [(b"a", b"x\r\ny"), (b"a", b"\0"), (b"a b", b"x"), (b"a:", b"x")]
)
async def test_a_field_that_no_server_sends_on_is_refused(field):
    """Before the server in front breaks on it."""
    answer, _, route = answered(Response(200, [field]))

    with pytest.raises(UpstreamProtocolError):
        answer.prepare(route.plan, None)


@pytest.mark.requirement("H-41")
async def test_a_field_without_a_name_is_refused():
    """No server can write it."""
    answer, _, route = answered(Response(200, [(b"a", b"x"), (b"", b"x")]))

    try:
        with pytest.raises(UpstreamProtocolError):
            answer.prepare(route.plan, None)
    finally:
        answer.close()


async def test_what_a_strict_transport_has_checked_is_not_checked_again():
    """It says that it has."""
    answer, _, route = answered(Response(200, [(b"x", b"\x01")], strict=True))
    answer.prepare(route.plan, None)

    assert [(b"x", b"\x01")] == answer.fields
    answer.close()


async def test_fields_are_filtered():
    """Hop-by-hop fields go, and what the server adds itself."""
    answer, _, route = answered(
        Response(200, [(b"connection", b"close"), (b"date", b"x"), (b"etag", b"y")])
    )
    answer.prepare(route.plan, None)

    assert [(b"etag", b"y")] == answer.fields
    answer.close()


@pytest.mark.requirement("H-26")
@pytest.mark.parametrize("name", [b"location", b"content-location"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, b"/api/a", id="rewrite"),
        pytest.param({"location": "keep"}, b"http://up1.test/v2/a", id="keep"),
    ],
)
async def test_the_destinations_own_address_is_mapped_back(name, options, expected):
    """Where the route wants it."""
    response = Response(302, [(b"x", b"/v2/a"), (name, b"http://up1.test/v2/a")])
    answer, _, route = answered(response, path="/api/<path>", rewrite="/v2/<path>", **options)
    answer.prepare(route.plan, route.found(make_scope("GET", b"/api/x")))

    assert [(b"x", b"/v2/a"), (name, expected)] == answer.fields
    answer.close()


async def test_nothing_is_mapped_where_there_was_no_match():
    """As for a request that was forwarded by hand."""
    answer, _, route = answered(Response(302, [(b"location", b"http://up1.test/a")]))
    answer.prepare(route.plan, None)

    assert [(b"location", b"http://up1.test/a")] == answer.fields
    answer.close()


@pytest.mark.requirement("H-44")
@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        (None, {b"date", b"server"}),
        ([], set()),
        ([(b"date", b"x"), (b"server", b"uvicorn")], {b"date", b"server"}),
        ([(b"server", b"uvicorn")], {b"server"}),
        ([(b"date", b"x")], {b"date"}),
        ([(b"date", b"x"), (b"server", b"uvicorn"), (b"x-a", b"b")], {b"date", b"server", b"x-a"}),
    ],
)
def test_what_the_server_adds_is_read_off_its_channel(defaults, expected):
    """A server that does not show it adds both."""
    server = Server()
    if defaults is not None:
        server.default_headers = defaults

    assert expected == server_fields(server.receive)


def test_a_channel_that_is_a_plain_function_belongs_to_a_server_that_adds_both():
    """Middleware wraps channels."""

    async def receive():
        """Give nothing."""

    assert {b"date", b"server"} == server_fields(receive)


# The relay.


@pytest.mark.requirement("H-19")
async def test_a_stream_is_sent_piece_by_piece():
    """And then its end."""
    response = Response(200, [(b"x", b"y")], b"ab", b"c")
    server = Server()
    answer, exchange, route = answered(response)
    await answer.relay(server.send)

    assert [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"ab", "more_body": True},
        {"type": "http.response.body", "body": b"c", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ] == server.sent
    assert (200, 3) == (exchange.status, exchange.response_bytes)
    assert (1, 0) == (response.aborted, route.state.in_flight)


async def test_a_complete_response_is_sent_at_once():
    """Head and body, and nothing is waited for."""
    server = Server()
    answer, exchange, route = answered(Response(200, [], b"ab", b"c", complete=True))
    await answer.relay(server.send)

    assert [None, b"abc"] == [message.get("body") for message in server.sent]
    assert (3, 0) == (exchange.response_bytes, route.state.in_flight)


@pytest.mark.requirement("H-13")
async def test_a_205_has_no_content():
    """Whatever came with it is left where it is."""
    server = Server()
    answer, _, _ = answered(Response(205, [], b"hello"))
    await answer.relay(server.send)

    assert (b"", True) == (server.body, server.complete)


async def test_the_client_stalls_while_a_piece_is_sent():
    """A time-out is blamed on who does not read."""
    server, seen = Server(), []
    answer, exchange, _ = answered(Response(200, [], b"a"))

    async def note(message):
        seen.append(exchange.client_stalls)

    server.before_send = note
    await answer.relay(server.send)

    assert [False, True, False] == seen
    assert not exchange.client_stalls


@pytest.mark.requirement("H-16")
async def test_an_upstream_that_breaks_breaks_the_response():
    """The reason is passed on as the cause, with what is known of it."""
    reason = UpstreamProtocolError("cut off", stage=Stage.RESPONSE_BODY)
    response = Response(200, [], b"a", reason)
    server = Server()
    answer, exchange, route = answered(response)
    error = await broken(answer, server.send)

    assert reason is error.__cause__
    assert (Stage.RESPONSE_BODY, Side.UPSTREAM, True, "http://up1.test") == (
        error.stage,
        error.side,
        error.sent,
        error.destination,
    )
    assert (b"a", False) == (server.body, server.complete)
    assert (200, 1, 0) == (exchange.status, response.aborted, route.state.in_flight)


async def interrupted(answer, exchange, send, waiting, reason):
    """Relay in a task, and interrupt it once it waits."""

    async def relay():
        exchange.attach()
        await answer.relay(send)

    task = asyncio.create_task(relay())
    await waiting.wait()
    exchange.interrupt(reason)
    await asyncio.wait([task])

    assert 0 == task.cancelling()
    return task.exception()


@pytest.mark.requirement("R-10")
async def test_a_time_out_while_the_upstream_is_waited_for_breaks_the_response():
    """There is no second answer."""
    response = Response(200, [], b"a", asyncio.Event())
    answer, exchange, route = answered(response)
    reason = UpstreamTimeoutError("idle", stage=Stage.RESPONSE_BODY)
    error = await interrupted(answer, exchange, Server().send, response.reading, reason)

    assert isinstance(error, RelayInterruptedError)
    assert reason is error.__cause__
    assert (1, 0) == (response.aborted, route.state.in_flight)


@pytest.mark.requirement("E-03")
async def test_a_client_that_leaves_while_the_upstream_is_waited_for_ends_the_relay():
    """Nothing is broken, because nobody is there."""
    response = Response(200, [], b"a", asyncio.Event())
    answer, exchange, route = answered(response)
    left = ClientLeft()
    error = await interrupted(answer, exchange, Server().send, response.reading, left)

    assert left is error
    assert (1, 0) == (response.aborted, route.state.in_flight)


@pytest.mark.requirement("E-03")
@pytest.mark.parametrize("kind", ["http.response.start", "http.response.body"])
async def test_a_client_that_leaves_while_something_is_sent_ends_the_relay(kind):
    """Wherever the relay waits."""
    waiting, server = asyncio.Event(), Server()
    response = Response(200, [], b"a")
    answer, exchange, route = answered(response)

    async def block(message):
        if message["type"] == kind:
            waiting.set()
            await asyncio.Event().wait()

    server.before_send = block
    left = ClientLeft()

    assert left is await interrupted(answer, exchange, server.send, waiting, left)
    assert (1, 0) == (response.aborted, route.state.in_flight)


@pytest.mark.parametrize(
    "reason", [ClientLeft(), UpstreamTimeoutError("total")], ids=["client", "time-out"]
)
async def test_an_interruption_before_the_head_is_raised_as_it_is(reason):
    """There is an answer left to give, or nobody to give it to."""
    server = Server()
    answer, exchange, route = answered(Response(200, [], b"a"))
    exchange.interrupt(reason)

    with pytest.raises(type(reason)) as caught:
        await answer.relay(server.send)

    assert reason is caught.value
    assert ([], 0, None) == (server.sent, route.state.in_flight, exchange.status)


@pytest.mark.parametrize("where", ["start", "read", "send"])
async def test_a_cancellation_from_outside_lets_go_of_everything(where):
    """And stays one."""
    waiting, server = asyncio.Event(), Server()
    response = Response(200, [], b"a", asyncio.Event())
    answer, _, route = answered(response)

    async def block(message):
        if (message["type"] == "http.response.start") == (where == "start"):
            waiting.set()
            await asyncio.Event().wait()

    if where != "read":
        server.before_send = block
    task = asyncio.create_task(answer.relay(server.send))
    await (response.reading if where == "read" else waiting).wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert (1, 0) == (response.aborted, route.state.in_flight)


async def test_a_server_that_fails_lets_go_of_everything():
    """What it raised goes on."""
    server = Server()
    response = Response(200, [], b"a")
    answer, _, route = answered(response)

    async def fail(message):
        raise RuntimeError("the server's own")

    server.before_send = fail
    with pytest.raises(RuntimeError, match="own"):
        await answer.relay(server.send)

    assert (1, 0) == (response.aborted, route.state.in_flight)


# The end.


async def test_letting_go_twice_does_nothing():
    """The lease is one."""
    response = Response()
    answer, _, route = answered(response)
    answer.close()
    answer.close()

    assert (1, 0) == (response.aborted, route.state.in_flight)


async def test_an_answer_that_is_dropped_is_let_go_of():
    """Its lease and its record are not lost with it."""
    response = Response()
    answer, exchange, route = answered(response)
    held = RelayResponse(answer, received="GET", forwarded=b"GET", found=None, pool=None)
    del answer, held
    gc.collect()

    assert (1, 0) == (response.aborted, route.state.in_flight)
    assert exchange.ended > 0.0


async def test_an_answer_that_another_thread_drops_is_let_go_of_in_its_loop():
    """The collector runs anywhere; connections belong to their loop."""
    response = Response()
    answer, exchange, _ = answered(response)
    held = [RelayResponse(answer, received="GET", forwarded=b"GET", found=None, pool=None)]
    before = exchange.ended
    await asyncio.to_thread(held.clear)
    while not exchange.ended:
        await asyncio.sleep(0)

    assert (0.0, 1) == (before, response.aborted)
