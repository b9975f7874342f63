"""Balancing recipes and the balancers that they bind."""

import random
from collections import Counter

import pytest
from attrs import define

from proxyroutes.policies import (
    ConsistentHash,
    FirstAvailable,
    LeastRequests,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    WeightedRoundRobin,
)
from proxyroutes.testing import ManualClock
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)


@define(frozen=True)
class Candidate:
    """What balancing sees of a destination."""

    name: str
    weight: int = 1
    in_flight: int = 0
    latency: float | None = None
    factor: float = 1.0

    @property
    def identity(self):
        """The same in every process."""
        return self.name.encode()


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


@pytest.mark.requirement("R-41")
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


@pytest.mark.requirement("R-41")
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
        pytest.param((0.0, 0.0), [A, Candidate("b", weight=2)], "a", id="idle-tie"),
        pytest.param((0.4, 0.0), [A, Candidate("b", weight=2)], "b", id="heavier-is-drawn-more"),
        pytest.param(
            (0.0, 0.0),
            [Candidate("a", in_flight=1), Candidate("b", weight=3, in_flight=2)],
            "b",
            id="fewer-for-its-weight",
        ),
        pytest.param(
            (0.0, 0.0), [A, Candidate("b", weight=2, in_flight=1)], "a", id="heavier-but-busier"
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


def shares(recipe, candidates, count=20_000, head=None):
    """How often each is picked, as a share."""
    balancer = bind(recipe)
    drawn = Counter(balancer.pick(candidates, head or HEAD).name for _ in range(count))
    return {name: number / count for name, number in drawn.items()}


def with_field(name, value):
    """A head with one field."""
    return ForwardedHead(b"GET", b"/a?b", [(name, value)], None, None)


@pytest.mark.requirement("R-41")
def test_weighted_round_robin_spreads_a_heavy_one():
    """Five turns of seven, never all at a stretch."""
    heavy = [Candidate("a", weight=5), B, C]
    drawn = picks(bind(WeightedRoundRobin()), heavy, 700)

    assert {"a": 500, "b": 100, "c": 100} == Counter(drawn)
    assert all(Counter(drawn[place : place + 7])["a"] == 5 for place in range(0, 700, 7))
    assert "aaaaa" not in drawn[:7]


def test_weighted_round_robin_begins_anew_with_other_candidates():
    """A snapshot that was replaced leaves nothing behind."""
    balancer = bind(WeightedRoundRobin())
    picks(balancer, [A, B, C], 3)

    both = [B, C]
    assert {"b": 5, "c": 5} == Counter(picks(balancer, both, 10))


def test_random_follows_weights():
    """Within four standard deviations of 20,000 draws."""
    found = shares(Random(), [Candidate("a", weight=3), B])

    assert {"a": pytest.approx(0.75, abs=0.0123), "b": pytest.approx(0.25, abs=0.0123)} == found


def test_least_requests_asks_the_idlest():
    """For its weight; equals equally often."""
    busy = Candidate("a", weight=1, in_flight=2)
    heavy = Candidate("b", weight=10, in_flight=10)

    assert {"b": 1.0} == shares(LeastRequests(), [busy, heavy], 100)
    assert {"a": pytest.approx(0.5, abs=0.015), "b": pytest.approx(0.5, abs=0.015)} == shares(
        LeastRequests(), [A, B]
    )


def test_of_many_some_are_compared():
    """So that a choice costs the same in a pool of a thousand."""
    many = [Candidate(str(number), in_flight=1) for number in range(1000)]
    found = shares(LeastRequests(), [*many, Candidate("idle")], 5000)

    assert found["idle"] == pytest.approx(1 - (1000 / 1001) ** 10, abs=0.006)


def test_first_available_keeps_to_the_first():
    """In declared order."""
    assert "aaa" == picks(bind(FirstAvailable()), [A, B, C], 3)


@pytest.mark.parametrize(
    ("key", "head"),
    [
        ("header:X-User", with_field(b"x-user", b"7")),
        ("cookie:sid", with_field(b"cookie", b"a=1; sid=7")),
        ("client", with_field(b"x-forwarded-for", b"10.0.0.7")),
        ("path", HEAD),
        (lambda head: "7", HEAD),
    ],
)
def test_one_key_is_one_destination(key, head):
    """As long as it is there."""
    candidates = [A, B, C]

    assert 1 == len(shares(ConsistentHash(key), candidates, 100, head))


def test_a_request_without_the_key_is_balanced():
    """By the power of two choices."""
    assert 2 == len(shares(ConsistentHash("cookie:sid"), [A, B], 100))


def test_keys_are_spread_by_weight():
    """64 points for a weight of 1: shares are within a quarter of what they should be."""
    candidates = [Candidate("a", weight=2), B, C]
    balancer = bind(ConsistentHash(lambda head: head.target))
    drawn = Counter(
        balancer.pick(candidates, ForwardedHead(b"GET", b"/%d" % n, [], None, None)).name
        for n in range(20_000)
    )

    assert drawn["a"] / 20_000 == pytest.approx(0.5, rel=0.25)
    assert drawn["b"] / 20_000 == pytest.approx(0.25, rel=0.25)


@pytest.mark.requirement("R-41")
def test_only_the_keys_of_one_that_is_gone_move():
    """That is what it is for."""
    balancer = bind(ConsistentHash(lambda head: head.target))
    heads = [ForwardedHead(b"GET", b"/%d" % number, [], None, None) for number in range(500)]
    before = [balancer.pick((A, B, C), head).name for head in heads]
    left = (A, C)
    after = [balancer.pick(left, head).name for head in heads]

    assert all(new == old for old, new in zip(before, after, strict=True) if old != "b")
    assert {"a", "c"} == {new for old, new in zip(before, after, strict=True) if old == "b"}


def test_a_full_one_passes_its_keys_on():
    """Over the bound the next one on the ring is asked."""
    head = with_field(b"x-user", b"7")
    (owner,) = shares(ConsistentHash("header:x-user"), [A, B], 1, head)
    full = [Candidate(one.name, in_flight=10 if one.name == owner else 0) for one in (A, B)]

    assert owner not in shares(ConsistentHash("header:x-user", load_factor=1.25), full, 10, head)


@pytest.mark.parametrize("key", ["", "header", "cookie:", "body", "path:x"])
def test_a_key_that_is_none_is_refused(key):
    """Where it is written."""
    with pytest.raises(ValueError, match="key is"):
        ConsistentHash(key)


def test_other_mistakes_are_refused():
    """Where they are written."""
    with pytest.raises(TypeError, match="callable"):
        ConsistentHash(7)
    with pytest.raises(ValueError, match="load_factor"):
        ConsistentHash("path", load_factor=1.0)


def owners(balancer, candidates, count=2000):
    """Whom each of many keys belongs to."""
    heads = [ForwardedHead(b"GET", b"/%d" % number, [], None, None) for number in range(count)]
    return [balancer.pick(candidates, head).name for head in heads]


def test_a_heavier_one_takes_keys_and_loses_none():
    """Its first points are where they were."""
    balancer = bind(ConsistentHash("path"))
    before = owners(balancer, (A, B, C))
    after = owners(balancer, (A, Candidate("b", weight=2.5), C))

    assert all(new in {old, "b"} for old, new in zip(before, after, strict=True))
    assert after.count("b") > before.count("b") * 1.3


def test_a_ring_that_followed_changes_is_as_a_new_one():
    """Whoever came, went, came back or changed its weight in between."""
    followed = bind(ConsistentHash("path"))
    heavy = Candidate("b", weight=3)
    for snapshot in ((A, B, C), (A, C), (A, B, C), (A, heavy), (heavy, C, Candidate("d"))):
        found = owners(followed, snapshot, 300)

        assert owners(bind(ConsistentHash("path")), snapshot, 300) == found


def test_a_huge_weight_makes_no_huge_ring():
    """It would be made within a request."""
    balancer = bind(ConsistentHash("path"))
    balancer.pick((A, Candidate("b", weight=10**9)), HEAD)

    assert 64 * 257 == len(balancer._ring)
