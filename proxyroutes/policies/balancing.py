"""Balancing: which of the available destinations is asked.

A recipe is frozen and shareable; the balancer that it binds belongs to one pool on one event loop. Nothing here knows
of health, limits or affinity: it is given the candidates that are left.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen

from proxyroutes.typing import Balancer, Candidate, Clock, ForwardedHead, RandomSource

__all__ = ["PowerOfTwoChoices", "RoundRobin"]


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
