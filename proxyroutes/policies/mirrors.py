"""Mirrors: a copy of some requests for another pool, whose answers no client ever gets."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from attrs import define, frozen
from typing_extensions import override

__all__ = ["ComparedResponse", "Comparison", "Mirror", "MirrorCounts"]

PoolT = TypeVar("PoolT")


@frozen(kw_only=True)
class ComparedResponse:
    """One of two responses to the same request.

    Attributes:
        status: The status.
        headers: Field lines as the upstream sent them, names in lower case.
        body: What came of the content, up to ``max_body_bytes``; coded as it was sent.
        complete: Whether that is all of it.
        seconds: From the start of the exchange to the head of the response.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    complete: bool
    seconds: float


@frozen(kw_only=True)
class Comparison:
    """A request that two pools have answered.

    Attributes:
        route: The route's name.
        method: The request's method.
        target: Its path and query as they were forwarded.
        primary: What the client was answered with.
        shadow: What the mirror's pool has answered to the copy.
    """

    route: str
    method: str
    target: str
    primary: ComparedResponse
    shadow: ComparedResponse


@define(eq=False)
class MirrorCounts:
    """What has become of a mirror's copies, since the process began.

    Attributes:
        sent: Copies that were sent.
        answered: Copies whose answer was read, up to the limit.
        failed: Copies that were sent and not answered: no connection, a time-out, a broken response.
        dropped: Copies that were not sent: too large, too many in flight, or a content that did not come to its end.
        compared: Pairs of answers that the callback has seen.
    """

    sent: int = 0
    answered: int = 0
    failed: int = 0
    dropped: int = 0
    compared: int = 0


class Mirror(Generic[PoolT]):
    """Send a copy of some requests to another pool, and throw its answers away.

    The request itself goes its way as if there were no mirror: a copy is sent beside it, from a content that was kept
    while the upstream read it, and whatever the mirror's pool does (refuse, hang, break) no client notices. Copies carry
    ``X-Proxyroutes-Shadow: 1``, which a client cannot send, and the same ``Host``, path and fields. They do what requests
    do: mirror those that change something only to a service that has a database of its own.

    A handle: given to a group or a proxy, all of its routes share the counts and the limit of copies in flight.

    Args:
        to: The pool that gets the copies. Its leases, limits and time-outs are its own.
        share: Share of the requests that is copied, from 0.0 to 1.0.
        max_body_bytes: Bytes of content that are kept for a copy; a request with more is not copied. Of a response so
            many are read.
        max_in_flight: Copies at once; further ones are dropped.
        timeout: Seconds for a copy, from its start to the end of its response.
        compare: Called with each pair of answers, in the copy's own time: the client has its answer already, or gets it
            meanwhile. An ordinary function must not block; it may be asynchronous. What it raises is logged.

    Attributes:
        counts: What has become of the copies.

    Raises:
        TypeError: If ``compare`` cannot be called.
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        to: PoolT,
        *,
        share: float = 1.0,
        max_body_bytes: int = 262_144,
        max_in_flight: int = 64,
        timeout: float = 10.0,
        compare: Callable[[Comparison], Awaitable[None] | None] | None = None,
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share is from 0.0 to 1.0: {share!r}")
        if max_body_bytes < 0:
            raise ValueError(f"max_body_bytes must be at least 0: {max_body_bytes!r}")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1: {max_in_flight!r}")
        if not 0.0 < timeout < math.inf:
            raise ValueError(f"timeout must be greater than 0 seconds: {timeout!r}")
        if compare is not None and not callable(compare):
            raise TypeError(f"compare is a function of a Comparison, not {compare!r}")
        self.to = to
        self.share = share
        self.max_body_bytes = max_body_bytes
        self.max_in_flight = max_in_flight
        self.timeout = timeout
        self.compare = compare
        self.counts = MirrorCounts()

    @override
    def __repr__(self) -> str:
        return f"<Mirror to={self.to!r} share={self.share:g}>"
