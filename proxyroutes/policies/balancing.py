"""Balancing: which of the available destinations is asked.

A recipe is frozen and shareable; the balancer that it binds belongs to one pool on one event loop. Nothing here knows
of health, limits or affinity: it is given the candidates that are left.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Sequence

from attrs import define, field, frozen

from proxyroutes.typing import Balancer, Candidate, Clock, ForwardedHead, RandomSource

__all__ = [
    "FirstAvailable",
    "LeastLatency",
    "LeastRequests",
    "PowerOfTwoChoices",
    "Random",
    "RoundRobin",
    "WeightedRoundRobin",
]

MOST_COMPARED = 32
"""Destinations that are looked at for one choice; of more, so many are drawn at random."""


@frozen
class RoundRobin:
    """Ask the destinations in turn, each as often as the next."""

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock, random
        return _RoundRobinBalancer()


@define(eq=False)
class _RoundRobinBalancer:
    _turn: int = -1

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        self._turn = (self._turn + 1) % len(candidates)
        return candidates[self._turn]


@frozen
class PowerOfTwoChoices:
    """Draw two destinations at random and ask the one with fewer exchanges in flight for its weight.

    Source:
        M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996).
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock
        return _PowerOfTwoChoicesBalancer(random)


@define(eq=False)
class _PowerOfTwoChoicesBalancer:
    _random: RandomSource = field()

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        # `random()` is one call into C where `randrange()` is a loop in Python; with it an index is biased by at most
        # one part in 2**53 over the number of candidates.
        count = len(candidates)
        one = int(self._random.random() * count)
        other = int(self._random.random() * (count - 1))
        if other >= one:
            other += 1
        first, second = candidates[one], candidates[other]
        # a/x <= b/y without division; one more than what is in flight, so that weight counts while idle.
        if (first.in_flight + 1) * second.weight <= (second.in_flight + 1) * first.weight:
            return first
        return second


@frozen
class WeightedRoundRobin:
    """Ask the destinations in turn, each as often as its weight says, and spread evenly over the turns.

    The one that is due first is asked next; what is asked is due again after the time that its weight gives it.

    Source:
        Earliest deadline first, as in Envoy's and Traefik's weighted round robin.
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock, random
        return _WeightedRoundRobinBalancer()


@define(eq=False)
class _WeightedRoundRobinBalancer:
    _known: Sequence[Candidate] = ()
    _due: list[tuple[float, int]] = field(factory=list)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._known = candidates
            # Half a turn ahead, so that light ones come in the middle of the heavy ones' turns and not at their end.
            self._due = [(0.5 / one.weight, place) for place, one in enumerate(candidates)]
            heapq.heapify(self._due)
        due, place = self._due[0]
        chosen = candidates[place]
        heapq.heapreplace(self._due, (due + 1.0 / chosen.weight, place))
        return chosen


@frozen
class Random:
    """Draw a destination, each as likely as its weight says."""

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock
        return _RandomBalancer(random)


@define(eq=False)
class _RandomBalancer:
    _random: RandomSource
    _known: Sequence[Candidate] = ()
    _sums: list[int] = field(factory=list)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._known = candidates
            self._sums = list(itertools.accumulate(one.weight for one in candidates))
        sums = self._sums
        return candidates[bisect.bisect_right(sums, self._random.random() * sums[-1])]


def _some(candidates: Sequence[Candidate], random: RandomSource) -> Sequence[Candidate]:
    """All of them, begun at a random place so that equals are asked equally often, or so many drawn at random."""
    count = len(candidates)
    if count > MOST_COMPARED:
        return [candidates[int(random.random() * count)] for _ in range(MOST_COMPARED)]
    start = int(random.random() * count)
    return [*candidates[start:], *candidates[:start]]


@frozen
class LeastRequests:
    """Ask the destination with the fewest exchanges in flight for its weight; one of them at random where many have.

    Of more than 32 destinations, 32 are drawn at random and compared.
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock
        return _LeastRequestsBalancer(random)


@define(eq=False)
class _LeastRequestsBalancer:
    _random: RandomSource

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        return min(_some(candidates, self._random), key=_load)


def _load(candidate: Candidate) -> float:
    # One more than what is in flight, so that weight counts while idle.
    return (candidate.in_flight + 1) / candidate.weight


@frozen
class LeastLatency:
    """Ask the destination that answers its probes fastest, times what is in flight there, for its weight.

    It needs a health check, whose probes are what is measured: without one it is ``LeastRequests``. One that was not
    measured yet counts as fast as the fastest. Of more than 32 destinations, 32 are drawn at random and compared.
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock
        return _LeastLatencyBalancer(random)


@define(eq=False)
class _LeastLatencyBalancer:
    _random: RandomSource

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        some = _some(candidates, self._random)
        measured = [one.latency for one in some if one.latency is not None]
        fastest = min(measured, default=1.0)

        def score(candidate: Candidate) -> float:
            latency = candidate.latency
            return (fastest if latency is None else latency) * _load(candidate)

        return min(some, key=score)


@frozen
class FirstAvailable:
    """Ask the first destination, in declared order; the next one only while it is not available."""

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock, random
        return _FirstAvailableBalancer()


class _FirstAvailableBalancer:
    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        return candidates[0]
