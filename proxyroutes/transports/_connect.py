"""Opening connections: names are resolved, and addresses raced (RFC 8305 Happy Eyeballs).

Addresses are kept for an interval and resolved again after it, and at once after a connect failure; where the resolver
fails, the last good ones stay.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import define

from proxyroutes.typing import Endpoint

__all__ = ["Addresses", "connect"]

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

_STAGGER = 0.25
"""Seconds until the next address is tried beside the last one (RFC 8305 §5: 250 ms recommended)."""

_logger = logging.getLogger("proxyroutes.transports")


@define(eq=False)
class Addresses:
    """Where a destination is, as far as is known."""

    loop: asyncio.AbstractEventLoop
    destination: Endpoint
    interval: float
    _known: tuple[str, ...] = ()
    _resolved_at: float = 0.0
    _literal: bool | None = None

    async def find(self) -> tuple[str, ...]:
        """The destination's addresses, in the order in which they are tried.

        Raises:
            OSError: If the name was never resolved.
        """
        if self._literal is None:
            self._literal = _is_literal(self.destination.host)
        if self._literal:
            return (self.destination.host,)
        if self._known and self.loop.time() - self._resolved_at < self.interval:
            return self._known
        try:
            found = await self.loop.getaddrinfo(
                self.destination.host, self.destination.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            if not self._known:
                raise
            _logger.warning(
                "resolver failed, keeping the last addresses: host=%s cause=%r",
                self.destination.host,
                error,
            )
        else:
            self._known = _interleave([str(entry[4][0]) for entry in found])
        self._resolved_at = self.loop.time()
        return self._known

    def failed(self) -> None:
        """No address answered: resolve again before the next try."""
        self._resolved_at = -self.interval


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _interleave(addresses: Sequence[str]) -> tuple[str, ...]:
    """Alternate between the families, the resolver's first one first (RFC 8305 §4)."""
    unique = list(dict.fromkeys(addresses))
    first = [one for one in unique if (":" in one) == (":" in unique[0])] if unique else []
    second = [one for one in unique if one not in first]
    mixed: list[str] = []
    for position in range(max(len(first), len(second))):
        mixed.extend(first[position : position + 1])
        mixed.extend(second[position : position + 1])
    return tuple(mixed)


async def connect(
    addresses: Addresses,
    factory: Callable[[], ProtocolT],
    context: ssl.SSLContext | None,
    server_name: str | None,
) -> ProtocolT:
    """Open a connection to a destination.

    Raises:
        OSError: If none of its addresses answers, or TLS fails.
    """
    loop, destination = addresses.loop, addresses.destination
    if destination.socket_path is not None:
        return (await loop.create_unix_connection(factory, destination.socket_path))[1]
    name = (server_name or destination.host) if context is not None else None

    async def one(address: str) -> ProtocolT:
        return (
            await loop.create_connection(
                factory, address, destination.port, ssl=context, server_hostname=name
            )
        )[1]

    found = await addresses.find()
    if len(found) == 1:
        return await one(found[0])
    return await _race(loop, [lambda address=address: one(address) for address in found])  # type: ignore[misc]  # mypy cannot infer a lambda with a default.


async def _race(
    loop: asyncio.AbstractEventLoop, tries: Sequence[Callable[[], asyncio.Future[ProtocolT]]]
) -> ProtocolT:
    """Begin one try after the other until one succeeds; the rest are given up."""
    running: set[asyncio.Task[ProtocolT]] = set()
    left = list(reversed(tries))
    last: BaseException = OSError("the name has no addresses")
    try:
        while left or running:
            if left:
                running.add(loop.create_task(left.pop()(), name="proxyroutes-connect"))  # type: ignore[arg-type]  # A partial of a coroutine function makes one.
            done, running = await asyncio.wait(
                running,
                timeout=_STAGGER if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            won: asyncio.Task[ProtocolT] | None = None
            for task in done:
                error = task.exception()
                if error is not None:
                    last = error
                elif won is None:
                    won = task
                else:
                    _close_when_late(task)
            if won is not None:
                return won.result()
    finally:
        for task in running:
            task.cancel()
        for task in running:
            _close_when_late(task)
    raise last


def _close_when_late(task: asyncio.Task[ProtocolT]) -> None:
    """Close a connection that was opened although nobody wants it any more."""

    def close(late: asyncio.Task[ProtocolT]) -> None:
        if not late.cancelled() and late.exception() is None:
            protocol = late.result()
            if hasattr(protocol, "close"):
                protocol.close()

    task.add_done_callback(close)
