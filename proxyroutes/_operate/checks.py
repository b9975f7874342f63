"""``check``: what is wrong or doubtful in a route table, though each declaration by itself is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from attrs import fields, frozen
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute, Route

from proxyroutes._build.compile import Compiled
from proxyroutes._build.routes import ProxyRoute
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._declare.templates import Template
from proxyroutes._operate.explain import explain_scope, make_scope
from proxyroutes._operate.inclusions import GatewayPlace
from proxyroutes._serve.plan import Plan
from proxyroutes._state.lease import WITHOUT_CONTENT
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import DeclarationError
from proxyroutes.policies.latency import LeastLatency
from proxyroutes.policies.retries import Retry
from proxyroutes.settings import Timeouts

__all__ = [
    "Finding",
    "check_app",
    "check_compiled",
    "check_pools",
    "find_unused_pools",
    "to_findings",
]

_PARAMETER = re.compile(r"{(\w+)(?::(\w+))?}")
_SAMPLES = {"int": "1", "float": "1.5", "uuid": "00000000-0000-4000-8000-000000000000"}
_MEASURED = {one.decode() for one in WITHOUT_CONTENT}
_USUAL = Timeouts()
_WRITES = frozenset({"DELETE", "PATCH", "POST", "PUT"})


@frozen(order=True)
class Finding:
    """One thing that is wrong or doubtful.

    Attributes:
        level: ``error`` for what cannot be meant, ``warning`` for what may be.
        code: What kind of thing it is; stable.
        location: ``file:line`` of the stub, or what else it belongs to.
        text: What, and what to do about it.
    """

    level: str
    code: str
    location: str
    text: str

    def to_text(self) -> str:
        """As a compiler writes it."""
        return f"{self.location}: {self.level}: {self.text} [{self.code}]"


def to_findings(problems: Iterable[DeclarationError]) -> list[Finding]:
    """The mistakes that the build has reported."""
    return [Finding("error", "declaration", one.location or "-", one.problem) for one in problems]


# Routes.


def check_compiled(compiled: Compiled) -> Iterator[Finding]:
    """What is wrong with a proxy's own routes."""
    yield from _check_methods(compiled.routes)
    for spec, plan, template in compiled.routes:
        yield from _check_timeouts(spec.timeouts, spec.facts.location, template.text)
        yield from _check_steps(spec, plan)
        yield from _check_unused_retry(spec, plan)
    yield from _check_measured(compiled)
    for one in compiled.websockets:
        options: Any = one.spec.options
        yield from _check_timeouts(
            options.get("timeouts"), one.spec.facts.location, one.template.text
        )
        if one.plan.allowed_origins is None:
            yield Finding(
                "warning",
                "any-origin",
                one.spec.facts.location,
                f"{one.template.text!r}: the pages of every site may open a session with your users' cookies; "
                "say allowed_origins=[…]",
            )


def _check_methods(routes: Sequence[tuple[RouteSpec, Plan, Template]]) -> Iterator[Finding]:
    """Methods that earlier routes take before a later one is asked."""
    for position, (spec, plan, template) in enumerate(routes):
        hiding = [
            (earlier_spec, earlier)
            for earlier_spec, earlier, earlier_template in routes[:position]
            if earlier_template.covers(template) and not _is_conditional(earlier_spec)
        ]
        taken = frozenset().union(*[earlier.methods or () for _, earlier in hiding])
        lost = taken if plan.methods is None else taken & plan.methods
        if not lost:
            continue
        first = [earlier.name for _, earlier in hiding if earlier.methods]
        wholly = plan.methods is not None and lost == plan.methods
        yield Finding(
            "error" if plan.methods is not None else "warning",
            "shadowed-route" if wholly else "unreachable-method",
            spec.facts.location,
            f"{template.text!r} is never reached with {_join(lost)}, which {', '.join(first)} takes first; "
            "declare the narrower route first",
        )


def _is_conditional(spec: RouteSpec) -> bool:
    """Whether more than path and method decides it, so that it hides nothing."""
    return getattr(spec, "match", None) is not None


def _check_timeouts(timeouts: Any, location: str, what: str) -> Iterator[Finding]:
    """Times of one try that the whole exchange does not have."""
    if not isinstance(timeouts, Timeouts):
        return
    total = timeouts.total
    for one in fields(Timeouts):
        value = getattr(timeouts, one.name)
        if one.name == "total" or value is None or total is None or value <= total:
            continue
        # Who says `total` alone has not said the others.
        if value != getattr(_USUAL, one.name):
            yield Finding(
                "error",
                "try-over-total",
                location,
                f"{what!r}: {one.name}={value:g} is never reached, the whole exchange has total={total:g}",
            )
    if timeouts.first_byte is None and total is None:
        yield Finding(
            "warning",
            "endless-wait",
            location,
            f"{what!r}: neither first_byte nor total ends the wait for an upstream that says nothing",
        )


def _check_steps(spec: RouteSpec, plan: Plan) -> Iterator[Finding]:
    steps = plan.steps
    retry = None if steps is None else steps.retry
    if retry is None and plan.pool is not None:
        retry = getattr(plan.pool, "retry", None)
    if retry is not None:
        yield from _check_retry(retry, spec, plan)
    mirror = None if steps is None else steps.mirror
    writes = _WRITES if plan.methods is None else _WRITES & plan.methods
    if mirror is not None and writes:
        # How many copies there are at once is bounded by every mirror.
        yield Finding(
            "warning",
            "mirror-writes",
            spec.facts.location,
            f"{spec.path!r}: {_join(writes)} are copied too; say methods=[…], or be sure that pool "
            f"{mirror.recipe.to.name!r} has a database of its own",
        )


def _check_retry(retry: Any, spec: RouteSpec, plan: Plan) -> Iterator[Finding]:
    unsafe = frozenset(getattr(retry, "methods", ()) or ()) & {"POST", "PATCH"}
    served = unsafe if plan.methods is None else unsafe & plan.methods
    if served:
        yield Finding(
            "warning",
            "retry-not-idempotent",
            spec.facts.location,
            f"{spec.path!r}: {_join(served)} may reach an upstream twice (RFC 9110 §9.2.2)",
        )


def _check_unused_retry(spec: RouteSpec, plan: Plan) -> Iterator[Finding]:
    """A rule that a route gives itself, and that is for none of its methods."""
    own, methods = spec.levels[-1] if spec.levels else {}, plan.methods
    retry = own.get("retry")
    if not (methods and isinstance(retry, Retry)) or methods & retry.methods:
        return
    if retry.attempts > 1:
        yield Finding(
            "warning",
            "retry-unused",
            spec.facts.location,
            f"{spec.path!r}: {_join(methods)} is tried again only with an Idempotency-Key, or where no connection was "
            "found; name it in methods=, or leave retry= out",
        )


def _check_measured(compiled: Compiled) -> Iterator[Finding]:
    """Pools that go by latencies which neither exchanges nor probes tell."""
    seen = {plan.pool for _, plan, _ in compiled.routes if plan.methods is None}
    seen |= {plan.pool for _, plan, _ in compiled.routes if (plan.methods or set()) & _MEASURED}
    seen |= {one.plan.pool for one in compiled.websockets}
    known = {plan.pool for _, plan, _ in compiled.routes}
    for pool in compiled.pools:
        # Of a pool that a function or a split chooses, the methods are not known.
        if pool not in known - seen or _is_probed(pool):
            continue
        if isinstance(pool.balancing, LeastLatency):
            yield Finding(
                "warning",
                "latency-unmeasured",
                f"pool {pool.name!r}",
                "LeastLatency measures requests without content and health checks, and there is neither; say health=…",
            )


def _is_probed(pool: UpstreamPool) -> bool:
    return pool.health is not None or any(one.health for one in pool.destinations)


def _join(methods: Iterable[str]) -> str:
    return ", ".join(sorted(methods))


# Pools.


def check_pools(pools: Iterable[UpstreamPool]) -> Iterator[Finding]:
    """What is doubtful about the pools themselves."""
    for pool in pools:
        location = f"pool {pool.name!r}"
        yield from _check_timeouts(pool.timeouts, location, pool.name)
        if len(pool.destinations) > 1 and not _is_probed(pool) and pool.outliers is None:
            yield Finding(
                "warning",
                "unhealthy-unnoticed",
                location,
                "nothing notices a destination that fails: say health=…, or leave outliers on",
            )


def find_unused_pools(module: ModuleType, used: Iterable[UpstreamPool]) -> Iterator[Finding]:
    """Pools of a module that no route names."""
    known = set(used)
    for name, value in sorted(vars(module).items()):
        if isinstance(value, UpstreamPool) and value not in known:
            yield Finding(
                "warning",
                "unused-pool",
                f"{module.__name__}:{name}",
                f"no route uses pool {value.name!r}; if proxy.forward() or a callable does, all is well",
            )


# Applications.


def check_app(routes: Sequence[BaseRoute], gateways: Sequence[GatewayPlace]) -> Iterator[Finding]:
    """What an application's own routes and its gateways take from each other, and what of ours is open."""
    yield from _check_open_pages(routes)
    contexts = list(iter_route_contexts(routes))
    for gateway in gateways:
        behind = False
        for context in contexts:
            route = context.original_route
            if isinstance(route, ProxyRoute):
                behind = behind or route.owner.compiled is gateway.compiled
            elif type(route).__module__.startswith("proxyroutes."):
                # Only there for the document.
                continue
            elif behind and isinstance(route, Route | APIRoute):
                yield from _check_hidden_route(context, gateway)


def _check_hidden_route(context: Any, gateway: GatewayPlace) -> Iterator[Finding]:
    route: Any = getattr(context, "starlette_route", None) or context
    path = _PARAMETER.sub(lambda found: _SAMPLES.get(found[2] or "", "x"), route.path or "/")
    hidden: dict[str, str] = {}
    for method in sorted(set(route.methods or ()) - {"HEAD", "OPTIONS"}):
        found = explain_scope(
            gateway.compiled, make_scope(method, path, ()), path, prefix=gateway.prefix
        )
        if found.route is not None and found.status not in {307, 404, 405}:
            hidden[method] = f"{found.route} at {found.location}"
    if hidden:
        yield Finding(
            "error",
            "shadowed-route",
            f"route {route.path!r}",
            f"the application's own route is never reached with {_join(hidden)}: "
            f"{', '.join(dict.fromkeys(hidden.values()))} has the path; include the gateway after it",
        )


def _check_open_pages(routes: Sequence[BaseRoute]) -> Iterator[Finding]:
    """Pages of ours that nothing stands in front of."""
    for context in iter_route_contexts(routes):
        route = context.original_route
        endpoint: Any = getattr(route, "endpoint", None)
        module = str(getattr(endpoint, "__module__", ""))
        if isinstance(route, ProxyRoute) or not module.startswith("proxyroutes._operate"):
            continue
        dependant: Any = getattr(context, "dependant", None)
        meant = getattr(getattr(endpoint, "__self__", None), "public", False)
        if meant or getattr(dependant, "dependencies", None):
            continue
        page = "status page" if ".status" in module else "metrics page"
        yield Finding(
            "warning" if page == "metrics page" else "error",
            "open-page",
            f"route {getattr(context, 'path', None) or getattr(route, 'path', '')!r}",
            f"everybody may see this {page}: include its router with dependencies=[…]",
        )
