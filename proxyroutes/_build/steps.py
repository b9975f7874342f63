"""What a spec adds to the plain way of a request becomes the ``Steps`` of its plan.

Each kind of step is compiled in a module of its own; here they are put together, in the order of the way.
"""

from __future__ import annotations

from typing import Any

from proxyroutes._build.attempts import read_attempts
from proxyroutes._build.check import Problems
from proxyroutes._build.defaults import Defaults
from proxyroutes._build.mirrors import read_mirror
from proxyroutes._build.rates import read_rate_limits
from proxyroutes._build.transforms import given_to, read_edits, read_filters, read_timing
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Template
from proxyroutes._serve.steps.protocols import Steps

__all__ = ["read_steps"]


def read_steps(
    spec: RouteSpec | WebSocketSpec, template: Template, defaults: Defaults, problems: Problems
) -> Steps | None:
    """The steps of a route, or None where it is plain.

    Args:
        spec: What was declared.
        template: Its path.
        defaults: What the proxy gives.
        problems: Where mistakes are entered.
    """
    # Each kind of step that a route has becomes one entry here, under its name in ``Steps``.
    steps: dict[str, Any] = {}
    location = spec.facts.location
    rate_limit = spec.options["rate_limit"] if isinstance(spec, WebSocketSpec) else spec.rate_limit
    admissions = read_rate_limits(rate_limit, template, defaults, problems, location)
    if admissions:
        steps["admissions"] = admissions
    steps.update(read_edits(given_to(spec), template, defaults, problems, location))
    if isinstance(spec, RouteSpec):
        attempts, wrong = read_attempts(spec)
        problems.extend(wrong, location)
        steps.update(attempts)
        steps.update(read_timing(spec, problems))
        steps.update(read_filters(given_to(spec), problems, location))
        mirror = read_mirror(spec.mirror, defaults, problems, location)
        if mirror is not None:
            steps["mirror"] = mirror
    return Steps(**steps) if steps else None
