"""``Http1Transport``: the default transport, our own HTTP/1.1 data plane.

The shortest way from a head to a response: one join, one write, one future. Connections are in ``_http1_connection``,
their pool in ``_http1_pool``.
"""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

from attrs import frozen

from proxyroutes.exceptions import (
    ClientRequestError,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
)
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.transports._http1_connection import Http1Connection, Http1Response
from proxyroutes.transports._http1_pool import ConnectionPool, PoolSettings
from proxyroutes.transports._tls import make_ssl_context
from proxyroutes.typing import Attempt, Body, Clock, Endpoint, ForwardedHead

__all__ = ["Http1Transport"]

# RFC 9110 §9.2.2.
_IDEMPOTENT = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"QUERY"})
_EXPIRY_TICK = 1.0


@frozen(kw_only=True)
class Http1Transport:
    """HTTP/1.1 over our own connections.

    Attributes:
        keep_alive: Seconds that an idle connection is kept; less than the 60 s after which most servers close it.
        max_connections: Connections to one destination; None is no limit.
        max_idle: Idle connections kept for one destination.
        max_age: Seconds after which a connection is not used again, so that changes of name service are followed. None
            is no limit.
        max_requests_per_connection: Requests after which a connection is not used again. None is no limit.
        max_queue: Requests that may wait for a connection; the next one is answered 503.
        queue_timeout: Seconds to wait for a connection before 503.
        resolve_interval: Seconds between two resolutions of a destination's name.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        RFC 9112.
    """

    keep_alive: float = 55.0
    max_connections: int | None = None
    max_idle: int = 1024
    max_age: float | None = 3600.0
    max_requests_per_connection: int | None = None
    max_queue: int = 256
    queue_timeout: float = 1.0
    resolve_interval: float = 30.0

    def __attrs_post_init__(self) -> None:
        for name in ("keep_alive", "max_age", "queue_timeout", "resolve_interval"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} must be greater than 0 seconds: {seconds!r}")
        for name in ("max_connections", "max_requests_per_connection"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit: {number!r}")
        if self.max_idle < 0 or self.max_queue < 0:
            raise ValueError("max_idle and max_queue must be at least 0")

    def bind(self, *, clock: Clock, tls: TLS | None) -> BoundHttp1Transport:
        """Make the transport of one pool on the running event loop."""
        del clock
        settings = PoolSettings(
            keep_alive=self.keep_alive,
            max_connections=self.max_connections,
            max_idle=self.max_idle,
            max_age=self.max_age,
            max_requests_per_connection=self.max_requests_per_connection,
            max_queue=self.max_queue,
            queue_timeout=self.queue_timeout,
            resolve_interval=self.resolve_interval,
        )
        return BoundHttp1Transport(asyncio.get_running_loop(), settings, tls)


class BoundHttp1Transport:
    """The connections of one pool on one loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: PoolSettings, tls: TLS | None
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._pools: dict[Endpoint, ConnectionPool] = {}
        self._retired: set[ConnectionPool] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._closed = False

    def connections(self, destination: Endpoint) -> tuple[int, int]:
        """Open and idle connections to a destination, for inspection."""
        pool = self._pools.get(destination)
        return (0, 0) if pool is None else (pool.opened, len(pool.idle))

    def _ssl_context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = make_ssl_context(self._tls)
        return self._context

    def _add_pool(self, destination: Endpoint) -> ConnectionPool:
        if self._closed:
            raise UpstreamConnectError("the transport is closed")
        server_name = self._tls.server_name if self._tls is not None else None
        pool = self._pools[destination] = ConnectionPool(
            self._loop, destination, self._settings, self._ssl_context, server_name
        )
        if self._expiry is None:
            self._expiry = self._loop.call_later(_EXPIRY_TICK, self._expire)
        return pool

    def _expire(self) -> None:
        now = self._loop.time()
        for pool in self._pools.values():
            if pool.idle:
                pool.expire(now)
        self._retired = {pool for pool in self._retired if pool.connections}
        self._expiry = self._loop.call_later(_EXPIRY_TICK, self._expire)

    async def send(
        self,
        head: ForwardedHead,
        body: Body | None,
        destination: Endpoint,
        timeouts: Timeouts,
        attempt: Attempt,
    ) -> Http1Response:
        """Send one request and wait for the head of its response; see ``BoundTransport.send``."""
        del timeouts
        pool = self._pools.get(destination) or self._add_pool(destination)
        connection = pool.take()
        fresh = False
        while True:
            if connection is None:
                opening = pool.acquire_fresh(attempt) if fresh else pool.acquire(attempt)
                connection = await opening
                attempt.connected_at = monotonic()
            else:
                attempt.reused = True
            attempt.connected = True
            raw = encode_head(head, body, destination)
            attempt.enter(Stage.RESPONSE_HEAD if body is None else Stage.REQUEST_BODY)
            response = connection.begin(raw, attempt, head.method == b"HEAD", body is not None)
            if body is not None:
                self._start_pump(connection, response, body, _length(head, body), attempt)
            try:
                await response.head_waiter
            except BaseException as error:
                response.abort()
                if fresh or not _is_unseen(error, response, head, attempt):
                    raise
            else:
                return response
            # The upstream had closed a connection that looked idle, before it saw the request: once more on a fresh one.
            attempt.reused = attempt.sent = attempt.connected = False
            attempt.repeated = True
            attempt.enter(Stage.CONNECT)
            connection = None
            fresh = True

    def _start_pump(
        self,
        connection: Http1Connection,
        response: Http1Response,
        body: Body,
        length: int | None,
        attempt: Attempt,
    ) -> None:
        pump = self._loop.create_task(
            _pump(connection, response, body, length, attempt), name="proxyroutes-request-body"
        )
        response.pump = pump
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    def forget(self, destination: Endpoint) -> None:
        """Close the connections to a destination: the idle ones at once, each other one when its exchange is over."""
        pool = self._pools.pop(destination, None)
        if pool is not None:
            pool.retire()
            if pool.connections:
                self._retired.add(pool)

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for pool in (*self._pools.values(), *self._retired):
            pool.close()
        self._pools.clear()
        self._retired.clear()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        # asyncio closes a socket one turn after its transport; nobody may find it open after this.
        await asyncio.sleep(0)


def _is_unseen(
    error: BaseException, response: Http1Response, head: ForwardedHead, attempt: Attempt
) -> bool:
    """Whether a request on a reused connection may be sent again: nothing came back, and nothing of it is lost."""
    return (
        attempt.reused
        and attempt.may_repeat
        and response.untouched
        and not attempt.body_consumed
        and head.method in _IDEMPOTENT
        and isinstance(error, UpstreamProtocolError)
    )


def _length(head: ForwardedHead, body: Body) -> int | None:
    """Bytes of the content, or None where it is sent chunked."""
    return body.content_length if head.content_length is None else head.content_length


def encode_head(head: ForwardedHead, body: Body | None, destination: Endpoint) -> bytes:
    """The bytes of a request's head.

    Raises:
        ClientRequestError: If a part of it holds a line end; nothing is sent.
    """
    fields = head.fields
    pieces = [head.method, b" ", destination.base_path, head.target, b" HTTP/1.1\r\nhost: "]
    pieces.append(head.host or destination.authority)
    for name, value in fields:
        pieces += (b"\r\n", name, b": ", value)
    line_ends = len(fields) + 3
    if body is not None:
        line_ends += 1
        length = _length(head, body)
        if length is None:
            pieces.append(b"\r\ntransfer-encoding: chunked")
        else:
            pieces.append(b"\r\ncontent-length: %d" % length)
    pieces.append(b"\r\n\r\n")
    raw = b"".join(pieces)
    if raw.count(b"\n") != line_ends:
        # Every field was checked where it came in; this is the last look before the wire.
        raise ClientRequestError("a field holds a line end")
    return raw


async def _pump(
    connection: Http1Connection,
    response: Http1Response,
    body: Body,
    length: int | None,
    attempt: Attempt,
) -> None:
    """Send a request's content as it comes, as fast as the upstream takes it."""
    sent = 0
    try:
        while True:
            chunk = await body.read()
            if not chunk:
                break
            attempt.body_consumed = True
            attempt.progress += 1
            sent += len(chunk)
            if length is None:
                connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            else:
                connection.write(chunk)
            await connection.drain()
            if connection.closed:
                return
        if length is None:
            connection.write(b"0\r\n\r\n")
        elif sent != length:
            response.fail(_wrong_length(length, sent))
            connection.close()
            return
        connection.request_sent(response)
    except Exception as error:  # noqa: BLE001 - who waits for the response gets it, unchanged.
        response.fail(error)
        connection.close()


def _wrong_length(length: int, sent: int) -> ClientRequestError:
    return ClientRequestError(
        f"content of {sent} bytes was said to have {length}", stage=Stage.REQUEST_BODY
    )
