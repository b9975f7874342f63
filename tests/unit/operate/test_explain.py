"""``proxy.explain``: what the engine would do, and why."""

import json

import pytest
from fastapi import Depends

from proxyroutes import (
    Destination,
    Limits,
    Match,
    Proxy,
    RateLimit,
    Retry,
    Timeouts,
    UpstreamPool,
)
from proxyroutes.exceptions import BuildError, UpstreamTimeoutError
from proxyroutes.policies import (
    HeaderAffinity,
    Mirror,
    PowerOfTwoChoices,
    RoundRobin,
    WeightedSplit,
)
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)
URLS = ("http://10.0.0.7:8080/base", "http://10.0.0.8:8080")


def make_pool(*destinations, **options):
    """A pool that takes turns."""
    return UpstreamPool("users", destinations or URLS, balancing=RoundRobin(), **options)


def make_proxy(pool=None, **options):
    """Three routes of which two overlap."""
    proxy = Proxy(via="here", **options)
    pool = pool or make_pool()

    @proxy.get("/api/<int:number>", upstream=pool, rewrite="/v2/<number>")
    async def one() -> None: ...

    @proxy.route("/api/<path>", upstream=pool)
    async def api() -> None: ...

    @proxy.post("/orders/", upstream=pool)
    async def orders() -> None: ...

    return proxy


def reasons(explanation):
    """Why each of the other routes lost."""
    return {one.route: one.reason for one in explanation.rivals}


# The match.


def test_the_first_declared_route_that_fits_serves_it():
    """Its name, its template and its place are told."""
    actual = make_proxy().explain("GET", "/api/7")

    assert ("one", "/api/<int:number>", None) == (actual.route, actual.path, actual.status)
    assert actual.location.startswith(__file__)


@pytest.mark.parametrize(
    ("method", "url", "route", "expected"),
    [
        (
            "GET",
            "/api/7",
            "one",
            {
                "api": "fits too, but one was declared first",
                "orders": "segment 1 is 'api', not 'orders'",
            },
        ),
        (
            "DELETE",
            "/api/7",
            "api",
            {"one": "does not serve DELETE", "orders": "segment 1 is 'api', not 'orders'"},
        ),
        (
            "GET",
            "/api/x",
            "api",
            {
                "one": "segment 2 is 'x', which <number> does not take",
                "orders": "segment 1 is 'api', not 'orders'",
            },
        ),
        (
            "GET",
            "/api/7/8",
            "api",
            {
                "one": "the path has 3 segments, not 2",
                "orders": "segment 1 is 'api', not 'orders'",
            },
        ),
        (
            "GET",
            "/orders",
            None,
            {
                "one": "segment 1 is 'orders', not 'api'",
                "api": "segment 1 is 'orders', not 'api'",
                "orders": "the path ends after 1 of its 2 segments",
            },
        ),
    ],
    ids=["order", "method", "type", "length", "too short"],
)
def test_every_other_route_says_why_it_lost(method, url, route, expected):
    """In words that name what was compared."""
    actual = make_proxy().explain(method, url)

    assert (route, expected) == (actual.route, reasons(actual))


@pytest.mark.parametrize(
    ("method", "url", "status", "answer"),
    [
        ("GET", "/nothing", 404, "no route has this path"),
        ("GET", "/orders/", 405, "the path serves POST only"),
        ("POST", "/orders?a=b", 307, "to /orders/?a=b"),
        ("GET", "/api/../etc", 400, "the path has a dot segment"),
        ("GET", "/api/%2e%2e/etc", 400, "the path has a dot segment"),
        ("GET", "/api/a b", 400, "the path has a byte or an escape that a target cannot have"),
        ("TRACE", "/api/a", 405, "TRACE is not forwarded"),
        ("GET", "nonsense", 404, "no route has this path"),
    ],
)
def test_what_the_gateway_answers_by_itself_is_told(method, url, status, answer):
    """With the reason, and nothing is forwarded."""
    actual = make_proxy().explain(method, url)

    assert (status, answer, None) == (actual.status, actual.answer, actual.forwarded)


def test_a_websocket_has_routes_of_its_own():
    """The scheme asks for them."""
    pool = make_pool()
    proxy = make_proxy(pool)

    @proxy.websocket("/live/<path>", upstream=pool)
    async def live() -> None: ...

    actual = proxy.explain("GET", "ws://shop.example/live/a")

    assert ("live", "/base/live/a", {}) == (
        actual.route,
        actual.forwarded.target,
        reasons(actual),
    )


# The head.


def test_the_head_is_the_one_that_would_be_sent():
    """Rewritten, below the base path, hop-by-hop fields gone, our own added."""
    actual = (
        make_proxy()
        .explain(
            "GET",
            "https://shop.example/api/7?a=b",
            {"X-Forwarded-For": "6.6.6.6", "Connection": "x-gone", "X-Gone": "1", "X-Kept": "2"},
        )
        .forwarded
    )

    assert ("GET", "/base/v2/7?a=b", "10.0.0.7:8080") == (
        actual.method,
        actual.target,
        actual.host,
    )
    assert {
        ("x-kept", "2"),
        ("via", "1.1 here"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "https"),
        ("forwarded", 'for=127.0.0.1;host="shop.example";proto=https'),
    } == set(actual.fields)


def test_what_the_guard_refuses_is_refused():
    """By the same rules, with the same status."""
    actual = make_proxy().explain("GET", "/api/7", [("Host", "a"), ("Host", "b")])

    assert 400 == actual.status


def test_a_request_that_has_been_here_is_a_loop():
    """Via tells."""
    actual = make_proxy().explain("GET", "/api/7", {"Via": "1.1 here"})

    assert 508 == actual.status


# The pool.


def test_a_pool_that_does_not_run_says_so():
    """What it would begin with is shown."""
    actual = make_proxy().explain("GET", "/api/7")

    assert [(URLS[0], True, True), (URLS[1], True, False)] == [
        (one.url, one.available, one.picked) for one in actual.candidates
    ]
    assert ("the pool is not running here: nothing is known of its health and load",) == (
        actual.notes
    )


def test_a_lower_level_waits_while_a_pool_does_not_run():
    """As it would at the start."""
    pool = make_pool(Destination("http://a", priority=1), Destination("http://b"))
    actual = make_proxy(pool).explain("GET", "/api/7")

    assert [
        ("http://a", False, "a lower-numbered priority comes first"),
        ("http://b", True, "not probed yet"),
    ] == [(one.url, one.available, one.reason) for one in actual.candidates]
    assert "http://b" == actual.picked


async def test_a_running_pool_is_shown_as_it_is():
    """What is out is out, with the reason; the notes have nothing to excuse."""
    pool = make_pool()
    async with make_proxy(pool) as proxy:
        state = pool.state()
        state.available = state.destinations[1:]
        actual = proxy.explain("GET", "/api/7")

    assert (URLS[1], [False, True], ()) == (
        actual.picked,
        [one.available for one in actual.candidates],
        actual.notes,
    )
    assert "10.0.0.8:8080" == actual.forwarded.host


async def test_explaining_takes_nobodys_turn():
    """The destination that is named is the one that is asked next, however often it was explained."""
    pool = make_pool()
    async with make_proxy(pool) as proxy:
        named, leased = [], []
        for _ in range(3):
            named.append({proxy.explain("GET", "/api/7").picked for _ in range(3)})
            lease = pool.state().lease(None)
            leased.append({lease.destination.recipe.url})
            lease.release()

    assert leased == named
    assert 2 == len({next(iter(one)) for one in leased})


async def test_nothing_is_held_by_explaining():
    """No lease, no exchange, no record."""
    pool, records = make_pool(), []
    async with make_proxy(pool, on_exchange=records.append) as proxy:
        proxy.explain("GET", "/api/7")
        state = pool.state()
        actual = (state.in_flight, len(state.sweeper), records)

    assert (0, 0, []) == actual


async def test_with_nothing_available_the_answer_is_503():
    """Every destination says why."""
    pool = make_pool()
    async with make_proxy(pool) as proxy:
        pool.state().available = ()
        actual = proxy.explain("GET", "/api/7")

    assert (503, None, None) == (actual.status, actual.picked, actual.forwarded)


@pytest.mark.parametrize(
    ("limits", "answer"),
    [
        (Limits(), "no destination has room, and none has within 1 s, which is waited for"),
        (Limits(max_queue=0), "no destination is available"),
    ],
    ids=["waits", "does not wait"],
)
async def test_a_queue_for_what_is_full_is_told(limits, answer):
    """503 is only what comes after it."""
    pool = make_pool(Destination("http://a", max_in_flight=1), limits=limits)
    async with make_proxy(pool) as proxy:
        lease = pool.state().lease(HEAD)
        actual = proxy.explain("GET", "/api/7")
        lease.release()

    assert (503, answer) == (actual.status, actual.answer)


class Uncopyable:
    """A user's policy with a runtime that cannot be copied."""

    def bind(self, *, clock, random):
        """Make the balancer."""
        return self

    def pick(self, candidates, head, /):
        """The first one."""
        return candidates[0]

    def __deepcopy__(self, memo):
        raise TypeError("it has a lock")


async def test_a_policy_is_tried_after_its_pool_has_changed():
    """It remembers destinations that are gone."""
    pool = UpstreamPool("users", URLS, balancing=PowerOfTwoChoices())
    proxy = make_proxy(pool)
    pool.pick()
    pool.add("http://new.test")
    pool.remove(URLS[0])
    pool.remove(URLS[1])
    pool.add("http://newer.test")
    actual = proxy.explain("GET", "/api/7")
    await pool.close()

    assert actual.picked is not None


def test_a_policy_that_cannot_be_tried_is_not_tried():
    """Its turn is worth more than the answer."""
    pool = UpstreamPool("users", URLS, balancing=Uncopyable())
    actual = make_proxy(pool).explain("GET", "/api/7")

    assert (None, "(the destination's)") == (actual.picked, actual.forwarded.host)
    assert "it has a lock" in actual.notes[-1]


@pytest.mark.parametrize(
    ("pool", "route", "expected"),
    [
        (None, None, 60.0),
        (Timeouts(first_byte=2.0), None, 2.0),
        (Timeouts(first_byte=2.0), Timeouts(first_byte=3.0), 3.0),
    ],
    ids=["default", "pool", "route"],
)
def test_the_time_outs_are_those_that_hold(pool, route, expected):
    """The first of route, pool and proxy that has some."""
    proxy = Proxy()

    @proxy.route("/<path>", upstream=make_pool(timeouts=pool), timeouts=route)
    async def forwarded() -> None: ...

    actual = proxy.explain("GET", "/").timeouts["first_byte"]

    assert expected == actual


# What only the request itself decides.


def test_a_pool_that_is_chosen_per_request_is_chosen():
    """The callable gets the request as it would be forwarded."""
    proxy = Proxy()
    seen = []

    def choose(request):
        seen.append((request.route, request.path, request.path_params))
        return make_pool()

    @proxy.route("/<path>", upstream=choose)
    async def forwarded() -> None: ...

    actual = proxy.explain("GET", "/a")

    assert ("users", [("forwarded", "/a", {"path": "a"})]) == (actual.pool, seen)


@pytest.mark.parametrize("kind", ["waits", "raises"])
def test_a_choice_that_cannot_be_made_is_not_made(kind):
    """The head is shown without a destination, and the reason is told."""
    proxy = Proxy()

    async def wait(request):
        import asyncio

        await asyncio.sleep(0)

    def fail(request):
        raise LookupError("no tenant")

    @proxy.route("/<path>", upstream=wait if kind == "waits" else fail)
    async def forwarded() -> None: ...

    actual = proxy.explain("GET", "/a")

    assert (None, "/a") == (actual.pool, actual.forwarded.target)
    assert ("waits for something" if kind == "waits" else "no tenant") in actual.answer


def test_what_runs_first_is_named_and_not_run():
    """Dependencies and stubs that speak may answer instead."""
    proxy = Proxy()

    def login():
        raise AssertionError("it was run")

    @proxy.route("/<path>", upstream=make_pool(), dependencies=[Depends(login)])
    async def speaks() -> None:
        raise AssertionError("it was run")

    actual = proxy.explain("GET", "/a").notes

    assert (
        "solved first, and may answer instead: login",
        "the stub speaks is called first, and may answer instead",
    ) == actual[:2]


# Attempts and affinity.


@pytest.mark.parametrize("url", ["/api/x", "ws://localhost/api/ws"], ids=["route", "session"])
def test_who_answers_failures_is_named(url):
    """In the order in which they are asked, with what they are asked of."""

    def near(error, request):
        """Have no answer."""

    def far(error, request):
        """Have no answer."""

    proxy = Proxy()
    group = proxy.group("/api", upstream=make_pool(), on_error=far)
    own = [near, {UpstreamTimeoutError: far}]

    @group.get("/x", on_error=own)
    async def one() -> None: ...

    @group.websocket("/ws", on_error=own)
    async def live() -> None: ...

    assert (
        "on_error: near, asked of GatewayError",
        "on_error: far, asked of UpstreamTimeoutError",
        "on_error: far, asked of GatewayError",
    ) == proxy.explain("GET", url).steps


@pytest.mark.parametrize(
    ("method", "retry", "words"),
    [
        ("GET", Retry(), "up to 2 attempts on a connection that breaks before an answer"),
        (
            "GET",
            Retry(attempts=3, on=[503, UpstreamTimeoutError]),
            "up to 3 attempts on a connection that breaks before an answer, 503, UpstreamTimeoutError",
        ),
        ("POST", Retry(), "never after a byte was sent"),
        ("GET", None, "never after a byte was sent"),
    ],
)
def test_further_attempts_are_told(method, retry, words):
    """Those of this request."""
    pool = UpstreamPool("p", ["http://a", "http://b"], retry=retry)
    proxy = Proxy()

    @proxy.route("/<path>", upstream=pool)
    async def api() -> None: ...

    actual = proxy.explain(method, "/x").retry

    assert f"while no connection is made, up to 2 destinations, each once; {words}" == actual


@pytest.mark.parametrize(
    ("retry", "words"), [(Retry(), "none"), (Retry(on=[503]), "up to 2 attempts on 503")]
)
def test_further_attempts_at_one_destination_are_told(retry, words):
    """There is no other one."""
    proxy = Proxy()

    @proxy.route("/<path>", upstream=UpstreamPool("p", ["http://a"], retry=OFF), retry=retry)
    async def api() -> None: ...

    assert words == proxy.explain("GET", "/x").retry


OFF = Retry(attempts=1)


def test_a_handshake_is_never_made_again():
    """Whatever the pool says of requests."""
    proxy = Proxy()

    @proxy.websocket("/<path>", upstream=UpstreamPool("p", ["http://a"], retry=Retry(on=[503])))
    async def live() -> None: ...

    assert "none" == proxy.explain("GET", "ws://gateway/x").retry


def test_affinity_comes_before_balancing():
    """Who the client belongs to is picked."""
    proxy = Proxy()
    urls = [f"http://{name}" for name in "abcdefgh"]

    @proxy.route("/<path>", upstream=UpstreamPool("p", urls, affinity=HeaderAffinity("x-tenant")))
    async def api() -> None: ...

    picked = {
        one.url
        for _ in range(8)
        for one in proxy.explain("GET", "/x", {"X-Tenant": "t"}).candidates
        if one.picked
    }

    assert 1 == len(picked)


# As text and as JSON.


def test_it_can_be_read():
    """Each part of the way has its line."""
    lines = str(make_proxy().explain("GET", "/api/7")).splitlines()
    starts = [line[:13].strip() for line in lines if line[2:3].strip()]

    assert [
        "GET /api/7",
        "route",
        "pool",
        "forwarded",
        "time-outs",
        "retry",
        "not taken",
        "notes",
    ] == starts
    assert "             -> http://10.0.0.7:8080/base  available: not probed yet" in lines


def test_it_can_be_written_as_json():
    """And read back, with everything in it."""
    explanation = make_proxy().explain("GET", "/api/7")
    actual = json.loads(json.dumps(explanation.to_dict()))

    assert ("one", URLS[0], "/base/v2/7", 60.0) == (
        actual["route"],
        actual["picked"],
        actual["forwarded"]["target"],
        actual["timeouts"]["first_byte"],
    )
    assert set(actual) == {*(one for one in explanation.__slots__ if one[0] != "_"), "picked"}


def test_a_gateway_that_cannot_be_built_cannot_be_explained():
    """Its mistakes are told instead."""
    proxy = Proxy()

    @proxy.route("/<", upstream=make_pool())
    async def wrong() -> None: ...

    with pytest.raises(BuildError):
        proxy.explain("GET", "/")


# What else decides.


def test_a_route_whose_match_does_not_hold_loses_by_it():
    """The path fits; what the request says does not."""
    proxy = Proxy()

    @proxy.route("/a", upstream=URLS[0], match=Match(headers={"x-beta": "1"}))
    async def beta() -> None: ...

    @proxy.route("/a", upstream=URLS[1])
    async def stable() -> None: ...

    with_it = proxy.explain("GET", "/a", headers={"X-Beta": "1"})
    without = proxy.explain("GET", "/a")

    assert ("beta", "stable") == (with_it.route, without.route)
    assert {"beta": "its match does not hold"} == reasons(without)
    assert {"stable": "fits too, but beta was declared first"} == reasons(with_it)


def test_a_split_is_decided_by_a_key_or_told():
    """Chance is not guessed."""
    pools = [UpstreamPool(name, [url]) for name, url in zip("ab", URLS, strict=True)]
    proxy = Proxy()

    @proxy.route(
        "/<path>",
        upstream=WeightedSplit({pools[0]: 1, pools[1]: 0}, key="header:x-user"),
        rate_limit=RateLimit("1/s"),
        mirror=Mirror(to=pools[1], share=0.5),
    )
    async def split() -> None: ...

    known = proxy.explain("GET", "/a", headers={"X-User": "1"})
    unknown = proxy.explain("GET", "/a")

    assert ("a", None) == (known.pool, unknown.pool)
    assert "the key of this request decides between a (weight 1), b (weight 0)" in known.notes
    assert "chance decides between a (weight 1), b (weight 0)" in unknown.notes
    assert "a rate limit is asked first, and may answer 429" in known.notes
    assert "a copy goes to pool b, of a share of 0.5 of the requests" in known.notes
