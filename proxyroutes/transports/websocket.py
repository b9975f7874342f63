"""WebSocket connections to the destinations of a pool: dialled one a session, never shared, closed with the pool.

Connections are in ``_websocket_connection``, the handshake in ``_websocket_handshake``, and what carries messages between
both sides of a session in ``_websocket_tunnel``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

from attrs import frozen
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State
from websockets.uri import parse_uri

from proxyroutes.exceptions import UpstreamConnectError
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.transports._connect import Addresses, connect
from proxyroutes.transports._tls import make_ssl_context
from proxyroutes.transports._websocket_connection import WebSocketConnection
from proxyroutes.transports._websocket_handshake import encode_handshake
from proxyroutes.typing import Attempt, Body, Endpoint, ForwardedHead

__all__ = ["BoundSessions", "BoundWebSockets", "Dialler", "SessionSettings"]

_RESOLVE_INTERVAL = 30.0
# The engine composes no request here; it only wants to know an address.
_NOWHERE = parse_uri("ws://upstream/")


@frozen(kw_only=True)
class SessionSettings:
    """What a route says of its sessions.

    Attributes:
        max_message_bytes: Bytes of the largest message in either direction; None is no limit.
        ping_interval: Seconds without a sign of life after which the upstream is asked for one; None never asks.
        ping_timeout: Seconds for the answer.
        close_timeout: Seconds for the other side's part of a closing handshake.
        compression: Whether permessage-deflate (RFC 7692) is offered to the upstream.
        idle: Seconds without any frame after which a session is closed; None is no limit.
        total: Seconds that a session may last; None is no limit.
    """

    max_message_bytes: int | None = 16 * 1024 * 1024
    ping_interval: float | None = 20.0
    ping_timeout: float = 20.0
    close_timeout: float = 5.0
    compression: bool = False
    idle: float | None = None
    total: float | None = None


class BoundSessions(Protocol):
    """The sessions of one pool on one loop, over sockets or with an application in the same process."""

    async def connect(
        self,
        head: ForwardedHead,
        destination: Endpoint,
        attempt: Attempt,
        settings: SessionSettings,
        subprotocols: Sequence[str] = (),
    ) -> Any:
        """Ask for a session; see ``BoundWebSockets.connect``."""
        ...

    def forget(self, destination: Endpoint) -> None:
        """Forget what is known of a destination that is gone; its sessions go on."""
        ...

    async def aclose(self) -> None:
        """End every session."""
        ...


class BoundWebSockets:
    """The sessions' connections of one pool on one loop.

    Args:
        loop: The event loop.
        tls: How TLS is spoken with ``https`` destinations.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: TLS | None) -> None:
        self._loop = loop
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._addresses: dict[Endpoint, Addresses] = {}
        self._connections: set[WebSocketConnection] = set()
        self._empty: asyncio.Future[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._connections)

    async def connect(
        self,
        head: ForwardedHead,
        destination: Endpoint,
        attempt: Attempt,
        settings: SessionSettings,
        subprotocols: Sequence[str] = (),
    ) -> WebSocketConnection:
        """Open a connection and ask for a session.

        Args:
            head: Target and fields, those of the handshake not among them.
            destination: Where to.
            attempt: The facts that are recorded.
            settings: The route's.
            subprotocols: What the client offers, in order.

        Returns:
            A connection with ``status`` 101, or one that is over, with the status, fields and content of the refusal.

        Raises:
            UpstreamConnectError: If there is no connection: nothing was sent.
            UpstreamProtocolError: If the answer is none that a WebSocket server gives.
        """
        extensions = None
        if settings.compression:
            extensions = [ClientPerMessageDeflateFactory(compress_settings={"memLevel": 5})]
        engine = ClientProtocol(
            _NOWHERE,
            extensions=extensions,
            subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]  # They are of a NewType.
            # The handshake is read by llhttp; the engine begins behind it.
            state=State.OPEN,
            max_size=settings.max_message_bytes,
        )
        raw = encode_handshake(head, engine, subprotocols, destination)
        connection = await self._open(engine, destination, settings)
        attempt.connected = True
        attempt.connected_at = monotonic()
        try:
            await connection.open(raw, attempt)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _open(
        self, engine: ClientProtocol, destination: Endpoint, settings: SessionSettings
    ) -> WebSocketConnection:
        addresses = self._addresses.get(destination)
        if addresses is None:
            addresses = Addresses(self._loop, destination, _RESOLVE_INTERVAL)
            self._addresses[destination] = addresses

        def make() -> WebSocketConnection:
            return WebSocketConnection(
                engine, settings.close_timeout, self._forget, settings.max_message_bytes
            )

        try:
            if self._context is None and destination.secure:
                self._context = make_ssl_context(self._tls)
            connection = await connect(
                addresses,
                make,
                self._context if destination.secure else None,
                self._tls.server_name if self._tls is not None else None,
            )
        except OSError as error:
            addresses.failed()
            raise UpstreamConnectError(str(error) or type(error).__name__) from error
        if self._closed:
            connection.abort()
            raise UpstreamConnectError("the pool is closed")
        self._connections.add(connection)
        return connection

    def forget(self, destination: Endpoint) -> None:
        """Forget what is known of a destination that is gone; its sessions go on."""
        self._addresses.pop(destination, None)

    def _forget(self, connection: WebSocketConnection) -> None:
        self._connections.discard(connection)
        if not self._connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def aclose(self, grace: float = 3.0) -> None:
        """End every session with 1001, and after the grace time without.

        Args:
            grace: Seconds for the sessions to end.
        """
        self._closed = True
        for connection in tuple(self._connections):
            connection.shut_down()
        if self._connections:
            self._empty = self._loop.create_future()
            await asyncio.wait({self._empty}, timeout=grace)
        for connection in tuple(self._connections):
            connection.abort()
        # asyncio closes a socket one turn after its transport; nobody may find it open after this.
        await asyncio.sleep(0)


class Dialler:
    """The connections of a pool as one session's attempts are given them: what is sent is a handshake.

    Args:
        sockets: The pool's connections, or an application's sessions.
        settings: The route's.
        subprotocols: What the client offers.
    """

    __slots__ = ("_settings", "_sockets", "_subprotocols")

    def __init__(
        self, sockets: BoundSessions, settings: SessionSettings, subprotocols: Sequence[str]
    ) -> None:
        self._sockets = sockets
        self._settings = settings
        self._subprotocols = subprotocols

    async def send(
        self,
        head: ForwardedHead,
        body: Body | None,
        destination: Endpoint,
        timeouts: Timeouts,
        attempt: Attempt,
    ) -> Any:
        """Dial one destination; see ``BoundWebSockets.connect``."""
        del body, timeouts
        return await self._sockets.connect(
            head, destination, attempt, self._settings, self._subprotocols
        )
