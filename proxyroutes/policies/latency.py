"""Balancing by how fast destinations answer: what is measured, and the choice that is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import define, frozen

from proxyroutes.policies.balancing import least_of, some_of
from proxyroutes.typing import Balancer, Candidate, Clock, ForwardedHead, RandomSource

__all__ = ["LeastLatency", "PeakEwma"]

_CURIOSITY = 0.99
"""Who is not known is as fast as the fastest, and is asked before it."""


@frozen(kw_only=True)
class LeastLatency:
    """Ask the destination that answers fastest, times what is in flight there, for its weight.

    How fast one answers is seen from its exchanges: the time from the choice to the first byte of the response, as a
    moving average that jumps up at once and comes down slowly. It counts for requests without content, because content
    comes as fast as the client sends it. What was not seen for a while is forgotten, so that a slow destination is tried
    again; then, and before the first exchange, its last successful probe counts. One of which nothing is known is as
    fast as the fastest. Of more than 10 destinations, 10 are drawn at random and compared.

    Attributes:
        decay: Seconds after which what was seen counts a third.

    Raises:
        ValueError: If the decay is not greater than 0.

    Source:
        Peak EWMA of Twitter's Finagle, with its 10 seconds; the score is that of Traefik's ``leasttime``.
    """

    decay: float = 10.0

    def __attrs_post_init__(self) -> None:
        if not self.decay > 0:
            raise ValueError(f"decay must be greater than 0 seconds: {self.decay!r}")

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        return _LeastLatencyBalancer(random, clock, self.decay)


@define(eq=False)
class _LeastLatencyBalancer:
    _random: RandomSource
    _clock: Clock
    _decay: float

    def measure(self) -> PeakEwma:
        return PeakEwma(self._clock, self._decay)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        some = some_of(candidates, self._random)
        latencies = [one.latency for one in some]
        fastest = min([one for one in latencies if one is not None], default=1.0)
        costs = [
            # One more than what is in flight, so that latency and weight count while idle.
            (_CURIOSITY * fastest if latency is None else latency)
            * (one.in_flight + 1)
            / one.weight
            for one, latency in zip(some, latencies, strict=True)
        ]
        return least_of(some, costs, self._random)


@define(eq=False)
class PeakEwma:
    """A moving average of seconds that a higher value replaces at once and that lower ones bring down.

    Attributes:
        value: The average when it was last seen; None before.
    """

    _clock: Clock
    _decay: float
    value: float | None = None
    _seen_at: float = 0.0

    def observe(self, seconds: float) -> None:
        """Enter what an exchange took."""
        now = self._clock.monotonic()
        value = self.value
        if value is None or seconds >= value:
            self.value = seconds
        else:
            kept = math.exp((self._seen_at - now) / self._decay)
            self.value = value * kept + seconds * (1.0 - kept)
        self._seen_at = now

    def fail(self, seconds: float) -> None:
        """Enter an exchange that failed after this time: it was at least as slow, and says nothing of being fast."""
        if self.value is None or seconds > self.value:
            self.observe(seconds)

    def estimate(self, probed: float | None) -> float | None:
        """What an exchange will take, as far as is known.

        Args:
            probed: Seconds that the last successful probe took, or None.
        """
        value = self.value
        if value is None:
            return probed
        kept = math.exp((self._seen_at - self._clock.monotonic()) / self._decay)
        return value * kept + (probed or 0.0) * (1.0 - kept)
