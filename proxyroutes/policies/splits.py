"""Weighted splits: which of several pools a request goes to, by share, and if wanted always the same for one key."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Generic, TypeVar

from typing_extensions import override

from proxyroutes.policies._keys import RequestKey, read_key
from proxyroutes.typing import RandomSource

__all__ = ["WeightedSplit"]

PoolT = TypeVar("PoolT")

_POINTS = float(2**64)


class WeightedSplit(Generic[PoolT]):
    """Several pools behind one route, each with a share of the requests: a canary, a blue and a green one.

    Given as ``upstream=``, or returned by a function that is. A handle: its weights may be changed while it serves.

    Each pool has a range of its own, in the order in which they are written, and each request a point: a random one, or
    that of its key. Where a weight grows at a neighbour's cost, only the keys in between move.

    Args:
        weights: Shares by pool, whole numbers from 0 up that need not sum to 100; a pool with 0 gets nothing.
        key: What stays with one pool: ``"client"``, ``"header:name"``, ``"cookie:name"``, ``"path:name"`` of a path
            parameter, or an ordinary function of the ``ForwardedRequest``. A request that has no such key goes anywhere,
            as every one does where this is None.

    Raises:
        TypeError: If the weights are no mapping, one is no whole number, or the key is neither text nor function.
        ValueError: If there is no pool, a weight is below 0, all are 0, or the key cannot be read.
    """

    def __init__(self, weights: Mapping[PoolT, int], *, key: RequestKey | None = None) -> None:
        if key is not None:
            read_key(key)
        self.key = key
        self._weights: dict[PoolT, int] = {}
        self._ends: tuple[tuple[float, PoolT], ...] = ()
        self._take(weights)
        # One and the same in every process; but two splits do not send the same clients to their canaries.
        names = [str(getattr(pool, "name", "")) for pool in self._weights]
        self._salt = ("\0".join(names) + "\0\0").encode()

    def _take(self, weights: Mapping[PoolT, int]) -> None:
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"weights by pool are meant, as {{stable: 95, canary: 5}}, not {weights!r}"
            )
        if not weights:
            raise ValueError("a split needs at least one pool")
        for pool, weight in weights.items():
            if type(weight) is not int:
                raise TypeError(f"a weight is a whole number, not {weight!r} of {pool!r}")
            if weight < 0:
                raise ValueError(f"a weight must be at least 0: {weight!r} of {pool!r}")
        total = sum(weights.values())
        if not total:
            raise ValueError("one weight at least must be above 0")
        ends: list[tuple[float, PoolT]] = []
        before = 0
        for pool, weight in weights.items():
            before += weight
            if weight:
                ends.append((before / total, pool))
        # Swapped as a whole: a request sees the old shares or the new ones.
        self._ends = tuple(ends)
        self._weights = dict(weights)

    @override
    def __repr__(self) -> str:
        shares = ", ".join(
            f"{getattr(pool, 'name', pool)}: {weight}" for pool, weight in self._weights.items()
        )
        return f"<WeightedSplit {shares}>"

    @property
    def pools(self) -> tuple[PoolT, ...]:
        """Every pool, in order."""
        return tuple(self._weights)

    @property
    def weights(self) -> Mapping[PoolT, int]:
        """The shares as they are now."""
        return MappingProxyType(self._weights)

    def set_weights(self, weights: Mapping[PoolT, int]) -> None:
        """Change the shares, for requests that come from now on.

        Args:
            weights: A new share for each pool of this split; a pool that is left out keeps its own.

        Raises:
            TypeError: If the weights are no mapping, or one is no whole number.
            ValueError: If a pool is not one of this split, a weight is below 0, or all are 0.
        """
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights by pool are meant, not {weights!r}")
        for pool in weights:
            if pool not in self._weights:
                raise ValueError(f"not a pool of this split: {pool!r}")
        self._take({**self._weights, **weights})

    def pick(self, key: bytes | None, random: RandomSource) -> PoolT:
        """Choose a pool.

        Args:
            key: What stays with one pool, or None.
            random: Chooses where there is no key.
        """
        if key is None:
            point = random.random()
        else:
            digest = blake2b(self._salt + key, digest_size=8).digest()
            point = int.from_bytes(digest, "big") / _POINTS
        ends = self._ends
        for end, pool in ends:
            if point < end:
                return pool
        return ends[-1][1]
