"""The decorators: routes and groups are recorded in declared order, with what they inherit already applied.

A decorator returns its stub unchanged and never raises by itself, but after the build: then nobody would read what it
records.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from typing_extensions import Unpack

from proxyroutes._declare.levels import UNSET, find_lone, merge
from proxyroutes._declare.registry import (
    Included,
    Registry,
    concatenate,
    route_values,
    session_values,
)
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.stubs import read_stub
from proxyroutes.policies.rates import RateLimit
from proxyroutes.settings import (
    CookieRules,
    Forwarding,
    HeaderRules,
    Match,
    QueryRules,
    Timeouts,
)

__all__ = ["RouteGroup", "RouteOptions", "SharedOptions"]

StubT = TypeVar("StubT", bound=Callable[..., Any])


class SharedOptions(TypedDict, total=False):
    """The keywords that a route inherits from its group and its proxy, but for those that ``Proxy`` spells out."""

    upstream: Any
    match: Match | None
    host: str
    location: str
    request_headers: HeaderRules | None
    response_headers: HeaderRules | None
    query_rules: QueryRules | None
    cookies: CookieRules | None
    identity_headers: Iterable[str]
    request_filters: Sequence[Any] | None
    response_filters: Sequence[Any] | None
    retry: Any
    limits: Any
    rate_limit: RateLimit | Sequence[RateLimit] | None
    hedge: Any
    mirror: Any
    max_body_bytes: int | None
    on_error: Any
    server_timing: bool
    dependencies: Sequence[Any]
    tags: Sequence[Any]
    responses: Mapping[int | str, dict[str, Any]] | None
    include_in_schema: bool


class RouteOptions(SharedOptions, total=False):
    """The keywords that a route inherits from its group and its proxy where it has none."""

    forwarding: Forwarding | None
    timeouts: Timeouts | None


class OneRouteOptions(RouteOptions, total=False):
    """The keywords that only one route has, and those that it may inherit."""

    rewrite: str | None
    name: str | None
    summary: str | None


class RouteGroup:
    """Routes under one prefix that share what they do not say themselves."""

    def __init__(
        self, registry: Registry, prefix: str, levels: tuple[Mapping[str, Any], ...] = ()
    ) -> None:
        self._registry = registry
        self._prefix = prefix
        # What was given at each level, the outermost first, and what that comes to.
        self._levels = levels
        self._inherited = merge(levels)[0]
        # What its routes inherit of it where it is included in another proxy; None for what cannot be.
        self._spelled_out: Mapping[str, Any] | None = None

    def _take_defaults(self, defaults: Mapping[str, Any], spelled_out: Mapping[str, Any]) -> None:
        """Take what the outermost group is given itself."""
        self._inherited, problems = merge([defaults])
        self._levels = (defaults,)
        self._spelled_out = {
            name: value for name, value in spelled_out.items() if value is not None
        }
        self._registry.problems.extend(problems)

    def group(self, prefix: str = "", **options: Unpack[RouteOptions]) -> RouteGroup:
        """Make a group of routes that inherit this one's settings and may override them.

        Args:
            prefix: Put in front of each path; starts with a slash and does not end with one.
            **options: Any keyword of ``route`` but those of a single route. ``dependencies``, ``tags``,
                ``identity_headers`` and ``on_error`` are added to the inherited ones; rules (``request_headers``,
                ``response_headers``, ``query_rules``, ``cookies``) and filters count beside the inherited ones, and None
                drops those; each other one replaces its inherited value.
        """
        prefix = self._check_prefix(prefix)
        for name in options.keys() - RouteOptions.__annotations__.keys():
            close = difflib.get_close_matches(name, RouteOptions.__annotations__, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            self._registry.problems.append(f"a group has no keyword {name!r}{hint}")
        _, problems = merge([options])
        self._registry.problems.extend(f"group {prefix!r}: {problem}" for problem in problems)
        return RouteGroup(self._registry, self._prefix + prefix, (*self._levels, options))

    def _check_prefix(self, prefix: str) -> str:
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            stripped = prefix.strip("/")
            instead = f"write '/{stripped}', not {prefix!r}" if stripped else "leave it out"
            self._registry.problems.append(
                f"a group's prefix starts with a slash and does not end with one: {instead}"
            )
            return f"/{stripped}" if stripped else ""
        return prefix

    def include(self, other: RouteGroup, *, prefix: str = "") -> None:
        """Take over every route of another proxy, at this place of the declared order: for one that is split over modules.

        Its routes inherit what this proxy or group says, below what they and their own proxy say themselves. Its observers
        and its handlers of errors count for its routes too: they are asked before this proxy's. Its pools without a
        monitor take the one that it was given, or this proxy's. ``via`` and ``redirect_slashes`` are this proxy's.

        What it declares until this proxy is built is taken over; it can be included elsewhere, and built by itself, as
        well.

        Args:
            other: The proxy.
            prefix: Put in front of each of its paths; starts with a slash and does not end with one.

        Raises:
            TypeError: If it is no proxy.
            DeclarationError: If this proxy was already built.
        """
        spelled_out = getattr(other, "_spelled_out", None)
        if spelled_out is None:
            raise TypeError(f"a Proxy can be included, not {other!r}")
        prefix = self._check_prefix(prefix)
        self._registry.add(
            Included(
                registry=other._registry,
                prefix=self._prefix + prefix,
                levels=(*self._levels, spelled_out),
            )
        )

    def route(
        self,
        path: str,
        *,
        upstream: Any = UNSET,
        methods: Iterable[str] | None = None,
        rewrite: str | None = None,
        match: Match | None = UNSET,
        host: str = UNSET,
        location: str = UNSET,
        request_headers: HeaderRules | None = UNSET,
        response_headers: HeaderRules | None = UNSET,
        query_rules: QueryRules | None = UNSET,
        cookies: CookieRules | None = UNSET,
        forwarding: Forwarding | None = UNSET,
        identity_headers: Iterable[str] = (),
        request_filters: Sequence[Any] | None = UNSET,
        response_filters: Sequence[Any] | None = UNSET,
        timeouts: Timeouts | None = UNSET,
        retry: Any = UNSET,
        limits: Any = UNSET,
        rate_limit: RateLimit | Sequence[RateLimit] | None = UNSET,
        hedge: Any = UNSET,
        mirror: Any = UNSET,
        max_body_bytes: int | None = UNSET,
        on_error: Any = UNSET,
        server_timing: bool = UNSET,
        dependencies: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        name: str | None = None,
        summary: str | None = None,
        responses: Mapping[int | str, dict[str, Any]] | None = UNSET,
        include_in_schema: bool = UNSET,
    ) -> Callable[[StubT], StubT]:
        """Forward what matches a path to an upstream.

        Args:
            path: Template: ``<name>`` is one segment, ``<int:name>``, ``<float:name>`` and ``<uuid:name>`` are typed,
                ``<path:name>`` is the rest and ``<path>`` short for ``<path:path>``. ``{name}`` is understood too.
            upstream: An ``UpstreamPool``, a ``WeightedSplit`` of several, a URL, a list of URLs or ``Destination``s, an
                ASGI app, or a callable that is given the ``ForwardedRequest`` and returns a pool or a split.
            methods: Methods to serve. None is every method but CONNECT and TRACE.
            rewrite: Template of the forwarded path, filled in with captured raw text. None forwards the target as it
                came, byte for byte.
            match: What besides path and method decides: several routes may have one path, and the first one in declared
                order whose ``Match`` holds serves the request.
            host: ``"destination"``, ``"preserve"``, or a literal value for ``Host``.
            location: ``"rewrite"`` maps the destination's own address in ``Location`` back to the public one;
                ``"keep"`` leaves it.
            request_headers: Rules for the request's fields, applied after those of the proxy and the groups.
            response_headers: Rules for the response's fields, applied after those of the proxy and the groups.
            query_rules: Rules for the query, applied after those of the proxy and the groups.
            cookies: Rules for the upstream's cookies, applied after those of the proxy and the groups.
            forwarding: What the upstream is told of the client. None takes the proxy's.
            identity_headers: Names that are deleted from what the client sent, because only the gateway sets them.
            request_filters: Filters of the request's content, after those of the proxy and the groups.
            response_filters: Filters of the response's content, before those of the groups and the proxy.
            timeouts: Time-outs; None takes the pool's, the group's or the proxy's.
            retry: When a request is tried again, instead of the pool's own rule; ``Retry(attempts=1)`` is never. None
                takes the group's or the pool's.
            limits: How many exchanges of this route there are at once, and who may wait, besides the pool's limits. Each
                route of a group or proxy that has limits has its own places.
            rate_limit: A ``RateLimit``, or several: more requests are answered 429.
            hedge: When a second destination is asked beside one that is slow.
            mirror: A ``Mirror``: another pool gets a copy of some requests.
            max_body_bytes: Bytes of content that a client may send; more is answered 413. None is no limit. A stub
                that reads the body needs it.
            on_error: Handlers of this route's failures, asked before those of its groups, its pool and the proxy: a
                function of the error and the request, functions by class of error, or a list; see ``Proxy.on_error``.
            server_timing: Whether ``Server-Timing`` says how long the queue, the connection, the upstream and the gateway
                itself took.
            dependencies: FastAPI dependencies, as in any endpoint.
            tags: Tags in the API's document.
            name: The route's name; the stub's by default.
            summary: Summary in the API's document.
            responses: Further responses in the API's document.
            include_in_schema: Whether the route is in the API's document.

        Returns:
            A decorator that records the route and gives the stub back unchanged.

        Raises:
            DeclarationError: From the decorator, if the proxy was already built.
        """
        given = dict(locals())
        for key in ("self", "path", "methods", "rewrite", "name", "summary"):
            del given[key]
        merged, _ = merge([given], self._inherited)
        problems = merge([given])[1]
        levels = (*self._levels, given)

        def decorate(stub: StubT) -> StubT:
            self._registry.add(
                RouteSpec(
                    path=concatenate(self._prefix, path),
                    stub=stub,
                    facts=read_stub(stub),
                    methods=methods
                    if methods is None or find_lone("", methods)
                    else tuple(methods),
                    rewrite=rewrite,
                    name=name,
                    summary=summary,
                    problems=problems,
                    levels=levels,
                    **route_values(merged),
                )
            )
            return stub

        return decorate

    def get(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for GET alone."""
        return self.route(path, methods=("GET",), **options)

    def post(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for POST alone."""
        return self.route(path, methods=("POST",), **options)

    def put(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for PUT alone."""
        return self.route(path, methods=("PUT",), **options)

    def patch(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for PATCH alone."""
        return self.route(path, methods=("PATCH",), **options)

    def delete(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for DELETE alone."""
        return self.route(path, methods=("DELETE",), **options)

    def head(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for HEAD alone."""
        return self.route(path, methods=("HEAD",), **options)

    def options(self, path: str, **options: Unpack[OneRouteOptions]) -> Callable[[StubT], StubT]:
        """``route`` for OPTIONS alone."""
        return self.route(path, methods=("OPTIONS",), **options)

    def websocket(
        self,
        path: str,
        *,
        upstream: Any = UNSET,
        rewrite: str | None = None,
        match: Match | None = UNSET,
        rate_limit: RateLimit | Sequence[RateLimit] | None = UNSET,
        on_error: Any = UNSET,
        allowed_origins: Iterable[str] | None = None,
        max_message_bytes: int | None = 16 * 1024 * 1024,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        close_timeout: float = 5.0,
        compression: bool = False,
        timeouts: Timeouts | None = UNSET,
        host: str = UNSET,
        request_headers: HeaderRules | None = UNSET,
        response_headers: HeaderRules | None = UNSET,
        query_rules: QueryRules | None = UNSET,
        cookies: CookieRules | None = UNSET,
        forwarding: Forwarding | None = UNSET,
        identity_headers: Iterable[str] = (),
        dependencies: Sequence[Any] = (),
        name: str | None = None,
    ) -> Callable[[StubT], StubT]:
        """Relay a WebSocket.

        Dependencies run first; then the upstream is dialled with the client's subprotocols; then the client is accepted
        with what the upstream chose, or gets the upstream's refusal.

        Args:
            path: Template, as for ``route``.
            upstream: As for ``route``; ``http(s)`` destinations serve WebSockets as ``ws(s)``.
            rewrite: Template of the forwarded path.
            match: As for ``route``.
            rate_limit: As for ``route``; handshakes are counted.
            on_error: As for ``route``: answers a handshake that is refused. A server that knows no answer to a handshake
                closes it instead.
            allowed_origins: Origins that a browser's page may have, such as ``"https://app.test"``; others are answered
                403. None allows every one. A client without ``Origin`` is no browser and passes.
            max_message_bytes: Bytes of the largest message in either direction, after decompression; over it both sides
                are closed with 1009. None is no limit. A server has a limit of its own (uvicorn: 16 MiB).
            ping_interval: Seconds of silence after which the upstream is pinged; None never pings.
            ping_timeout: Seconds for a sign of life after a ping; then the upstream counts as lost.
            close_timeout: Seconds for the other side's part of a closing handshake.
            compression: Whether permessage-deflate is offered to the upstream. What the client's side compresses is its
                server's to decide.
            timeouts: Time-outs; None takes the pool's, the group's or the proxy's. ``connect`` and ``first_byte`` are of
                the handshake. ``idle`` (without any frame) and ``total`` end a session, and only where they are given
                here.
            host: As for ``route``.
            request_headers: Rules for the fields of the forwarded handshake.
            response_headers: Rules for the fields of its answer.
            query_rules: As for ``route``.
            cookies: As for ``route``.
            forwarding: As for ``route``.
            identity_headers: As for ``route``.
            dependencies: FastAPI dependencies, run before the upstream is dialled.
            name: The route's name; the stub's by default.
        """
        given = {
            "upstream": upstream,
            "match": match,
            "rate_limit": rate_limit,
            "on_error": on_error,
            "dependencies": dependencies,
            "timeouts": timeouts,
            "host": host,
            "request_headers": request_headers,
            "response_headers": response_headers,
            "query_rules": query_rules,
            "cookies": cookies,
            "forwarding": forwarding,
            "identity_headers": identity_headers,
        }
        merged, _ = merge([given], self._inherited)
        problems = merge([given])[1]
        levels = (*self._levels, given)
        values = session_values(merged)
        options = {
            "allowed_origins": _to_tuple(allowed_origins),
            "max_message_bytes": max_message_bytes,
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "close_timeout": close_timeout,
            "compression": compression,
            "own_timeouts": None if timeouts is UNSET else timeouts,
            **values.pop("options"),
        }

        def decorate(stub: StubT) -> StubT:
            self._registry.add(
                WebSocketSpec(
                    path=concatenate(self._prefix, path),
                    stub=stub,
                    facts=read_stub(stub),
                    rewrite=rewrite,
                    options=options,
                    levels=levels,
                    **values,
                    name=name,
                    problems=problems,
                )
            )
            return stub

        return decorate


def _to_tuple(values: Any) -> Any:
    # What is no list stays as it is, for the build to report.
    return values if isinstance(values, str) or not isinstance(values, Iterable) else tuple(values)
