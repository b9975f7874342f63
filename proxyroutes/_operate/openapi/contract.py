"""Whether routes lead to operations that their upstreams have: for ``check --contract``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxyroutes._build.compile import Compiled
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._operate.openapi.routed import (
    Operation,
    forwarded_segments,
    lay,
    operations_of,
)
from proxyroutes._serve.plan import Plan
from proxyroutes._state.pools import UpstreamPool

__all__ = ["find_breaches"]


def find_breaches(
    compiled: Compiled, pool: UpstreamPool, document: Mapping[str, Any]
) -> Iterator[str]:
    """Say for each route of a pool what it leads to that the pool's document does not have.

    A route that takes the rest of a path leads to whatever is below: it is wrong only where nothing is. One without
    methods is wrong only where the path has none.
    """
    operations = list(operations_of(document, pool))
    for spec, plan, template in compiled.routes:
        if plan.pool is not pool:
            continue
        pattern = forwarded_segments(spec, template, "")
        reached = [one for one in operations if lay(pattern, one.path, loosely=True) is not None]
        forwarded = "".join(
            f"/<{one.name}>" if one.name is not None else f"/{one.raw.decode('ascii')}"
            for one in pattern
        )
        yield from _missing(spec, plan, forwarded, reached)


def _missing(
    spec: RouteSpec, plan: Plan, forwarded: str, reached: list[Operation]
) -> Iterator[str]:
    where = f"{spec.facts.location}: route {plan.name!r} of pool {plan.pool.name if plan.pool else ''!r}"
    if not reached:
        yield f"{where} leads to {forwarded}, which the upstream does not have"
        return
    known = {one.method.upper() for one in reached}
    # HEAD comes with GET (RFC 9110 §9.3.2), and OPTIONS with every resource, whether or not a document says so.
    implied = {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
    for method in sorted((plan.methods or frozenset()) - known - implied):
        yield (
            f"{where} leads to {method} {forwarded}, and the upstream has only {', '.join(sorted(known))}"
        )
