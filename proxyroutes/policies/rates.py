"""Rate limits: how many requests a key may make in a while, counted by the generic cell rate algorithm.

One number is kept for a key: when its next request would be due if all came evenly. A request that comes earlier than the
burst allows is refused.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from threading import Lock

from attrs import field, frozen

from proxyroutes.policies._keys import RequestKey, read_key
from proxyroutes.typing import Clock, Store

__all__ = ["MemoryStore", "RateLimit", "Rates", "Verdict"]

_RATE = re.compile(
    r"(\d+)\s*/\s*(\d*)\s*(s|sec|second|m|min|minute|h|hour|d|day)s?", re.IGNORECASE | re.ASCII
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Sums of floats are a little off; a request that is due is not early by that.
_EPSILON = 1e-6
_SWAPS = 16


def _read_rate(rate: str) -> tuple[int, float]:
    """Requests, and the seconds in which they may come."""
    if not isinstance(rate, str):
        raise TypeError(f"a rate is a text, as '100/minute': {rate!r}")
    found = _RATE.fullmatch(rate.strip())
    count, periods = (0, 0) if found is None else (int(found[1]), int(found[2] or 1))
    if found is None or count < 1 or periods < 1:
        raise ValueError(
            f"a rate is a count from 1 up and a time, as '100/minute', '5/second' or '20/10s': {rate!r}"
        )
    return count, periods * _SECONDS[found[3][0].lower()]


@frozen(kw_only=True)
class RateLimit:
    """How many requests one key may make in a while; more are answered 429 before anything is asked of an upstream.

    One object is one count: given to a group or a proxy it counts the requests of all of its routes together, and two
    routes that are given the same object share it.

    Attributes:
        rate: A count and a time: ``"100/minute"``, ``"5/second"``, ``"20/10s"``; units are second, minute, hour and day.
        key: Who is counted. ``"client"``, the default, is the address that the connection came from, an IPv6 address by
            its network of 64 bits, because one client has all of it. Else ``"header:name"`` and ``"cookie:name"`` of the
            forwarded request, ``"path:name"`` of a path parameter, or an ordinary function that is given the
            ``ForwardedRequest`` and returns text or bytes. Who has no key is counted by the client's address.
        burst: Requests that may come at once. None is the count of the rate: ``"100/minute"`` takes 100 at once, and then
            one every 0.6 seconds.
        store: Where counts are kept. None is this process's memory. While a store fails, requests pass, with
            a log record; how long it may take is its own to bound.
        name: What this limit is called in a store that several limits share.

    Raises:
        TypeError: If the rate is no text or the key neither text nor function.
        ValueError: If the rate or the key cannot be read, or the burst is below 1.

    Source:
        ITU-T I.371 (generic cell rate algorithm), draft-ietf-httpapi-ratelimit-headers-06 (the fields of the answer),
        RFC 6585 §4 (429), RFC 9110 §10.2.3 (Retry-After).
    """

    rate: str = field(kw_only=False)
    key: RequestKey = "client"
    burst: int | None = None
    store: Store | None = field(default=None, eq=False)
    name: str = ""

    def __attrs_post_init__(self) -> None:
        _read_rate(self.rate)
        read_key(self.key)
        if self.burst is not None and self.burst < 1:
            raise ValueError(f"burst must be at least 1: {self.burst!r}")

    def bind(self, store: Store) -> Rates:
        """Make what counts."""
        count, seconds = _read_rate(self.rate)
        return Rates(
            store=store, count=count, seconds=seconds, burst=self.burst or count, name=self.name
        )


@frozen(kw_only=True)
class Verdict:
    """What a limit says of one request.

    Attributes:
        admitted: Whether it may pass.
        remaining: Requests that could follow at once.
        wait: Seconds until the next one may come; 0.0 while there are some left.
    """

    admitted: bool
    remaining: int
    wait: float


@frozen(kw_only=True, eq=False)
class Rates:
    """Counts the requests of each key.

    Attributes:
        store: Where.
        count: Requests in ``seconds``.
        seconds: Their time.
        burst: Requests that may come at once.
        name: Part of each key in the store.
    """

    store: Store
    count: int
    seconds: float
    burst: int
    name: str

    @property
    def policy(self) -> str:
        """The limit as ``RateLimit-Policy`` tells it."""
        return f"{self.count};w={math.ceil(self.seconds)}"

    async def take(self, key: bytes) -> Verdict:
        """Count a request, unless it comes too early."""
        step = self.seconds / self.count
        most = step * self.burst
        own = self.name.encode() + b"\0" + key
        for _ in range(_SWAPS):
            known, now = await self.store.read(own)
            due = (now if known is None else max(known, now)) + step
            left = most - (due - now)
            if left < -_EPSILON:
                return Verdict(admitted=False, remaining=0, wait=-left)
            if await self.store.swap(own, known, due, due - now):
                remaining = math.floor((left + _EPSILON) / step)
                wait = 0.0 if remaining else max(0.0, step - left)
                return Verdict(admitted=True, remaining=remaining, wait=wait)
        # So many others have taken theirs in between that this one would hardly be due.
        return Verdict(admitted=False, remaining=0, wait=step)


class MemoryStore:
    """Counts in this process's memory.

    Args:
        clock: What time it is.
        max_keys: Keys that are kept. The one that was not asked for the longest time is forgotten for a further one, and
            begins anew.
    """

    def __init__(self, clock: Clock, *, max_keys: int = 65_536) -> None:
        self._clock = clock
        self._max_keys = max_keys
        # Event loops of several threads may share it.
        self._lock = Lock()
        self._kept: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def read(self, key: bytes) -> tuple[float | None, float]:
        """The number under a key, or None, and the time."""
        return self._read(key)

    def _read(self, key: bytes) -> tuple[float | None, float]:
        now = self._clock.monotonic()
        kept = self._kept.get(key)
        return (None if kept is None or kept[1] <= now else kept[0]), now

    async def swap(self, key: bytes, old: float | None, new: float, seconds: float) -> bool:
        """Keep a number for a while, if what is there is still the old one."""
        with self._lock:
            known, now = self._read(key)
            if known != old:
                return False
            kept = self._kept
            kept[key] = (new, now + seconds)
            kept.move_to_end(key)
            # Two at a time: those that are over go sooner than others come.
            for _ in range(2):
                oldest = next(iter(kept))
                if len(kept) <= self._max_keys and kept[oldest][1] > now:
                    break
                if oldest != key:
                    del kept[oldest]
        return True
