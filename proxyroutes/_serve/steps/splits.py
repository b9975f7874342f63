"""Splits on the way of a request: which pool it goes to, once its head is known."""

from __future__ import annotations

from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.steps.keys import bind_key, request_key
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.policies.splits import WeightedSplit
from proxyroutes.typing import ForwardedHead, Scope

__all__ = ["BoundSplit", "pick_for"]


class BoundSplit:
    """The split of one route.

    Attributes:
        recipe: What was declared.
        first: Its first pool, whose loop and sweeper serve an exchange until its own pool is known.
        quick: Whether no user code takes part in the choice.
    """

    __slots__ = ("_key", "_monitor", "first", "quick", "recipe")

    def __init__(self, recipe: WeightedSplit[UpstreamPool], monitor: HealthMonitor) -> None:
        self.recipe = recipe
        self.first = recipe.pools[0]
        self.quick = not callable(recipe.key)
        self._monitor = monitor
        self._key = None if recipe.key is None else bind_key(recipe.key)

    def __call__(
        self, plan: Plan, found: Found, scope: Scope, head: ForwardedHead
    ) -> UpstreamPool:
        """The pool of a request."""
        key = self.key(plan, found, scope, head)
        return self.recipe.pick(key, self._monitor.state().random)

    def key(self, plan: Plan, found: Found, scope: Scope, head: ForwardedHead) -> bytes | None:
        """What keeps a request at its pool; None where chance decides."""
        key = None if self._key is None else self._key(plan, found, scope, head)
        return key or None


def pick_for(
    split: WeightedSplit[UpstreamPool], request: ForwardedRequest, monitor: HealthMonitor
) -> UpstreamPool:
    """The pool of a request, of a split that a function of the application has returned."""
    key = None if split.key is None else request_key(split.key, request)
    return split.pick(key or None, monitor.state().random)
