"""Events of pools: told to whoever listens, without anybody waiting for anybody.

A listener has a bounded queue. One that does not keep up loses the oldest events and is told how many; the loop never
waits for it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from attrs import define, evolve, field

from proxyroutes.typing import HealthEvent

__all__ = ["Callback", "Callbacks", "Events", "Feed"]

_logger = logging.getLogger("proxyroutes.health")

Callback: TypeAlias = Callable[[HealthEvent], Awaitable[None] | None]
"""Called with each event of a pool."""


@define(eq=False, slots=False)
class Feed:
    """Events for one listener: an asynchronous iterator."""

    limit: int
    _queue: deque[HealthEvent] = field(factory=deque)
    _missed: int = 0
    _closed: bool = False
    _waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, event: HealthEvent) -> None:
        """Keep an event until it is asked for; the oldest one makes room. One that has ended takes none."""
        if self._closed:
            return
        if len(self._queue) >= self.limit:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """No more events will come; those that are here are still given."""
        self._closed = True
        self._wake()

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> HealthEvent:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        event = self._queue.popleft()
        missed, self._missed = self._missed, 0
        return evolve(event, missed=missed) if missed else event

    async def aclose(self) -> None:
        """Stop listening."""
        self._queue.clear()
        self.close()


@define(eq=False)
class Events:
    """Who listens on one loop. A listener that is no longer held anywhere is forgotten."""

    _feeds: weakref.WeakSet[Feed] = field(factory=weakref.WeakSet)
    _closed: bool = False

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def listen(self, limit: int) -> Feed:
        """A new listener."""
        feed = Feed(limit)
        if self._closed:
            feed.close()
        self._feeds.add(feed)
        return feed

    def tell(self, event: HealthEvent) -> None:
        """Tell everybody."""
        for feed in tuple(self._feeds):
            feed.put(event)

    def close(self) -> None:
        """The end for everybody."""
        self._closed = True
        for feed in tuple(self._feeds):
            feed.close()


@define(eq=False)
class Callbacks:
    """The functions that are called with a pool's events, one event after the other, in a task of the pool.

    Attributes:
        functions: What is called; the pool's own list, so that later ones are called too.
        spawn: Starts a task that ends with the pool.
    """

    functions: Sequence[Callback]
    spawn: Callable[[Coroutine[Any, Any, None], str], object]
    _feed: Feed = field(factory=lambda: Feed(1024))
    _runs: bool = False

    def __bool__(self) -> bool:
        return bool(self.functions)

    def tell(self, event: HealthEvent) -> None:
        """Have them called soon."""
        self._feed.put(event)
        if not self._runs:
            self._runs = True
            self.spawn(self._call_all(), "on-change")

    async def _call_all(self) -> None:
        try:
            while self._feed:
                event = await anext(self._feed)
                for function in tuple(self.functions):
                    await _call(function, event)
        finally:
            self._runs = False


async def _call(function: Callback, event: HealthEvent) -> None:
    try:
        result = function(event)
        if inspect.isawaitable(result):
            await result
    except Exception:
        _logger.exception("a function of on_change failed: pool=%s", event.pool)
