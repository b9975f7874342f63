"""The relay: an upstream's response on its way to the client, with all that is let go of at its end.

Once the head is sent there is no second answer: what breaks then breaks the client's connection, so that a cut response
never looks complete (RFC 9112 §8).
"""

from __future__ import annotations

import asyncio
from time import monotonic

from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.fields import filter_response, has_bad_name, has_bad_value
from proxyroutes._serve.location import map_location
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.messages import take_steps
from proxyroutes._serve.steps.streams import FilteredResponse
from proxyroutes._state.pools import Lease
from proxyroutes.exceptions import GatewayError, RelayInterruptedError, Side, UpstreamProtocolError
from proxyroutes.typing import Fields, Receive, Send, UpstreamResponse

__all__ = ["Answer", "server_fields"]

_BOTH = frozenset({b"date", b"server"})
_NEITHER: frozenset[bytes] = frozenset()


def server_fields(receive: Receive) -> frozenset[bytes]:
    """Which of ``Date`` and ``Server`` the server in front adds by itself (CONFORMANCE H-44).

    uvicorn adds them to every response and keeps them at the object behind its channel, where its flags can be read off.
    Every other server that is known adds them unless told otherwise.
    """
    defaults = getattr(getattr(receive, "__self__", None), "default_headers", None)
    if defaults is None:
        return _BOTH
    if len(defaults) == 2 and defaults[0][0] == b"date" and defaults[1][0] == b"server":
        return _BOTH
    return frozenset([name for name, _ in defaults]) if defaults else _NEITHER


class Answer:
    """A response whose head has come.

    Attributes:
        exchange: Its exchange.
        upstream: The response as the transport gives it.
        status: The status that is relayed.
        fields: The field lines that are relayed.
        filtered: The same response, where its content is filtered.
    """

    __slots__ = ("_found", "_lease", "exchange", "fields", "filtered", "status", "upstream")

    def __init__(self, exchange: Exchange, upstream: UpstreamResponse, lease: Lease) -> None:
        self.exchange = exchange
        self.upstream = upstream
        self._lease: Lease | None = lease
        self.status = upstream.status
        self.fields: Fields = upstream.fields
        self._found: Found | None = None
        self.filtered: FilteredResponse | None = None
        exchange.mark_head()

    def prepare(self, plan: Plan, found: Found | None, *, filtered: bool = True) -> None:
        """Filter and map the fields, and have the content filtered.

        Args:
            plan: Its route.
            found: Its match, or None.
            filtered: Whether it has a content that filters may be meant for.

        Raises:
            GatewayError: If the response has a field that no server may send on, or a content that cannot be filtered.
        """
        exchange = self.exchange
        self._found = found
        try:
            if not self.upstream.strict:
                self._check()
            self.fields = filter_response(
                self.fields,
                self.status,
                server_fields=server_fields(exchange.receive),
                relocate=self._relocate if plan.map_location and found is not None else None,
            )
            lease = self._lease
            if lease is not None and (
                plan.steps is not None or lease.lender.transforms is not None
            ):
                names = server_fields(exchange.receive)
                take_steps(self, plan, found, lease, names, filtered=filtered)
        except BaseException as error:
            # Policies and filters are user code, and may raise anything: nothing is kept then.
            self.give_up(error)
            raise

    def _relocate(self, value: bytes) -> bytes:
        found, lease = self._found, self._lease
        if found is None or lease is None:
            return value
        return map_location(value, found, lease.destination)

    def _check(self) -> None:
        origin = self.exchange.destination
        if not 200 <= self.status <= 599:
            raise UpstreamProtocolError(
                f"not a final status: {self.status}", sent=True, destination=origin
            )
        if any(has_bad_name(name) or has_bad_value(value) for name, value in self.fields):
            raise UpstreamProtocolError(
                "a field that cannot be sent on", sent=True, destination=origin
            )

    async def relay(self, send: Send) -> None:
        """Send the response on, to its last byte.

        Raises:
            GatewayError: If it was interrupted before the head was sent.
            RelayInterruptedError: If it broke after that.
            ClientLeft: If the client left.
        """
        exchange = self.exchange
        upstream = self.upstream
        started = False
        try:
            exchange.enter()
            started = True
            exchange.relayed = monotonic()
            await send(
                {"type": "http.response.start", "status": self.status, "headers": self.fields}
            )
            exchange.status = self.status
            if self.status == 205:
                # Whatever the upstream sent after it is not content; its connection is closed.
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif upstream.complete:
                content = upstream.take()
                exchange.response_bytes = len(content)
                await send({"type": "http.response.body", "body": content, "more_body": False})
            else:
                await self._stream(send)
            exchange.whole = True
        except asyncio.CancelledError as error:
            reason = exchange.settle()
            if reason is None:
                raise
            self._break(reason, error, started=started)
        except GatewayError as error:
            self._break(error, error, started=started)
        finally:
            exchange.leave()
            self.close()

    async def _stream(self, send: Send) -> None:
        exchange = self.exchange
        upstream = self.upstream
        while True:
            chunk = await upstream.read()
            if not chunk:
                break
            exchange.response_bytes += len(chunk)
            exchange.client_stalls = True
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            exchange.client_stalls = False
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def blame(self, reason: GatewayError | ClientLeft) -> None:
        """Say whether the destination is to blame for how it ended."""
        if self._lease is not None and isinstance(reason, GatewayError):
            self._lease.failed = reason.side is Side.UPSTREAM

    def _break(
        self, reason: GatewayError | ClientLeft, cause: BaseException, *, started: bool
    ) -> None:
        self.blame(reason)
        if isinstance(reason, ClientLeft) or not started:
            raise reason from (reason.__cause__ if isinstance(reason, GatewayError) else None)
        interrupted = RelayInterruptedError(
            reason.detail,
            stage=reason.stage,
            side=reason.side,
            sent=True,
            destination=self.exchange.destination,
        )
        raise interrupted from (reason if reason is not cause else cause)

    def give_up(self, error: BaseException) -> None:
        """Let go of a response that is not relayed because of an error."""
        if self._lease is not None and isinstance(error, GatewayError):
            self._lease.failed = error.side is Side.UPSTREAM
        self.close()

    def close(self) -> None:
        """Let go of the response and its lease; a second call does nothing. Who opened the exchange ends it."""
        lease = self._lease
        if lease is not None:
            self._lease = None
            self.upstream.abort()
            lease.release()
