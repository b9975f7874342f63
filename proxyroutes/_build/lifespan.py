"""Starting and stopping: counted, because a router that is included twice enters its lifespan twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from weakref import WeakKeyDictionary

from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pools import UpstreamPool

__all__ = ["Lifespan"]


class Lifespan:
    """The running time of one proxy, per event loop."""

    def __init__(self, monitor: HealthMonitor) -> None:
        self._monitor = monitor
        self._running: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[AsyncExitStack, int]] = (
            WeakKeyDictionary()
        )
        self._entering: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )
        self._used: WeakKeyDictionary[asyncio.AbstractEventLoop, list[UpstreamPool]] = (
            WeakKeyDictionary()
        )

    @property
    def running(self) -> bool:
        """Whether it was entered on the running loop."""
        return asyncio.get_running_loop() in self._running

    async def enter(self, pools: Iterable[UpstreamPool]) -> None:
        """Start on the running loop, or join those who have."""
        loop = asyncio.get_running_loop()
        # The first who enters waits for probes; whoever enters meanwhile waits for him.
        async with self._entering.setdefault(loop, asyncio.Lock()):
            running = self._running.get(loop)
            if running is not None:
                self._running[loop] = (running[0], running[1] + 1)
            else:
                await self._start(loop, tuple(pools))

    async def _start(
        self, loop: asyncio.AbstractEventLoop, pools: tuple[UpstreamPool, ...]
    ) -> None:
        async with AsyncExitStack() as stack:
            monitors = {self._monitor: None} | {
                pool.monitor: None for pool in pools if pool.monitor
            }
            for monitor in monitors:
                await stack.enter_async_context(monitor)
            for pool in pools:
                pool.enter()
                stack.push_async_callback(pool.leave)
            # No cold window: nothing is served before it is known who is well.
            await asyncio.gather(*[pool.first_round() for pool in pools])
            self._running[loop] = (stack.pop_all(), 1)

    def use(self, pool: UpstreamPool) -> None:
        """Have a pool that no spec names closed with the others."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Whoever only explains a request has no loop, and starts nothing.
            return
        if loop in self._running and not pool.entered():
            pool.enter()
            # Those that were closed since then are forgotten, or each origin ever asked would stay.
            open_ones = [used for used in self._used.get(loop, ()) if used.entered()]
            self._used[loop] = [*open_ones, pool]

    async def leave(self) -> None:
        """Stop on the running loop, if this is the last who leaves."""
        loop = asyncio.get_running_loop()
        stack, count = self._running[loop]
        if count > 1:
            self._running[loop] = (stack, count - 1)
            return
        del self._running[loop]
        for pool in self._used.pop(loop, ()):
            # Before the monitors are left, and shielded from one another by the stack.
            stack.push_async_callback(pool.leave)
        await stack.aclose()
