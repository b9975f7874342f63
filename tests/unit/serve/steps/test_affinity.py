"""Affinity on the way of a request: who is asked, what the response says, and what happens on loss."""

import pytest

from proxyroutes.exceptions import Stage, UpstreamConnectError, UpstreamProtocolError
from proxyroutes.policies import CookieAffinity, HeaderAffinity, Retry
from proxyroutes.settings import HeaderRules
from tests.unit.serve.scripted import (
    Response,
    assert_all_is_let_go,
    make_route,
    make_scope,
    serve,
)

REJECTING = CookieAffinity(secret="s", on_loss="reject")


def sticky(*outcomes, affinity=None, destinations=3, **keywords):
    """A pool that is asked in turn where affinity does not say whom."""
    affinity = affinity or CookieAffinity(secret="s")
    return make_route(
        *(outcomes or [Response(200) for _ in range(20)]),
        destinations=destinations,
        rules={"affinity": affinity, "outliers": None},
        **keywords,
    )


def cookies_of(server):
    """The cookies of a response."""
    return [value for name, value in server.sent[0]["headers"] if name == b"set-cookie"]


async def begin(route):
    """Begin an affinity: the cookie, and the destination that it is for."""
    server = await serve(route)
    (cookie,) = cookies_of(server)
    return cookie.partition(b";")[0], route.transport.asked[-1]


async def come_back(route, cookie):
    """One more request of the client."""
    server = await serve(route, make_scope("GET", b"/", (b"cookie", cookie)))
    return server, route.transport.asked[-1]


def state_of(route, origin):
    """The destination of this origin."""
    return next(one for one in route.state.destinations if one.origin == origin)


@pytest.mark.requirement("R-42")
async def test_a_client_comes_back_to_its_destination():
    """The cookie is set once, with the response that begins it."""
    route = sticky()
    clients = [await begin(route) for _ in range(3)]
    assert 3 == len({origin for _, origin in clients})

    for cookie, origin in clients * 2:
        server, asked = await come_back(route, cookie)
        assert (origin, []) == (asked, cookies_of(server))
    assert 0 == route.state.in_flight


async def test_a_cookie_that_is_not_valid_is_balanced_and_replaced():
    """It is no error."""
    route = sticky()
    cookie, _ = await begin(route)
    server, _ = await come_back(route, cookie + b"x")

    assert (200, 1) == (server.status, len(cookies_of(server)))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_cookie_of_a_client_with_tls_is_secure(scheme):
    """As the client spoke it."""
    server = await serve(sticky(), make_scope(scheme=scheme))

    assert (scheme == "https") == (b"; Secure" in cookies_of(server)[0])


def lose(route, origin, how):
    """Take a destination away."""
    one = state_of(route, origin)
    if how == "unhealthy":
        one.watch = _Unhealthy()
    elif how == "ejected":
        route.state.ejections.out[one] = None
    elif how == "drained":
        one.draining = True
        route.state.available = tuple(set(route.state.available) - {one})
        return
    route.state.refresh()


class _Unhealthy:
    """A watch of one that is not well."""

    class report:
        """What it says."""

        healthy = False
        reason = "status 500"
        latency = None


@pytest.mark.parametrize("how", ["unhealthy", "ejected", "drained"])
async def test_a_client_whose_destination_is_lost_begins_anew(how):
    """With a new cookie, that holds from then on."""
    route = sticky()
    cookie, origin = await begin(route)
    lose(route, origin, how)
    server, other = await come_back(route, cookie)
    (new,) = cookies_of(server)
    again, stays = await come_back(route, new.partition(b";")[0])

    assert origin != other == stays
    assert [] == cookies_of(again)
    state_of(route, origin).watch = None


@pytest.mark.parametrize(
    ("how", "status"), [("unhealthy", 503), ("ejected", 503), ("drained", 200)]
)
async def test_a_client_whose_destination_is_lost_is_refused_where_said(how, status):
    """But not for good, where it is drained on purpose."""
    route = sticky(affinity=REJECTING)
    cookie, origin = await begin(route)
    lose(route, origin, how)
    server, _ = await come_back(route, cookie)

    assert status == server.status
    if status == 503:
        assert (b"retry-after", b"1") in server.sent[0]["headers"]
    state_of(route, origin).watch = None


async def test_a_client_without_a_cookie_is_served_where_others_are_refused():
    """By those that are left."""
    route = sticky(affinity=REJECTING)
    _, origin = await begin(route)
    lose(route, origin, "ejected")

    assert 200 == (await serve(route)).status


async def test_a_client_that_moves_on_begins_anew():
    """Its destination refused: the one that has answered is its own now."""
    route = sticky(Response(200), UpstreamConnectError("x"), Response(200), Response(200))
    cookie, origin = await begin(route)
    server, other = await come_back(route, cookie)
    (new,) = cookies_of(server)
    _, stays = await come_back(route, new.partition(b";")[0])

    assert origin != other == stays
    assert_all_is_let_go_but_records(route)


def assert_all_is_let_go_but_records(route):
    """After more than one request."""
    del route.records[1:]
    assert_all_is_let_go(route)


async def test_no_other_destination_is_asked_where_loss_is_refused():
    """Neither by moving on nor by trying again, which is done at home."""
    refusing = sticky(Response(200), UpstreamConnectError("x"), affinity=REJECTING)
    cookie, _ = await begin(refusing)
    server, _ = await come_back(refusing, cookie)
    assert (502, 2) == (server.status, len(refusing.transport.asked))

    async def break_off(body, attempt):
        attempt.sent = True
        return UpstreamProtocolError("closed", stage=Stage.RESPONSE_HEAD)

    breaking = sticky(
        Response(200),
        break_off,
        Response(200),
        affinity=REJECTING,
        pool_retry=Retry(backoff=None),
    )
    cookie, origin = await begin(breaking)
    server, asked = await come_back(breaking, cookie)
    assert (200, origin, 3) == (server.status, asked, len(breaking.transport.asked))


async def test_a_field_keeps_its_destination():
    """Without a word to the client."""
    route = sticky(affinity=HeaderAffinity("X-Tenant"))
    asked = {}
    for tenant in (b"a", b"b", b"c", b"d") * 3:
        server = await serve(route, make_scope("GET", b"/", (b"x-tenant", tenant)))
        assert [] == cookies_of(server)
        asked.setdefault(tenant, set()).add(route.transport.asked[-1])

    assert {1} == {len(origins) for origins in asked.values()}


async def test_an_upstreams_own_cookies_stay():
    """The gateway's is one more."""
    route = sticky(Response(200, [(b"set-cookie", b"a=b")]))
    server = await serve(route)

    assert b"a=b" == cookies_of(server)[0]
    assert 2 == len(cookies_of(server))


async def test_an_error_of_the_gateway_begins_nothing():
    """No destination has answered."""
    route = sticky(UpstreamProtocolError("x"), destinations=1)

    assert [] == cookies_of(await serve(route))


async def test_a_destination_of_another_level_keeps_its_clients():
    """As long as it is well; new ones go to the level that is used."""
    route = sticky()
    cookie, origin = await begin(route)
    one = state_of(route, origin)
    route.state.available = tuple(set(route.state.available) - {one})

    assert origin == (await come_back(route, cookie))[1]


async def test_requests_of_a_lost_destination_stay_together():
    """All with one value of the field go to one other destination."""
    route = sticky(affinity=HeaderAffinity("x-tenant"), destinations=5)
    scope = make_scope("GET", b"/", (b"x-tenant", b"a"))
    await serve(route, scope)
    home = route.transport.asked[-1]
    lose(route, home, "ejected")
    for _ in range(10):
        await serve(route, scope)
    others = set(route.transport.asked[1:])

    assert 1 == len(others)
    assert {home} != others


@pytest.mark.parametrize("where", ["route", "pool"])
@pytest.mark.parametrize(
    ("affinity", "name"),
    [(CookieAffinity(secret="s"), b"cookie"), (HeaderAffinity("x-tenant"), b"x-tenant")],
    ids=["cookie", "header"],
)
async def test_rules_that_take_a_field_out_leave_affinity(where, affinity, name):
    """The upstream does not get it, and it names a destination still."""
    rules = HeaderRules(remove=[name.decode()])
    route = make_route(
        *[Response(200) for _ in range(20)],
        destinations=4,
        rules={
            "affinity": affinity,
            **({"request_headers": rules} if where == "pool" else {}),
        },
        **({"request_headers": rules} if where == "route" else {}),
    )
    value = b"a"
    if name == b"cookie":
        value, _ = await begin(route)
    first = len(route.transport.asked)
    for _ in range(6):
        await serve(route, make_scope("GET", b"/", (name, value)))

    assert 1 == len(set(route.transport.asked[first:]))
    assert not any(name in dict(head.fields) for head in route.transport.heads)
