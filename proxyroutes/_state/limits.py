"""Places of one pool or route on one loop, and the queue of those that wait for one."""

from __future__ import annotations

import asyncio
import weakref

from attrs import define, field

from proxyroutes.exceptions import NoDestinationError
from proxyroutes.settings import Limits

__all__ = ["Limiter", "RouteLimiters"]


@define(eq=False)
class Limiter:
    """Who has a place, and who waits. A place that is given back goes to exactly one who waits.

    Attributes:
        name: Whose places they are, for errors.
        limits: How many there are.
        taken: Places that somebody has.
    """

    name: str
    limits: Limits
    taken: int = 0
    # In the order of their coming; a dictionary, so that one who leaves is not looked for.
    _waiters: dict[asyncio.Future[None], None] = field(factory=dict)

    @property
    def waiting(self) -> int:
        """Exchanges in the queue."""
        return len(self._waiters)

    def take(self) -> bool:
        """Take a place if one is free. Who waits comes first: while somebody does, none is."""
        most = self.limits.max_in_flight
        if most is not None and self.taken >= most:
            return False
        self.taken += 1
        return True

    def late(self) -> NoDestinationError:
        """What is raised where the queue was of no use."""
        seconds = self.limits.queue_timeout
        return NoDestinationError(
            f"no place in {self.name} within {seconds:g} s", retry_after=max(1.0, seconds)
        )

    def join(self) -> asyncio.Future[None]:
        """Wait in the queue: the future is done when the place is there.

        Raises:
            NoDestinationError: If the queue is full.
        """
        if len(self._waiters) >= self.limits.max_queue:
            raise NoDestinationError(
                f"no place in {self.name}, and {len(self._waiters)} wait for one",
                retry_after=max(1.0, self.limits.queue_timeout),
            )
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Leave the queue without having used the place; one that was given meanwhile goes to the next."""
        if waiter in self._waiters:
            del self._waiters[waiter]
        elif waiter.done() and not waiter.cancelled():
            self.give_back()
        waiter.cancel()

    def give_back(self) -> None:
        """Give a place back."""
        while self._waiters:
            if self.limits.queue == "lifo":
                waiter, _ = self._waiters.popitem()
            else:
                waiter = next(iter(self._waiters))
                del self._waiters[waiter]
            if not waiter.done():
                # The place stays taken: whoever comes now must not get it.
                waiter.set_result(None)
                return
        self.taken -= 1


class RouteLimiters:
    """The places of one route: a plan knows no loop, so each one has its own."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Limiter] = (
            weakref.WeakKeyDictionary()
        )

    def on(self, loop: asyncio.AbstractEventLoop) -> Limiter:
        """The places on this loop."""
        limiter = self._limiters.get(loop)
        if limiter is None:
            limiter = self._limiters[loop] = Limiter(self._name, self._limits)
        return limiter
