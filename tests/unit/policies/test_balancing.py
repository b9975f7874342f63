"""Balancing recipes and the balancers that they bind."""

import random
from collections import Counter

import pytest
from attrs import define

from proxyroutes.policies import PowerOfTwoChoices, RoundRobin
from proxyroutes.testing import ManualClock
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)


@define(frozen=True)
class Candidate:
    """What balancing sees of a destination."""

    name: str
    weight: int = 1
    in_flight: int = 0


class Drawn:
    """Randomness that was written down before."""

    def __init__(self, *values):
        self._values = list(values)

    def random(self):
        """The next value."""
        return self._values.pop(0)


def bind(recipe, source=None):
    """The balancer of one pool."""
    return recipe.bind(clock=ManualClock(), random=source or random.Random(7))


def picks(balancer, candidates, count):
    """Names of what is picked in turn."""
    return "".join(balancer.pick(candidates, HEAD).name for _ in range(count))


A, B, C = Candidate("a"), Candidate("b"), Candidate("c")


def test_round_robin_asks_in_turn():
    """Each is asked as often as the next, the first one first."""
    assert "abcabcabc" == picks(bind(RoundRobin()), [A, B, C], 9)


def test_round_robin_of_two_pools_does_not_interfere():
    """A recipe is shared, its turn is not."""
    recipe = RoundRobin()
    first, second = bind(recipe), bind(recipe)

    assert ("a", "a", "b") == (
        picks(first, [A, B], 1),
        picks(second, [A, B], 1),
        picks(first, [A, B], 1),
    )


def test_round_robin_goes_on_with_fewer_candidates():
    """A destination that is gone does not stop the turn."""
    balancer = bind(RoundRobin())
    picks(balancer, [A, B, C], 3)

    assert "bab" == picks(balancer, [A, B], 3)


@pytest.mark.parametrize(
    ("draws", "candidates", "expected"),
    [
        pytest.param((0.0, 0.0), [A, B, C], "a", id="tie-goes-to-the-first-drawn"),
        pytest.param(
            (0.9, 0.0), [A, B, C], "c", id="tie-goes-to-the-first-drawn-whatever-its-place"
        ),
        pytest.param((0.0, 0.0), [Candidate("a", in_flight=1), B], "b", id="fewer-in-flight"),
        pytest.param(
            (0.9, 0.0), [Candidate("a", in_flight=1), B], "b", id="fewer-in-flight-drawn-first"
        ),
        pytest.param((0.0, 0.0), [A, Candidate("b", weight=2)], "b", id="idle-and-heavier"),
        pytest.param(
            (0.0, 0.0), [A, Candidate("b", weight=2, in_flight=2)], "a", id="heavier-but-busier"
        ),
    ],
)
def test_the_better_of_two_is_asked(draws, candidates, expected):
    """Of the two that were drawn, the one with fewer exchanges for its weight."""
    assert expected == bind(PowerOfTwoChoices(), Drawn(*draws)).pick(candidates, HEAD).name


@pytest.mark.parametrize("one", [0.0, 0.5, 0.999999], ids=["first", "middle", "last"])
@pytest.mark.parametrize("other", [0.0, 0.5, 0.999999], ids=["first", "middle", "last"])
def test_two_different_ones_are_drawn(one, other):
    """The second draw never falls on the first one again."""
    seen = []

    class Watched(list):
        def __getitem__(self, place):
            seen.append(place)
            return super().__getitem__(place)

    bind(PowerOfTwoChoices(), Drawn(one, other)).pick(Watched([A, B, C]), HEAD)

    assert 2 == len(set(seen))


def test_two_choices_spread_evenly():
    """Idle destinations of one weight are asked about equally often."""
    balancer = bind(PowerOfTwoChoices())
    counted = Counter(picks(balancer, [A, B, C], 6000))

    assert all(1800 < count < 2200 for count in counted.values())


@pytest.mark.parametrize("recipe", [RoundRobin, PowerOfTwoChoices])
def test_recipes_are_values(recipe):
    """A recipe is frozen and equal to another one."""
    assert recipe() == recipe()
