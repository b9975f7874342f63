"""Routes that can never be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from proxyroutes._build.conditions import covers
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Template
from proxyroutes._serve.plan import Plan
from proxyroutes.exceptions import DeclarationError, DuplicateRouteError

__all__ = ["check_hidden", "check_hidden_websockets"]

Add: TypeAlias = Callable[[DeclarationError, str], None]
"""Takes a problem and the place of its stub."""


def check_hidden(routes: Sequence[tuple[RouteSpec, Plan, Template]], add: Add) -> None:
    """Find HTTP routes that repeat an earlier one or are wholly hidden by it."""
    # Only routes whose first segments could meet are compared, so that many routes stay cheap to build.
    by_first: dict[bytes | None, list[tuple[RouteSpec, Plan, Template]]] = {}
    for route in routes:
        spec, plan, template = route
        first = plan.literals[0]
        rivals = [*by_first.get(None, ()), *(by_first.get(first, ()) if first is not None else ())]
        rivals.sort(key=lambda rival: rival[1].order)
        for earlier_spec, earlier, earlier_template in rivals:
            if not earlier_template.covers(template) or not covers(earlier_spec.match, spec.match):
                continue
            same = (
                template.covers(earlier_template)
                and _methods_meet(earlier.methods, plan.methods)
                and covers(spec.match, earlier_spec.match)
            )
            if not same and not _methods_cover(earlier.methods, plan.methods):
                continue
            problem = "repeats" if same else "can never be reached: it is wholly hidden by"
            add(
                DuplicateRouteError(
                    f"{template.text!r} {problem} {earlier_template.text!r} at {earlier_spec.facts.location}; "
                    "declare the narrower route first, or remove one"
                ),
                spec.facts.location,
            )
            break
        by_first.setdefault(first, []).append(route)


def _methods_meet(earlier: frozenset[str] | None, later: frozenset[str] | None) -> bool:
    return earlier is None or later is None or bool(earlier & later)


def _methods_cover(earlier: frozenset[str] | None, later: frozenset[str] | None) -> bool:
    if earlier is None:
        return True
    return later is not None and later <= earlier


def check_hidden_websockets(routes: Sequence[tuple[WebSocketSpec, Template]], add: Add) -> None:
    """Find WebSocket routes that an earlier one wholly hides; they have no methods."""
    for position, (spec, template) in enumerate(routes):
        for earlier_spec, earlier in routes[:position]:
            if earlier.covers(template) and covers(
                earlier_spec.options["match"], spec.options["match"]
            ):
                add(
                    DuplicateRouteError(
                        f"{template.text!r} can never be reached: it is wholly hidden by "
                        f"{earlier.text!r} at {earlier_spec.facts.location}"
                    ),
                    spec.facts.location,
                )
                break
