"""``retry=``, ``hedge=`` and ``limits=`` of a route become steps of its way."""

from __future__ import annotations

from typing import Any

from proxyroutes._declare.levels import UNSET
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._state.limits import RouteLimiters
from proxyroutes.exceptions import PolicyError
from proxyroutes.policies.hedging import Hedge
from proxyroutes.policies.retries import IDEMPOTENT, Retry
from proxyroutes.settings import Limits

__all__ = ["read_attempts"]


def read_attempts(spec: RouteSpec) -> tuple[dict[str, Any], list[PolicyError]]:
    """What a route says of its attempts, by name in ``Steps``, and what is wrong with it."""
    steps: dict[str, Any] = {}
    problems: list[PolicyError] = []
    for name, kind, example in (
        ("retry", Retry, "Retry(attempts=3)"),
        ("hedge", Hedge, "Hedge(after=0.2)"),
        ("limits", Limits, "Limits(max_in_flight=100)"),
    ):
        value = getattr(spec, name)
        if value is None:
            continue
        if not isinstance(value, kind):
            problems.append(
                PolicyError(f"{name} is a {kind.__name__} value: write {example}, not {value!r}")
            )
        elif not isinstance(value, Limits):
            steps[name] = value
        elif value.max_in_flight is not None:
            steps[name] = RouteLimiters(f"route {spec.name or spec.facts.name!r}", value)
    if "hedge" in steps and spec.methods is not None and not IDEMPOTENT & set(spec.methods):
        del steps["hedge"]
        if spec.levels and spec.levels[-1]["hedge"] is UNSET:
            # What its group or proxy says is for the other routes.
            return steps, problems
        problems.append(
            PolicyError(
                f"hedge: requests of {', '.join(sorted(spec.methods))} may be done twice if two of them are sent "
                "(RFC 9110 §9.2.2): hedge a route with an idempotent method"
            )
        )
    return steps, problems
