"""The router: one serving route a spec, matched by our own index, and FastAPI's full path behind it.

HTTP routes are ``APIRoute`` subclasses, because in an included router FastAPI rebuilds every plainer kind and answers
without running the inclusion's dependencies. Nothing here shortens that path.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, cast

from attrs import define
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from typing_extensions import override

from proxyroutes._build.compile import Compiled
from proxyroutes._build.documents import add_documents
from proxyroutes._build.inclusions import Inclusion, match_prefix
from proxyroutes._build.proof import exception_handlers, handles_failures
from proxyroutes._build.responses import RelayResponse, has_handler, problem_response
from proxyroutes._build.stubs import CALL, BodyTooLargeError, Call, make_endpoint, stub_receive
from proxyroutes._build.websockets import add_websocket, refuse_session
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Template, parse_template
from proxyroutes._serve.body import too_large
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.guard import check_method, check_target, refuse
from proxyroutes._serve.head import read_request
from proxyroutes._serve.http import fail, record_refusal, serve_http
from proxyroutes._serve.match import (
    Found,
    RouteIndex,
    path_parameters,
    raw_path_of,
    redirect_location,
    route_start,
    split_path,
)
from proxyroutes._serve.plan import Plan
from proxyroutes.exceptions import (
    BuildError,
    DeclarationError,
    GatewayError,
    PathTemplateError,
    StubError,
)
from proxyroutes.typing import Receive, Scope, Send

__all__ = ["GatewayRouter", "make_router"]

_MAX_INCLUSIONS = 64
_FOUND = "proxyroutes.found"
_SHORT = "proxyroutes.short"
_NOT_SHORT: tuple[Any, str, Found | None] = (None, "", None)
_METHOD = "proxyroutes.method"


@define(eq=False)
class _Located:
    """What an inclusion's matching came to; kept in the scope, because each of its routes is asked."""

    included: Any
    router: Any
    root_path: str
    found: Found | None
    parameters: dict[str, Any]
    malformed: bool


class ProxyRoute(APIRoute):
    """One declared route in FastAPI's hands."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        plan: Plan,
        owner: GatewayRouter,
        **options: Any,
    ) -> None:
        self.plan = plan
        self.owner = owner
        super().__init__(path, endpoint, **options)

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by the compiled index, on the raw path."""
        if scope["type"] != "http":
            return Match.NONE, {}
        located = self.owner.locate(scope)
        found = located.found
        if found is None:
            # A target that is no path belongs to no route; the first of ours refuses it if nobody else takes it.
            malformed = located.malformed and self.owner.is_first(self)
            return (
                (Match.PARTIAL, {"endpoint": self.endpoint, "route": self})
                if malformed
                else (Match.NONE, {})
            )
        if found.plan is not self.plan:
            return Match.NONE, {}
        parameters = {
            **scope.get("path_params", {}),
            **located.parameters,
            **path_parameters(found),
        }
        child = {"endpoint": self.endpoint, "path_params": parameters, "route": self}
        return (Match.FULL if found.full else Match.PARTIAL), child

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve through FastAPI: dependencies, body, stub."""
        located = self.owner.locate(scope)
        found = located.found
        refusal = _refuse_target(scope)
        if found is None or refusal is not None:
            # First of all, so that no part of such a target gets into a Location.
            error = refusal or refuse("the request target is not in origin form")
            await _answer(scope, self.plan, error, None)(scope, receive, send)
        elif not found.method_allowed:
            allow = {"Allow": self.plan.allow[1].decode("ascii")}
            raise HTTPException(status_code=405, headers=allow)
        elif found.redirect:
            location = redirect_location(raw_path_of(scope), scope.get("query_string", b""))
            await Response(status_code=307, headers={"location": location.decode("ascii")})(
                scope, receive, send
            )
        elif scope["method"] in (self.methods or ()):
            await super().handle(scope, receive, send)
        else:
            # A route without `methods` serves every one, and FastAPI's routes know none but those they list.
            listed = next(iter(self.methods or ("GET",)))
            await super().handle(
                {**scope, "method": listed, _METHOD: scope["method"]}, receive, send
            )

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the guard in front of everything that user code does."""
        inner = super().get_route_handler()
        plan = self.plan
        owner = self.owner

        async def handler(request: Request) -> Response:
            scope = request.scope
            method = scope.pop(_METHOD, None)
            if method is not None:
                scope["method"] = method
            try:
                found = cast("Found", owner.locate(scope).found)
                received = read_request(scope, plan, found)
                call = Call(plan, found, scope, received, request.receive)
                scope[CALL] = call
                # Dependencies read too, those of an inclusion as well, of which this route knows nothing.
                request = Request(scope, stub_receive(call), getattr(request, "_send"))  # noqa: B009 - private to Starlette.
            except GatewayError as error:
                return _answer(scope, plan, error, None)
            return await _run(inner, request, call)

        return handler


def _refuse_target(scope: Scope) -> GatewayError | None:
    try:
        check_method(scope.get(_METHOD) or scope["method"])
        check_target(raw_path_of(scope), scope.get("query_string", b""))
    except GatewayError as error:
        return error
    return None


async def _run(
    inner: Callable[[Request], Coroutine[Any, Any, Response]], request: Request, call: Call
) -> Response:
    response: Response | None = None
    try:
        response = await inner(request)
    except BodyTooLargeError as error:
        return _answer(request.scope, call.plan, too_large(error.limit), call)
    except HTTPException as error:
        # What FastAPI makes of any exception that is raised while it reads a body.
        if call.misread is not None:
            raise call.misread from error
        raise
    except GatewayError as error:
        return _answer(request.scope, call.plan, error, call)
    finally:
        exchange = call.exchange
        if exchange is not None and not isinstance(response, RelayResponse):
            exchange.end()
    return response


def _answer(scope: Scope, plan: Plan, error: GatewayError, call: Call | None) -> Response:
    exchange = None if call is None else call.exchange
    if exchange is None:
        record_refusal(plan, scope.get(_METHOD) or scope["method"], error, scope)
    else:
        fail(exchange, error)
    if has_handler(scope, error):
        raise error
    return problem_response(error)


class GatewayRouter(APIRouter):
    """The router that ``build_router()`` gives: its routes are found by one compiled index."""

    def __init__(self, compiled: Compiled, **options: Any) -> None:
        super().__init__(**options)
        self.compiled = compiled
        self._index = compiled.index
        self._sessions = compiled.sessions
        self._prefixes: dict[str, Template] = {}
        self._own: tuple[ProxyRoute, ...] = ()
        self._by_plan: dict[Plan, ProxyRoute] = {}
        self._inclusions: dict[int, Inclusion] = {}
        self._handlers: tuple[Any, int, bool] = (None, 0, True)

    def seal(self, own: Sequence[ProxyRoute]) -> None:
        """Say which routes are served by the index."""
        self._own = tuple(own)
        self._by_plan = {route.plan: route for route in own}

    # The short way.

    def inclusion(self, included: Any) -> Inclusion:
        """What is known of an inclusion of this router."""
        version = len(self.routes)
        inclusion = self._inclusions.get(id(included))
        if (
            inclusion is not None
            and inclusion.included is included
            and inclusion.version == version
        ):
            return inclusion
        if len(self._inclusions) >= _MAX_INCLUSIONS:
            self._inclusions.clear()
        # Routes that were added to this router by hand stand behind its own; if they do not, nothing is known.
        known = bool(self._own) and self.routes[0] is self._own[0]
        prefix = included.include_context.prefix + self.prefix
        inclusion = Inclusion(included, version, prefix, self._index, known=known)
        self._inclusions[id(included)] = inclusion
        return inclusion

    def _short_way(self, scope: Scope) -> Found | None:
        """What is served the short way, or None for FastAPI's full path."""
        included = scope["fastapi"].get("included_router") if "fastapi" in scope else None
        if included is None or included.original_router is not self or scope["type"] != "http":
            return None
        inclusion = self.inclusion(included)
        # A span of the application's telemetry names its route, which only the full path knows.
        if not inclusion.proof or scope.get("fastapi.telemetry") is not None:
            return None
        found = inclusion.locate(scope)
        if found is None or not found.full or found.plan not in inclusion.proof:
            return None
        return None if self._handles_failures(scope) else found

    def _handles_failures(self, scope: Scope) -> bool:
        handlers = exception_handlers(scope)
        if handlers is None:
            return True
        known, count, handled = self._handlers
        if handlers is not known or len(handlers) != count:
            handled = handles_failures(handlers)
            self._handlers = (handlers, len(handlers), handled)
        return handled

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match an included router as a whole, by one look into the index."""
        found = self._short_way(scope)
        if found is None:
            return super().matches(scope)
        scope[_SHORT] = (scope["fastapi"]["included_router"], scope.get("root_path", ""), found)
        return Match.FULL, {}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is proven the short way, everything else through FastAPI."""
        included, root_path, found = scope.pop(_SHORT, _NOT_SHORT)
        if (
            found is None
            or scope["fastapi"].get("included_router") is not included
            or scope.get("root_path", "") != root_path
        ):
            # `matches` has not just come to it.
            found = self._short_way(scope)
        if found is None:
            if scope["type"] == "websocket" and await refuse_session(scope, send):
                return
            await super().handle(scope, receive, send)
            return
        plan = found.plan
        scope["route"] = route = self._by_plan[plan]
        scope["endpoint"] = route.endpoint
        await serve_http(plan, found, scope, receive, send)

    def is_first(self, route: ProxyRoute) -> bool:
        """Whether it is the route that was declared first."""
        return bool(self._own) and self._own[0] is route

    def locate(self, scope: Scope) -> _Located:
        """Match a request by the index, once for each inclusion."""
        included = scope.get("fastapi", {}).get("included_router")
        if included is not None and included.original_router is not self:
            included = None
        return self.locate_in(included, scope)

    def locate_in(self, included: Any, scope: Scope) -> _Located:
        """Match a request in one inclusion, or in the router by itself."""
        root_path = scope.get("root_path", "")
        known = scope.get(_FOUND)
        if (
            isinstance(known, _Located)
            and known.included is included
            and known.router is self
            and known.root_path == root_path
        ):
            return known
        located = self._locate(scope, included, root_path)
        scope[_FOUND] = located
        return located

    def _locate(self, scope: Scope, included: Any, root_path: str) -> _Located:
        raw_path = raw_path_of(scope)
        if raw_path[:1] != b"/":
            return _Located(included, self, root_path, None, {}, raw_path != b"*")
        parts = split_path(raw_path)
        start = route_start(parts, root_path) if root_path else 0
        prefix = ("" if included is None else included.include_context.prefix) + self.prefix
        parameters: dict[str, Any] = {}
        if prefix:
            template = self._prefixes.get(prefix)
            if template is None:
                template = self._prefixes[prefix] = parse_template(prefix)
            matched = match_prefix(parts, start, template.segments)
            if matched is None:
                return _Located(included, self, root_path, None, {}, malformed=False)
            parameters = matched
            start += len(template.segments)
        if scope["type"] == "websocket":
            found = self._sessions.match(parts, start, "GET")
        else:
            found = self._index.match(parts, start, scope.get(_METHOD) or scope["method"])
        return _Located(
            included,
            self,
            root_path,
            found,
            parameters,
            malformed=False,
        )


def make_router(compiled: Compiled, options: dict[str, Any]) -> GatewayRouter:
    """Make the router of a compiled proxy.

    Raises:
        BuildError: With every mistake of every declaration.
    """
    problems = list(compiled.problems)
    if "route_class" in options:
        problems.append(
            DeclarationError(
                "build_router() does not take route_class: routes are compiled to their own class"
            )
        )
        options.pop("route_class")
    options["prefix"] = _read_prefix(options.get("prefix", ""), problems)
    router = GatewayRouter(compiled, **options)
    own: list[ProxyRoute] = []
    for spec, plan, template in compiled.routes:
        try:
            own.append(_add_route(router, spec, plan, template))
        except DeclarationError as error:
            problems.append(error)
    for websocket in compiled.websockets:
        try:
            with _explained(websocket.spec):
                add_websocket(router, websocket, lambda scope: router.locate(scope).found)
        except DeclarationError as error:
            problems.append(error)
    if not problems:
        _add_documents(router, compiled, problems)
    if problems:
        raise BuildError("the gateway cannot be built", problems)
    router.seal(own)
    return router


def _read_prefix(prefix: str, problems: list[DeclarationError]) -> str:
    """The router's prefix in FastAPI's spelling."""
    if not prefix:
        return ""
    try:
        template = parse_template(prefix)
    except PathTemplateError as error:
        problems.append(error)
        return ""
    if prefix.endswith("/"):
        problems.append(
            PathTemplateError(f"a prefix does not end with a slash: write {prefix.rstrip('/')!r}")
        )
        return ""
    return template.starlette_path


@contextlib.contextmanager
def _explained(spec: RouteSpec | WebSocketSpec) -> Iterator[None]:
    """Say at which stub something went wrong, and what FastAPI does not say of it."""
    try:
        yield
    except DeclarationError as error:
        error.location = error.location or spec.facts.location
        raise
    except Exception as error:
        name = spec.facts.name
        problem = f"FastAPI cannot take stub {name!r}: {error}"
        if ForwardedRequest.__name__ in str(error):
            problem = (
                f"a dependency of stub {name!r} has a bare ForwardedRequest, which FastAPI takes for a body: "
                "write Annotated[ForwardedRequest, Depends(proxy.forwarded_request)]"
            )
        raise StubError(problem, location=spec.facts.location) from error


def _add_documents(
    router: GatewayRouter, compiled: Compiled, problems: list[DeclarationError]
) -> None:
    taken: set[str] = set()
    for spec, _, template in compiled.routes:
        if spec.include_in_schema:
            name = spec.facts.name
            numbered = (f"{name}_{number}" for number in itertools.count(2))
            stub_id = next(one for one in itertools.chain((name,), numbered) if one not in taken)
            taken.add(stub_id)
            try:
                with _explained(spec):
                    add_documents(router, spec, template, stub_id, compiled.operation_paths)
            except DeclarationError as error:
                problems.append(error)


def _add_route(
    router: GatewayRouter, spec: RouteSpec, plan: Plan, template: Template
) -> ProxyRoute:
    def route_class(path: str, endpoint: Callable[..., Any], **options: Any) -> ProxyRoute:
        return ProxyRoute(path, endpoint, plan=plan, owner=router, **options)

    with _explained(spec):
        router.add_api_route(
            template.starlette_path,
            make_endpoint(spec),
            methods=sorted(plan.methods or {"GET"}),
            name=plan.name,
            dependencies=list(spec.dependencies),
            include_in_schema=False,
            response_model=None,
            route_class_override=cast("type[APIRoute]", route_class),
        )
    route = cast("ProxyRoute", router.routes[-1])
    if route.body_field is not None and spec.max_body_bytes is None:
        raise StubError(
            f"stub {spec.facts.name!r} has a body parameter: say how much is buffered, as max_body_bytes=1_000_000",
            location=spec.facts.location,
        )
    return route
