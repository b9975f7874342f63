"""What ``explain`` says of affinity and of further attempts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

from proxyroutes._serve.steps.replay import may_repeat
from proxyroutes._state.clock import SystemClock
from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.pool_state import PoolState
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.policies.retries import Retry
from proxyroutes.typing import ForwardedHead

__all__ = ["describe_attempts", "find_home"]


def find_home(
    pool: UpstreamPool,
    state: PoolState | None,
    destinations: Sequence[DestinationState],
    head: ForwardedHead,
) -> DestinationState | None:
    """The destination that the client belongs to, if it may be asked; None for whom balancing chooses."""
    if pool.affinity is None:
        return None
    # A recipe's state holds nothing of any client, so that a new one knows as much as the pool's.
    affinity = pool.affinity.bind(pool=pool.name, clock=SystemClock(), random=random.Random())  # noqa: S311 - no secret.
    home = cast("DestinationState | None", affinity.find(destinations, head))
    return home if home is None or state is None or state.usable(home) else None


def describe_attempts(
    retry: Retry | None, head: ForwardedHead, destinations: int, *, session: bool
) -> str:
    """When another attempt is made.

    Args:
        retry: The rule of the route or its pool.
        head: What would be sent.
        destinations: How many the pool has.
        session: Whether a WebSocket is asked for; its handshake is never made again once it was sent.
    """
    parts = []
    if destinations > 1:
        parts.append(f"while no connection is made, up to {destinations} destinations, each once")
    if retry is None or session or not may_repeat(retry, head):
        return "; ".join([*parts, "never after a byte was sent"] if parts else ["none"])
    reasons = [str(status) for status in sorted(retry.statuses)]
    reasons += sorted(error.__name__ for error in retry.errors)
    if destinations > 1:
        reasons.insert(0, "a connection that breaks before an answer")
    if reasons:
        parts.append(f"up to {retry.attempts} attempts on {', '.join(reasons)}")
    return "; ".join(parts) or "none"
