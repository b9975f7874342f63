"""``mirror=`` becomes the step that copies requests: one for each ``Mirror`` object of a proxy, whoever shares it."""

from __future__ import annotations

from typing import Any

from proxyroutes._build.check import Problems
from proxyroutes._build.defaults import Defaults
from proxyroutes._serve.steps.mirrors import MirrorStep
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import DeclarationError
from proxyroutes.policies.mirrors import Mirror

__all__ = ["read_mirror"]


def read_mirror(
    given: Any, defaults: Defaults, problems: Problems, location: str
) -> MirrorStep | None:
    """The step of a route's mirror, or None where it has none."""
    if given is None:
        return None
    if not isinstance(given, Mirror) or not isinstance(given.to, UpstreamPool):
        problems.add(
            DeclarationError(f"mirror is a Mirror(to=pool), to an UpstreamPool, not {given!r}"),
            location,
        )
        return None
    given.to.adopt(defaults.monitor)
    known: MirrorStep | None = defaults.mirrors.get(given)
    if known is None:
        known = defaults.mirrors[given] = MirrorStep(given, defaults.timeouts, defaults.monitor)
    return known
