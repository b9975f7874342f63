"""Specs become plans; every mistake is found, and reported together.

What FastAPI knows of a stub's parameters is checked in ``router``, because only FastAPI can tell.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from proxyroutes._build.hidden import check_hidden, check_hidden_websockets
from proxyroutes._build.sessions import (
    check_session,
    read_origins,
    read_settings,
    session_field_actions,
)
from proxyroutes._declare.groups import UNSET
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Segment, Template, parse_rewrite, parse_template
from proxyroutes._serve.fields import field_actions, has_bad_name
from proxyroutes._serve.forwarding import Hop
from proxyroutes._serve.guard import check_host, check_method
from proxyroutes._serve.match import RouteIndex
from proxyroutes._serve.exchange import Observer
from proxyroutes._serve.plan import Capture, Plan
from proxyroutes._serve.websocket import SessionPlan
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import (
    ClientRequestError,
    DeclarationError,
    PathTemplateError,
    StubError,
)
from proxyroutes.settings import Destination, Forwarding, Timeouts
from proxyroutes.transports.asgi import ASGITransport

__all__ = ["Compiled", "Defaults", "compile_specs"]


@frozen(kw_only=True)
class Defaults:
    """What a proxy gives to routes that do not say it."""

    monitor: HealthMonitor
    timeouts: Timeouts
    forwarding: Forwarding
    via: bytes
    redirect_slashes: bool
    observers: Sequence[Observer]


@frozen(kw_only=True, eq=False)
class CompiledWebSocket:
    """One declared WebSocket route with its plan and template."""

    spec: WebSocketSpec
    plan: SessionPlan
    template: Template


@frozen(kw_only=True, eq=False)
class Compiled:
    """One compiled proxy; router, app and middleware share it.

    Attributes:
        routes: Each spec with its plan and template, in declared order.
        websockets: Each WebSocket spec with its plan and template.
        index: Every plan, ready to match.
        sessions: The same for WebSocket routes.
        pools: Every pool that a spec names.
        problems: What is wrong.
        operation_paths: The path that each operation was first documented under.
    """

    routes: tuple[tuple[RouteSpec, Plan, Template], ...]
    websockets: tuple[CompiledWebSocket, ...]
    index: RouteIndex
    sessions: RouteIndex
    pools: tuple[UpstreamPool, ...]
    problems: tuple[DeclarationError, ...] = field(factory=tuple)
    operation_paths: dict[str, str] = field(factory=dict)


class _Problems:
    """Mistakes, each with the place of its stub."""

    def __init__(self) -> None:
        self.found: list[DeclarationError] = []

    def add(self, error: DeclarationError, location: str) -> None:
        error.location = error.location or location
        self.found.append(error)

    def extend(self, errors: Iterable[DeclarationError], location: str) -> None:
        for error in errors:
            self.add(error, location)


def compile_specs(
    specs: Sequence[RouteSpec | WebSocketSpec], defaults: Defaults, general: Iterable[str] = ()
) -> Compiled:
    """Check and compile every spec of a proxy.

    Args:
        specs: What was declared, in order.
        defaults: What the proxy gives.
        general: Problems that belong to no stub.
    """
    problems = _Problems()
    for text in general:
        problems.add(DeclarationError(text), "")
    routes: list[tuple[RouteSpec, Plan, Template]] = []
    websockets: list[CompiledWebSocket] = []
    for order, spec in enumerate(specs):
        location = spec.facts.location
        try:
            template = parse_template(spec.path)
        except PathTemplateError as error:
            problems.add(error, location)
            template = None
        if isinstance(spec, WebSocketSpec):
            session = _compile_websocket(order, spec, template, defaults, problems)
            if session is not None and template is not None:
                websockets.append(CompiledWebSocket(spec=spec, plan=session, template=template))
            continue
        plan = _compile_route(order, spec, template, defaults, problems)
        if plan is not None and template is not None:
            routes.append((spec, plan, template))
    check_hidden(routes, problems.add)
    check_hidden_websockets([(one.spec, one.template) for one in websockets], problems.add)
    plans = [plan for _, plan, _ in routes]
    session_plans = [one.plan for one in websockets]
    pools = {plan.pool: None for plan in (*plans, *session_plans) if plan.pool is not None}
    return Compiled(
        routes=tuple(routes),
        websockets=tuple(websockets),
        index=RouteIndex(plans, redirect_slashes=defaults.redirect_slashes),
        sessions=RouteIndex(session_plans, redirect_slashes=False),
        pools=tuple(pools),
        problems=tuple(problems.found),
    )


def _read_rewrite(
    spec: RouteSpec | WebSocketSpec, template: Template | None, problems: _Problems
) -> Template | None:
    if template is None or spec.rewrite is None:
        return None
    try:
        return parse_rewrite(spec.rewrite, template)
    except PathTemplateError as error:
        problems.add(error, spec.facts.location)
        return None


def _compile_route(
    order: int, spec: RouteSpec, template: Template | None, defaults: Defaults, problems: _Problems
) -> Plan | None:
    rewrite = _read_rewrite(spec, template, problems)
    problems.extend(_check_values(spec), spec.facts.location)
    upstream = _resolve_upstream(spec, defaults, problems)
    methods = _read_methods(spec, problems)
    if template is None:
        return None
    return Plan(
        **_common(order, spec, template, defaults, rewrite, upstream, spec.timeouts, spec.forwarding),
        methods=methods,
        allow=(b"allow", ", ".join(sorted(methods or ())).encode("ascii")),
        host=_host_of(spec.host),
        field_actions=field_actions(_texts(spec.identity_headers)),
        max_body_bytes=spec.max_body_bytes,
        map_location=spec.location == "rewrite",
        plain=not spec.facts.speaks and not spec.facts.parameters,
    )


def _common(
    order: int,
    spec: RouteSpec | WebSocketSpec,
    template: Template,
    defaults: Defaults,
    rewrite: Template | None,
    upstream: UpstreamPool | Chooser | None,
    timeouts: Timeouts | None,
    forwarding: Any,
) -> dict[str, Any]:
    """What the plans of both kinds of routes have alike."""
    names = template.names
    return {
        "name": spec.name or spec.facts.name,
        "order": order,
        "template": template.text,
        "literals": tuple(
            None if segment.name is not None else segment.literal for segment in template.segments
        ),
        "captures": _captures(template.segments),
        "monitor": defaults.monitor,
        "pool": upstream if isinstance(upstream, UpstreamPool) else None,
        "choose": upstream if not isinstance(upstream, UpstreamPool) else None,
        "rewrite": None if rewrite is None else _pieces(rewrite.segments, names),
        "inverse": None if rewrite is None else _inverse(rewrite.segments, names),
        "public": _pieces(template.segments, names),
        "hop": Hop(
            forwarding if isinstance(forwarding, Forwarding) else defaults.forwarding, defaults.via
        ),
        "timeouts": timeouts or defaults.timeouts,
        "pool_timeouts": timeouts is None,
        "observers": defaults.observers,
        "speaks": spec.facts.speaks,
    }


def _compile_websocket(
    order: int,
    spec: WebSocketSpec,
    template: Template | None,
    defaults: Defaults,
    problems: _Problems,
) -> SessionPlan | None:
    options = spec.options
    rewrite = _read_rewrite(spec, template, problems)
    found = [*check_session(spec), *_check_timeouts(options["timeouts"])]
    if options["host"] not in {"destination", "preserve"}:
        found.extend(_check_literal_host(options["host"]))
    upstream = _resolve_upstream(spec, defaults, problems)
    if isinstance(upstream, UpstreamPool) and isinstance(upstream.transport, ASGITransport):
        found.append(DeclarationError("upstream: an ASGI app in this process has no sessions here"))
    problems.extend(found, spec.facts.location)
    if template is None or found:
        return None
    return SessionPlan(
        **_common(
            order,
            spec,
            template,
            defaults,
            rewrite,
            upstream,
            options["timeouts"],
            options["forwarding"],
        ),
        methods=None,
        host=_host_of(options["host"]),
        field_actions=session_field_actions(_texts(options["identity_headers"])),
        max_body_bytes=None,
        map_location=options["location"] == "rewrite",
        plain=not spec.facts.speaks and not spec.facts.parameters and not spec.dependencies,
        settings=read_settings(spec),
        allowed_origins=read_origins(spec),
    )


def _captures(segments: Sequence[Segment]) -> tuple[Capture, ...]:
    return tuple(
        Capture(
            name=segment.name,
            position=position,
            rest=segment.is_rest,
            takes=None if segment.converter.pattern is None else segment.converter.takes,
            convert=segment.converter.convert,
        )
        for position, segment in enumerate(segments)
        if segment.name is not None
    )


def _pieces(segments: Sequence[Segment], names: Sequence[str]) -> tuple[bytes | int, ...]:
    """Raw literals with their slashes, and numbers of captures."""
    pieces: list[bytes | int] = []
    literal = b""
    for segment in segments:
        literal += b"/"
        if segment.name is None:
            literal += segment.raw
        else:
            pieces.extend((literal, names.index(segment.name)))
            literal = b""
    return (*pieces, literal) if literal else tuple(pieces)


def _inverse(segments: Sequence[Segment], names: Sequence[str]) -> tuple[bytes | int, ...] | None:
    """Decoded literals and numbers of captures, a rest as its complement.

    None if a capture is missing or repeated, or stands behind a rest: then there is no one way back.
    """
    if any(segment.is_rest for segment in segments[:-1]):
        return None
    used = [segment.name for segment in segments if segment.name is not None]
    if sorted(used) != sorted(names):
        return None
    pattern: list[bytes | int] = []
    for segment in segments:
        if segment.name is None:
            pattern.append(segment.literal)
        else:
            number = names.index(segment.name)
            pattern.append(~number if segment.is_rest else number)
    return tuple(pattern)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str))


def _host_of(host: Any) -> bytes | None:
    if host == "destination":
        return None
    return b"" if host == "preserve" else str(host).encode("latin-1", "replace")


def _check_values(spec: RouteSpec) -> list[DeclarationError]:
    """One-route mistakes that need no template."""
    found = [DeclarationError(text) for text in spec.problems]
    if spec.not_yet:
        found.append(
            DeclarationError(f"{', '.join(spec.not_yet)}: not in this release; remove it")
        )
    if spec.facts.is_generator:
        found.append(
            StubError(
                f"stub {spec.facts.name!r} is a generator: return a StreamingResponse instead of yielding"
            )
        )
    found.extend(
        DeclarationError(f"identity_headers: not a field name: {name!r}")
        for name in _texts(spec.identity_headers)
        if has_bad_name(name.encode("latin-1", "replace"))
    )
    if spec.location not in {"rewrite", "keep"}:
        found.append(DeclarationError(f"location is 'rewrite' or 'keep', not {spec.location!r}"))
    limit: Any = spec.max_body_bytes
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        found.append(
            DeclarationError(
                f"max_body_bytes is a number of bytes from 0 up: {spec.max_body_bytes!r}"
            )
        )
    found.extend(_check_timeouts(spec.timeouts))
    if spec.forwarding is not None and not isinstance(spec.forwarding, Forwarding):
        found.append(
            DeclarationError(f"forwarding is a Forwarding value, not {spec.forwarding!r}")
        )
    if spec.host not in {"destination", "preserve"}:
        found.extend(_check_literal_host(spec.host))
    return found


def _check_timeouts(timeouts: Any) -> list[DeclarationError]:
    if timeouts is None or isinstance(timeouts, Timeouts):
        return []
    return [
        DeclarationError(f"timeouts is a Timeouts value: write Timeouts(first_byte={timeouts!r})")
    ]


def _check_literal_host(host: Any) -> list[DeclarationError]:
    close = difflib.get_close_matches(str(host), ("destination", "preserve"), n=1, cutoff=0.75)
    if close:
        return [DeclarationError(f"host={host!r}: did you mean {close[0]!r}?")]
    try:
        check_host(host.encode("ascii"))
    except (AttributeError, UnicodeEncodeError, ClientRequestError):
        return [
            DeclarationError(f"host is 'destination', 'preserve' or a literal host, not {host!r}")
        ]
    return []


def _read_methods(spec: RouteSpec, problems: _Problems) -> frozenset[str] | None:
    methods = spec.methods
    location = spec.facts.location
    if methods is None:
        return None
    if not isinstance(methods, tuple):
        problems.add(
            DeclarationError(f"methods: a list is meant, not one value: write [{methods!r}]"),
            location,
        )
        return None
    if not methods:
        problems.add(
            DeclarationError("methods is empty: leave it out to serve every method"), location
        )
    for method in methods:
        if not isinstance(method, str):
            problems.add(DeclarationError(f"a method is a string: {method!r}"), location)
        else:
            _check_method(method, problems, location)
    return frozenset(str(method) for method in methods)


_USUAL = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")


def _check_method(method: str, problems: _Problems, location: str) -> None:
    try:
        check_method(method)
    except ClientRequestError as error:
        problems.add(DeclarationError(f"methods: {error.detail}: {method!r}"), location)
        return
    if method not in _USUAL and method.upper() in _USUAL:
        problems.add(
            DeclarationError(
                f"a method's case counts (RFC 9110 §9.1): write {method.upper()!r}, not {method!r}"
            ),
            location,
        )


# Upstreams.

Chooser = Callable[[Any], Awaitable[UpstreamPool]]


def _resolve_upstream(
    spec: RouteSpec | WebSocketSpec, defaults: Defaults, problems: _Problems
) -> UpstreamPool | Chooser | None:
    upstream = spec.upstream
    try:
        resolved = _to_pool(upstream, spec)
    except (TypeError, ValueError) as error:
        problems.add(DeclarationError(f"upstream: {error}"), spec.facts.location)
        return None
    if isinstance(resolved, UpstreamPool):
        resolved.adopt(defaults.monitor)
    return resolved


def _to_pool(upstream: Any, spec: RouteSpec | WebSocketSpec) -> UpstreamPool | Chooser:
    if isinstance(upstream, UpstreamPool):
        return upstream
    if upstream is UNSET or upstream is None:
        raise ValueError("a route needs an upstream, its own or its group's: write upstream=pool")
    if isinstance(upstream, str | Destination):
        destination = upstream if isinstance(upstream, Destination) else Destination(upstream)
        return UpstreamPool(urlsplit(destination.url).netloc, [destination])
    if isinstance(upstream, list | tuple):
        pool_name = ",".join(
            urlsplit(item.url if isinstance(item, Destination) else str(item)).netloc
            for item in upstream
        )
        return UpstreamPool(pool_name, upstream)
    if callable(upstream):
        if _is_asgi(upstream):
            name = f"asgi:{spec.facts.name}"
            return UpstreamPool(name, ["http://asgi.internal"], transport=ASGITransport(upstream))
        return _to_chooser(upstream)
    raise TypeError(
        f"an UpstreamPool, a URL, a list of them, an ASGI app or a callable is meant, not {upstream!r}"
    )


def _is_asgi(value: Callable[..., Any]) -> bool:
    """Whether it takes scope, receive and send; a chooser takes one argument."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [one for one in parameters if one.kind in positional and one.default is one.empty]
    if len(required) not in {1, 3}:
        raise TypeError(
            f"a callable takes a ForwardedRequest, an ASGI app scope, receive and send: {value!r} takes {len(required)}"
        )
    return len(required) == 3


def _to_chooser(choose: Callable[..., Any]) -> Chooser:
    async def chosen(request: Any) -> UpstreamPool:
        result = choose(request)
        if inspect.isawaitable(result):
            result = await result
        if not isinstance(result, UpstreamPool):
            raise TypeError(
                f"the callable given as upstream= returns an UpstreamPool, not {result!r}"
            )
        return result

    return chosen
