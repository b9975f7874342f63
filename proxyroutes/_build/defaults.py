"""What a proxy gives to routes that do not say it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import field, frozen
from typing_extensions import override

from proxyroutes._serve.exchange import Observer
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.on_error import OnError
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.settings import Forwarding, Timeouts

__all__ = ["Defaults", "join_observers"]


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


class _Joined(Sequence[Observer]):
    """Several lists of observers as one; each of them may still grow."""

    def __init__(self, lists: Sequence[Sequence[Observer]]) -> None:
        self._lists = lists

    def _all(self) -> list[Observer]:
        # Whoever is in two of them is told once; not everything that can be called can be hashed.
        known: list[Observer] = []
        for own in self._lists:
            known += [one for one in own if one not in known]
        return known

    @override
    def __getitem__(self, place: Any) -> Any:
        return self._all()[place]

    @override
    def __iter__(self) -> Iterator[Observer]:
        return iter(self._all())

    @override
    def __len__(self) -> int:
        return len(self._all())


def join_observers(
    inner: Sequence[Sequence[Observer]], own: Sequence[Observer]
) -> Sequence[Observer]:
    """The observers of a route: those of the proxies that it was included from, then the proxy's own."""
    return _Joined([*inner, own]) if inner else own
