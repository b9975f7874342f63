"""``Session``: one WebSocket session in a stub's hands, and the plain way without a stub."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from proxyroutes._serve.match import Found
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.websocket import SessionPlan, SessionSide
from proxyroutes.exceptions import Side
from proxyroutes.transports._websocket_ending import Ending, may_send_code
from proxyroutes.transports._websocket_tunnel import Hook
from proxyroutes.typing import Receive, Scope, Send

__all__ = ["Session", "serve_session"]

_DONE = Ending(Side.GATEWAY, 1000)
_FAILED = Ending(Side.GATEWAY, 1011, "internal error")
_STOPPED = Ending(Side.GATEWAY, 1001, "the gateway stops")


class _Done:
    """What may be awaited and is done."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


class Session:
    """One WebSocket session: the client's side and the upstream's.

    A stub asks for it as ``session: Session``. The upstream is dialled when the stub calls ``open`` or ``relay``; a stub
    that returns without either has its session relayed as it is.

    Source:
        RFC 6455.
    """

    def __init__(self, side: SessionSide) -> None:
        self._side = side
        self._opened: bool | None = None
        self._relayed = False
        self._closed = False

    @property
    def subprotocol(self) -> str | None:
        """What the upstream chose; None where it chose none or the session is not open."""
        record = self._side.record
        return None if record is None else record.subprotocol

    @property
    def request(self) -> ForwardedRequest:
        """The handshake as it is forwarded; editable until the session is opened."""
        return self._side.forwarded()

    async def open(self) -> bool:
        """Dial the upstream, then accept the client with what the upstream chose.

        Returns:
            Whether the session is open. If not, the client has its answer: the upstream's refusal, or the failure.
        """
        if self._opened is None:
            self._opened = not self._closed and await self._side.open()
        return self._opened

    async def relay(
        self, *, from_client: Hook | None = None, from_upstream: Hook | None = None
    ) -> None:
        """Relay messages both ways until one side closes; opens the session if that is still to be done.

        A hook is given each message, ``str`` for text and ``bytes`` for binary, and returns what goes on in its place:
        the same, another one, or None for nothing. It may be asynchronous; the next message of that side waits for it.

        Args:
            from_client: Sees what the client sends.
            from_upstream: Sees what the upstream sends.
        """
        self._relayed = True
        if not await self.open():
            return
        tunnel = self._side.tunnel
        if tunnel is not None:
            tunnel.from_client, tunnel.from_upstream = from_client, from_upstream
            await tunnel.run()

    async def send_to_client(self, message: str | bytes) -> None:
        """Send the client a message that the upstream did not send.

        Raises:
            RuntimeError: If the session is not open.
        """
        await self._tunnel().send_to_client(message)

    async def send_to_upstream(self, message: str | bytes) -> None:
        """Send the upstream a message that the client did not send.

        Raises:
            RuntimeError: If the session is not open.
        """
        await self._tunnel().send_to_upstream(message)

    def _tunnel(self) -> Any:
        if self._side.tunnel is None:
            raise RuntimeError("the session is not open: call open() first")
        return self._side.tunnel

    def close(self, code: int = 1000, reason: str = "") -> _Done:
        """End the session; both sides get the code and the reason. Before it is open, the client is refused with 403.

        It takes effect at once and need not be awaited, but may be.

        Args:
            code: A code that a Close frame may carry (RFC 6455 §7.4): 1000 to 1014 but for 1004 to 1006, 3000 to 4999.
            reason: Up to 123 bytes of UTF-8.

        Raises:
            ValueError: If one of them cannot be sent.
        """
        if not may_send_code(code):
            raise ValueError(f"not a code that a Close frame may carry: {code!r}")
        if len(reason.encode()) > 123:
            raise ValueError(f"a reason has at most 123 bytes of UTF-8: {reason!r}")
        self._closed = True
        if self._side.tunnel is not None:
            self._side.tunnel.end(Ending(Side.GATEWAY, code, reason))
        return _Done()

    async def run(self, stub: Any = None) -> None:
        """Call the stub and relay what it has not; close both sides at its end, whatever happens."""
        otherwise = _FAILED
        try:
            if stub is not None:
                await stub()
            if not self._relayed and not self._closed:
                await self.relay()
            if self._closed and self._opened is None:
                await self._side.refuse()
            otherwise = _DONE
        except asyncio.CancelledError:
            otherwise = _STOPPED
            raise
        finally:
            await self._side.finish(otherwise, at_once=otherwise is _STOPPED)


async def serve_session(
    plan: SessionPlan, found: Found, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve a session from its handshake to its end, with no user code in between."""
    await Session(SessionSide(plan, found, scope, receive, send)).run()
