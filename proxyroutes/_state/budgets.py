"""The retry budgets of one pool on one loop: one account for each different budget, whichever routes have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import define, field

from proxyroutes.policies.retries import Budget, RetryBudget
from proxyroutes.typing import Clock

__all__ = ["TRUST", "Budgets", "Trusted"]

TRUST = 8
"""Requests that may move on to a destination whatever the budget says, after each of its answers."""


class Trusted(Protocol):
    """A destination that may have answered lately."""

    trust: int


@define(eq=False)
class Budgets:
    """What is left of each budget.

    Attributes:
        clock: The pool's time.
        further: Further attempts that were allowed.
    """

    clock: Clock
    further: int = 0
    _accounts: dict[RetryBudget, Budget] = field(factory=dict)

    def spend(self, recipe: RetryBudget, leases: int) -> bool:
        """Take one further attempt from a budget; false if there is none left.

        Args:
            recipe: Which budget.
            leases: Leases that the pool has given so far.
        """
        account = self._accounts.get(recipe)
        if account is None:
            account = self._accounts[recipe] = recipe.bind(clock=self.clock)
        if not account.spend(leases - self.further):
            return False
        self.further += 1
        return True

    def move(self, recipe: RetryBudget, leases: int, left: Iterable[Trusted]) -> bool:
        """The same for a request that has found no connection, and may move on to one of those that are left.

        The budget is not asked while one of them answers: such a request is one that should have gone there at once. In a
        pool that is dead nobody answers, and the budget holds.
        """
        trusted = next((one for one in left if one.trust > 0), None)
        allowed = self.spend(recipe, leases)
        if trusted is None:
            return allowed
        trusted.trust -= 1
        if not allowed:
            self.further += 1
        return True
