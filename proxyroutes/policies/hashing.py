"""Consistent hashing: requests with one key are asked of one destination, whatever happens to the others.

A key moves to another destination only if its own is gone, in this process and in every other one.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b

from attrs import define, field, frozen

from proxyroutes.policies.balancing import PowerOfTwoChoices
from proxyroutes.typing import Balancer, Candidate, Clock, ForwardedHead, RandomSource

__all__ = ["ConsistentHash"]

POINTS = 64
"""Points on the ring for a weight of 1; the spread of the shares falls with its square root."""

MOST_POINTS = 64 * 256
"""Points of one destination at most, whatever its weight: a ring is made within a request."""

Key = Callable[[ForwardedHead], "str | bytes | None"]


def _hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def _field_key(name: bytes) -> Key:
    def find(head: ForwardedHead) -> bytes | None:
        return next((value for known, value in head.fields if known == name), None)

    return find


def _cookie_key(name: bytes) -> Key:
    # RFC 6265 §4.2.1: pairs are separated by a semicolon and a space.
    pattern = re.compile(rb"(?:^|;\s*)" + re.escape(name) + rb"=([^;]*)")

    def find(head: ForwardedHead) -> bytes | None:
        for known, value in head.fields:
            if known == b"cookie":
                found = pattern.search(value)
                return None if found is None else found[1]
        return None

    return find


def _path_key(head: ForwardedHead) -> bytes:
    return head.target.partition(b"?")[0]


def _to_key(key: str | Key) -> Key:
    """Take ``"header:name"``, ``"cookie:name"``, ``"client"`` and ``"path"`` for what they say."""
    if not isinstance(key, str):
        if not callable(key):
            raise TypeError(f"key is a text or a callable, not {key!r}")
        return key
    kind, _, name = key.partition(":")
    if kind == "path" and not name:
        return _path_key
    if kind == "client" and not name:
        # The hop's own field: what a client sends of that name has been dropped.
        return _field_key(b"x-forwarded-for")
    if kind == "header" and name:
        return _field_key(name.lower().encode("ascii"))
    if kind == "cookie" and name:
        return _cookie_key(name.encode("ascii"))
    raise ValueError(
        f"key is 'path', 'client', 'header:name', 'cookie:name' or a callable: {key!r}"
    )


@frozen
class ConsistentHash:
    """Ask the destination that a key of the request belongs to.

    Attributes:
        key: ``"path"``, ``"client"`` (the address; needs ``X-Forwarded-For``, which is on by default),
            ``"header:name"``, ``"cookie:name"``, or a callable that takes the forwarded head and gives text, bytes or
            None. A request without a key is balanced by the power of two choices.
        load_factor: What a destination may have in flight, relative to the average for its weight; the next one on the
            ring is asked instead. None is no bound.

    Raises:
        ValueError: If the key is none of these, or the factor is not above 1.

    Source:
        D. Karger et al., "Consistent Hashing and Random Trees" (1997); V. Mirrokni et al., "Consistent Hashing with
        Bounded Loads" (2016).
    """

    key: str | Key
    load_factor: float | None = None

    def __attrs_post_init__(self) -> None:
        _to_key(self.key)
        if self.load_factor is not None and not self.load_factor > 1.0:
            raise ValueError(f"load_factor must be above 1.0, or None: {self.load_factor!r}")

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        fallback = PowerOfTwoChoices().bind(clock=clock, random=random)
        return _ConsistentHashBalancer(_to_key(self.key), self.load_factor, fallback)


@define(eq=False)
class _ConsistentHashBalancer:
    _key: Key
    _load_factor: float | None
    _fallback: Balancer
    _known: Sequence[Candidate] = ()
    _points: list[int] = field(factory=list)
    _owners: list[Candidate] = field(factory=list)
    # Points are worked out once for each destination: a ring is made anew whenever one comes, goes or changes its weight.
    _made: dict[bytes, list[int]] = field(factory=dict)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        key = self._key(head)
        if key is None:
            return self._fallback.pick(candidates, head)
        if candidates is not self._known:
            self._make(candidates)
        text = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
        place = bisect.bisect(self._points, _hash(text)) % len(self._points)
        if self._load_factor is None:
            return self._owners[place]
        return self._bounded(place, self._load_factor)

    def _make(self, candidates: Sequence[Candidate]) -> None:
        ring: list[tuple[int, int]] = []
        made: dict[bytes, list[int]] = {}
        for number, candidate in enumerate(candidates):
            identity = candidate.identity
            count = min(max(1, round(POINTS * candidate.weight)), MOST_POINTS)
            points = made[identity] = self._made.get(identity, [])
            # The same points in the same order whatever the weight: a heavier one has more of them, and keeps its keys.
            points += [_hash(b"%b#%d" % (identity, turn)) for turn in range(len(points), count)]
            ring += [(point, number) for point in points[:count]]
        ring.sort()
        self._known = candidates
        self._made = made
        self._points = [point for point, _ in ring]
        self._owners = [candidates[number] for _, number in ring]

    def _bounded(self, place: int, load_factor: float) -> Candidate:
        """The first one on the ring, from this place on, that is not over its share."""
        total = sum([one.in_flight for one in self._known]) + 1
        weights = sum([one.weight for one in self._known])
        owners = self._owners
        for turn in range(len(owners)):
            candidate = owners[(place + turn) % len(owners)]
            if candidate.in_flight < load_factor * total * candidate.weight / weights:
                return candidate
        return owners[place]
