"""How each kind of check asks a destination once. When it is asked, and what follows, is the prober's part."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, cast

from attrs import define, frozen
from typing_extensions import override

from proxyroutes.settings import Check, Destination, FunctionCheck, HealthCheck, Timeouts
from proxyroutes.transports._connect import Addresses, connect
from proxyroutes.typing import (
    Attempt,
    BoundTransport,
    Endpoint,
    Field,
    ForwardedHead,
    UpstreamResponse,
)

__all__ = ["Finding", "Probed", "ask"]

_MOST_CONTENT_BYTES = 1024 * 1024
"""Content of a probe's answer; what is well has no more to say."""
_FIELDS: list[Field] = [(b"user-agent", b"proxyroutes (health check)"), (b"accept", b"*/*")]
# The time is kept by who asks: no time-out of the transport's own must come before.
_UNLIMITED = Timeouts(connect=None, first_byte=None, idle=None, total=None)


@frozen
class Finding:
    """What one probe came to.

    Attributes:
        passed: Whether the destination is well.
        reason: Why.
        weight: The weight that the check gives it, or None.
    """

    passed: bool
    reason: str
    weight: float | None = None


class Probed(Endpoint, Protocol):
    """A destination as checks need it."""

    @property
    def recipe(self) -> Destination:
        """As it was declared."""
        ...


async def ask(
    check: Check, method: str, transport: BoundTransport, endpoint: Probed
) -> tuple[Finding, str]:
    """Probe once.

    Args:
        check: How.
        method: The method that it has come to; a check by HTTP may change it.
        transport: How requests are sent to the destination.
        endpoint: The destination.

    Returns:
        What it came to, and the method for the next time.

    Raises:
        Exception: Whatever goes wrong; that is a failure of the probe.
    """
    if isinstance(check, HealthCheck):
        return await _ask_http(check, method, transport, endpoint)
    if isinstance(check, FunctionCheck):
        return _judge(await check.function(endpoint.recipe)), method
    return await _ask_tcp(endpoint), method


# HTTP.


@define
class _Content:
    """The content of a probe."""

    left: bytes

    @property
    def content_length(self) -> int:
        return len(self.left)

    async def read(self) -> bytes:
        content, self.left = self.left, b""
        return content


async def _ask_http(
    check: HealthCheck, method: str, transport: BoundTransport, endpoint: Endpoint
) -> tuple[Finding, str]:
    status, small = await _exchange(check, method, transport, endpoint)
    if status in {405, 501} and method == "HEAD" and not check.expects(status):
        # RFC 9110 §9.1 has every general-purpose server support GET and HEAD; many do not. Asked once, remembered.
        method = "GET"
        status, small = await _exchange(check, method, transport, endpoint)
    if not check.expects(status):
        return Finding(passed=False, reason=f"status {status}"), method
    if not small:
        return Finding(passed=False, reason="more than 1 MiB of content"), method
    return Finding(passed=True, reason=f"status {status}"), method


async def _exchange(
    check: HealthCheck, method: str, transport: BoundTransport, endpoint: Endpoint
) -> tuple[int, bool]:
    """The status, and whether there was not too much content."""
    body = None if check.body is None else _Content(check.body)
    length = None if body is None else body.content_length
    head = ForwardedHead(
        method.encode("ascii"), check.path.encode("ascii"), list(_FIELDS), None, length
    )
    response = await transport.send(head, body, endpoint, _UNLIMITED, Attempt())
    try:
        return response.status, await _is_small(response)
    finally:
        response.abort()


async def _is_small(response: UpstreamResponse) -> bool:
    """Read the content, so that its connection can be used again; more than is looked at closes it."""
    left = _MOST_CONTENT_BYTES
    while left >= 0:
        chunk = await response.read()
        if not chunk:
            return True
        left -= len(chunk)
    return False


# TCP.


class _Knock(asyncio.Protocol):
    """A connection that is closed as soon as it is open."""

    transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def close(self) -> None:
        if self.transport is not None:
            # Nothing was sent: there is nothing to wait for.
            self.transport.abort()


async def _ask_tcp(endpoint: Endpoint) -> Finding:
    addresses = Addresses(asyncio.get_running_loop(), endpoint, 0.0)
    knock = await connect(addresses, _Knock, None, None)
    knock.close()
    return Finding(passed=True, reason="connected")


# Functions.


def _judge(answer: object) -> Finding:
    if answer is None or answer is True:
        return Finding(passed=True, reason="the check has passed")
    if answer is False:
        return Finding(passed=False, reason="the check has failed")
    if not isinstance(answer, int | float):
        raise TypeError(
            f"a check gives True, False, None or a weight, not {type(answer).__name__}"
        )
    if answer == 0:
        return Finding(passed=False, reason="weight 0")
    if not 0 < answer < math.inf:
        raise ValueError(f"not a weight: {answer!r}")
    return Finding(passed=True, reason=f"weight {answer:g}", weight=float(answer))
