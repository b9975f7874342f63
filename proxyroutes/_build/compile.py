"""Specs become plans; every mistake is found, and reported together.

What FastAPI knows of a stub's parameters is checked in ``router``, because only FastAPI can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from attrs import field, frozen

from proxyroutes._build.check import (
    Problems,
    check_literal_host,
    check_timeouts,
    check_values,
    host_of,
    read_methods,
    texts,
)
from proxyroutes._build.conditions import read_condition
from proxyroutes._build.defaults import Defaults, join_observers
from proxyroutes._build.handlers import read_handlers
from proxyroutes._build.hidden import check_hidden, check_hidden_websockets
from proxyroutes._build.sessions import (
    check_session,
    read_origins,
    read_settings,
    session_field_actions,
)
from proxyroutes._build.steps import read_steps
from proxyroutes._build.transforms import forwarding_of, make_hop
from proxyroutes._build.upstreams import Upstream, check_pool_names, resolve_upstream
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Segment, Template, parse_rewrite, parse_template
from proxyroutes._serve.fields import field_actions
from proxyroutes._serve.match import RouteIndex
from proxyroutes._serve.plan import Capture, Plan
from proxyroutes._serve.websocket import SessionPlan
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import (
    DeclarationError,
    PathTemplateError,
)
from proxyroutes.settings import Timeouts

__all__ = ["Compiled", "CompiledWebSocket", "compile_specs"]


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


def compile_specs(
    specs: Sequence[RouteSpec | WebSocketSpec], defaults: Defaults, general: Iterable[str] = ()
) -> Compiled:
    """Check and compile every spec of a proxy.

    Args:
        specs: What was declared, in order.
        defaults: What the proxy gives.
        general: Problems that belong to no stub.
    """
    problems = Problems()
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
    check_pool_names(specs, problems)
    check_hidden(routes, problems.add)
    check_hidden_websockets([(one.spec, one.template) for one in websockets], problems.add)
    plans = [plan for _, plan, _ in routes]
    session_plans = [one.plan for one in websockets]
    pools = dict.fromkeys(pool for plan in (*plans, *session_plans) for pool in _pools_of(plan))
    return Compiled(
        routes=tuple(routes),
        websockets=tuple(websockets),
        index=RouteIndex(plans, redirect_slashes=defaults.redirect_slashes),
        sessions=RouteIndex(session_plans, redirect_slashes=False),
        pools=tuple(pools),
        problems=tuple(problems.found),
    )


def _pools_of(plan: Plan) -> tuple[UpstreamPool, ...]:
    """Every pool that a route is known to use."""
    mirror = None if plan.steps is None else plan.steps.mirror
    pools = () if plan.split is None else plan.split.recipe.pools
    named = (plan.pool, *pools, None if mirror is None else mirror.recipe.to)
    return tuple([pool for pool in named if pool is not None])


def _read_rewrite(
    spec: RouteSpec | WebSocketSpec, template: Template | None, problems: Problems
) -> Template | None:
    if template is None or spec.rewrite is None:
        return None
    try:
        return parse_rewrite(spec.rewrite, template)
    except PathTemplateError as error:
        problems.add(error, spec.facts.location)
        return None


def _compile_route(
    order: int, spec: RouteSpec, template: Template | None, defaults: Defaults, problems: Problems
) -> Plan | None:
    rewrite = _read_rewrite(spec, template, problems)
    problems.extend(check_values(spec), spec.facts.location)
    upstream = resolve_upstream(spec, template, defaults, problems)
    methods = read_methods(spec, problems)
    if template is None:
        return None
    return Plan(
        **_common(
            order, spec, template, defaults, rewrite, upstream, spec.timeouts, spec.forwarding
        ),
        methods=methods,
        host=host_of(spec.host),
        field_actions=(actions := field_actions(texts(spec.identity_headers))),
        condition=read_condition(spec.match, actions, problems, spec.facts.location),
        max_body_bytes=spec.max_body_bytes,
        map_location=spec.location == "rewrite",
        plain=not spec.facts.speaks and not spec.facts.parameters,
        steps=read_steps(spec, template, defaults, problems),
        on_error=read_handlers(spec.on_error, problems, spec.facts.location),
    )


def _common(
    order: int,
    spec: RouteSpec | WebSocketSpec,
    template: Template,
    defaults: Defaults,
    rewrite: Template | None,
    upstream: Upstream,
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
        "pool": upstream.pool,
        "choose": upstream.choose,
        "split": upstream.split,
        "rewrite": None if rewrite is None else _pieces(rewrite.segments, names),
        "inverse": None if rewrite is None else _inverse(rewrite.segments, names),
        "public": _pieces(template.segments, names),
        "hop": make_hop(forwarding_of(forwarding, defaults), defaults.via),
        "timeouts": timeouts or defaults.timeouts,
        "pool_timeouts": timeouts is None,
        "observers": join_observers([one.observers for one in spec.origins], defaults.observers),
        "last_on_error": [*chain(*[one.on_error for one in spec.origins]), *defaults.on_error]
        if spec.origins
        else defaults.on_error,
        "speaks": spec.facts.speaks,
    }


def _compile_websocket(
    order: int,
    spec: WebSocketSpec,
    template: Template | None,
    defaults: Defaults,
    problems: Problems,
) -> SessionPlan | None:
    options = spec.options
    rewrite = _read_rewrite(spec, template, problems)
    found = [*check_session(spec), *check_timeouts(options["timeouts"])]
    if options["host"] not in {"destination", "preserve"}:
        found.extend(check_literal_host(options["host"]))
    upstream = resolve_upstream(spec, template, defaults, problems)
    problems.extend(found, spec.facts.location)
    actions = session_field_actions(texts(options["identity_headers"]))
    on_error = read_handlers(options["on_error"], problems, spec.facts.location)
    condition = read_condition(options["match"], actions, problems, spec.facts.location)
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
        host=host_of(options["host"]),
        field_actions=actions,
        condition=condition,
        steps=read_steps(spec, template, defaults, problems),
        max_body_bytes=None,
        map_location=options["location"] == "rewrite",
        plain=not spec.facts.speaks and not spec.facts.parameters and not spec.dependencies,
        settings=read_settings(spec),
        allowed_origins=read_origins(spec),
        on_error=on_error,
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
