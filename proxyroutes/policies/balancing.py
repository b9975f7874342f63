"""Balancing: which of the available destinations is asked.

A recipe is frozen and shareable; the balancer that it binds belongs to one pool on one event loop. Nothing here knows
of health, limits or affinity: it is given the candidates that are left.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Sequence

from attrs import define, field, frozen

from proxyroutes.typing import Balancer, Candidate, Clock, ForwardedHead, RandomSource

__all__ = [
    "FirstAvailable",
    "LeastRequests",
    "PowerOfTwoChoices",
    "Random",
    "RoundRobin",
    "WeightedRoundRobin",
]

MOST_COMPARED = 10
"""Destinations that are looked at for one choice; of more, so many are drawn at random."""


def _sums(candidates: Sequence[Candidate]) -> list[float]:
    """Running sums of the weights, to draw by."""
    return list(itertools.accumulate(one.weight for one in candidates))


def _uneven(candidates: Sequence[Candidate]) -> bool:
    """Whether weights differ. They are fixed within one snapshot, so that this is asked once for each."""
    return len({one.weight for one in candidates}) > 1


def _drawn(sums: list[float], random: RandomSource) -> int:
    """A place, each as likely as its weight says."""
    return bisect.bisect_right(sums, random.random() * sums[-1], 0, len(sums) - 1)


def some_of(candidates: Sequence[Candidate], random: RandomSource) -> Sequence[Candidate]:
    """All of them, or so many drawn at random."""
    count = len(candidates)
    if count <= MOST_COMPARED:
        return candidates
    draw = random.random
    return [candidates[int(draw() * count)] for _ in range(MOST_COMPARED)]


def least_of(
    candidates: Sequence[Candidate], costs: list[float], random: RandomSource
) -> Candidate:
    """One of those that cost least, each as likely as the next."""
    least = min(costs)
    place = costs.index(least)
    equals = costs.count(least)
    for _ in range(int(random.random() * equals) if equals > 1 else 0):
        place = costs.index(least, place + 1)
    return candidates[place]


@frozen
class RoundRobin:
    """Ask the destinations in turn, each as often as the next.

    Where weights differ, or one of them starts slowly, it is ``WeightedRoundRobin``.
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock, random
        return _RoundRobinBalancer()


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
    _now: float = 0.0

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        chosen = self.peek(candidates, head)
        due, place = self._due[0]
        self._now = due
        heapq.heapreplace(self._due, (due + 1.0 / chosen.weight, place))
        return chosen

    def peek(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._learn(candidates)
        return candidates[self._due[0][1]]

    def _learn(self, candidates: Sequence[Candidate]) -> None:
        """Take another snapshot. Who was there before keeps its turn, or many changes would favour the first ones."""
        waits = {self._known[place].identity: due - self._now for due, place in self._due}
        self._due = [
            # Half a turn ahead, so that light ones come in the middle of the heavy ones' turns and not at their end.
            (self._now + min(waits.get(one.identity, 0.5 / one.weight), 1.0 / one.weight), place)
            for place, one in enumerate(candidates)
        ]
        heapq.heapify(self._due)
        self._known = candidates


@define(eq=False)
class _RoundRobinBalancer:
    _turn: int = -1
    _known: Sequence[Candidate] = ()
    _weighted: _WeightedRoundRobinBalancer | None = None

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        if candidates is not self._known:
            self._learn(candidates)
        if self._weighted is not None:
            return self._weighted.pick(candidates, head)
        self._turn = (self._turn + 1) % len(candidates)
        return candidates[self._turn]

    def peek(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        if candidates is not self._known:
            self._learn(candidates)
        if self._weighted is not None:
            return self._weighted.peek(candidates, head)
        return candidates[(self._turn + 1) % len(candidates)]

    def _learn(self, candidates: Sequence[Candidate]) -> None:
        self._known = candidates
        if not _uneven(candidates):
            self._weighted = None
        elif self._weighted is None:
            self._weighted = _WeightedRoundRobinBalancer()


@frozen
class PowerOfTwoChoices:
    """Draw two destinations at random and ask the one with fewer exchanges in flight for its weight.

    A destination is drawn as often as its weight says, and the one that was drawn first is asked where both have the
    same.

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
    _known: Sequence[Candidate] = ()
    _sums: list[float] | None = None

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._known = candidates
            self._sums = _sums(candidates) if _uneven(candidates) else None
        if self._sums is not None:
            return self._pick_by_weight(candidates, self._sums)
        # `random()` is one call into C where `randrange()` is a loop in Python; with it an index is biased by at most
        # one part in 2**53 over the number of candidates.
        count = len(candidates)
        one = int(self._random.random() * count)
        other = int(self._random.random() * (count - 1))
        if other >= one:
            other += 1
        first, second = candidates[one], candidates[other]
        return first if first.in_flight <= second.in_flight else second

    def _pick_by_weight(self, candidates: Sequence[Candidate], sums: list[float]) -> Candidate:
        one = _drawn(sums, self._random)
        first = candidates[one]
        # The second draw is from all the others: as if the first one's part were cut out of the sums.
        point = self._random.random() * (sums[-1] - first.weight)
        if point >= sums[one] - first.weight:
            point += first.weight
        other = bisect.bisect_right(sums, point, 0, len(sums) - 1)
        if other == one:
            # Rounding, at the edge of its part.
            other = one - 1 if one else 1
        second = candidates[other]
        # a/x <= b/y without division.
        if first.in_flight * second.weight <= second.in_flight * first.weight:
            return first
        return second


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
    _sums: list[float] = field(factory=list)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._known = candidates
            self._sums = _sums(candidates)
        return candidates[_drawn(self._sums, self._random)]


@frozen
class LeastRequests:
    """Ask the destination with the fewest exchanges in flight for its weight; one of them at random where many have.

    Of more than 10 destinations, 10 are drawn at random and compared. Where weights differ, what is in flight has a
    random part of one exchange on average, so that weights hold among idle destinations too.
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock
        return _LeastRequestsBalancer(random)


@define(eq=False)
class _LeastRequestsBalancer:
    _random: RandomSource
    _known: Sequence[Candidate] = ()
    _uneven: bool = False

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._known = candidates
            self._uneven = _uneven(candidates)
        some = some_of(candidates, self._random)
        if not self._uneven:
            return least_of(some, [one.in_flight for one in some], self._random)
        # The first of exponential waiting times is each one with the share of its rate.
        draw = self._random.random
        costs = [(one.in_flight - math.log(1.0 - draw())) / one.weight for one in some]
        return some[costs.index(min(costs))]


@frozen
class FirstAvailable:
    """Ask the first destination, in declared order; the next one only while it is not available.

    Weights do not count. One that starts slowly is asked as often as its slow start says, and the next one otherwise.
    """

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        del clock
        return _FirstAvailableBalancer(random)


@define(eq=False)
class _FirstAvailableBalancer:
    _random: RandomSource
    _known: Sequence[Candidate] = ()
    _factors: list[float] = field(factory=list)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        del head
        if candidates is not self._known:
            self._known = candidates
            # Not every candidate of a test or of another library has one.
            self._factors = [getattr(one, "factor", 1.0) for one in candidates]
        for place, factor in enumerate(self._factors):
            if factor >= 1.0 or self._random.random() < factor:
                return candidates[place]
        return candidates[-1]
