"""What a proxy gives to routes that do not say it themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import field, frozen

from proxyroutes._serve.exchange import Observer
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.on_error import OnError
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.settings import Forwarding, Timeouts

__all__ = ["Defaults"]


@frozen(kw_only=True)
class Defaults:
    """What a proxy gives to routes that do not say it.

    Attributes:
        monitor: Whose clock and sweeper are used, and who probes pools that have no monitor.
        timeouts: Time-outs.
        forwarding: What upstreams are told of the client's side.
        via: What ``Via`` calls this gateway.
        redirect_slashes: Whether a path that only lacks its last slash is redirected.
        observers: Called with each ended exchange.
        on_error: The proxy's handlers of failures; complete once it is built.
        use: Has a pool that no spec names closed with the others.
        rate_limits: Each ``RateLimit`` that routes were given, by identity, with what counts for it.
        mirrors: Each ``Mirror`` that routes were given, with its step.
    """

    monitor: HealthMonitor
    timeouts: Timeouts
    forwarding: Forwarding
    via: bytes
    redirect_slashes: bool
    observers: Sequence[Observer]
    use: Callable[[UpstreamPool], None]
    on_error: Sequence[OnError] = ()
    rate_limits: dict[int, tuple[Any, Any]] = field(factory=dict)
    mirrors: dict[Any, Any] = field(factory=dict)
