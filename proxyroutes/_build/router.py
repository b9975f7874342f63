"""The router: one serving route a spec, matched by our own index, and FastAPI's full path behind it.

What the short way does not serve goes through FastAPI, to the routes in ``routes``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import define
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match
from typing_extensions import override

from proxyroutes._build.calls import FindPool
from proxyroutes._build.check import explained
from proxyroutes._build.compile import Compiled
from proxyroutes._build.documents import document
from proxyroutes._build.inclusions import Inclusion, match_prefix
from proxyroutes._build.proof import exception_handlers, handles_failures
from proxyroutes._build.routes import METHOD, ProxyRoute
from proxyroutes._build.stubs import make_endpoint
from proxyroutes._build.websockets import add_websocket, choose_by_index, refuse_session
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._declare.templates import Template, parse_template
from proxyroutes._serve.http import serve_http
from proxyroutes._serve.match import (
    Found,
    path_parameters,
    raw_path_of,
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
_LOOKED = "proxyroutes.looked"
_NOT_LOOKED: tuple[Any, Any, Any, tuple[Inclusion, Found] | None] = (None, None, None, None)


Asked = tuple[Any, ...]


def _asked(scope: Scope) -> Asked:
    """What a match hangs on, so that a changed request is not taken for the one that was matched."""
    return (
        scope.get(METHOD) or scope.get("method"),
        scope.get("raw_path"),
        scope["path"],
        scope.get("root_path", ""),
    )


@define(eq=False)
class _Located:
    """What an inclusion's matching came to; kept in the scope, because each of its routes is asked."""

    included: Any
    router: Any
    asked: Asked
    found: Found | None
    parameters: dict[str, Any]
    malformed: bool


class GatewayRouter(APIRouter):
    """The router that ``build_router()`` gives: its routes are found by one compiled index."""

    def __init__(self, compiled: Compiled, find_pool: FindPool, **options: Any) -> None:
        super().__init__(**options)
        self.find_pool = find_pool
        self.compiled = compiled
        self._index = compiled.index
        self._sessions = compiled.sessions
        self._prefixes: dict[str, Template] = {}
        self._own: tuple[ProxyRoute, ...] = ()
        self._by_plan: dict[Plan, ProxyRoute] = {}
        self._inclusions: dict[int, Inclusion] = {}
        self._handlers: tuple[Any, int, Any, bool] = (None, 0, None, True)

    def seal(self, own: Sequence[ProxyRoute]) -> None:
        """Say which routes are served by the index."""
        self._own = tuple(own)
        self._by_plan = {route.plan: route for route in own}

    # The short way.

    def inclusion(self, included: Any) -> Inclusion:
        """What is known of an inclusion of this router."""
        inclusion = self._inclusions.get(id(included))
        if inclusion is not None and inclusion.included is included and inclusion.holds():
            return inclusion
        if len(self._inclusions) >= _MAX_INCLUSIONS:
            self._inclusions.clear()
        # Routes that were added to this router by hand stand behind its own; if they do not, nothing is known.
        first = self.routes[: len(self._own)]
        known = bool(self._own) and all(map(operator.is_, first, self._own))
        known = known and len(first) == len(self._own)
        prefix = included.include_context.prefix + self.prefix
        inclusion = Inclusion(included, self, prefix, self._index, known=known)
        self._inclusions[id(included)] = inclusion
        return inclusion

    def _look(self, scope: Scope) -> tuple[Inclusion, Found] | None:
        """One look into the index for what an inclusion of this router serves; None where FastAPI has to match."""
        included = scope["fastapi"].get("included_router") if "fastapi" in scope else None
        if included is None or included.original_router is not self or scope["type"] != "http":
            return None
        inclusion = self.inclusion(included)
        # A span of the application's telemetry names its route, which only the full path knows.
        if not inclusion.contexts or scope.get("fastapi.telemetry") is not None:
            return None
        found = inclusion.locate(scope)
        if found is None or not found.full or found.plan not in inclusion.contexts:
            return None
        return inclusion, found

    def _handles_failures(self, scope: Scope) -> bool:
        handlers = exception_handlers(scope)
        if handlers is None:
            return True
        known, count, own, handled = self._handlers
        # Ours may stand at that key until the application puts its own there.
        now = handlers.get(GatewayError)
        if handlers is not known or len(handlers) != count or now is not own:
            handled = handles_failures(handlers)
            self._handlers = (handlers, len(handlers), now, handled)
        return handled

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match an included router as a whole, by one look into the index."""
        if scope["type"] == "websocket" and self._sessions.conditional:
            self._choose_sessions(scope)
        looked = self._look(scope)
        if looked is None:
            # A middleware may have asked before it changed the request.
            scope.pop(_LOOKED, None)
            return super().matches(scope)
        scope[_LOOKED] = (scope["method"], scope["path"], scope.get("root_path"), looked)
        return Match.FULL, {}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is proven the short way, everything else through FastAPI."""
        method, path, root_path, looked = scope.pop(_LOOKED, _NOT_LOOKED)
        if (
            looked is None
            or scope["fastapi"].get("included_router") is not looked[0].included
            or scope["path"] is not path
            or scope["method"] is not method
            or scope.get("root_path") != root_path
        ):
            # `matches` has not just come to it.
            looked = self._look(scope)
        if looked is None:
            if scope["type"] == "websocket" and await refuse_session(
                scope, receive, send, self.find
            ):
                return
            await super().handle(scope, receive, send)
            return
        inclusion, found = looked
        plan = found.plan
        scope["route"] = route = self._by_plan[plan]
        scope["endpoint"] = route.endpoint
        if inclusion.proves(plan) and not self._handles_failures(scope):
            await serve_http(plan, found, scope, receive, send)
            return
        await self._serve_guarded(inclusion, found, route, scope, receive, send)

    async def _serve_guarded(
        self,
        inclusion: Inclusion,
        found: Found,
        route: ProxyRoute,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve what was found, with all that stands in front of it in this inclusion."""
        captured = inclusion.parameters(found)
        scope["path_params"] = {
            **scope.get("path_params", {}),
            **captured,
            **path_parameters(found),
        }
        scope["fastapi"]["effective_route_context"] = inclusion.contexts[found.plan]
        dependencies = inclusion.guarded.get(found.plan)
        if dependencies is not None and dependencies.hold() and not self._handles_failures(scope):
            await route.serve(dependencies, found, scope, receive, send)
            return
        # The full path from here on; only what it would match is known already.
        scope[_FOUND] = _Located(
            inclusion.included, self, _asked(scope), found, captured, malformed=False
        )
        await route.handle(scope, receive, send)

    def _choose_sessions(self, scope: Scope) -> None:
        included = scope["fastapi"].get("included_router") if "fastapi" in scope else None
        if included is not None and included.original_router is self:
            contexts = included.effective_route_contexts()
            choose_by_index([context.starlette_route for context in contexts], self.find)

    def find(self, scope: Scope) -> Found | None:
        """The route of a request by the index, or None."""
        return self.locate(scope).found

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
        asked = _asked(scope)
        known = scope.get(_FOUND)
        if (
            isinstance(known, _Located)
            and known.included is included
            and known.router is self
            and known.asked == asked
        ):
            return known
        located = self._locate(scope, included, asked)
        scope[_FOUND] = located
        return located

    def _locate(self, scope: Scope, included: Any, asked: Asked) -> _Located:
        root_path = scope.get("root_path", "")
        raw_path = raw_path_of(scope)
        if raw_path[:1] != b"/":
            return _Located(included, self, asked, None, {}, raw_path != b"*")
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
                return _Located(included, self, asked, None, {}, malformed=False)
            parameters = matched
            start += len(template.segments)
        if scope["type"] == "websocket":
            found = self._sessions.match(parts, start, "GET", scope)
        else:
            method = scope.get(METHOD) or scope["method"]
            found = self._index.match(parts, start, method, scope)
        return _Located(
            included,
            self,
            asked,
            found,
            parameters,
            malformed=False,
        )


def make_router(compiled: Compiled, options: dict[str, Any], find_pool: FindPool) -> GatewayRouter:
    """Make the router of a compiled proxy.

    Args:
        compiled: What was compiled.
        options: Keywords of ``APIRouter``.
        find_pool: Finds the pools that stubs name at a request.

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
    router = GatewayRouter(compiled, find_pool, **options)
    own: list[ProxyRoute] = []
    for spec, plan, template in compiled.routes:
        try:
            own.append(_add_route(router, spec, plan, template))
        except DeclarationError as error:
            problems.append(error)
    for websocket in compiled.websockets:
        try:
            with explained(websocket.spec):
                add_websocket(router, websocket, router.find)
        except DeclarationError as error:
            problems.append(error)
    if compiled.sessions.conditional:
        choose_by_index(router.routes, router.find)
    if not problems:
        problems.extend(document(router, compiled.routes, compiled.operation_paths))
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


def _add_route(
    router: GatewayRouter, spec: RouteSpec, plan: Plan, template: Template
) -> ProxyRoute:
    def route_class(path: str, endpoint: Callable[..., Any], **options: Any) -> ProxyRoute:
        return ProxyRoute(path, endpoint, plan=plan, owner=router, **options)

    with explained(spec):
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
