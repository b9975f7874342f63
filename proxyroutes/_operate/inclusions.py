"""An application's routes in the order in which they are asked: its own, and the gateways that it includes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from attrs import evolve, frozen
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Match, Mount

from proxyroutes._build.compile import Compiled
from proxyroutes._build.router import GatewayRouter
from proxyroutes._build.routes import ProxyRoute
from proxyroutes._operate.explain import explain_scope
from proxyroutes._operate.explanation import Explanation
from proxyroutes._serve.plan import Plan
from proxyroutes.typing import Scope

__all__ = ["GatewayPlace", "explain_app", "find_gateways", "names_of_dependencies"]


@frozen(eq=False)
class GatewayPlace:
    """One inclusion of a gateway in an application.

    Attributes:
        compiled: The gateway.
        prefix: What stands in front of its paths.
        routes: What is asked before it, of the list in which it stands.
        included: FastAPI's record of the inclusion; None where the router itself was given.
    """

    compiled: Compiled
    prefix: str
    routes: tuple[BaseRoute, ...]
    included: Any


def find_gateways(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[GatewayPlace]:
    """Every inclusion of a gateway, in the order in which they are asked. Mounted applications are not looked into."""
    own = _owner(routes)
    if own is not None:
        yield GatewayPlace(own.compiled, prefix + own.prefix, (), None)
        return
    for number, route in enumerate(routes):
        router = getattr(route, "original_router", None)
        if router is None:
            continue
        inner = prefix + _prefix_of(route)
        if isinstance(router, GatewayRouter):
            yield GatewayPlace(
                router.compiled, inner + router.prefix, tuple(routes[:number]), route
            )
        else:
            yield from find_gateways(router.routes, inner)


def _owner(routes: Sequence[BaseRoute]) -> GatewayRouter | None:
    """The gateway's router, if these are its own routes."""
    first = next((route for route in routes if isinstance(route, ProxyRoute)), None)
    return None if first is None else cast("GatewayRouter", first.owner)


def _prefix_of(included: Any) -> str:
    return str(included.include_context.prefix)


def names_of_dependencies(dependant: Any) -> Iterator[str]:
    """What FastAPI solves before anything is sent, by name; our own providers decide nothing and are left out."""
    for dependency in getattr(dependant, "dependencies", ()):
        call = dependency.call
        name = getattr(call, "__name__", None) or type(call).__name__
        if not str(getattr(call, "__module__", "")).startswith("proxyroutes."):
            yield name


def explain_app(routes: Sequence[BaseRoute], scope: Scope, url: str) -> Explanation:
    """Say what an application would do with a request: its own routes, its mounts and its gateways, in their order.

    Args:
        routes: ``app.routes``.
        scope: The request.
        url: As it was given.
    """
    refused: Explanation | None = None
    for explanation in _explain(routes, scope, url, ""):
        if explanation.status != 404:
            return explanation
        refused = refused or explanation
    if refused is not None:
        return refused
    return Explanation(
        method=scope["method"], url=url, status=404, answer="no route has this path"
    )


def _explain(
    routes: Sequence[BaseRoute], scope: Scope, url: str, prefix: str
) -> Iterator[Explanation]:
    own = _owner(routes)
    if own is not None:
        yield _explain_gateway(own, prefix + own.prefix, scope, url, routes)
        return
    for route in routes:
        router = getattr(route, "original_router", None)
        if isinstance(router, GatewayRouter):
            inner = prefix + _prefix_of(route) + router.prefix
            yield _explain_gateway(router, inner, scope, url, [route])
        elif router is not None and any(find_gateways(router.routes)):
            yield from _explain(router.routes, scope, url, prefix + _prefix_of(route))
        else:
            yield from _explain_foreign(route, scope, url, prefix)


def _explain_gateway(
    router: GatewayRouter, prefix: str, scope: Scope, url: str, routes: Sequence[BaseRoute]
) -> Explanation:
    def dependencies(plan: Plan) -> Sequence[str]:
        for context in iter_route_contexts(routes):
            route = context.original_route
            if isinstance(route, ProxyRoute) and route.plan is plan:
                return list(names_of_dependencies(getattr(context, "dependant", None)))
        return ()

    return explain_scope(router.compiled, scope, url, prefix=prefix, dependencies=dependencies)


def _explain_foreign(
    route: BaseRoute, scope: Scope, url: str, prefix: str
) -> Iterator[Explanation]:
    """A route of the application's own, which may come first."""
    inner = dict(scope)
    if prefix:
        # Within an inclusion a route's path has no prefix yet.
        path = str(scope["path"])
        if not path.startswith(prefix):
            return
        inner["path"] = path[len(prefix) :] or "/"
    match, child = route.matches(inner)
    if match is not Match.FULL:
        return
    if isinstance(route, Mount):
        found = explain_app(route.routes, {**inner, **child}, url)
        if found.status != 404 or not route.routes:
            yield evolve(found, notes=(*found.notes, f"below the mount {route.path}"))
            return
    name = getattr(route, "name", None) or type(route).__name__
    yield Explanation(
        method=scope["method"],
        url=url,
        answer=f"the application's own route {name!r} is asked first and has it",
    )
