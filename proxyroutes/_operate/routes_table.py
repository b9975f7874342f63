"""The compiled route table: what is served, in the order in which it is matched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import fields, frozen
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from starlette.routing import BaseRoute, Mount

from proxyroutes._build.routes import ProxyRoute
from proxyroutes._build.websockets import plan_of
from proxyroutes._declare.templates import parse_template
from proxyroutes._operate.inclusions import names_of_dependencies
from proxyroutes._serve.plan import Plan
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.settings import Destination, Timeouts
from proxyroutes.transports.asgi import ASGITransport

__all__ = ["Table", "route_rows", "route_table"]

_HEADER = (
    "methods",
    "path",
    "stub",
    "upstream",
    "destinations",
    "rewrite",
    "dependencies",
    "timeouts",
)
_PARAMETER = re.compile(r"{(\w+)(?::(\w+))?}")
# Columns that are left out where no route has anything to say in them.
_OPTIONAL = frozenset({"rewrite", "dependencies", "timeouts"})


@frozen
class Table:
    """Rows of text under a header.

    Attributes:
        header: The columns' names.
        rows: The cells, as many in each row as there are columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        """Aligned columns for a file or a pipe; what is empty is a dash, so that each line has every column."""
        lines = [[cell or "-" for cell in row] for row in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def route_table(routes: Sequence[BaseRoute]) -> Table:
    """Make the table of every gateway route among the routes of an app or a router.

    Args:
        routes: ``app.routes``, or ``proxy.build_router().routes``. Included routers and mounted apps are looked into;
            what is not declared with proxyroutes is left out.
    """
    rows = list(_rows(routes, ""))
    kept = [
        number
        for number, name in enumerate(_HEADER)
        if name not in _OPTIONAL or any(row[number] for row in rows)
    ]
    return Table(
        tuple(_HEADER[number] for number in kept),
        tuple(tuple(row[number] for number in kept) for row in rows),
    )


def route_rows(routes: Sequence[BaseRoute]) -> list[dict[str, str]]:
    """The same as one dictionary a route, with every column."""
    return [dict(zip(_HEADER, row, strict=True)) for row in _rows(routes, "")]


def _rows(routes: Sequence[BaseRoute], mounted: str) -> Iterator[tuple[str, ...]]:
    for context in iter_route_contexts(routes):
        route = context.original_route
        # Older releases of FastAPI do not look through to an included route that is no APIRoute.
        effective: Any = getattr(context, "starlette_route", None) or context
        path = mounted + _angled(effective.path or "")
        if isinstance(route, ProxyRoute):
            methods = "any" if route.plan.methods is None else ",".join(sorted(route.plan.methods))
            yield _row(methods, context.path or "", route.plan, context, mounted)
        elif isinstance(route, Mount):
            yield from _rows(route.routes, path)
        elif isinstance(route, APIWebSocketRoute) and (plan := plan_of(route.endpoint)):
            yield _row("WS", effective.path or "", plan, effective, mounted)


def _row(methods: str, path: str, plan: Plan, context: Any, mounted: str) -> tuple[str, ...]:
    pool = plan.pool
    return (
        methods,
        mounted + _path(path, plan.template),
        plan.name,
        _upstream(plan),
        "" if pool is None else _destinations(pool),
        _rewrite(plan),
        ", ".join(dict.fromkeys(names_of_dependencies(getattr(context, "dependant", None)))),
        _timeouts(plan),
    )


def _upstream(plan: Plan) -> str:
    if plan.pool is not None:
        return plan.pool.name
    if plan.split is None:
        return "(chosen for each request)"
    weights = plan.split.recipe.weights
    return ", ".join(f"{pool.name} (weight {weight})" for pool, weight in weights.items())


def _path(path: str, template: str) -> str:
    """The template as it was declared, behind the prefixes of its inclusions, which only FastAPI's spelling has."""
    own = parse_template(template).starlette_path
    return _angled(path.removesuffix(own)) + template if path.endswith(own) else _angled(path)


def _angled(path: str) -> str:
    """FastAPI's spelling of a path in ours."""
    return _PARAMETER.sub(
        lambda found: (
            f"<{found[2]}:{found[1]}>" if found[2] and found[1] != "path" else f"<{found[1]}>"
        ),
        path,
    )


def _destinations(pool: UpstreamPool) -> str:
    if isinstance(pool.transport, ASGITransport):
        return "(in process)"
    return ", ".join(map(_destination, pool.destinations))


def _destination(destination: Destination) -> str:
    weight = "" if destination.weight == 1 else f" (weight {destination.weight})"
    return f"{destination.origin}{destination.base_path}{weight}"


def _rewrite(plan: Plan) -> str:
    names = [capture.name for capture in plan.captures]
    return "".join(
        f"<{names[piece]}>" if isinstance(piece, int) else piece.decode("ascii")
        for piece in plan.rewrite or ()
    )


def _timeouts(plan: Plan) -> str:
    """The route's time-outs as they come out, where they are not the defaults."""
    pool_timeouts = plan.pool.timeouts if plan.pool is not None and plan.pool_timeouts else None
    values, usual = pool_timeouts or plan.timeouts, Timeouts()
    return " ".join(
        f"{one.name}={'none' if (value := getattr(values, one.name)) is None else f'{value:g}s'}"
        for one in fields(Timeouts)
        if getattr(values, one.name) != getattr(usual, one.name)
    )
