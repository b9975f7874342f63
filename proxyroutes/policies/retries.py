"""Retries: when a request is tried again, how long is waited before, and how many tries a pool allows in all.

The recipes, and the account of one pool's budget. What an attempt has done is known where attempts are made; the rule
that is applied to it lives beside them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import field, frozen

from proxyroutes.exceptions import GatewayError
from proxyroutes.settings._values import to_texts
from proxyroutes.typing import Clock, RandomSource

__all__ = ["IDEMPOTENT", "Backoff", "Budget", "Retry", "RetryBudget"]

IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "QUERY", "TRACE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2; QUERY by its own definition)."""

On = int | type[GatewayError]


@frozen(kw_only=True)
class RetryBudget:
    """How many retries a pool allows, so that they cannot make an outage worse.

    Every request adds ``ratio`` to the budget, and every further attempt takes 1 from it. What was added longer than
    ``window`` ago is gone. Pools keep one account for all routes whose budgets are equal.

    Attributes:
        ratio: Further attempts for each request, from 0 up.
        floor: Further attempts within ``window`` that are allowed in any case, so that a pool with few requests has
            some.
        window: Seconds.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        Envoy's and Finagle's retry budgets: 20 %, and three in any case.
    """

    ratio: float = 0.2
    floor: int = 3
    window: float = 10.0

    def __attrs_post_init__(self) -> None:
        if not self.ratio >= 0:
            raise ValueError(f"ratio must be at least 0: {self.ratio!r}")
        if self.floor < 0:
            raise ValueError(f"floor must be at least 0: {self.floor!r}")
        if not self.window > 0:
            raise ValueError(f"window must be greater than 0 seconds: {self.window!r}")

    def bind(self, *, clock: Clock) -> Budget:
        """Open the account of one pool."""
        return Budget(self, clock)


class Budget:
    """The account of one pool on one loop. A request that needs no retry never touches it.

    Attributes:
        spent: Further attempts that were allowed.
    """

    __slots__ = ("_balance", "_clock", "_floor", "_last", "_recipe", "_seen", "spent")

    def __init__(self, recipe: RetryBudget, clock: Clock) -> None:
        self._recipe = recipe
        self._clock = clock
        self._balance = 0.0
        self._seen = 0
        self._last = clock.monotonic()
        # When those were allowed that only the floor has paid for.
        self._floor: deque[float] = deque()
        self.spent = 0

    def spend(self, requests: int) -> bool:
        """Take one further attempt; false if there is none left.

        Args:
            requests: First attempts that the pool has made so far.
        """
        now = self._clock.monotonic()
        recipe = self._recipe
        elapsed = now - self._last
        # Nobody counts requests by the second: of those since the last time, the window's share is taken to be in it.
        share = min(1.0, recipe.window / elapsed) if elapsed > 0 else 1.0
        self._balance *= max(0.0, 1.0 - elapsed / recipe.window)
        self._balance += recipe.ratio * (requests - self._seen) * share
        self._seen = requests
        self._last = now
        while self._floor and self._floor[0] <= now - recipe.window:
            self._floor.popleft()
        # A hair of tolerance: five times 0.2 is 1.
        if self._balance >= 1.0 - 1e-9:
            self._balance -= 1.0
        elif len(self._floor) < recipe.floor:
            self._floor.append(now)
        else:
            return False
        self.spent += 1
        return True


@frozen(kw_only=True)
class Backoff:
    """How long is waited before a request is tried again: a random part of a time that doubles from try to try.

    Attributes:
        base: Seconds that the first wait takes at most.
        most: Seconds that any wait takes at most.
        max_retry_after: Seconds of an upstream's ``Retry-After`` that are waited for. Where it asks for more, its answer
            is relayed instead.

    Raises:
        ValueError: If a duration is below 0.

    Source:
        Envoy's router: full jitter, 25 ms, ten times that at most. RFC 9110 §10.2.3 (Retry-After).
    """

    base: float = 0.025
    most: float = 0.25
    max_retry_after: float = 10.0

    def __attrs_post_init__(self) -> None:
        for name in ("base", "most", "max_retry_after"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0 seconds: {getattr(self, name)!r}")

    def wait(self, number: int, random: RandomSource) -> float:
        """Seconds before the ``number``-th retry, counted from 1."""
        # From 64 on the exponent alone is longer than any cap, and would not fit into a float for ever.
        return random.random() * min(self.most, self.base * float(2 ** min(number, 64) - 1))


def _to_methods(value: Iterable[str]) -> frozenset[str]:
    return frozenset(method.upper() for method in to_texts(value))


def _to_reasons(value: Iterable[On] | On) -> frozenset[On]:
    if isinstance(value, int | str | type):
        raise TypeError(
            f"a list of statuses and errors is meant, not one value: write [{value!r}]"
        )
    return frozenset(value)


@frozen(kw_only=True)
class Retry:
    """When a request is tried again.

    A request that found no connection moves on to another destination, whatever its method: nothing was sent. One that
    was sent, and whose connection broke before the head of a response came, is tried again at another destination, and
    only if sending it twice does no harm: if its method is one of ``methods``, or it has an ``Idempotency-Key``. Content
    is sent again from a buffer. Nothing is tried again once the client was sent a byte, has left, or the total time is
    over.

    Attributes:
        attempts: Tries of one request that may reach an upstream, the first one included. Those that found no connection
            are not counted: they end when each destination was tried once.
        on: What is tried again besides a broken connection: statuses, such as 503, and classes of errors, such as
            ``UpstreamTimeoutError``. These are tried at the same destination again where there is no other one. When tries
            run out, the last answer of an upstream is relayed.
        budget: How many further attempts the pool allows.
        backoff: How long is waited before. None waits only where ``Retry-After`` asks for it. A request that found no
            connection moves on at once.
        methods: Methods that may be sent twice.
        non_idempotent: Says aloud that methods which are not idempotent are meant in ``methods``: a request may then be
            done twice.
        replay_bytes: Bytes of content that are kept to be sent again. A request with more is not tried again once some of
            it was sent. Also the most of an answer that is kept while another one is tried for.

    Raises:
        ValueError: If a number is out of its range, a status is none, or ``methods`` has one that is not idempotent and
            ``non_idempotent`` does not say so.

    Source:
        RFC 9110 §9.2.2 (Idempotent Methods).
    """

    attempts: int = 2
    on: frozenset[On] = field(default=(), converter=_to_reasons)
    budget: RetryBudget = RetryBudget()
    backoff: Backoff | None = Backoff()
    methods: frozenset[str] = field(default=IDEMPOTENT, converter=_to_methods)
    non_idempotent: bool = False
    replay_bytes: int = 64 * 1024
    statuses: frozenset[int] = field(init=False, eq=False, repr=False)
    errors: tuple[type[GatewayError], ...] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1: {self.attempts!r}")
        if self.replay_bytes < 0:
            raise ValueError(f"replay_bytes must be at least 0: {self.replay_bytes!r}")
        unsafe = self.methods - IDEMPOTENT
        if unsafe and not self.non_idempotent:
            raise ValueError(
                f"{', '.join(sorted(unsafe))} may be done twice if it is tried again (RFC 9110 §9.2.2): "
                "have clients send an Idempotency-Key, or say non_idempotent=True"
            )
        statuses = frozenset(one for one in self.on if isinstance(one, int))
        errors = tuple(one for one in self.on if isinstance(one, type))
        for status in statuses:
            if not 200 <= status <= 599:
                raise ValueError(f"on: not a final status: {status!r}")
        if len(statuses) + len(errors) < len(self.on):
            raise TypeError(f"on: statuses and classes of errors are meant: {set(self.on)!r}")
        for error in errors:
            if not issubclass(error, GatewayError):
                raise TypeError(f"on: not a GatewayError: {error!r}")
        object.__setattr__(self, "statuses", statuses if self.attempts > 1 else frozenset())
        object.__setattr__(self, "errors", errors)
