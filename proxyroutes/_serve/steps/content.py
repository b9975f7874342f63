"""The client's content where a request is forwarded more than once: one channel, that several exchanges listen to.

One of them may have the content while others only watch for a client that leaves. Two readers of one channel would steal
from each other, so all of them read from here.
"""

from __future__ import annotations

import asyncio
from collections import deque

from proxyroutes.typing import Message, Receive

__all__ = ["ClientChannel"]

_MOST_KEPT_BYTES = 65_536


class ClientChannel:
    """A receive channel with any number of readers.

    Attributes:
        default_headers: What uvicorn keeps at the object behind its channel; see ``relay.server_fields``.

    Args:
        receive: The channel.
    """

    __slots__ = (
        "_kept",
        "_kept_bytes",
        "_left",
        "_reading",
        "_receive",
        "_waiters",
        "default_headers",
    )

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.default_headers = getattr(getattr(receive, "__self__", None), "default_headers", None)
        self._kept: deque[Message] = deque()
        self._kept_bytes = 0
        self._left = False
        self._reading = False
        self._waiters: set[asyncio.Future[None]] = set()

    async def read(self) -> Message:
        """The next message. That the client has left is told to everybody, as often as they ask."""
        while True:
            if self._kept:
                message = self._kept.popleft()
                self._kept_bytes -= len(message.get("body", b""))
                self._wake()
                return message
            if self._left:
                return {"type": "http.disconnect"}
            if not self._reading:
                return await self._next()
            await self._wait()

    async def watch(self) -> Message:
        """Wait until the client has left. Content that comes meanwhile is kept, up to a limit, for who reads it."""
        while not self._left:
            if self._reading or self._kept_bytes >= _MOST_KEPT_BYTES:
                await self._wait()
                continue
            message = await self._next()
            if message["type"] == "http.request":
                self._kept.append(message)
                self._kept_bytes += len(message.get("body", b""))
        return {"type": "http.disconnect"}

    async def _next(self) -> Message:
        self._reading = True
        try:
            message = await self._receive()
            self._left = message["type"] == "http.disconnect"
            return message
        finally:
            # Also where this reader was cancelled: another one takes its place.
            self._reading = False
            self._wake()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
