"""Dependencies that are run as they were compiled: the same calls, in the same order, as FastAPI makes them."""

import functools
import gc
import inspect
import weakref
from dataclasses import dataclass, field, fields, make_dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    routing,
)
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer, SecurityScopes
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from proxyroutes import ForwardedRequest, Match, Proxy
from proxyroutes._build.dependencies import Dependencies
from proxyroutes._build.proof import is_silent
from proxyroutes._build.routes import ProxyRoute
from proxyroutes.exceptions import NoDestinationError, StubError


async def upstream(scope, receive, send):
    """Answer."""
    await PlainTextResponse("upstream")(scope, receive, send)


@pytest.fixture
def solved(monkeypatch):
    """How many requests had their dependencies run as compiled."""
    found = []
    solve = Dependencies.solve

    async def counted(self, request):
        found.append(request.url.path)
        return await solve(self, request)

    monkeypatch.setattr(Dependencies, "solve", counted)
    return found


# Any tree of dependencies, run by FastAPI in an endpoint of its own, and by a stub.

PARAMETERS = {
    "identity": Annotated[int, Path()],
    "size": Annotated[int, Query()],
    "many": Annotated[list[int] | None, Query()],
    "x_token": Annotated[str, Header()],
    "session": Annotated[str, Cookie()],
    "request": Request,
    "response": Response,
    "background": BackgroundTasks,
}
KINDS = ("function", "instance", "method", "plain function", "generator")


@dataclass(frozen=True)
class Shape:
    """One dependency: what it asks for, which earlier ones it depends on, and what it does."""

    kind: str
    parameters: frozenset[str]
    inner: tuple[tuple[int, bool], ...]
    fails: bool


@dataclass
class Seen:
    """What the dependencies of one application saw."""

    calls: list[Any] = field(default_factory=list)


def act(number, shape, seen, values):
    """What every dependency does."""
    plain = {
        name: value for name, value in values.items() if isinstance(value, int | str | list | None)
    }
    seen.calls.append((number, sorted(plain.items(), key=str)))
    if "response" in values:
        values["response"].headers.append("x-seen", str(number))
        values["response"].set_cookie(f"c{number}", "1")
    if "background" in values:
        values["background"].add_task(seen.calls.append, f"task of {number}")
    if shape.fails:
        raise HTTPException(418, f"by {number}")
    # Each call has a value of its own: which of them a caller gets is seen.
    return len(seen.calls)


def build_call(number, shape, signature, seen):
    """The callable of one kind."""
    if shape.kind == "plain function":

        def plain(**values):
            return act(number, shape, seen, values)

        plain.__signature__ = signature
        return plain
    if shape.kind == "generator":

        async def generator(**values):
            yield act(number, shape, seen, values)
            seen.calls.append(f"end of {number}")

        generator.__signature__ = signature
        return generator

    async def function(**values):
        return act(number, shape, seen, values)

    function.__signature__ = signature
    if shape.kind == "function":
        return function

    class Kind:
        async def __call__(self, **values):
            return act(number, shape, seen, values)

        async def ask(self, **values):
            return act(number, shape, seen, values)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = signature.replace(parameters=[own, *signature.parameters.values()])
    Kind.__call__.__signature__ = Kind.ask.__signature__ = taken
    return Kind() if shape.kind == "instance" else Kind().ask


def build_calls(shapes, seen):
    """Every callable, each depending on earlier ones."""
    calls = []
    for number, shape in enumerate(shapes):
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=PARAMETERS[name])
            for name in sorted(shape.parameters)
        ]
        parameters += [
            inspect.Parameter(
                f"inner{place}",
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[Any, Depends(calls[inner], use_cache=cached)],
            )
            for place, (inner, cached) in enumerate(shape.inner)
        ]
        calls.append(build_call(number, shape, inspect.Signature(parameters), seen))
    return calls


@st.composite
def trees(draw):
    """Up to six dependencies, of which any may depend on any earlier one, twice even."""
    shapes: list[Shape] = []
    # Mostly of kinds that are run here: one of another kind hands the whole tree to FastAPI.
    mixed = draw(st.integers(0, 4)) == 0
    kinds = st.sampled_from(KINDS if mixed else KINDS[:3])
    asked = sorted(PARAMETERS if mixed else set(PARAMETERS) - {"response", "background"})
    for number in range(draw(st.integers(1, 6))):
        earlier = st.tuples(st.integers(0, max(0, number - 1)), st.booleans())
        shapes.append(
            Shape(
                draw(kinds),
                draw(st.frozensets(st.sampled_from(asked), max_size=3)),
                tuple(draw(st.lists(earlier, max_size=3))) if number else (),
                draw(st.integers(0, 9)) == 0,
            )
        )
    wanted = st.lists(
        st.tuples(st.integers(0, len(shapes) - 1), st.booleans()), min_size=1, max_size=3
    )
    return shapes, draw(wanted)


REQUESTS = st.fixed_dictionaries(
    {
        "params": st.lists(
            st.sampled_from([("size", "1"), ("size", "x"), ("many", "2"), ("many", "y")]),
            max_size=4,
        ),
        "headers": st.sampled_from([{}, {"x-token": "t"}]),
        "cookies": st.sampled_from([{}, {"session": "s"}]),
    }
)


def outcome(app, seen, path, request):
    """What one request came to."""
    headers = dict(request["headers"])
    if request["cookies"]:
        headers["cookie"] = "session=s"
    with TestClient(app) as client:
        response = client.get(path, params=request["params"], headers=headers)
    detail = response.json() if response.status_code != 200 else None
    return (
        response.status_code,
        detail,
        response.headers.get_list("x-seen"),
        response.headers.get_list("set-cookie"),
        seen.calls,
    )


@settings(deadline=None, max_examples=150)
@given(trees(), REQUESTS, st.sampled_from(["7", "seven"]))
def test_a_tree_is_run_as_fastapi_runs_it(tree, request, identity):
    """The same calls with the same arguments in the same order, the same refusals, fields and tasks."""
    shapes, wanted = tree
    path = f"/{identity}/x"
    own, theirs = Seen(), Seen()
    calls = build_calls(shapes, own)
    proxy = Proxy()

    @proxy.route(
        "/<identity>/x",
        upstream=upstream,
        dependencies=[Depends(calls[number], use_cache=cached) for number, cached in wanted],
    )
    async def stub() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    calls = build_calls(shapes, theirs)
    plain = FastAPI()
    plain.add_api_route(
        "/{identity}/x",
        lambda: "upstream",
        dependencies=[Depends(calls[number], use_cache=cached) for number, cached in wanted],
    )

    assert outcome(app, own, path, request) == outcome(plain, theirs, path, request)


# What is run here, and what FastAPI has to run.


def gateway(dependencies=(), stub=None, **options):
    """An application with one stub."""
    proxy = Proxy()

    async def silent() -> None: ...

    proxy.route("/<name>", upstream=upstream, dependencies=dependencies, **options)(stub or silent)
    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


def ask(app, path="/x", **options):
    """One answer."""
    with TestClient(app) as client:
        return client.get(path, **options)


async def known(request: Request):
    """A dependency of the usual kind."""
    return request.headers.get("x-user")


async def stub_with_value(user: Annotated[str, Depends(known)], size: int = 1) -> None:
    """Its parameters are checked."""


@pytest.mark.parametrize(
    ("dependencies", "stub"),
    [
        pytest.param([Depends(known)], None, id="function"),
        pytest.param([Depends(HTTPBearer(auto_error=False))], None, id="security scheme"),
        pytest.param([], stub_with_value, id="parameters of the stub"),
    ],
)
def test_what_is_known_is_run_here(dependencies, stub, solved):
    """And the request is forwarded then."""
    answer = ask(gateway(dependencies, stub))

    assert (200, "upstream", ["/x"]) == (answer.status_code, answer.text, solved)


def plain_function(request: Request):
    """FastAPI runs it in a thread."""


async def generator(request: Request):
    """FastAPI ends it after the response."""
    yield 1


@functools.wraps(known)
def wrapped(request: Request):
    """FastAPI looks at what is wrapped."""
    return known(request)


async def scoped(scopes: SecurityScopes):
    """It asks for what stands at its callers."""


async def with_body(item: Annotated[dict[str, Any], Body()]):
    """It reads the content."""


class Made:
    """FastAPI makes one in a thread."""

    def __init__(self, request: Request):
        self.request = request


async def with_response(response: Response):
    """It adds to the response."""


async def with_tasks(tasks: BackgroundTasks):
    """It has something done afterwards."""


async def outer(inner: Annotated[int, Depends(generator)]):
    """It is of a known kind, and depends on one that is not."""


@pytest.mark.parametrize(
    ("dependency", "options"),
    [
        (Depends(plain_function), {}),
        (Depends(generator), {}),
        (Depends(wrapped), {}),
        (Depends(functools.partial(known)), {}),
        (Depends(scoped), {}),
        (Security(known, scopes=["a"]), {}),
        (Depends(Made), {}),
        (Depends(outer), {}),
        (Depends(known, scope="function"), {}),
        (Depends(with_response), {}),
        (Depends(with_tasks), {}),
        (Depends(known), {"max_body_bytes": 10}),
    ],
    ids=[
        "plain function",
        "generator",
        "wrapped",
        "partial",
        "asks for scopes",
        "has scopes",
        "class",
        "depends on a generator",
        "scope",
        "edits the response",
        "adds tasks",
        "content is kept",
    ],
)
def test_what_is_not_known_is_run_by_fastapi(dependency, options, solved):
    """All of the tree, with the same answer."""
    answer = ask(gateway([dependency], **options))

    assert (200, "upstream", []) == (answer.status_code, answer.text, solved)


def test_a_stub_that_says_something_is_run_by_fastapi(solved):
    """Its answer may be anything that FastAPI can turn into one."""

    async def stub(user: Annotated[str | None, Depends(known)]):
        return {"user": user}

    answer = ask(gateway(stub=stub), headers={"x-user": "ann"})

    assert ({"user": "ann"}, []) == (answer.json(), solved)


def test_a_dependant_with_something_new_is_not_read():
    """A later release may say more of a dependency than is known here."""
    context = SimpleNamespace(dependency_overrides_provider=None, endpoint=known)
    context.dependant = get_dependant(path="/", call=known)
    assert Dependencies.read(context) is not None

    later = dataclass(type("Later", (Dependant,), {"__annotations__": {"limit": int}, "limit": 0}))
    context.dependant = later(call=known, limit=0)
    assert Dependencies.read(context) is not None
    context.dependant = later(call=known, limit=1)
    assert Dependencies.read(context) is None


def test_a_replaced_solver_is_not_bypassed(monkeypatch, solved):
    """What an instrumentation has put there sees every request."""
    seen = []

    solve = routing.solve_dependencies

    async def watched(**options):
        seen.append(options["dependant"])
        return await solve(**options)

    monkeypatch.setattr(routing, "solve_dependencies", watched)
    answer = ask(gateway([Depends(known)]))

    assert (200, [], 1) == (answer.status_code, solved, len(seen))


def test_an_override_takes_the_place_of_a_dependency(solved):
    """Whenever it is set, and until it is taken away."""

    async def deny():
        raise HTTPException(401)

    app = gateway([Depends(known)])
    before = ask(app).status_code
    app.dependency_overrides[known] = deny
    during = ask(app).status_code
    app.dependency_overrides.clear()

    assert ([200, 401, 200], 2) == ([before, during, ask(app).status_code], len(solved))


def test_a_dependency_may_edit_what_is_forwarded(solved):
    """Asked for as a user's dependency does; FastAPI runs it, and the call is there."""
    proxy = Proxy()

    async def echo(scope, receive, send):
        fields = dict(scope["headers"])
        await PlainTextResponse(fields.get(b"x-user", b"nobody"))(scope, receive, send)

    async def identify(
        forwarded: Annotated[ForwardedRequest, Depends(proxy.forwarded_request)],
    ) -> None:
        forwarded.headers["x-user"] = "ann"

    @proxy.route("/<name>", upstream=echo, dependencies=[Depends(identify)])
    async def stub() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())

    assert ("ann", []) == (ask(app).text, solved)


def test_prefixes_give_parameters_too(solved):
    """Those of the inclusion and of the router, converted as they say."""
    seen = []

    async def read(tenant: Annotated[int, Path()], request: Request):
        seen.append((tenant, request.path_params, request.scope["route"].name))

    proxy = Proxy()

    @proxy.route("/<name>", upstream=upstream, dependencies=[Depends(read)])
    async def stub() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router(), prefix="/t/{tenant}")
    answer = ask(app, "/t/3/a%20b")

    assert 200 == answer.status_code
    assert [(3, {"tenant": "3", "name": "a b"}, "stub")] == seen
    assert 1 == len(solved)


@pytest.mark.parametrize("guarded", [False, True], ids=["speaking", "silent"])
def test_a_condition_is_asked_once(guarded):
    """FastAPI would match an included router twice."""
    asked = []

    def when(request) -> bool:
        asked.append(request)
        return True

    proxy = Proxy()

    async def speaking(user: Annotated[str | None, Depends(known)]):
        return None if user is None else user

    async def silent(user: Annotated[str | None, Depends(known)]) -> None: ...

    stub = silent if guarded else speaking
    proxy.route("/<name>", upstream=upstream, match=Match(when=when))(stub)
    app = FastAPI()
    app.include_router(proxy.build_router())

    assert ("upstream", 1) == (ask(app).text, len(asked))


def test_no_route_is_asked_whether_it_matches(monkeypatch):
    """However many there are: the index knows."""
    asked = []
    matches = ProxyRoute.matches

    def counted(self, scope):
        asked.append(self.plan.name)
        return matches(self, scope)

    monkeypatch.setattr(ProxyRoute, "matches", counted)
    proxy = Proxy()
    for number in range(50):

        @proxy.route(f"/{number}/<name>", upstream=upstream, name=f"r{number}")
        async def speaking(user: Annotated[str | None, Depends(known)]):
            return user

    app = FastAPI()
    app.include_router(proxy.build_router())

    assert (("upstream", "ann"), []) == (
        (ask(app, "/49/x").text, ask(app, "/49/x", headers={"x-user": "ann"}).json()),
        asked,
    )


# What changes after the build, and what others have put around a route.


async def deny():
    """Let nobody through."""
    raise HTTPException(401)


def routers(dependencies=(), methods=("GET",)):
    """The same route in FastAPI alone and in a gateway, each in an application."""
    plain = APIRouter()
    plain.add_api_route("/x", known, methods=list(methods), dependencies=list(dependencies))
    proxy = Proxy()

    @proxy.route("/x", upstream=upstream, methods=methods, dependencies=dependencies)
    async def stub() -> None: ...

    return {"fastapi": plain, "gateway": proxy.build_router()}


def both(dependencies=(), build=None, methods=("GET",), **request):
    """What FastAPI and a gateway answer under the same conditions."""
    found = []
    for router in routers(dependencies, methods).values():
        app = FastAPI()
        if build is None:
            app.include_router(router)
        else:
            build(app, router)
        client = TestClient(app, raise_server_exceptions=False)
        answer = client.request(**{"method": "GET", "url": "/x", **request})
        found.append((answer.status_code, dict(answer.headers)))
    (status, headers), (own_status, own_headers) = found
    headers.pop("content-length", None)
    return (status, headers), (own_status, {name: own_headers.get(name) for name in headers})


GUARDED = pytest.mark.parametrize("dependencies", [(), (Depends(known),)], ids=["bare", "guarded"])


@GUARDED
def test_a_dependency_that_is_added_to_what_fastapi_reads_is_run(dependencies):
    """Even between two requests."""
    for router in routers(dependencies).values():
        app = FastAPI()
        app.include_router(router)
        before = ask(app).status_code
        for context in routing.iter_route_contexts(app.routes):
            if context.path == "/x":
                context.dependant.dependencies.append(get_dependant(path="/x", call=deny))

        assert (200, 401) == (before, ask(app).status_code)


@GUARDED
def test_routes_are_read_anew_when_they_change(dependencies):
    """By FastAPI's own count of changes, of routers that are included in ours too."""
    for router in routers(dependencies).values():
        inner = APIRouter()
        router.include_router(inner, prefix="/s")
        app = FastAPI()
        app.include_router(router)
        before = ask(app).status_code
        for route in router.routes:
            if isinstance(route, routing.APIRoute):
                route.dependencies.append(Depends(deny))
        inner.add_api_route("/new", known)

        assert (200, 401) == (before, ask(app).status_code)


@GUARDED
def test_a_route_that_was_taken_out_is_not_served(dependencies):
    """Though another one has come."""
    for router in routers(dependencies).values():
        app = FastAPI()
        app.include_router(router)
        before = ask(app).status_code
        del router.routes[0]
        router.add_api_route("/new", known)

        assert (200, 404) == (before, ask(app).status_code)


@GUARDED
def test_a_foreign_route_between_ours_is_asked(dependencies):
    """Wherever it was put by hand."""
    proxy = Proxy()

    @proxy.route("/a", upstream=upstream, dependencies=dependencies)
    async def first() -> None: ...

    @proxy.route("/<path>", upstream=upstream, dependencies=dependencies)
    async def second() -> None: ...

    router = proxy.build_router()
    router.routes.insert(1, routing.APIRoute("/admin", known, dependencies=[Depends(deny)]))
    app = FastAPI()
    app.include_router(router)

    assert (401, 200) == (ask(app, "/admin").status_code, ask(app, "/other").status_code)


class RefusedError(Exception):
    """The application's own."""


async def refuse():
    """Raise an error that the application answers."""
    raise RefusedError


def test_a_handler_may_raise_another_error():
    """Which the application answers then."""

    def build(app, router):
        @app.exception_handler(RefusedError)
        async def handle(request, error):
            raise HTTPException(401, headers={"www-authenticate": "Bearer"})

        app.include_router(router)

    plain, own = both([Depends(refuse)], build)

    assert plain == own
    assert 401 == own[0]


class Marked:
    """A middleware that marks every response, and answers what is raised through it."""

    def __init__(self, app, handlers=None):
        self.app = app
        self.handlers = handlers

    async def __call__(self, scope, receive, send):
        """Serve."""
        if self.handlers is not None:
            scope["starlette.exception_handlers"] = (self.handlers, {})

        async def marking(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-marked", b"1")]}
            await send(message)

        try:
            await self.app(scope, receive, marking)
        except Exception:
            await PlainTextResponse("raised", 500)(scope, receive, marking)


@pytest.mark.parametrize("dependency", [deny, refuse])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_refusal_passes_through_what_surrounds_a_router(dependency, replaced):
    """It is answered where FastAPI answers it, with the handlers that are there."""

    async def answer(request, error):
        return PlainTextResponse("mine", 418)

    def build(app, router):
        outer = APIRouter()
        outer.include_router(router)
        handlers = {RefusedError: answer, HTTPException: answer} if replaced else None
        app.mount("/api", Marked(outer, handlers))

    plain, own = both([Depends(dependency)], build, url="/api/x")

    assert plain == own
    assert "1" == own[1]["x-marked"]


class Names:
    """A middleware that asks every route whether it matches, as tracing does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Ask, then serve."""
        if scope["type"] == "http":
            for route in scope["app"].routes:
                route.matches(scope)
        await self.app(scope, receive, send)


class Overrides:
    """A middleware that changes the request."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Change it, then serve."""
        for name, value in scope.get("headers", ()):
            if name == b"x-method":
                scope["method"] = value.decode()
            elif name == b"x-path":
                scope["path"], scope["raw_path"] = value.decode(), value
        await self.app(scope, receive, send)


@GUARDED
@pytest.mark.parametrize(
    ("headers", "expected"), [({"x-method": "DELETE"}, 405), ({"x-path": "/admin"}, 401)]
)
def test_a_request_that_was_changed_is_matched_again(dependencies, headers, expected):
    """What was found for it before does not count."""

    def build(app, router):
        router.add_api_route("/admin", known, methods=["POST"], dependencies=[Depends(deny)])
        app.include_router(router)
        app.add_middleware(Overrides)
        app.add_middleware(Names)

    plain, own = both(dependencies, build, methods=("POST",), method="POST", headers=headers)

    assert expected == plain[0] == own[0]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (routing, "request_response"),
        (routing, "get_request_handler"),
        (routing, "run_endpoint_function"),
        (routing.APIRoute, "handle"),
        (routing.APIRoute, "get_route_handler"),
    ],
)
def test_whatever_an_instrumentation_replaces_is_not_bypassed(place, name, monkeypatch, solved):
    """Even where it looks like what it stands for."""
    function = getattr(place, name)

    @functools.wraps(function)
    def replaced(*positional, **named):
        return function(*positional, **named)

    monkeypatch.setattr(place, name, replaced)

    assert (200, []) == (ask(gateway([Depends(known)])).status_code, solved)


async def with_stacks(request: Request):
    """It lets go of something at the end of the request, in FastAPI's own way."""
    request.scope["fastapi_inner_astack"].callback(request.scope["seen"].append, "end")
    request.scope["seen"].append(request.scope["fastapi"]["effective_route_context"].path)


def test_fastapis_exit_stacks_are_there(solved):
    """And its context, for dependencies that look for them."""
    seen = []

    class Seeing:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            scope["seen"] = seen
            await self.app(scope, receive, send)

    app = gateway([Depends(with_stacks)])
    app.add_middleware(Seeing)

    assert (200, ["/{name}", "end"], 1) == (ask(app).status_code, seen, len(solved))


def test_an_error_of_validation_says_where(solved):
    """As FastAPI's own does."""
    errors = []

    async def sized(size: int):
        """It asks for a parameter."""

    for app in (gateway([Depends(sized)]), FastAPI(dependencies=[Depends(sized)])):
        if not any(hasattr(route, "original_router") for route in app.router.routes):
            app.get("/{name}")(known)

        @app.exception_handler(RequestValidationError)
        async def handle(request, error):
            errors.append((error.errors(), error.endpoint_path))
            return PlainTextResponse("wrong", 422)

        assert 422 == ask(app).status_code

    assert errors[0] == errors[1]
    assert 1 == len(solved)


def test_a_context_with_something_new_is_not_proven():
    """A later release may put more in front of a route than is known here."""
    app = gateway([Depends(known)])
    context = next(
        context
        for context in app.router.routes[-1].effective_route_contexts()
        if context.path == "/{name}"
    )
    plan = context.original_route.plan
    later = make_dataclass("Later", [("limit", int, field(default=0))], bases=(type(context),))
    changed = later(**{each.name: getattr(context, each.name) for each in fields(context)})

    assert is_silent(plan, changed)
    changed.limit = 1
    assert not is_silent(plan, changed)


def test_a_dependency_that_reads_what_nobody_announced_is_told(solved):
    """What it took would be missing upstream."""

    async def reader(request: Request):
        await request.body()

    with pytest.raises(StubError, match="reads the body: say max_body_bytes"):
        ask(gateway([Depends(reader)]))

    assert 1 == len(solved)


def test_an_error_of_the_gateway_in_a_dependency_is_answered_as_ever(solved):
    """By the handlers of the route, or as a problem."""

    async def failing(request: Request):
        raise NoDestinationError("nothing is left", retry_after=1.0)

    answer = ask(gateway([Depends(failing)]))

    assert (503, "application/problem+json", 1) == (
        answer.status_code,
        answer.headers["content-type"],
        len(solved),
    )


def test_a_target_that_is_refused_runs_no_dependency(solved):
    """The guard comes before all user code."""
    assert (400, []) == (ask(gateway([Depends(deny)]), "/%00").status_code, solved)


def test_a_call_is_over_with_its_request():
    """A middleware that asks the application again with the same scope gets no view of it."""
    proxy = Proxy()

    async def look(
        forwarded: Annotated[ForwardedRequest, Depends(proxy.forwarded_request)],
    ) -> None:
        """It needs a route of the gateway."""

    @proxy.route("/x", upstream=upstream, dependencies=[Depends(look)])
    async def stub() -> None: ...

    class Again:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                scope.update(path="/own", raw_path=b"/own")
                await self.app(scope, receive, send)

    app = FastAPI()
    app.include_router(proxy.build_router())
    app.add_api_route("/own", known, dependencies=[Depends(look)])
    app.add_middleware(Again)

    with pytest.raises(StubError, match="only known in routes"):
        ask(app)


def test_a_refusal_leaves_nothing_for_the_garbage_collector():
    """A flood of requests without a login must not pile up errors and their frames."""
    errors = []

    async def refusing(request: Request):
        error = HTTPException(401)
        errors.append(weakref.ref(error))
        raise error

    with TestClient(gateway([Depends(refusing)])) as client:
        client.get("/x")
        gc.disable()
        try:
            assert 401 == client.get("/x").status_code
            assert errors[-1]() is None
        finally:
            gc.enable()
