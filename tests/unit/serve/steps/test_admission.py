"""Places and circuits on the way of a request."""

import asyncio

import pytest

from proxyroutes.exceptions import NoDestinationError, UpstreamConnectError, UpstreamProtocolError
from proxyroutes.policies import CircuitBreaker, HeaderAffinity, Retry
from proxyroutes.settings import Destination, Limits, Timeouts
from proxyroutes.typing import ForwardedHead
from tests.unit.serve.scripted import (
    LEFT,
    Response,
    Server,
    assert_all_is_let_go,
    make_route,
    make_scope,
    serve,
    turns,
)


def held():
    """A response that does not end before its event is set."""
    event = asyncio.Event()
    return event, Response(200, [], b"a", event)


def at_pool(*outcomes, **limits):
    """A pool with one place."""
    return make_route(*outcomes, rules={"limits": Limits(max_in_flight=1, **limits)})


def at_route(*outcomes, **limits):
    """A route with one place."""
    return make_route(*outcomes, limits=Limits(max_in_flight=1, **limits))


def at_destination(*outcomes, **limits):
    """A pool whose only destination has one place."""
    destinations = [Destination("http://up1.test", max_in_flight=1)]
    return make_route(*outcomes, destinations=destinations, rules={"limits": Limits(**limits)})


both = pytest.mark.parametrize(
    "make", [at_pool, at_route, at_destination], ids=["pool", "route", "destination"]
)


def take_place(route):
    """Take the only place as another exchange would; what gives it back."""
    rules, steps, state = route.state.rules, route.plan.steps, route.state
    if route.pool.destinations[0].max_in_flight:
        return state.lease(ForwardedHead(b"GET", b"/", [], None, None)).release
    limiter = rules.limiter if rules else steps.limits.on(state.loop)
    limiter.take()
    return limiter.give_back


def queue_of(route):
    """Where those are that wait for it."""
    rules, steps, state = route.state.rules, route.plan.steps, route.state
    if route.pool.destinations[0].max_in_flight:
        return state.queue
    return rules.limiter if rules else steps.limits.on(state.loop)


async def start(route, server=None):
    """Begin to serve a request."""
    task = asyncio.create_task(serve(route, server=server))
    await turns()
    return task


@both
async def test_a_request_waits_for_a_place(make):
    """Until the one before it has sent its last byte."""
    event, response = held()
    route = make(response, Response(200, [], b"ok"))
    first = await start(route)
    second = await start(route)
    assert 1 == len(route.transport.asked)
    event.set()

    assert [200, 200] == [one.status for one in await asyncio.gather(first, second)]
    assert 0 == len(route.state.sweeper)


@both
async def test_a_full_queue_is_answered_503(make):
    """At once, with a time after which to come again."""
    event, response = held()
    route = make(response, max_queue=0)
    first = await start(route)
    server = await serve(route)
    event.set()
    await first

    assert (503, (b"retry-after", b"1")) == (server.status, server.sent[0]["headers"][-1])
    assert [503, 200] == [one.status for one in route.records]
    assert 0 == route.records[0].attempts


async def advance_until(route, task):
    """Turn the clock until a task is done."""
    while not task.done():
        await route.clock.advance(0.5)
        await asyncio.wait([task], timeout=0.005)


@both
async def test_waiting_too_long_is_answered_503(make):
    """The place that comes later goes to somebody else."""
    event, response = held()
    route = make(response, Response(200), queue_timeout=2.0)
    first = await start(route)
    server = Server()
    second = await start(route, server)
    await advance_until(route, second)
    assert (503, b"2") == (server.status, server.sent[0]["headers"][-1][1])
    assert "within 2 s" in route.records[0].error.detail
    event.set()
    await first

    assert 200 == (await serve(route)).status
    assert 0 == route.state.in_flight


@both
async def test_a_client_that_leaves_the_queue_frees_its_turn(make):
    """The next one gets the place."""
    event, response = held()
    route = make(response, Response(200, [], b"ok"))
    first = await start(route)
    server = Server()
    second = await start(route, server)
    third = await start(route)
    server.give(LEFT)
    await second
    event.set()
    await asyncio.gather(first, third)

    assert ([], 2) == (server.sent, len(route.transport.asked))
    assert sorted([499, 200, 200]) == sorted(one.status for one in route.records)
    assert 200 == (await serve_again(route)).status


async def serve_again(route):
    """One more request, to see that no place is lost."""
    route.transport.outcomes.append(Response(200))
    return await serve(route)


@both
@pytest.mark.parametrize("given", [False, True], ids=["before-the-place", "with-the-place"])
async def test_a_cancellation_in_the_queue_lets_go_of_everything(make, given):
    """Also one that comes in the turn in which the place was given."""
    route = make()
    give_back, queue = take_place(route), queue_of(route)
    waiting = await start(route)
    assert 1 == queue.waiting
    if given:
        give_back()
    waiting.cancel()
    await asyncio.wait([waiting])
    if not given:
        give_back()

    assert waiting.cancelled()
    assert (0, 0) == (getattr(queue, "taken", 0), queue.waiting)
    assert_all_is_let_go(route)
    assert 200 == (await serve_again(route)).status


@pytest.mark.requirement("R-11")
async def test_the_total_time_runs_in_the_queue():
    """It is 504 then: the client was told to wait that long."""
    event, response = held()
    route = make_route(
        response,
        timeouts=Timeouts(total=60.0),
        rules={"limits": Limits(max_in_flight=1, queue_timeout=100.0)},
    )
    first = await start(route)
    server = Server()
    second = await start(route, server)
    for exchange in route.state.sweeper._entries:
        if not exchange.attempts:
            exchange.started -= 60.0
    await second
    event.set()
    await first

    assert 504 == server.status


@both
@pytest.mark.parametrize(
    "outcome", [UpstreamConnectError("x"), UpstreamProtocolError("x"), ZeroDivisionError()]
)
async def test_a_place_is_given_back_on_every_ending(make, outcome):
    """Also on one that nobody has thought of."""
    route = make(outcome)
    await asyncio.wait([await start(route)])

    assert 200 == (await serve_again(route)).status


async def test_limits_without_a_number_are_none():
    """A route and a pool stay plain."""
    route = make_route(Response(200), limits=Limits(), rules={"limits": Limits()})

    assert (None, None) == (route.plan.steps, route.state.rules)


async def test_a_request_keeps_its_place_while_it_is_tried_again():
    """Its two attempts need one."""
    route = make_route(
        UpstreamConnectError("x"),
        Response(503, [], b"busy"),
        Response(200),
        destinations=3,
        rules={"limits": Limits(max_in_flight=1, max_queue=0)},
        pool_retry=Retry(on=[503], backoff=None),
    )

    assert 200 == (await serve(route)).status
    assert_all_is_let_go(route)


# Destinations that are full.


def two_full(*outcomes, **keywords):
    """A pool of two destinations with one place each, both taken; and what gives the places back."""
    destinations = [Destination(f"http://up{n}.test", max_in_flight=1) for n in (1, 2)]
    route = make_route(*outcomes, destinations=destinations, **keywords)
    return route, [take_place(route), take_place(route)]


@pytest.mark.parametrize(("queue", "order"), [("fifo", "ab"), ("lifo", "cd")])
async def test_a_destination_goes_to_whose_turn_it_is(queue, order):
    """Whichever has room first; who comes at that moment does not overtake the queue."""
    route, (first, second) = two_full(
        *[Response(200, [], b"a", asyncio.Event()) for _ in range(4)],
        rules={"limits": Limits(queue=queue)},
    )
    tasks = {}
    for name in "abc":
        tasks[name] = asyncio.create_task(serve(route, make_scope(target=f"/{name}".encode())))
        await turns()
    second()
    tasks["d"] = asyncio.create_task(serve(route, make_scope(target=b"/d")))
    await turns()
    first()
    await turns()

    assert ["http://up2.test", "http://up1.test"] == route.transport.asked
    assert list(order) == [head.target.decode()[1:] for head in route.transport.heads]
    assert (2, 2, 2) == (route.state.queue.waiting, route.state.in_flight, route.state.leases - 2)
    for task in tasks.values():
        task.cancel()
    await asyncio.wait(tasks.values())
    assert (0, 0) == (route.state.queue.waiting, route.state.in_flight)


def undrained(route):
    """It is used again."""
    route.pool.undrain("http://up3.test")


def added(route):
    """A further one."""
    route.pool.add("http://up4.test")


def recovered(route):
    """An ejection ends."""
    route.state.ejections.out.clear()
    route.state.refresh()


@pytest.mark.parametrize("change", [undrained, added, recovered])
async def test_a_destination_that_comes_back_serves_those_that_wait(change):
    """As many as it has room for: here all."""
    route, _ = two_full(*[Response(200) for _ in range(3)])
    route.pool.add("http://up3.test")
    if change is recovered:
        route.state.ejections.out[route.state.destinations[2]] = None
        route.state.refresh()
    else:
        await route.pool.drain("http://up3.test")
    waiting = [await start(route) for _ in range(3)]
    assert 3 == route.state.queue.waiting
    change(route)

    assert [200] * 3 == [one.status for one in await asyncio.gather(*waiting)]
    assert {route.state.destinations[-1].origin} == set(route.transport.asked)


async def test_what_is_full_for_another_reason_is_answered_at_once():
    """Unhealthy, drained, or over its requests of the interval: nothing that ends makes room."""
    route = make_route(
        destinations=[
            Destination("http://up1.test", max_requests=1, max_in_flight=1),
            Destination("http://up2.test", max_in_flight=1),
        ]
    )
    _, give_back = take_place(route), take_place(route)
    give_back()
    await route.pool.drain("http://up2.test")

    assert (503, 0) == ((await serve(route)).status, route.state.queue.waiting)


async def test_in_panic_those_that_are_full_are_waited_for():
    """They are all that is used."""
    route, (first, _) = two_full(Response(200), rules={"panic": True})
    for destination in route.state.destinations:
        route.state.ejections.out[destination] = None
    route.state.refresh()
    waiting = await start(route)
    assert 1 == route.state.queue.waiting
    first()

    assert 200 == (await waiting).status


async def test_a_client_whose_own_destination_is_full_does_not_wait():
    """Where another one has room, that it may not use: nothing would ever serve it."""
    destinations = [Destination(f"http://up{n}.test", max_in_flight=1) for n in (1, 2)]
    affinity = HeaderAffinity("x-tenant", on_loss="reject")
    route = make_route(Response(200), destinations=destinations, rules={"affinity": affinity})
    scope = make_scope("GET", b"/", (b"x-tenant", b"a"))
    await serve(route, scope)
    (home,) = [one for one in route.state.destinations if one.origin in route.transport.asked]
    lease = route.state.hold(home, ForwardedHead(b"GET", b"/", [], None, None))
    server = await serve(route, scope)
    lease.release()

    assert (503, 0) == (server.status, route.state.queue.waiting)


async def test_a_limit_that_comes_at_run_time_has_a_queue_too():
    """The pool was plain before."""
    route = make_route(Response(200))
    assert None is route.state.rules
    route.pool.add(Destination("http://up2.test", max_in_flight=1))
    route.pool.remove("http://up1.test")
    give_back = route.state.lease(ForwardedHead(b"GET", b"/", [], None, None)).release
    waiting = await start(route)
    assert 1 == route.state.queue.waiting
    give_back()

    assert 200 == (await waiting).status


# Circuits.


def breaking(*outcomes, retry=None, destinations=1, **keywords):
    """A pool whose circuit opens at two failures of two."""
    breaker = CircuitBreaker(**{"min_requests": 2, "open_for": 5.0, "trials": 1, **keywords})
    return make_route(
        *outcomes,
        destinations=destinations,
        pool_retry=retry,
        rules={"breaker": breaker, "outliers": None},
    )


@pytest.mark.parametrize(
    "outcome",
    [UpstreamConnectError("x"), UpstreamProtocolError("x"), Response(503), Response(502)],
    ids=["refused", "broken", "503", "502"],
)
async def test_a_pool_that_fails_is_left_alone(outcome):
    """503 with the time that is left, and nobody is asked."""
    route = breaking(outcome, outcome, Response(200, [], b"ok"))
    for _ in range(2):
        await serve(route)
    (status,) = route.pool.status()
    assert ("open", False) == (status.circuit, status.available)
    assert "circuit open: 2 of 2 exchanges failed within 10 s" == status.reason

    await route.clock.advance(1.5)
    server = await serve(route)
    assert (503, (b"retry-after", b"4")) == (server.status, server.sent[0]["headers"][-1])
    assert 2 == len(route.transport.asked)
    assert isinstance(route.records[-1].error, NoDestinationError)

    await route.clock.advance(3.5)
    assert "half-open" == route.pool.status()[0].circuit
    assert 200 == (await serve(route)).status
    assert ("closed", True) == (route.pool.status()[0].circuit, route.pool.status()[0].available)
    assert 0 == route.state.in_flight


async def test_a_trial_that_fails_opens_it_again():
    """It is asked once in each time."""
    route = breaking(*[Response(503) for _ in range(3)])
    for _ in range(2):
        await serve(route)
    await route.clock.advance(5.0)
    assert 503 == (await serve(route)).status
    await serve(route)

    assert (3, "open") == (len(route.transport.asked), route.pool.status()[0].circuit)


async def test_clients_that_leave_open_nothing():
    """Neither by leaving before an answer nor after it."""

    async def hang(body, attempt):
        await asyncio.Event().wait()

    route = breaking(*[hang] * 4, *[Response(200, [], b"a", asyncio.Event()) for _ in range(4)])
    for _ in range(8):
        await serve(route, server=Server(LEFT))

    assert "closed" == route.pool.status()[0].circuit


async def test_what_a_retry_has_saved_is_no_failure():
    """The circuit sees what clients see."""
    outcomes = []
    for _ in range(3):
        outcomes += [UpstreamConnectError("x"), Response(200)]
    route = breaking(*outcomes, retry=Retry(), destinations=2)

    assert {200} == {(await serve(route)).status for _ in range(3)}
    assert "closed" == route.pool.status()[0].circuit


async def test_answers_that_are_cut_off_open_it():
    """Though their heads were fine."""
    route = breaking(
        *[Response(200, [], b"a", UpstreamProtocolError("cut")) for _ in range(4)],
        max_failures=0.5,
    )
    for _ in range(4):
        await asyncio.wait([await start(route)])

    assert "open" == route.pool.status()[0].circuit


async def test_a_trial_is_decided_by_its_head():
    """A stream may last for hours."""
    event, response = held()
    route = breaking(Response(503), Response(503), response, Response(200))
    for _ in range(2):
        await serve(route)
    await route.clock.advance(5.0)
    trial = await start(route)

    assert "closed" == route.pool.status()[0].circuit
    assert 200 == (await serve(route)).status
    event.set()
    await trial


async def test_a_refused_request_is_no_trial():
    """What never came to the pool says nothing of it."""
    route = breaking(Response(503), Response(503), Response(200))
    for _ in range(2):
        await serve(route)
    await route.clock.advance(5.0)
    await serve(route, make_scope("TRACE"))
    route.state.available = ()
    assert 503 == (await serve(route)).status
    assert "half-open" == route.pool.status()[0].circuit
    route.state.refresh()

    assert 200 == (await serve(route)).status
