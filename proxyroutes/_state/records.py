"""What is recorded of one exchange: the facts that observers get at its end, and what follows from them.

The facts are plain attributes, because most of them are written on every request; whatever can be worked out of them is
worked out when somebody asks. ``_serve`` adds how an exchange is carried out.
"""

from __future__ import annotations

from proxyroutes.exceptions import GatewayError
from proxyroutes.typing import Attempt, Scope

__all__ = ["Record"]


class Record:
    """The facts of one exchange or session.

    Times are seconds on the monotonic clock, 0.0 where they have not come; durations are seconds, None where they have
    no meaning.

    Attributes:
        route: The route's name.
        method: The request's method.
        scope: The received request, or None where there was none to keep.
        pool: The pool's name, or None before one was chosen.
        destination: The last destination's origin, or None.
        status: The status that the client was answered with; 499 where it had left; None before.
        error: Why it failed, or None.
        whole: Whether the answer was handed over to its last byte.
        attempts: Number of attempts.
        attempt: The last attempt, or None.
        earlier: The attempts before it, first one first.
        started: When it began.
        connected: When the last attempt had a connection.
        head: When the head of the response was there.
        relayed: When the relay of the response began.
        ended: When it ended.
        queued: Seconds for which it waited for a place in its pool.
        request_bytes: Bytes of content received.
        response_bytes: Bytes of content relayed.
    """

    # Class attributes are what an exchange begins with: most of it is never written for one that is fast and goes well.
    route = method = ""
    scope: Scope | None = None
    pool: str | None = None
    destination: str | None = None
    status: int | None = None
    error: GatewayError | None = None
    whole = False
    attempts = 0
    attempt: Attempt | None = None
    earlier: tuple[Attempt, ...] = ()
    started = connected = head = relayed = ended = queued = 0.0
    request_bytes = response_bytes = 0

    @property
    def tries(self) -> tuple[Attempt, ...]:
        """Every attempt, first one first."""
        return self.earlier if self.attempt is None else (*self.earlier, self.attempt)

    @property
    def cause(self) -> str | None:
        """Why it did not end well, in one word of few; None where it did.

        The word is the ``slug`` of the error (``upstream-timeout``, ``no-destination`` and so on), ``client-left``, or
        ``abandoned`` where nobody waited for the end: the server was stopped, or a stub gave the response up.
        """
        if self.error is not None:
            return self.error.slug
        if self.whole:
            return None
        return "client-left" if self.status == 499 else "abandoned"

    @property
    def connect_seconds(self) -> float | None:
        """How long the last attempt took to have a connection; next to nothing where it had one already."""
        attempt = self.attempt
        if attempt is None or not attempt.connected_at:
            return None
        return max(0.0, attempt.connected_at - attempt.began_at)

    @property
    def first_byte_seconds(self) -> float | None:
        """From the last attempt's connection to the head of its response; the request's content is sent within it."""
        attempt = self.attempt
        if attempt is None or not attempt.connected_at or not self.head:
            return None
        return max(0.0, self.head - attempt.connected_at)

    @property
    def total_seconds(self) -> float:
        """From its beginning to its end."""
        return max(0.0, self.ended - self.started)

    @property
    def overhead_seconds(self) -> float:
        """What the gateway itself has added before the first byte of the answer.

        The time before the first attempt, without the wait for a place, and the time between the response's head and
        its relay; a stub's own work is in it. All of it where nothing was asked of an upstream.
        """
        tries = self.tries
        if not tries:
            return max(0.0, self.total_seconds - self.queued)
        before = tries[0].began_at - self.started - self.queued
        after = self.relayed - self.head if self.relayed and self.head else 0.0
        return max(0.0, before) + max(0.0, after)
