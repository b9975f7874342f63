"""``rate_limit=`` becomes admissions: one for each ``RateLimit`` object of a proxy, whoever shares it."""

from __future__ import annotations

from typing import Any

from proxyroutes._build.check import Problems
from proxyroutes._build.defaults import Defaults
from proxyroutes._declare.templates import Template
from proxyroutes._serve.steps.rates import RateAdmission
from proxyroutes.exceptions import DeclarationError
from proxyroutes.policies._keys import RequestKey, read_key
from proxyroutes.policies.rates import RateLimit

__all__ = ["check_key", "read_rate_limits"]


def read_rate_limits(
    given: Any, template: Template, defaults: Defaults, problems: Problems, location: str
) -> tuple[RateAdmission, ...]:
    """The admissions of a route.

    Args:
        given: A ``RateLimit``, several, or None.
        template: The route's path.
        defaults: What the proxy gives.
        problems: Where mistakes are entered.
        location: The place of the stub.
    """
    if given is None:
        return ()
    limits = given if isinstance(given, list | tuple) else (given,)
    admissions: list[RateAdmission] = []
    for limit in limits:
        if not isinstance(limit, RateLimit):
            problems.add(
                DeclarationError(
                    f"rate_limit is a RateLimit, as RateLimit('100/minute'), not {limit!r}"
                ),
                location,
            )
            continue
        check_key("rate_limit", limit.key, template, problems, location)
        known = defaults.rate_limits.get(id(limit))
        if known is None:
            # The recipe is kept with it, so that its identity cannot pass to another one.
            known = (limit, RateAdmission(limit, defaults.monitor))
            defaults.rate_limits[id(limit)] = known
        admissions.append(known[1])
    return tuple(admissions)


def check_key(
    what: str, key: RequestKey, template: Template, problems: Problems, location: str
) -> None:
    """Enter a key that names a path parameter which the template has not."""
    spec = read_key(key)
    if isinstance(spec, tuple) and spec[0] == "path" and spec[1] not in template.names:
        known = ", ".join(template.names) or "none"
        problems.add(
            DeclarationError(
                f"{what}: {template.text!r} has no parameter {spec[1]!r} (it has {known})"
            ),
            location,
        )
