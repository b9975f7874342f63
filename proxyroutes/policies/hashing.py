"""Consistent hashing: requests with one key are asked of one destination, whatever happens to the others.

A key moves to another destination only if its own is gone, in this process and in every other one.
"""

from __future__ import annotations

import bisect
import re
import struct
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

_POINTS_A_HASH = 8
_UNPACK = struct.Struct(">8Q").unpack
_NUMBER = (1 << 20) - 1
"""Bits of a point that number its destination: far more than a pool has."""

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


def _points(identity: bytes, count: int) -> list[int]:
    """Points of a destination, the same in every process: whatever the count, its first ones are the same."""
    blocks = -(-count // _POINTS_A_HASH)
    digests = [blake2b(b"%b#%d" % (identity, block)).digest() for block in range(blocks)]
    return [point for digest in digests for point in _UNPACK(digest)][:count]


@define(eq=False)
class _ConsistentHashBalancer:
    _key: Key
    _load_factor: float | None
    _fallback: Balancer
    _known: Sequence[Candidate] = ()
    _weights: float = 0.0
    # The points in order. In the place of its lowest bits each one has the number of whose it is.
    _ring: list[int] = field(factory=list)
    _owners: list[Candidate] = field(factory=list)
    _numbers: dict[bytes, tuple[int, int]] = field(factory=dict)
    """Number and points of each destination on the ring."""
    _unused: list[int] = field(factory=list)

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        key = self._key(head)
        if key is None:
            return self._fallback.pick(candidates, head)
        if candidates is not self._known:
            self._follow(candidates)
        text = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
        place = bisect.bisect(self._ring, _hash(text)) % len(self._ring)
        if self._load_factor is None:
            return self._owners[self._ring[place] & _NUMBER]
        return self._bounded(place, self._load_factor)

    def _follow(self, candidates: Sequence[Candidate]) -> None:
        """Take another snapshot: whoever has gone or come leaves or enters the ring, and all others stay where they are."""
        wanted = {
            one.identity: min(max(1, round(POINTS * one.weight)), MOST_POINTS)
            for one in candidates
        }
        gone = set()
        for identity, (number, count) in tuple(self._numbers.items()):
            if wanted.get(identity) != count:
                gone.add(number)
                del self._numbers[identity]
        if gone:
            self._ring = [point for point in self._ring if point & _NUMBER not in gone]
            self._unused.extend(gone)
        for one in candidates:
            self._enter(one, wanted[one.identity])
        # What was in order stays in order: that is merging, not sorting.
        self._ring.sort()
        self._weights = sum([one.weight for one in candidates])
        self._known = candidates

    def _enter(self, candidate: Candidate, count: int) -> None:
        known = self._numbers.get(candidate.identity)
        if known is not None:
            self._owners[known[0]] = candidate
            return
        if self._unused:
            number = self._unused.pop()
            self._owners[number] = candidate
        else:
            number = len(self._owners)
            self._owners.append(candidate)
        self._numbers[candidate.identity] = (number, count)
        points = _points(candidate.identity, count)
        self._ring += [point & ~_NUMBER | number for point in points]

    def _bounded(self, place: int, load_factor: float) -> Candidate:
        """The first one on the ring, from this place on, that is not over its share."""
        ring, owners = self._ring, self._owners
        bound = load_factor * (sum([one.in_flight for one in self._known]) + 1) / self._weights
        for turn in range(len(ring)):
            candidate = owners[ring[(place + turn) % len(ring)] & _NUMBER]
            if candidate.in_flight < bound * candidate.weight:
                return candidate
        return owners[ring[place] & _NUMBER]
