"""What a proxy gives to routes that do not say it themselves."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from proxyroutes._serve.exchange import Observer
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.on_error import OnError
from proxyroutes.settings import Forwarding, Timeouts

__all__ = ["Defaults"]


@frozen(kw_only=True)
class Defaults:
    """What a proxy gives to routes that do not say it."""

    monitor: HealthMonitor
    timeouts: Timeouts
    forwarding: Forwarding
    via: bytes
    redirect_slashes: bool
    observers: Sequence[Observer]
    on_error: Sequence[OnError] = ()
    """The proxy's handlers of failures; complete once it is built."""
