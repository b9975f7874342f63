"""Hedging: a second attempt beside a first one that is slow."""

from __future__ import annotations

from attrs import field, frozen

from proxyroutes.policies.retries import RetryBudget

__all__ = ["Hedge"]


@frozen(kw_only=True)
class Hedge:
    """Ask a second destination where the first one is slow, and take the answer that comes first.

    For requests of idempotent methods without content. The slower attempt is aborted at once and counts against nobody.
    There are never more than two at a time. Where the first answer is a failure or a status that the route's retry asks
    for, the other one is waited for.

    Attributes:
        after: Seconds without the head of a response until the second attempt is made; best a little more than nearly
            all answers take.
        budget: How many second attempts the pool allows; an account with its retries, where the budgets are equal.

    Raises:
        ValueError: If ``after`` is not greater than 0.

    Source:
        J. Dean, L. A. Barroso, "The Tail at Scale" (2013).
    """

    after: float = field(kw_only=False)
    budget: RetryBudget = field(default=RetryBudget())

    def __attrs_post_init__(self) -> None:
        if not self.after > 0:
            raise ValueError(f"after must be greater than 0 seconds: {self.after!r}")
