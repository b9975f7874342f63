"""State per running event loop, for handles that are declared before there is a loop.

A state is opened by the first lifespan or the first use on a loop. It is closed with its last user; one that was opened
lazily is closed with its loop, because every loop shuts its asynchronous generators down before it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["LoopStates"]


class Closable(Protocol):
    """A state that holds something."""

    async def aclose(self) -> None:
        """Let go of it."""
        ...


StateT = TypeVar("StateT", bound=Closable)


async def _close_with_loop(take: Callable[[], Closable | None]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        state = take()
        if state is not None:
            await state.aclose()


class LoopStates(Generic[StateT]):
    """The states of one handle, by loop, with the number of their users."""

    def __init__(self) -> None:
        self._states: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, StateT] = (
            weakref.WeakKeyDictionary()
        )
        self._users: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = (
            weakref.WeakKeyDictionary()
        )
        self._closers: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, AsyncGenerator[None, None]
        ] = weakref.WeakKeyDictionary()

    def get(self, loop: asyncio.AbstractEventLoop) -> StateT | None:
        """The loop's state, or None."""
        return self._states.get(loop)

    def all(self) -> list[StateT]:
        """Every state that is open; safe from any thread."""
        while True:
            try:
                return list(self._states.values())
            except RuntimeError:
                # Another loop, in its own thread, has opened or closed its state meanwhile.
                continue

    def open_lazily(self, loop: asyncio.AbstractEventLoop, state: StateT) -> None:
        """Keep a state that no lifespan opened; it is closed with its loop."""
        self._states[loop] = state
        # Weak, so that the generator does not keep its own loop alive through this object.
        states, key = weakref.ref(self), weakref.ref(loop)

        def take() -> Closable | None:
            owner, ended = states(), key()
            return None if owner is None or ended is None else owner.take(ended)

        closer = _close_with_loop(take)
        with contextlib.suppress(StopIteration):
            # The first step ends at the bare yield; asyncio's hook has then entered the generator for shutdown.
            closer.__anext__().send(None)
        self._closers[loop] = closer

    def take(self, loop: asyncio.AbstractEventLoop) -> StateT | None:
        """Give up the loop's state to whoever closes it, unless it has users."""
        return None if self._users.get(loop, 0) > 0 else self._states.pop(loop, None)

    def enter(self, loop: asyncio.AbstractEventLoop, make: Callable[[], StateT]) -> StateT:
        """Open or join the loop's state as one of its users."""
        state = self._states.get(loop)
        if state is None:
            state = self._states[loop] = make()
        self._users[loop] = self._users.get(loop, 0) + 1
        return state

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """End one use; the last one closes the state."""
        users = self._users.get(loop, 0) - 1
        if users > 0:
            self._users[loop] = users
            return
        await self.close(loop)

    async def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the loop's state, however many use it."""
        self._users.pop(loop, None)
        state = self._states.pop(loop, None)
        if state is not None:
            await state.aclose()
