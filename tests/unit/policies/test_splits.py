"""Weighted splits: shares in numbers, keys that stay, and weights that change while it serves."""

import random
from collections import Counter

import pytest

from proxyroutes import UpstreamPool
from proxyroutes.policies import WeightedSplit

MANY = 20_000


@pytest.fixture
def stable():
    """A pool."""
    return UpstreamPool("stable", ["http://127.0.0.1:1"])


@pytest.fixture
def canary():
    """Another pool."""
    return UpstreamPool("canary", ["http://127.0.0.1:2"])


def shares(split, keys=None):
    """The share of each pool among many requests."""
    source = random.Random(7)
    counts = Counter(
        split.pick(None if keys is None else key, source).name for key in keys or range(MANY)
    )
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def keys(count=MANY):
    """Keys of many clients."""
    return [b"client %d" % number for number in range(count)]


@pytest.mark.parametrize("with_keys", [False, True], ids=["random", "keys"])
@pytest.mark.parametrize(
    ("weights", "share"),
    [
        pytest.param((95, 5), 0.05, id="95-5"),
        pytest.param((1, 1), 0.5, id="halves"),
        pytest.param((2, 1), 1 / 3, id="thirds"),
        pytest.param((999, 1), 0.001, id="one-in-a-thousand"),
    ],
)
def test_each_pool_gets_its_share(stable, canary, weights, share, with_keys):
    """Within five standard deviations, of random requests and of clients with keys."""
    split = WeightedSplit(dict(zip((stable, canary), weights, strict=True)))
    actual = shares(split, keys() if with_keys else None).get("canary", 0.0)
    deviation = (share * (1 - share) / MANY) ** 0.5

    assert abs(actual - share) < 5 * deviation


def test_a_pool_of_weight_0_gets_nothing(stable, canary):
    """It is there to be turned on later."""
    split = WeightedSplit({stable: 1, canary: 0})

    assert {"stable": 1.0} == shares(split)
    split.set_weights({canary: 1, stable: 0})
    assert {"canary": 1.0} == shares(split)


def test_a_key_stays_with_its_pool(stable, canary):
    """In another process too: it depends on names and weights alone."""
    other = [UpstreamPool(pool.name, pool.destinations) for pool in (stable, canary)]
    one = WeightedSplit({stable: 1, canary: 1})
    another = WeightedSplit(dict.fromkeys(other, 1))
    source = random.Random(1)

    assert [one.pick(key, source).name for key in keys(500)] == [
        another.pick(key, source).name for key in keys(500)
    ]


def test_only_the_keys_between_the_shares_move(stable, canary):
    """A canary that grows takes clients from the stable one, and gives none back."""
    split = WeightedSplit({stable: 95, canary: 5})
    source = random.Random(1)
    before = [split.pick(key, source).name for key in keys()]
    split.set_weights({stable: 80, canary: 20})
    after = [split.pick(key, source).name for key in keys()]
    moved = Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])

    assert {("stable", "canary")} == set(moved)
    assert 0.13 < moved["stable", "canary"] / MANY < 0.17


def test_two_splits_do_not_choose_the_same_clients(stable, canary):
    """Else some clients would have the canary of every service."""
    other = UpstreamPool("other", ["http://127.0.0.1:3"])
    source = random.Random(1)
    splits = [WeightedSplit({stable: 9, canary: 1}), WeightedSplit({other: 9, canary: 1})]
    unlucky = [{key for key in keys() if one.pick(key, source) is canary} for one in splits]
    both = len(unlucky[0] & unlucky[1]) / MANY

    assert 0.005 < both < 0.015


def test_weights_are_read_and_changed_singly(stable, canary):
    """A pool that is left out keeps its share."""
    split = WeightedSplit({stable: 95, canary: 5})
    split.set_weights({canary: 10})

    assert {stable: 95, canary: 10} == dict(split.weights)
    assert (stable, canary) == split.pools
    assert "<WeightedSplit stable: 95, canary: 10>" == repr(split)
    with pytest.raises(TypeError):
        split.weights[canary] = 1


@pytest.mark.parametrize(
    ("weights", "options", "error"),
    [
        pytest.param({}, {}, ValueError, id="none"),
        pytest.param([("a", 1)], {}, TypeError, id="list"),
        pytest.param({"a": -1, "b": 2}, {}, ValueError, id="negative"),
        pytest.param({"a": 0}, {}, ValueError, id="all-0"),
        pytest.param({"a": 0.5}, {}, TypeError, id="fraction"),
        pytest.param({"a": True}, {}, TypeError, id="bool"),
        pytest.param({"a": 1}, {"key": "user"}, ValueError, id="key"),
    ],
)
def test_a_split_that_cannot_be_is_refused(weights, options, error):
    """It raises where it is written."""
    with pytest.raises(error):
        WeightedSplit(weights, **options)


@pytest.mark.parametrize("change", [{"x": 1}, {}, {"other": 1}, [1]])
def test_a_change_that_cannot_be_leaves_the_shares(stable, change):
    """An unknown pool was never started; nothing changes where something is wrong."""
    split = WeightedSplit({stable: 3})
    if change == {}:
        change = {stable: 0}
    with pytest.raises((ValueError, TypeError)):
        split.set_weights(change)

    assert {stable: 3} == dict(split.weights)
