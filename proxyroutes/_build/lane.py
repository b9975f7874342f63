"""``GatewayMiddleware``: the fast lane in front of the application's router.

It serves a request by itself only where the application would have come to the very same plan with nothing in between: it
is the innermost middleware, the route is the first match in the whole application's table, and it is proven. In every
other case the application gets the request untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from attrs import frozen
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute

from proxyroutes._build.inclusions import Inclusion, routers_of
from proxyroutes._build.proof import handles_failures
from proxyroutes._build.router import GatewayRouter
from proxyroutes._serve.http import serve_http
from proxyroutes._serve.match import Found
from proxyroutes.typing import ASGIApp, Receive, Scope, Send

__all__ = ["GatewayMiddleware", "LaneProxy"]

_logger = logging.getLogger("proxyroutes.lane")


class LaneProxy(Protocol):
    """What the lane needs of a proxy."""

    def owns(self, router: object) -> bool:
        """Whether the router was built by this proxy."""
        ...


@frozen(eq=False)
class _Place:
    """One inclusion of a proxy's router in the application, and the routes that are asked before it."""

    inclusion: Inclusion
    by_first: dict[bytes, tuple[BaseRoute, ...]]
    wild: tuple[BaseRoute, ...]
    has_rivals: bool


@frozen(eq=False)
class _Table:
    """The application's routes as the lane sees them; made anew when they change.

    Attributes:
        app: The application.
        count: Number of its own routes.
        watched: Every router in it, with the version of its routes that was seen.
        places: What the lane may serve.
    """

    app: Any
    count: int
    watched: tuple[tuple[Any, int], ...]
    places: tuple[_Place, ...]

    def holds(self, app: Any) -> bool:
        """Whether nothing has changed since."""
        if self.app is not app or len(app.router.routes) != self.count:
            return False
        for router, version in self.watched:  # noqa: SIM110 - a generator costs each request more than this.
            if router._routes_version != version:  # noqa: SLF001 - FastAPI has no public name for it.
                return False
        return True


class GatewayMiddleware:
    """Serve proven routes of a proxy before the application's router is asked.

    Added with ``app.add_middleware(GatewayMiddleware, proxy=proxy)``, before every other middleware, so that it is the
    innermost. Anywhere else it leaves every request to the application and logs one warning.

    Args:
        app: The application behind it.
        proxy: The proxy, whose router is included in the same application.
    """

    def __init__(self, app: ASGIApp, *, proxy: LaneProxy) -> None:
        self.app = app
        self._proxy = proxy
        self._innermost = isinstance(app, ExceptionMiddleware)
        self._warned = False
        self._table: _Table | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or leave it to the application."""
        if scope["type"] == "http" and self._may_serve(scope):
            for place in self._places(scope["app"]):
                found = place.inclusion.locate(scope)
                if found is None:
                    continue
                plan = found.plan
                if (
                    found.full
                    and place.inclusion.proves(plan)
                    and not (place.has_rivals and _asked_before(place, found, scope))
                ):
                    await serve_http(plan, found, scope, receive, send)
                    return
                break
        await self.app(scope, receive, send)

    def _may_serve(self, scope: Scope) -> bool:
        app = scope.get("app")
        if not self._innermost or app is None:
            if not self._warned:
                self._warned = True
                _warn(app, self)
            return False
        # A span of the application's telemetry names its route, which only the full path knows.
        return scope.get("fastapi.telemetry") is None

    def _places(self, app: Any) -> tuple[_Place, ...]:
        table = self._table
        if table is None or not table.holds(app):
            routers = routers_of(app.router)
            known = all(hasattr(router, "_routes_version") for router in routers)
            table = self._table = _Table(
                app,
                len(app.router.routes),
                tuple([(router, router._routes_version) for router in routers] if known else ()),  # noqa: SLF001 - FastAPI counts changes nowhere else.
                self._make(app) if known else (),
            )
        return table.places

    def _make(self, app: Any) -> tuple[_Place, ...]:
        handlers = getattr(app, "exception_handlers", None)
        if handlers is None or handles_failures(handlers):
            return ()
        places: list[_Place] = []
        earlier: list[BaseRoute] = []
        for route in app.router.routes:
            router = getattr(route, "original_router", None)
            if isinstance(router, GatewayRouter) and self._proxy.owns(router):
                by_first, wild = _sort_by_first(earlier)
                inclusion = router.inclusion(route)
                places.append(_Place(inclusion, by_first, wild, bool(by_first or wild)))
            earlier.append(route)
        return tuple(places)


def _warn(app: Any, middleware: GatewayMiddleware) -> None:
    inner = [
        getattr(entry.cls, "__name__", repr(entry.cls))
        for entry in getattr(app, "user_middleware", ())
    ]
    names = [name for name in inner if name != type(middleware).__name__]
    _logger.warning(
        "the fast lane serves nothing: GatewayMiddleware is not the innermost middleware and would skip %s; "
        "add it before every other one",
        ", ".join(names) or type(middleware.app).__name__,
    )


def _asked_before(place: _Place, found: Found, scope: Scope) -> bool:
    """Whether a route that was declared earlier takes the request, wholly or in part."""
    if not place.wild and not scope.get("root_path") and b"%" not in found.raw_path:
        rivals = place.by_first.get(found.parts[0], ())
    else:
        rivals = (*place.by_first.get(_first_of(scope), ()), *place.wild)
    for rival in rivals:  # noqa: SIM110 - a generator costs each request more than this.
        if rival.matches(scope)[0] is not Match.NONE:
            return True
    return False


def _first_of(scope: Scope) -> bytes:
    """The first segment of the path as Starlette's routes see it: decoded, and without the mount."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    if root_path and path.startswith(root_path):
        # Starlette takes the mount off only at a slash; otherwise it matches the whole path.
        rest = path[len(root_path) :]
        path = rest if rest.startswith("/") or not rest else path
    return path[1:].partition("/")[0].encode("utf-8", "surrogateescape")


def _sort_by_first(
    routes: Sequence[BaseRoute],
) -> tuple[dict[bytes, tuple[BaseRoute, ...]], tuple[BaseRoute, ...]]:
    """Routes by the first segment of the paths that they can have; those of which it is not known apart."""
    by_first: dict[bytes, list[BaseRoute]] = {}
    wild: list[BaseRoute] = []
    for route in routes:
        if isinstance(route, WebSocketRoute):
            continue
        firsts = _first_segments(route)
        if firsts is None:
            wild.append(route)
        else:
            for first in firsts:
                by_first.setdefault(first.encode(), []).append(route)
    return {first: tuple(found) for first, found in by_first.items()}, tuple(wild)


def _first_segments(route: BaseRoute) -> frozenset[str] | None:
    """The first segments that a route's paths may have; None where that cannot be told."""
    contexts = getattr(route, "effective_route_contexts", None)
    if contexts is None:
        path = (
            getattr(route, "path", None)
            if type(route) in {Route, Mount} or _is_api_route(route)
            else None
        )
        first = None if path is None else _literal_first(path)
        return None if first is None else frozenset({first})
    if isinstance(getattr(route, "original_router", None), GatewayRouter):
        return None
    firsts: set[str] = set()
    for context in contexts():
        inner = getattr(context, "starlette_route", None) or context
        path = getattr(inner, "path", None)
        first = _literal_first(path) if isinstance(path, str) else None
        if first is None:
            return None
        firsts.add(first)
    return frozenset(firsts)


def _is_api_route(route: BaseRoute) -> bool:
    # The class itself: a subclass may match in its own way.
    return type(route) is APIRoute


def _literal_first(path: str) -> str | None:
    first = path[1:].partition("/")[0]
    # A mount at the root, and a parameter, may have any.
    return None if not path or "{" in first else first
