"""What carries the messages of one session: a pump in each direction, and the watch over its time.

A pump takes the next message only after the last one was taken on its other side, so that who does not read stops who
sends. It knows an ASGI channel and a connection, and nothing of routes or requests.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, cast

from proxyroutes.exceptions import Side
from proxyroutes.transports._websocket_connection import WebSocketConnection
from proxyroutes.transports._websocket_ending import LOST, NO_CODE, Ending, may_send_code, size_of
from proxyroutes.transports.websocket import SessionSettings
from proxyroutes.typing import Message, Receive, Send

__all__ = ["Counts", "Hook", "Tunnel", "client_close", "upstream_close"]

_logger = logging.getLogger("proxyroutes.serve")

Hook: TypeAlias = Callable[[str | bytes], str | bytes | Awaitable[str | bytes | None] | None]
"""Given each message of one side; what it returns goes on in its place, None nothing."""

_TOO_BIG = Ending(Side.GATEWAY, 1009, "message too big")
_GONE_WAIT = 0.5
"""Seconds in which a server that takes nothing more says why."""


class Counts(Protocol):
    """What is counted of a session, and whom it holds."""

    request_bytes: int
    response_bytes: int
    request_messages: int
    response_messages: int

    def holds(self, destination: object) -> bool:
        """Whether the session is with this destination."""
        ...


class Tunnel:
    """Both directions of one session.

    Args:
        receive: The client's messages.
        send: To the client, whose handshake is accepted.
        connection: The upstream's side, accepted too.
        settings: The route's.
        counts: Where messages and bytes are counted.

    Attributes:
        ending: How the session ends, or None while it lasts.
        from_client: Sees what the client sends, or None.
        from_upstream: Sees what the upstream sends, or None.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        connection: WebSocketConnection,
        settings: SessionSettings,
        counts: Counts,
    ) -> None:
        self._receive = receive
        self._send = send
        self._connection = connection
        self._settings = settings
        self._counts = counts
        self.ending: Ending | None = None
        self.from_client: Hook | None = None
        self.from_upstream: Hook | None = None
        self._upward: asyncio.Task[None] | None = None
        self._activity = -1
        self._events = 0
        self._active_at = self._heard_at = self._began_at = self._asked_at = 0.0
        self._asked = False
        connection.stop = self.end

    def end(self, ending: Ending) -> None:
        """End the session; the first reason counts. May be called from anywhere, more than once."""
        if self.ending is None:
            self.ending = ending
            if self._upward is not None and self._upward is not asyncio.current_task():
                self._upward.cancel()

    def cut(self, destination: object) -> bool:
        """End the session if it is with this destination, which is taken away; whether it was."""
        if self.ending is not None or not self._counts.holds(destination):
            return False
        self.end(Ending(Side.GATEWAY, 1001, "the destination was drained"))
        return True

    async def run(self) -> None:
        """Relay until the session ends; ``ending`` says how.

        Raises:
            Exception: What a hook raised.
        """
        if self.ending is not None:
            return
        loop = asyncio.get_running_loop()
        main = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelling = main.cancelling()
        # Tasks of their own, because each message wakes all coroutines of its task, and FastAPI has a score of them.
        upward = loop.create_task(self._to_upstream(), name="proxyroutes-session-upward")
        pump = loop.create_task(self._to_client(), name="proxyroutes-session")
        pump.add_done_callback(self._pump_failed)
        self._upward = upward
        try:
            await upward
        except asyncio.CancelledError:
            # As asyncio.timeout does it: a cancellation from outside stays one.
            if self.ending is None or main.cancelling() > cancelling:
                raise
        finally:
            self._upward = None
            upward.cancel()
            pump.cancel()
            await asyncio.wait({upward, pump})
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    def _pump_failed(self, pump: asyncio.Task[None]) -> None:
        if not pump.cancelled() and pump.exception() is not None:
            self.end(Ending(Side.GATEWAY, 1011, "internal error"))

    # The pumps. A message is let go of before the next one is waited for: an idle session holds none of 16 MiB.

    async def _to_upstream(self) -> None:
        receive, connection, counts = self._receive, self._connection, self._counts
        limit = self._settings.max_message_bytes
        while self.ending is None:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                self.end(_client_ending(event))
                return
            if event["type"] != "websocket.receive":
                continue
            self._events += 1
            message: str | bytes | None = event.get("text")
            if message is None:
                message = event.get("bytes") or b""
            if self.from_client is not None:
                message = await apply(self.from_client, message)
                if message is None:
                    del event
                    continue
            content = message.encode() if isinstance(message, str) else message
            if limit is not None and len(content) > limit:
                self.end(_TOO_BIG)
                return
            counts.request_messages += 1
            counts.request_bytes += len(content)
            connection.send(content, is_text=isinstance(message, str))
            del event, message, content
            if connection.writing_paused:
                await connection.drain()

    async def _to_client(self) -> None:
        connection, counts = self._connection, self._counts
        while True:
            received = await connection.receive()
            if isinstance(received, Ending):
                self.end(received)
                return
            message: str | bytes | None = received
            if self.from_upstream is not None:
                message = await apply(self.from_upstream, received)
            if message is None:
                del received
                continue
            counts.response_messages += 1
            counts.response_bytes += (
                connection.received_bytes if message is received else size_of(message)
            )
            # As ``send_to_client`` does it, without a coroutine more for each message.
            try:
                await self._send(_event_of(message))
            except Exception as error:  # noqa: BLE001 - as there.
                await self._lose_client(error)
                return
            del received, message

    async def send_to_client(self, message: str | bytes) -> None:
        """Send a message to the client."""
        try:
            await self._send(_event_of(message))
        except Exception as error:  # noqa: BLE001 - each server has an exception of its own for a client that is gone.
            await self._lose_client(error)

    async def _lose_client(self, error: Exception) -> None:
        _logger.debug("the client takes no more messages: %r", error)
        # The other pump is told with which code; if it is not, the client is as good as lost.
        await asyncio.sleep(_GONE_WAIT)
        self.end(Ending(Side.CLIENT, LOST))

    async def send_to_upstream(self, message: str | bytes) -> None:
        """Send a message to the upstream, and wait until it reads."""
        content = message.encode() if isinstance(message, str) else message
        self._connection.send(content, is_text=isinstance(message, str))
        if self._connection.writing_paused:
            await self._connection.drain()

    # Time.

    def tick(self, now: float) -> None:
        """Look at the time: silence, pings, and how long the session lasts."""
        connection, settings = self._connection, self._settings
        activity = connection.activity + self._events + self._counts.response_messages
        if self._activity == -1:
            self._began_at = now
        if activity != self._activity:
            self._activity = activity
            self._active_at = self._heard_at = now
            self._asked = False
        elif settings.idle is not None and now - self._active_at >= settings.idle:
            self.end(Ending(Side.GATEWAY, 1001, f"idle for {settings.idle:g} s"))
        elif not connection.hears:
            # Who is not read, because the client does not read, cannot be heard.
            self._heard_at = now
            self._asked = False
        elif self._asked:
            if now - self._asked_at >= settings.ping_timeout:
                self.end(Ending(Side.UPSTREAM, LOST, "no pong"))
        elif settings.ping_interval is not None and now - self._heard_at >= settings.ping_interval:
            self._asked = True
            self._asked_at = now
            connection.ping()
        if settings.total is not None and now - self._began_at >= settings.total:
            self.end(Ending(Side.GATEWAY, 1001, f"lasted {settings.total:g} s"))


def _event_of(message: str | bytes) -> Message:
    if isinstance(message, str):
        return {"type": "websocket.send", "text": message}
    return {"type": "websocket.send", "bytes": message}


async def apply(hook: Hook, message: str | bytes) -> str | bytes | None:
    """Have a message seen by a hook, which may be asynchronous."""
    result = hook(message)
    return await result if inspect.isawaitable(result) else result


def _client_ending(event: Message) -> Ending:
    if event.get("code", NO_CODE) == NO_CODE and "reason" not in event:
        # uvicorn says 1005 of a connection that was lost too, but has no reason to give then.
        return Ending(Side.CLIENT, LOST)
    return Ending(Side.CLIENT, event.get("code") or NO_CODE, event.get("reason") or "")


def client_close(ending: Ending) -> tuple[int, str]:
    """Code and reason of the client's Close frame, for a session that the client did not end."""
    if ending.code == NO_CODE:
        # ASGI has no Close without a code; 1000 is what its absence means there.
        return 1000, ""
    if ending.code == LOST:
        return 1011, "the upstream's connection was lost"
    if ending.faulty and ending.code != 1009:
        return 1011, "the upstream broke the protocol"
    return ending.code, ending.reason or ("message too big" if ending.faulty else "")


def upstream_close(ending: Ending) -> tuple[int | None, str]:
    """Code and reason of the upstream's Close frame, for a session that the upstream did not end."""
    if ending.code == NO_CODE:
        return None, ""
    # 1006 is a client that vanished. 1012 is what servers say of their own stop, to us and not for the upstream.
    if ending.code in {LOST, 1012} or not may_send_code(ending.code):
        return 1001, ""
    return ending.code, ending.reason
