"""Every mistake of every declaration, together, each at its stub; and what upstreams and routes are compiled to."""

import asyncio
import re
from typing import Annotated

import pytest
from fastapi import Body, Depends, FastAPI, Request
from pydantic import BaseModel

from proxyroutes import (
    BuildError,
    Destination,
    ForwardedRequest,
    HealthMonitor,
    Match,
    Proxy,
    Timeouts,
    UpstreamPool,
)
from proxyroutes.exceptions import (
    DeclarationError,
    DuplicateRouteError,
    PathTemplateError,
    StubError,
)
from proxyroutes.settings import Forwarding
from proxyroutes.transports import ASGITransport

UPSTREAM = "http://127.0.0.1:9"


async def stub() -> None:
    """Say nothing."""


def problems_of(proxy, **options):
    """Every mistake that the build reports."""
    with pytest.raises(BuildError) as caught:
        proxy.build_router(**options)
    return list(caught.value.exceptions)


def the_problem_of(*args, declare="route", stub=stub, **options):
    """The one mistake of one declaration."""
    proxy = Proxy()
    options.setdefault("upstream", UPSTREAM)
    getattr(proxy, declare)(*args, **options)(stub)
    (problem,) = problems_of(proxy)
    return problem


def plan_of(*args, proxy=None, **options):
    """The plan of one declaration."""
    proxy = proxy or Proxy()
    options.setdefault("upstream", UPSTREAM)
    proxy.route(*args, **options)(stub)
    return proxy.compiled().routes[0][1]


@pytest.mark.requirement("R-47")
def test_all_mistakes_come_in_one_error_with_their_places():
    """One build reports every mistake of every stub, with its file and line and what to write instead."""
    proxy = Proxy()
    group = proxy.group("api")

    @proxy.get("/a/<it:n>", upstream=UPSTREAM)
    async def unknown_converter() -> None: ...

    @proxy.get("/b/<path>/x", upstream=UPSTREAM)
    async def rest_not_last() -> None: ...

    @proxy.get("/c/<user>", upstream=UPSTREAM, rewrite="/<usr>")
    async def bad_rewrite() -> None: ...

    @proxy.get("/d", upstream="127.0.0.1:9")
    async def bad_url() -> None: ...

    @proxy.route("/e", upstream=UPSTREAM, methods="GET")
    async def lone_methods() -> None: ...

    @proxy.get("/f", upstream=UPSTREAM)
    async def first() -> None: ...

    @proxy.get("/f", upstream=UPSTREAM)
    async def again() -> None: ...

    @proxy.get("/g", upstream=UPSTREAM)
    async def yields():
        yield b""

    @proxy.post("/h", upstream=UPSTREAM)
    async def reads(value: Annotated[str, Body()]) -> None: ...

    @group.get("/i", upstream=UPSTREAM)
    async def fine() -> None: ...

    @proxy.websocket("/j/<user>", upstream=UPSTREAM, rewrite="/<usr>")
    async def live() -> None: ...

    mistaken = [
        (unknown_converter, "unknown converter 'it'; did you mean 'int'?"),
        (rest_not_last, "must come last"),
        (bad_rewrite, "did you mean <user>?"),
        (bad_url, "write 'http://127.0.0.1:9'"),
        (lone_methods, "methods: a list is meant, not one value: write ['GET']"),
        (again, "'/f' repeats '/f' at "),
        (yields, "is a generator"),
        (reads, "max_body_bytes=1_000_000"),
        (live, "did you mean <user>?"),
    ]
    found = problems_of(proxy)
    text = str(BuildError("the gateway cannot be built", found))
    missing = [
        words
        for function, words in mistaken
        if not any(
            words in problem.problem
            and problem.location == f"{__file__}:{function.__code__.co_firstlineno}"
            and f"  - {problem}" in text
            for problem in found
        )
    ]

    assert ([], len(mistaken) + 1) == (missing, len(found))


def test_a_build_error_is_a_group_of_declaration_errors():
    """Each mistake keeps its class, and the group can be split by it."""
    proxy = Proxy()
    proxy.get("/<it:n>", upstream=UPSTREAM)(stub)
    proxy.get("/a", upstream="nonsense")(stub)
    with pytest.raises(BuildError) as caught:
        proxy.build_router()
    templates, others = caught.value.split(PathTemplateError)

    assert (BuildError, 1, BuildError, 1) == (
        type(templates),
        len(templates.exceptions),
        type(others),
        len(others.exceptions),
    )


def test_a_second_build_reports_the_same():
    """Mistakes do not vanish by asking again."""
    proxy = Proxy()
    proxy.get("/<it:n>", upstream=UPSTREAM)(stub)
    first = [str(problem) for problem in problems_of(proxy)]

    assert first == [str(problem) for problem in problems_of(proxy)]


async def test_a_proxy_with_mistakes_cannot_be_entered():
    """An app that only enters the proxy hears of mistakes too."""
    proxy = Proxy()
    proxy.get("/<it:n>", upstream=UPSTREAM)(stub)
    with pytest.raises(BuildError):
        async with proxy:
            pass


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        pytest.param("x", {}, "a path starts with a slash: write '/x'", id="no-slash"),
        pytest.param(7, {}, "a path is a string: 7", id="path-number"),
        pytest.param(
            "/",
            {"methods": "GET"},
            "methods: a list is meant, not one value: write ['GET']",
            id="lone-method",
        ),
        pytest.param("/", {"methods": 7}, "methods: a list is meant", id="methods-number"),
        pytest.param("/", {"methods": []}, "methods is empty: leave it out", id="no-methods"),
        pytest.param("/", {"methods": [7]}, "a method is a string: 7", id="method-number"),
        pytest.param("/", {"methods": ["get"]}, "write 'GET', not 'get'", id="lower-case"),
        pytest.param(
            "/", {"methods": ["GET", "A B"]}, "the method is not a token: 'A B'", id="no-token"
        ),
        pytest.param("/", {"methods": ["TRACE"]}, "TRACE is not forwarded", id="trace"),
        pytest.param("/", {"methods": ["CONNECT"]}, "CONNECT is not forwarded", id="connect"),
        pytest.param(
            "/", {"tags": "x"}, "tags: a list is meant, not one value: write ['x']", id="lone-tag"
        ),
        pytest.param(
            "/", {"identity_headers": "x-user"}, "write ['x-user']", id="lone-identity-field"
        ),
        pytest.param(
            "/",
            {"identity_headers": ["x user"]},
            "not a field name: 'x user'",
            id="bad-identity-field",
        ),
        pytest.param(
            "/",
            {"location": "rewrites"},
            "location is 'rewrite' or 'keep', not 'rewrites'",
            id="location",
        ),
        pytest.param("/", {"host": "preserved"}, "did you mean 'preserve'?", id="close-host"),
        pytest.param("/", {"host": "a b"}, "or a literal host, not 'a b'", id="bad-host"),
        pytest.param("/", {"host": "bücher.example"}, "or a literal host", id="host-not-ascii"),
        pytest.param("/", {"host": 7}, "or a literal host, not 7", id="host-number"),
        pytest.param(
            "/",
            {"max_body_bytes": -1},
            "max_body_bytes is a number of bytes from 0 up: -1",
            id="negative-limit",
        ),
        pytest.param(
            "/", {"max_body_bytes": "1MB"}, "max_body_bytes is a number of bytes", id="limit-text"
        ),
        pytest.param(
            "/", {"timeouts": 5.0}, "write Timeouts(first_byte=5.0)", id="timeouts-number"
        ),
        pytest.param(
            "/",
            {"forwarding": "off"},
            "forwarding is a Forwarding value, not 'off'",
            id="forwarding-text",
        ),
        pytest.param(
            "/", {"responses": {200: 7}}, "FastAPI cannot take stub 'stub'", id="responses"
        ),
        pytest.param(
            "/", {"dependencies": [7]}, "FastAPI cannot take stub 'stub'", id="no-dependency"
        ),
    ],
)
def test_a_mistake_of_a_route_says_what_to_write_instead(path, options, words):
    """The message has the mistake, its cure and the place."""
    problem = the_problem_of(path, **options)

    assert (True, f"{__file__}:{stub.__code__.co_firstlineno}") == (
        words in problem.problem,
        problem.location,
    )


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        pytest.param(None, "a route needs an upstream", id="none"),
        pytest.param("127.0.0.1:9", "write 'http://127.0.0.1:9'", id="no-scheme"),
        pytest.param("ftp://a", "scheme is http, https, ws, wss or http+unix", id="ftp"),
        pytest.param("http://", "a destination needs a host", id="no-host"),
        pytest.param("http://a?x=1", "no query and no fragment", id="query"),
        pytest.param("http://a:b", "not a URL", id="port"),
        pytest.param([], "needs at least one destination", id="no-destinations"),
        pytest.param(["http://a", "http://a/"], "twice: say weight=2 instead", id="twice"),
        pytest.param(["http://a", 7], "a destination's URL is a string: 7", id="list-with-number"),
        pytest.param(["http://[", "http://a"], "upstream: ", id="list-with-nonsense"),
        pytest.param(
            7,
            "an UpstreamPool, a WeightedSplit, a URL, a list of them, an ASGI app or a callable is meant, not 7",
            id="number",
        ),
        pytest.param(lambda: None, "takes 0", id="callable-of-nothing"),
        pytest.param(lambda a, b: None, "takes 2", id="callable-of-two"),
    ],
)
def test_a_bad_upstream_says_what_is_meant(upstream, words):
    """What cannot be an upstream is reported at its stub."""
    problem = the_problem_of("/", upstream=upstream)

    assert (True, f"{__file__}:{stub.__code__.co_firstlineno}") == (
        words in problem.problem,
        problem.location,
    )


def test_a_route_without_upstream_is_a_mistake():
    """Neither the route nor a group has one."""
    proxy = Proxy()
    proxy.get("/")(stub)
    (problem,) = problems_of(proxy)

    assert (
        "a route needs an upstream, its own or its group's: write upstream=pool" in problem.problem
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"rewrite": "/<b>"}, "uses <b>", id="rewrite"),
        pytest.param(
            {"allowed_origins": "http://a"}, "allowed_origins: a list is meant", id="lone-origin"
        ),
        pytest.param({"timeouts": 5}, "timeouts is a Timeouts value", id="timeouts"),
        pytest.param({"dependencies": 5}, "dependencies: a list is meant", id="dependencies"),
        pytest.param({"dependencies": [5]}, "FastAPI cannot take stub 'stub'", id="no-dependency"),
        pytest.param({"upstream": "nonsense"}, "upstream: ", id="upstream"),
    ],
)
def test_a_mistake_of_a_websocket_is_reported_too(options, words):
    """WebSocket routes are checked with the others."""
    problem = the_problem_of("/<a>", declare="websocket", **options)

    assert (True, f"{__file__}:{stub.__code__.co_firstlineno}") == (
        words in problem.problem,
        problem.location,
    )


def test_a_bad_path_of_a_websocket_is_reported():
    """A template that cannot be read is no route."""
    problem = the_problem_of("/<it:a>", declare="websocket", rewrite="/<b>")

    assert "unknown converter" in problem.problem


def test_a_mistake_of_a_group_is_reported():
    """A prefix stands at no stub; it is reported all the same."""
    proxy = Proxy()
    proxy.group("api")
    (problem,) = problems_of(proxy)

    assert ("", True) == (problem.location, "write '/api', not 'api'" in str(problem))


# Repeated and hidden routes.


@pytest.mark.parametrize(
    ("earlier", "later", "words"),
    [
        pytest.param(("/a", None), ("/a", None), "repeats", id="same"),
        pytest.param(
            ("/a", ["GET", "POST"]), ("/a", ["POST", "PUT"]), "repeats", id="overlapping-methods"
        ),
        pytest.param(("/a", ["GET"]), ("/a", None), "repeats", id="every-method-overlaps"),
        pytest.param(("/<x>", None), ("/{y}", None), "repeats", id="other-name-and-spelling"),
        pytest.param(("/%61", None), ("/a", None), "repeats", id="encoded"),
        pytest.param(
            ("/<path>", None),
            ("/a", None),
            "can never be reached: it is wholly hidden by",
            id="rest",
        ),
        pytest.param(("/<x>", None), ("/a", ["GET"]), "can never be reached", id="segment"),
        pytest.param(
            ("/<x>", ["GET", "PUT"]),
            ("/<int:n>", ["GET"]),
            "can never be reached",
            id="fewer-methods",
        ),
        pytest.param(
            ("/a/<path>", None), ("/a/b/<path>", None), "can never be reached", id="behind-literal"
        ),
    ],
)
def test_a_repeated_or_hidden_route_is_a_mistake(earlier, later, words):
    """The later route is reported, with the place of the earlier one."""
    proxy = Proxy()

    @proxy.route(earlier[0], methods=earlier[1], upstream=UPSTREAM)
    async def first() -> None: ...

    proxy.route(later[0], methods=later[1], upstream=UPSTREAM)(stub)
    (problem,) = problems_of(proxy)

    assert (DuplicateRouteError, True, True, True) == (
        type(problem),
        words in problem.problem,
        f"{__file__}:{first.__code__.co_firstlineno}" in problem.problem,
        problem.location.endswith(f":{stub.__code__.co_firstlineno}"),
    )


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        pytest.param(("/a", ["GET"]), ("/a", ["POST"]), id="other-methods"),
        pytest.param(("/a", None), ("/<path>", None), id="narrower-first"),
        pytest.param(("/<path>", ["GET"]), ("/a", None), id="only-some-methods-hidden"),
        pytest.param(("/<int:x>", None), ("/<uuid:x>", None), id="other-kinds"),
        pytest.param(("/a", None), ("/a/", None), id="with-and-without-slash"),
    ],
)
def test_routes_that_can_be_reached_are_no_mistake(earlier, later):
    """What serves at least one request is allowed."""
    proxy = Proxy()
    for path, methods in (earlier, later):
        proxy.route(path, methods=methods, upstream=UPSTREAM)(stub)

    assert () == proxy.compiled().problems


def is_beta(request):
    """A predicate."""
    return request.query.get("beta") == "1"


@pytest.mark.parametrize("declare", ["route", "websocket"])
@pytest.mark.parametrize(
    ("earlier", "later", "words"),
    [
        pytest.param(Match(), None, "hidden|repeats", id="an-empty-one-is-none"),
        pytest.param(None, Match(hosts=["a.test"]), "hidden", id="behind-none"),
        pytest.param(
            Match(hosts=["a.test", "b.test"], headers={"X-A": "1", "x-b": "2"}, when=is_beta),
            Match(hosts=["B.test", "a.test"], headers={"x-b": "2", "x-a": "1"}, when=is_beta),
            "hidden|repeats",
            id="equal-in-another-spelling",
        ),
        pytest.param(
            Match(hosts=["a.test", "b.test"]), Match(hosts=["a.test"]), "hidden", id="fewer-hosts"
        ),
        pytest.param(
            Match(headers={"a": "1"}),
            Match(headers={"a": "1"}, query={"b": "2"}),
            "hidden",
            id="asks-for-more",
        ),
    ],
)
def test_a_route_that_an_earlier_match_hides_is_a_mistake(declare, earlier, later, words):
    """Wherever the later one would hold, the earlier one holds too."""
    proxy = Proxy()
    for match in (earlier, later):
        getattr(proxy, declare)("/a", upstream=UPSTREAM, match=match)(stub)
    (problem,) = problems_of(proxy)

    assert isinstance(problem, DuplicateRouteError)
    assert re.search(words, problem.problem)


@pytest.mark.parametrize("declare", ["route", "websocket"])
@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        pytest.param(Match(headers={"a": "1"}), None, id="none-behind"),
        pytest.param(Match(headers={"a": "1"}), Match(headers={"a": "2"}), id="other-value"),
        pytest.param(Match(hosts=["a.test"]), Match(hosts=["*.a.test"]), id="other-hosts"),
        pytest.param(Match(when=is_beta), Match(hosts=["a.test"]), id="who-knows"),
        pytest.param(Match(when=is_beta), Match(when=lambda request: True), id="other-predicate"),
    ],
)
def test_several_routes_may_share_a_path(declare, earlier, later):
    """Each of them serves some requests."""
    proxy = Proxy()
    for match in (earlier, later):
        getattr(proxy, declare)("/a", upstream=UPSTREAM, match=match)(stub)

    assert () == proxy.compiled().problems


@pytest.mark.parametrize("declare", ["route", "websocket"])
@pytest.mark.parametrize(
    ("match", "words"),
    [
        pytest.param("a.test", "match is a Match value", id="text"),
        pytest.param(Match(headers={"X-Forwarded-Host": "a"}), "never decides", id="forwarding"),
        pytest.param(Match(headers={"connection": "close"}), "never decides", id="hop-by-hop"),
        pytest.param(Match(headers={"X_User_Id": "1"}), "never decides", id="identity"),
        pytest.param(Match(headers={"x-a": "\u20ac"}), "not a field value", id="no-latin-1"),
    ],
)
def test_a_match_that_cannot_hold_is_a_mistake(declare, match, words):
    """What the gateway deletes from requests decides nothing."""
    problem = the_problem_of("/a", declare=declare, match=match, identity_headers=["x-user-id"])

    assert words in problem.problem


def test_a_group_s_match_is_inherited_and_overridden():
    """A route's own takes the place of its group's, None too."""
    proxy = Proxy()
    outer, inner = Match(hosts=["a.test"]), Match(hosts=["b.test"])
    group = proxy.group("/g", upstream=UPSTREAM, match=outer)
    group.route("/1")(stub)
    group.route("/2", match=inner)(stub)
    group.route("/3", match=None)(stub)
    group.websocket("/4")(stub)
    compiled = proxy.compiled()
    conditions = [plan.condition for _, plan, _ in compiled.routes]
    hosts = [None if one is None else one.hosts for one in conditions]

    assert [{"a.test"}, {"b.test"}, None] == hosts
    assert {"a.test"} == compiled.websockets[0].plan.condition.hosts


def test_one_http_and_one_websocket_route_may_share_a_path():
    """The kinds do not meet."""
    proxy = Proxy()
    proxy.route("/a", upstream=UPSTREAM)(stub)
    proxy.websocket("/a", upstream=UPSTREAM)(stub)

    assert () == proxy.compiled().problems


@pytest.mark.parametrize(
    ("earlier", "later"), [("/a", "/a"), ("/<path>", "/a")], ids=["same", "hidden"]
)
def test_a_hidden_websocket_is_a_mistake(earlier, later):
    """WebSocket routes hide each other by path alone."""
    proxy = Proxy()
    proxy.websocket("/other", upstream=UPSTREAM)(stub)
    proxy.websocket(earlier, upstream=UPSTREAM)(stub)
    proxy.websocket(later, upstream=UPSTREAM)(stub)
    (problem,) = problems_of(proxy)

    assert (DuplicateRouteError, True) == (type(problem), "wholly hidden" in problem.problem)


# Stubs that FastAPI or the gateway cannot take.


class Item(BaseModel):
    """A body."""

    name: str


async def with_model(item: Item) -> None:
    """Take a model."""


async def with_value(name: Annotated[str, Body()]) -> None:
    """Take a value."""


async def body_dependency(item: Item) -> Item:
    """Take a model in a dependency."""
    return item


async def with_body_dependency(item: Annotated[Item, Depends(body_dependency)]) -> None:
    """Take a model through a dependency."""


@pytest.mark.parametrize(
    "taking", [with_model, with_value, with_body_dependency], ids=lambda one: one.__name__
)
def test_a_body_parameter_needs_a_limit(taking):
    """How much is buffered must be said."""
    problem = the_problem_of("/", stub=taking)

    assert (StubError, True) == (
        type(problem),
        "say how much is buffered, as max_body_bytes=1_000_000" in problem.problem,
    )


def sync_generator():
    """Yield."""
    yield


async def asynchronous_generator():
    """Yield."""
    yield


@pytest.mark.parametrize(
    "yielding", [sync_generator, asynchronous_generator], ids=lambda one: one.__name__
)
def test_a_generator_stub_is_a_mistake(yielding):
    """The cure is named."""
    problem = the_problem_of("/", stub=yielding)

    assert (StubError, True) == (
        type(problem),
        "return a StreamingResponse instead of yielding" in problem.problem,
    )


async def variadic(*args: int) -> None:
    """Take anything."""


async def keywords(**kwargs: int) -> None:
    """Take anything."""


async def positional(a: int, /) -> None:
    """Take by place."""


@pytest.mark.parametrize("taking", [variadic, keywords, positional], ids=lambda one: one.__name__)
def test_parameters_without_names_are_a_mistake(taking):
    """FastAPI solves named parameters only."""
    problem = the_problem_of("/", stub=taking)

    assert (StubError, True) == (
        type(problem),
        "FastAPI solves named ones only" in problem.problem,
    )


def test_annotations_that_cannot_be_resolved_are_a_mistake():
    """A name that does not exist is reported at the stub."""

    async def lost(a: "Nowhere") -> None:  # noqa: F821 - a name that cannot be resolved.
        """Take something."""

    problem = the_problem_of("/", stub=lost)

    assert (StubError, True) == (
        type(problem),
        "annotations of stub 'lost' cannot be resolved" in problem.problem,
    )


async def bare(request: ForwardedRequest) -> None:
    """Take a forwarded request in the spelling of stubs."""


async def with_bare_dependency(x: Annotated[None, Depends(bare)]) -> None:
    """Depend on it."""


def test_a_bare_forwarded_request_in_a_dependency_is_a_mistake():
    """The spelling for dependencies is named."""
    problem = the_problem_of("/", stub=with_bare_dependency)

    assert (StubError, True) == (
        type(problem),
        "write Annotated[ForwardedRequest, Depends(proxy.forwarded_request)]" in problem.problem,
    )


def test_a_bare_forwarded_request_in_a_websockets_dependency_is_a_mistake():
    """WebSocket routes are told the same."""
    problem = the_problem_of("/", declare="websocket", dependencies=[Depends(bare)])

    assert "write Annotated[ForwardedRequest, Depends(proxy.forwarded_request)]" in problem.problem


# Keywords of build_router.


def test_route_class_is_refused():
    """Routes are compiled to their own class."""
    (problem,) = problems_of(Proxy(), route_class=object)

    assert "does not take route_class" in problem.problem


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        pytest.param("api", "a path starts with a slash: write '/api'", id="no-slash"),
        pytest.param(
            "/api/", "a prefix does not end with a slash: write '/api'", id="slash-at-end"
        ),
        pytest.param("/v<n>", "a parameter is a whole segment", id="part-of-segment"),
    ],
)
def test_a_bad_prefix_of_the_router_is_reported(prefix, words):
    """The router's own prefix is a template too."""
    (problem,) = problems_of(Proxy(), prefix=prefix)

    assert words in problem.problem


def test_a_proxy_without_routes_builds_a_router():
    """A gateway may have nothing to serve yet."""
    assert [] == Proxy().build_router().routes


# Upstreams in all their forms.


def test_a_pool_is_taken_as_it_is():
    """Many routes may share one pool."""
    pool = UpstreamPool("users", [UPSTREAM])

    assert pool is plan_of("/", upstream=pool).pool


def test_two_pools_of_one_name_are_a_mistake():
    """Nobody could tell them apart in a log; one pool on two routes is none, nor are pools that were not named."""
    proxy = Proxy()
    users = UpstreamPool("users", [UPSTREAM])
    proxy.get("/a", upstream=users)(stub)
    proxy.get("/b", upstream=users)(stub)
    proxy.get("/c", upstream=UPSTREAM)(stub)
    proxy.get("/d", upstream=UPSTREAM)(stub)
    proxy.websocket("/e", upstream=UpstreamPool("users", [UPSTREAM]))(stub)
    with pytest.raises(BuildError) as caught:
        proxy.build_router()

    (problem,) = caught.value.exceptions
    assert "another pool is named 'users' already" in str(problem)


def test_a_pool_without_monitor_takes_the_proxys():
    """The proxy's monitor is for all its pools."""
    monitor = HealthMonitor()
    pool = UpstreamPool("users", [UPSTREAM])
    plan_of("/", upstream=pool, proxy=Proxy(monitor=monitor))

    assert monitor is pool.monitor


def test_a_pool_keeps_its_own_monitor():
    """What a pool was declared with stays."""
    monitor = HealthMonitor()
    pool = UpstreamPool("users", [UPSTREAM], monitor=monitor)
    plan_of("/", upstream=pool)

    assert monitor is pool.monitor


@pytest.mark.parametrize(
    ("upstream", "name", "destinations"),
    [
        pytest.param("http://a:1/base", "a:1", [Destination("http://a:1/base")], id="url"),
        pytest.param(
            Destination("https://a", weight=2),
            "a",
            [Destination("https://a", weight=2)],
            id="destination",
        ),
        pytest.param(
            ["http://a", Destination("http://b:2", weight=2)],
            "a,b:2",
            [Destination("http://a"), Destination("http://b:2", weight=2)],
            id="list",
        ),
        pytest.param(
            ("ws://a", "wss://b"),
            "a,b",
            [Destination("ws://a"), Destination("wss://b")],
            id="ws-spelling",
        ),
    ],
)
def test_urls_make_an_anonymous_pool(upstream, name, destinations):
    """A URL, a destination and a list of them are pools of their own, named after where they lead."""
    pool = plan_of("/", upstream=upstream).pool

    assert (name, tuple(destinations)) == (pool.name, pool.destinations)


async def asgi_function(scope, receive, send):
    """Be an application."""


class AsgiObject:
    """Be an application."""

    async def __call__(self, scope, receive, send):
        """Serve."""


@pytest.mark.parametrize(
    "app", [asgi_function, AsgiObject(), FastAPI()], ids=["function", "object", "fastapi"]
)
def test_an_asgi_app_is_served_in_process(app):
    """What takes scope, receive and send is an application."""
    pool = plan_of("/", upstream=app).pool

    assert ("asgi:stub", ASGITransport(app)) == (pool.name, pool.transport)


POOL = UpstreamPool("chosen", [UPSTREAM])


def choose(request):
    """Choose."""
    return POOL


async def choose_later(request):
    """Choose after a while."""
    await asyncio.sleep(0)
    return POOL


class Chooser:
    """Choose."""

    def __call__(self, request):
        """Choose."""
        return POOL


@pytest.mark.parametrize(
    "upstream", [choose, choose_later, Chooser()], ids=["sync", "async", "object"]
)
async def test_a_callable_chooses_for_each_request(upstream):
    """Synchronous and asynchronous choosers are called alike."""
    plan = plan_of("/", upstream=upstream)

    assert (None, POOL) == (plan.pool, await plan.choose(None))


def test_what_has_no_signature_counts_as_a_chooser():
    """Some built-in callables cannot be looked into."""
    plan = plan_of("/", upstream=dict)

    assert (None, True) == (plan.pool, plan.choose is not None)


@pytest.mark.requirement("S-19")
async def test_a_chooser_that_gives_no_pool_is_told():
    """A URL is not a pool."""
    plan = plan_of("/", upstream=lambda request: UPSTREAM)
    with pytest.raises(
        TypeError, match="returns an UpstreamPool or a WeightedSplit, not 'http://127.0.0.1:9'"
    ):
        await plan.choose(None)


# What a route is compiled to.


def test_a_proxys_settings_are_defaults():
    """Routes that say nothing have the proxy's settings, and a pool's time-outs come before those."""
    timeouts, forwarding = Timeouts(total=1.0), Forwarding(mode="off")
    plan = plan_of("/", proxy=Proxy(timeouts=timeouts, forwarding=forwarding, via="me"))
    fields = plan.hop.fields({}, b"", [])

    assert (timeouts, True, ((b"via", b"1.1 me"),)) == (
        plan.timeouts,
        plan.pool_timeouts,
        tuple(fields),
    )


def test_a_routes_timeouts_come_before_those_of_its_pool():
    """The narrowest time-outs win."""
    timeouts = Timeouts(total=1.0)
    plan = plan_of("/", timeouts=timeouts, proxy=Proxy(timeouts=Timeouts(total=2.0)))

    assert (timeouts, False) == (plan.timeouts, plan.pool_timeouts)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("destination", None, id="destination"),
        pytest.param("preserve", b"", id="preserve"),
        pytest.param("example.org:81", b"example.org:81", id="literal"),
    ],
)
def test_host_is_compiled(host, expected):
    """The destination's, the client's or a literal one."""
    assert expected == plan_of("/", host=host).host


@pytest.mark.parametrize(
    ("path", "rewrite", "pieces", "inverse"),
    [
        pytest.param("/a/<x>/<path>", "/b/<path>", (b"/b/", 1), None, id="a-capture-is-lost"),
        pytest.param(
            "/a/<x>/<path>", "/<x>/b/<path>", (b"/", 0, b"/b/", 1), (0, b"b", ~1), id="both-used"
        ),
        pytest.param(
            "/a/<x>",
            "/b/<x>/c%20d",
            (b"/b/", 0, b"/c%20d"),
            (b"b", 0, b"c d"),
            id="literal-behind",
        ),
        pytest.param("/a", "/", (b"/",), (b"",), id="root"),
        pytest.param("/a/<path:x>", "/<x>", (b"/", 0), (~0,), id="rest-by-name"),
        pytest.param("/<x>/<path>", "/<path>/<x>", (b"/", 1, b"/", 0), None, id="behind-a-rest"),
        pytest.param("/<x>", "/<x>/<x>", (b"/", 0, b"/", 0), None, id="repeated"),
    ],
)
def test_a_rewrite_is_compiled_with_its_inverse(path, rewrite, pieces, inverse):
    """Raw pieces to fill in, and the way back where there is one."""
    plan = plan_of(path, rewrite=rewrite)

    assert (pieces, inverse) == (plan.rewrite, plan.inverse)


def test_a_name_may_be_given():
    """A route is called after its stub unless told otherwise."""
    assert ("stub", "named") == (plan_of("/").name, plan_of("/", name="named").name)


def test_every_pool_is_known_once():
    """Pools that many routes share are opened once; chosen ones are not known before."""
    proxy = Proxy()
    pool = UpstreamPool("p", [UPSTREAM])
    for path, upstream in (("/a", pool), ("/b", pool), ("/c", choose)):
        proxy.route(path, upstream=upstream)(stub)

    assert (pool,) == proxy.compiled().pools


def test_observers_may_be_one_or_several():
    """One callable is short for a tuple of one."""
    one = plan_of("/", proxy=Proxy(on_exchange=print)).observers
    several = plan_of("/", proxy=Proxy(on_exchange=(print, repr))).observers

    assert ([print], [print, repr]) == (list(one), list(several))


@pytest.mark.parametrize("via", ["", "a b", "bücher"], ids=["empty", "space", "not-ascii"])
def test_via_must_be_a_token(via):
    """A value raises at construction."""
    with pytest.raises(ValueError, match="via is a token"):
        Proxy(via=via)


def test_an_annotation_with_unhashable_metadata_is_taken():
    """What an annotation is annotated with is nobody's key."""
    proxy = Proxy()

    @proxy.get("/", upstream=UPSTREAM)
    async def annotated(request: Annotated[Request, ["unhashable"]]) -> None: ...

    assert 1 == len(
        [route for route in proxy.build_router().routes if not route.include_in_schema]
    )


def test_a_declaration_error_without_place_is_its_text():
    """Where there is no stub, nothing stands before the problem."""
    assert ("x", "a.py:1: x") == (
        str(DeclarationError("x")),
        str(DeclarationError("x", location="a.py:1")),
    )
