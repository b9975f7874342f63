"""What routes and pools do to a message, on the way of a request with a scripted transport."""

import asyncio

import pytest

from proxyroutes._serve.exchange import ClientLeft
from proxyroutes._serve.http import serve_http
from proxyroutes._serve.steps.messages import edit_for_pool
from proxyroutes._state.transforms import PoolTransforms, compile_headers, compile_query
from proxyroutes.exceptions import FilterError
from proxyroutes.filters import by_event
from proxyroutes.settings import HeaderRules, QueryRules
from proxyroutes.typing import ForwardedHead
from tests.unit.serve.scripted import (
    GET,
    Response,
    Server,
    make_route,
    make_scope,
    piece,
    turns,
)


async def upper(chunks):
    """Change everything."""
    async for chunk in chunks:
        yield chunk.upper()


async def serve(route, server, *fields, method="GET"):
    """Serve one request."""
    scope = make_scope(method, b"/", *fields)
    await serve_http(route.plan, route.found(scope), scope, server.receive, server.send)


async def test_a_request_without_content_is_not_filtered():
    """Neither where there is none, nor where it has no bytes."""
    route = make_route(Response(), Response(), request_filters=[upper])
    await serve(route, Server(GET))
    await serve(route, Server(GET), (b"content-length", b"0"), method="POST")

    assert [None, 0] == [
        None if body is None else body.content_length for body in route.transport.bodies
    ]


async def test_a_request_that_no_filter_is_meant_for_is_forwarded_as_it_is():
    """With its length."""

    @by_event
    async def never(events):
        raise AssertionError
        yield

    route = make_route(Response(), request_filters=[never])
    await serve(
        route,
        Server(piece(b"abc", more=False)),
        (b"content-length", b"3"),
        (b"content-type", b"text/plain"),
        (b"etag", b"x"),
        method="POST",
    )

    assert 3 == route.transport.heads[0].content_length
    assert (b"etag", b"x") in route.transport.heads[0].fields


@pytest.mark.requirement("H-55")
async def test_rules_leave_the_received_request_as_it_was():
    """Whoever looks at it afterwards sees what came."""
    rules = HeaderRules(set={"a": "1"}, remove=["b"])
    route = make_route(Response(), request_headers=rules)
    scope = make_scope("GET", b"/", (b"b", b"2"))
    await serve_http(route.plan, route.found(scope), scope, Server(GET).receive, Server().send)

    assert [(b"host", b"gateway.test"), (b"b", b"2")] == scope["headers"]


async def test_the_rules_of_a_pool_leave_the_head_as_it_was():
    """Another pool may be asked with it."""
    route = make_route()
    route.state.transforms = PoolTransforms(
        request=compile_headers(HeaderRules(set={"a": "1"})),
        query=compile_query(QueryRules(set={"q": "1"})),
    )
    head = ForwardedHead(b"GET", b"/", [(b"b", b"2")], None, None)
    edited = edit_for_pool(route.state, head)

    assert (b"/", [(b"b", b"2")]) == (head.target, head.fields)
    assert (b"/?q=1", [(b"b", b"2"), (b"a", b"1")]) == (edited.target, edited.fields)


def waiting_filter(event):
    """A filter that waits before it sends anything on."""

    async def waits(chunks):
        async for chunk in chunks:
            await event.wait()
            yield chunk

    return waits


@pytest.mark.parametrize("complete", [True, False], ids=["before-the-head", "behind-it"])
async def test_a_client_that_leaves_interrupts_a_filter(complete):
    """Nothing is sent to it, and nobody is to blame."""
    upstream = Response(200, [], b"a", complete=complete)
    route = make_route(upstream, response_filters=[waiting_filter(asyncio.Event())])
    serving = asyncio.ensure_future(serve(route, Server(GET)))
    await turns()
    (exchange,) = route.state.sweeper._entries
    exchange.interrupt(ClientLeft())
    await serving
    await turns()

    assert [(499, None)] == [(record.status, record.error) for record in route.records]
    assert (1, 0) == (upstream.aborted, route.state.in_flight)


async def test_a_cancellation_from_outside_stays_one():
    """The server is going away: everything is let go of."""
    upstream = Response(200, [], b"a", complete=True)
    route = make_route(upstream, response_filters=[waiting_filter(asyncio.Event())])
    serving = asyncio.ensure_future(serve(route, Server(GET)))
    await turns()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await turns()

    assert (1, 0) == (upstream.aborted, route.state.in_flight)


async def test_a_filter_that_fails_before_the_head_does_not_blame_the_destination():
    """The answer is the gateway's, and the lease is released."""

    async def fails(chunks):
        raise KeyError("mine")
        yield b""

    route = make_route(
        Response(200, [], b"a", complete=True), destinations=2, response_filters=[fails]
    )
    server = Server(GET)
    await serve(route, server)

    (record,) = route.records
    assert (502, FilterError, 0) == (server.status, type(record.error), route.state.in_flight)
    assert not any(one.outlier is not None and one.ejected for one in route.state.destinations)
