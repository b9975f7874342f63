"""Places of one pool or route on one loop, and the queues of those that wait for one or for a destination with room."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from attrs import define, field
from typing_extensions import override

from proxyroutes.exceptions import NoDestinationError
from proxyroutes.settings import Limits

__all__ = ["LeaseQueue", "Limiter", "Queue", "RouteLimiters"]


@define(eq=False)
class Queue:
    """Who waits for something of a pool or a route.

    Attributes:
        name: Whose it is, for errors.
        limits: How many may wait, how long, and who is next.
    """

    name: str
    limits: Limits
    # In the order of their coming; a dictionary, so that one who leaves is not looked for.
    _waiters: dict[asyncio.Future[Any], Any] = field(factory=dict, kw_only=True)

    @property
    def waiting(self) -> int:
        """Exchanges in the queue."""
        return len(self._waiters)

    def late(self) -> NoDestinationError:
        """What is raised where the queue was of no use."""
        seconds = self.limits.queue_timeout
        return NoDestinationError(
            f"no place in {self.name} within {seconds:g} s", retry_after=max(1.0, seconds)
        )

    def join(self, wanted: Any = None) -> asyncio.Future[Any]:
        """Wait in the queue: the future is done when what is wanted is there.

        Raises:
            NoDestinationError: If the queue is full.
        """
        if len(self._waiters) >= self.limits.max_queue:
            raise NoDestinationError(
                f"no place in {self.name}, and {len(self._waiters)} wait for one",
                retry_after=max(1.0, self.limits.queue_timeout),
            )
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = wanted
        return waiter

    def leave(self, waiter: asyncio.Future[Any]) -> None:
        """Leave the queue without having used what was waited for; where it was given meanwhile, it is given back."""
        if waiter in self._waiters:
            del self._waiters[waiter]
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.refuse(waiter.result())
        waiter.cancel()

    def refuse(self, given: Any) -> None:
        """Give back what nobody takes."""

    def next(self) -> tuple[asyncio.Future[Any], Any] | None:
        """Who is next, taken out of the queue, and what it wants; None if nobody is."""
        while self._waiters:
            if self.limits.queue == "lifo":
                waiter, wanted = self._waiters.popitem()
            else:
                waiter = next(iter(self._waiters))
                wanted = self._waiters.pop(waiter)
            if not waiter.done():
                return waiter, wanted
        return None


@define(eq=False)
class Limiter(Queue):
    """Who has a place, and who waits. A place that is given back goes to exactly one who waits.

    Attributes:
        taken: Places that somebody has.
    """

    taken: int = 0

    def take(self) -> bool:
        """Take a place if one is free. Who waits comes first: while somebody does, none is."""
        most = self.limits.max_in_flight
        if most is not None and self.taken >= most:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """Give a place back."""
        found = self.next()
        if found is None:
            self.taken -= 1
        else:
            # The place stays taken: whoever comes now must not get it.
            found[0].set_result(None)

    def release(self, exchange: object) -> None:
        """Give a place back at the end of who has it."""
        del exchange
        self.give_back()

    @override
    def refuse(self, given: Any) -> None:
        self.give_back()


@define(eq=False)
class LeaseQueue(Queue):
    """Who waits until a destination has room. A lease is taken in a waiter's name, so that nobody overtakes it."""

    _serving: bool = field(default=False, init=False)

    def serve(self, has_room: Callable[[], bool]) -> None:
        """Take leases for those that wait, as long as there is room.

        Args:
            has_room: Whether a lease can be had now.
        """
        if self._serving:
            # A lease that makes a destination full has the pool look anew.
            return
        self._serving = True
        try:
            while has_room() and (found := self.next()) is not None:
                waiter, lease = found
                try:
                    waiter.set_result(lease())
                except Exception as error:  # noqa: BLE001 - who waits raises it; a policy of the user's own may raise anything.
                    waiter.set_exception(error)
        finally:
            self._serving = False

    @override
    def refuse(self, given: Any) -> None:
        given.release()


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
