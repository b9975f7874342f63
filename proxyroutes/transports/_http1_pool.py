"""The connections to one destination: O(1) in their number, the one used last is used next.

A request takes an idle connection, opens one, or waits in a bounded queue, first come, first served. Nothing here knows
HTTP.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

from attrs import define, field, frozen

from proxyroutes.exceptions import NoDestinationError, UpstreamConnectError
from proxyroutes.transports._connect import Addresses, connect
from proxyroutes.transports._http1_connection import Http1Connection
from proxyroutes.typing import Attempt, Endpoint

__all__ = ["ConnectionPool", "PoolSettings"]


@frozen(kw_only=True)
class PoolSettings:
    """How many connections a destination may have, and for how long; see ``Http1Transport``."""

    keep_alive: float
    max_connections: int | None
    max_idle: int
    max_age: float | None
    max_requests_per_connection: int | None
    max_queue: int
    queue_timeout: float
    resolve_interval: float


@define(eq=False)
class ConnectionPool:
    """The connections to one destination.

    Attributes:
        idle: Connections at rest, the one used last at the end.
        connections: Every open connection.
        opened: Connections that are open or being opened.
    """

    loop: asyncio.AbstractEventLoop
    destination: Endpoint
    settings: PoolSettings
    tls: Callable[[], ssl.SSLContext]
    server_name: str | None
    idle: dict[Http1Connection, None] = field(factory=dict)
    connections: set[Http1Connection] = field(factory=set)
    opened: int = 0
    closed: bool = False
    _waiters: deque[asyncio.Future[Http1Connection | None]] = field(factory=deque)
    _addresses: Addresses = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._addresses = Addresses(self.loop, self.destination, self.settings.resolve_interval)

    def take(self) -> Http1Connection | None:
        """An idle connection that is still good, or None."""
        idle = self.idle
        while idle:
            connection, _ = idle.popitem()
            if connection.expires_at > self.loop.time() and not connection.is_closing():
                return connection
            connection.close()
        return None

    async def acquire(self, attempt: Attempt) -> Http1Connection:
        """Open a connection, or wait for one.

        Raises:
            NoDestinationError: If the queue is full, or the wait too long.
            UpstreamConnectError: If it cannot be opened.
        """
        limit = self.settings.max_connections
        while limit is not None and self.opened >= limit:
            connection = await self._wait()
            if connection is None:
                return await self.open()
            if not connection.closed:
                attempt.reused = True
                return connection
            # Lost on its way here; it gives its place back, and this takes it or waits again.
            connection.close()
        self.opened += 1
        return await self.open()

    async def acquire_fresh(self, attempt: Attempt) -> Http1Connection:
        """Open a connection that has served nobody, for a request whose reused one had died."""
        while self.idle:
            # What died has company: connections of the same age to the same server.
            self.idle.popitem()[0].close()
        return await self.acquire(attempt)

    async def _wait(self) -> Http1Connection | None:
        """Wait in the queue; None is a free place for a new connection, already counted."""
        if len(self._waiters) >= self.settings.max_queue:
            raise NoDestinationError("the queue for a connection is full", retry_after=1.0)
        waiter: asyncio.Future[Http1Connection | None] = self.loop.create_future()
        self._waiters.append(waiter)
        timer = self.loop.call_later(self.settings.queue_timeout, self._give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_back(waiter.result())
            raise
        finally:
            timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _give_up(self, waiter: asyncio.Future[Http1Connection | None]) -> None:
        if not waiter.done():
            waiter.set_exception(
                NoDestinationError("no connection became free in time", retry_after=1.0)
            )

    def _hand_back(self, connection: Http1Connection | None) -> None:
        if connection is not None:
            self.put_back(connection)
        else:
            self._place_is_free()

    async def open(self) -> Http1Connection:
        """Open a connection in a place that is counted already.

        Raises:
            UpstreamConnectError: If it cannot be opened.
        """
        try:
            context = self.tls() if self.destination.secure else None
            connection = await connect(
                self._addresses,
                lambda: Http1Connection(self.loop, self.put_back, self._lost),
                context,
                self.server_name,
            )
        except OSError as error:
            self._place_is_free()
            self._addresses.failed()
            raise UpstreamConnectError(str(error) or type(error).__name__) from error
        except BaseException:
            self._place_is_free()
            raise
        if self.closed or connection.closed:
            connection.close()
            self._place_is_free()
            raise UpstreamConnectError(
                "the pool is closed"
                if self.closed
                else "the upstream closed the connection at once"
            )
        connection.adopted = True
        self.connections.add(connection)
        return connection

    def put_back(self, connection: Http1Connection) -> None:
        """Take a connection whose exchange is over."""
        settings = self.settings
        most = settings.max_requests_per_connection
        if self.closed or (most is not None and connection.requests >= most):
            connection.close()
            return
        expires_at = self.loop.time() + settings.keep_alive
        if settings.max_age is not None:
            expires_at = min(expires_at, connection.created_at + settings.max_age)
        connection.expires_at = expires_at
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if len(self.idle) >= settings.max_idle:
            connection.close()
            return
        self.idle[connection] = None

    def _lost(self, connection: Http1Connection) -> None:
        """A connection has closed; each one says so once."""
        if not connection.adopted:
            return
        self.idle.pop(connection, None)
        self.connections.discard(connection)
        self._place_is_free()

    def _place_is_free(self) -> None:
        while self._waiters and not self.closed:
            waiter = self._waiters.popleft()
            if not waiter.done():
                # The place goes to who waited longest, and stays counted.
                waiter.set_result(None)
                return
        self.opened -= 1

    def expire(self, now: float) -> None:
        """Close the idle connections that are too old."""
        for connection in [one for one in self.idle if one.expires_at <= now]:
            connection.close()

    def retire(self) -> None:
        """Close the idle connections, and each other one when its exchange is over."""
        self.closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(UpstreamConnectError("the pool is closed"))
        self._waiters.clear()
        for connection in tuple(self.idle):
            connection.close()

    def close(self) -> None:
        """Close every connection; whoever waits for one gets none."""
        self.retire()
        for connection in tuple(self.connections):
            connection.connection_lost(ConnectionAbortedError("the pool is closed"))
