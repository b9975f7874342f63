"""One exchange: its record, its time-outs, and the watch for a client that leaves.

The record is what observers get, once, on every ending. The sweeper calls ``tick``; a time-out or a client that has left
interrupts the task that serves the exchange, wherever it waits, by cancelling it. Who serves it turns that cancellation
back into its reason: ``settle`` does so the way ``asyncio.timeout`` does, so a cancellation that comes from outside stays
one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Protocol

from proxyroutes._state.lease import Lease
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.exceptions import (
    ClientRequestError,
    GatewayError,
    NoDestinationError,
    Side,
    Stage,
    UpstreamTimeoutError,
)
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Attempt, ExchangeRecord, Receive

__all__ = ["ClientLeft", "Exchange", "Held", "Observer", "client_stalled", "drained"]

_logger = logging.getLogger("proxyroutes.serve")


class ClientLeft(Exception):  # noqa: N818 - it is not an error (CONFORMANCE R-31).
    """The client has left: nothing is sent to it, and it counts against nobody."""


def client_stalled(seconds: float) -> ClientRequestError:
    """The refusal of a content that does not come (RFC 9110 §15.5.9)."""
    return ClientRequestError(
        f"the client sent nothing for {seconds} s",
        status_code=408,
        title="Request timeout",
        stage=Stage.REQUEST_BODY,
    )


def drained(attempt: Attempt | None) -> NoDestinationError:
    """What ends an attempt whose destination is taken away."""
    return NoDestinationError(
        "the destination was drained",
        stage=None if attempt is None else attempt.stage,
        sent=attempt is not None and attempt.sent,
        retry_after=1.0,
    )


class Listener(Protocol):
    """Content whose channel can be listened to while nobody reads it."""

    def listen(self) -> asyncio.Task[None] | None:
        """Begin, if there is need to."""
        ...


class Held(Protocol):
    """What an exchange has until its end."""

    def release(self, exchange: Exchange) -> None:
        """The exchange has ended; must not raise."""
        ...


class Exchange(ExchangeRecord):
    """One client request with its response.

    Attributes:
        asked: Seconds on the monotonic clock when a destination was first asked for; 0.0 where nobody wants to know.
        leased: The same for when the last attempt had its destination.
        bodiless: Whether what was asked of the upstream has no content in its response, whatever the client asked with.
        timeouts: The time-outs that hold for it.
        held: What it has until its end, such as its place in a pool.
        patience: Until when something is waited for, in seconds on the clock, and what ends it then; None for ever.
    """

    # What its last attempt holds, so that it can be cut where its destination is taken away.
    lease: Lease | None = None
    # Only where the route asks for its times.
    asked = leased = 0.0
    bodiless = False
    interruption: GatewayError | ClientLeft | None = None
    # Set while the gateway waits for the client, so that a time-out is blamed on the right side.
    client_stalls = False
    # FastAPI and the body pump read the same channel; the watch begins when they are through.
    may_watch = False
    # The content that somebody else reads, if the request has some.
    body: Listener | None = None
    # Heard once; no further attempt forgets it.
    _client_left = False
    # The total time is over: no further attempt.
    expired = False
    held: tuple[Held, ...] = ()
    patience: tuple[float, GatewayError] | None = None
    _watch: asyncio.Task[None] | None = None
    _listener: asyncio.Task[None] | None = None
    _task: asyncio.Task[Any] | None = None
    _cancelling = 0
    _interruptible = False
    _progress = -1
    _idle_since = 0.0
    _ticked = False

    def __init__(
        self,
        route: str,
        method: str,
        receive: Receive,
        timeouts: Timeouts,
        sweeper: Sweeper,
        observers: Sequence[Observer],
    ) -> None:
        self.route = route
        self.method = method
        self.receive = receive
        self._observers = observers
        self.timeouts = timeouts
        self._sweeper = sweeper
        self.loop = sweeper.loop
        # Not the loop's clock: uvloop's has whole milliseconds.
        self.started = monotonic()
        sweeper.add(self)

    def begin_attempt(self, destination: str) -> Attempt:
        """Enter a further attempt."""
        self.attempts += 1
        self.destination = destination
        if self.attempt is not None:
            self.earlier = (*self.earlier, self.attempt)
        if self.asked:
            self.leased = monotonic()
        self.attempt = attempt = Attempt()
        attempt.route, attempt.number, attempt.destination = self.route, self.attempts, destination
        attempt.began_at = monotonic()
        return attempt

    def follow(self, attempt: Attempt) -> None:
        """Time another attempt, of two that are under way."""
        last = self.attempt
        if last is not None and last is not attempt:
            self.earlier = (*[one for one in self.earlier if one is not attempt], last)
        self.attempt = attempt
        self._progress = -1

    def mark_head(self) -> None:
        """The head of the response is there."""
        self.head = monotonic()

    # Interruption.

    def attach(self) -> None:
        """The running task serves this exchange."""
        self._task = task = asyncio.current_task(self.loop)
        self._cancelling = task.cancelling() if task is not None else 0

    def enter(self) -> None:
        """From here on the task waits for this exchange and for nothing else.

        Raises:
            GatewayError: If a time-out has passed in the meantime.
            ClientLeft: If the client has left in the meantime.
        """
        self._interruptible = True
        if self.interruption is not None:
            self._interruptible = False
            raise self.interruption

    def leave(self) -> None:
        """The running task goes on to other things."""
        self._interruptible = False

    def interrupt(self, reason: GatewayError | ClientLeft) -> None:
        """End the exchange for this reason; the first one counts."""
        self._client_left = self._client_left or isinstance(reason, ClientLeft)
        if self.interruption is None:
            self.interruption = reason
            if self.attempt is not None:
                self.attempt.failure = reason
            if self._interruptible and self._task is not None:
                self._interruptible = False
                # Who interrupts from within the task itself raises the reason, and needs no cancellation.
                if self._task is not asyncio.current_task():
                    self._task.cancel()

    def resume(self) -> None:
        """Go on after an interruption that another attempt may mend."""
        self.interruption = ClientLeft() if self._client_left else None
        self._progress = -1

    def settle(self) -> GatewayError | ClientLeft | None:
        """After a cancellation: its reason if it was ours, None if it came from outside."""
        task = self._task
        if self.interruption is None or task is None:
            return None
        return self.interruption if task.uncancel() <= self._cancelling else None

    def reason(self, error: BaseException) -> GatewayError | ClientLeft | None:
        """What ended a wait; None for what is neither the upstream's nor the client's doing."""
        self.leave()
        if isinstance(error, asyncio.CancelledError):
            return self.settle()
        return error if isinstance(error, GatewayError | ClientLeft) else None

    def holds(self, destination: object) -> bool:
        """Whether it holds a lease on this destination."""
        lease = self.lease
        return lease is not None and lease.destination is destination and lease.held

    def cut(self, destination: object) -> bool:
        """End it if it holds a lease on this destination, which is taken away; whether it did."""
        if not self.holds(destination):
            return False
        self.interrupt(drained(self.attempt))
        return True

    # Time.

    def tick(self, now: float) -> None:
        """Look at the time, and begin to watch the client once this has waited longer than a tick."""
        attempt = self.attempt
        progress = 0 if attempt is None else attempt.progress
        progress += self.request_bytes + self.response_bytes
        if progress != self._progress:
            self._progress = progress
            self._idle_since = now
        elif attempt is not None:
            self._check_time(attempt, now)
        total = self.timeouts.total
        if total is not None and monotonic() - self.started >= total:
            self.expired = True
            self._time_out(attempt, "total", total)
        if self.patience is not None and now >= self.patience[0]:
            self.interrupt(self.patience[1])
        if not self._ticked:
            self._ticked = True
        elif self._watch is None:
            if self.may_watch:
                self._watch = self.spawn(self._watch_client(), "watch")
            elif self.body is not None and not self.client_stalls:
                self._listener = self.body.listen() or self._listener

    def _check_time(self, attempt: Attempt, now: float) -> None:
        stage = attempt.stage
        if stage is Stage.CONNECT:
            name, limit = "connect", self.timeouts.connect
        elif stage is Stage.RESPONSE_HEAD:
            name, limit = "first_byte", self.timeouts.first_byte
        else:
            name, limit = "idle", self.timeouts.idle
        if limit is not None and now - self._idle_since >= limit:
            self._time_out(attempt, name, limit)

    def _time_out(self, attempt: Attempt | None, name: str, limit: float) -> None:
        stage = Stage.SELECT if attempt is None else attempt.stage
        if self.client_stalls and stage is Stage.REQUEST_BODY:
            self.interrupt(client_stalled(limit))
            return
        side = Side.CLIENT if self.client_stalls else Side.UPSTREAM
        sent = attempt is not None and attempt.sent
        self.interrupt(
            UpstreamTimeoutError(
                f"{name} time-out after {limit} s", stage=stage, side=side, sent=sent
            )
        )

    def spawn(self, coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Start a task that belongs to this exchange's loop."""
        return self._sweeper.spawn(coroutine, f"proxyroutes-{what}-{self.route}")

    async def _watch_client(self) -> None:
        try:
            while True:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    self.interrupt(ClientLeft())
                    return
        except Exception as error:  # noqa: BLE001 - a receive channel that fails has no client behind it.
            _logger.debug("the receive channel failed: %r", error)
            self.interrupt(ClientLeft())

    # The end.

    def end(self) -> None:
        """Take the exchange out of the sweeper and hand its record to the observers; a second call does nothing."""
        if self.ended:
            return
        self.ended = monotonic()
        self._sweeper.discard(self)
        for one in self.held:
            one.release(self)
        if self._watch is not None:
            self._watch.cancel()
        if self._listener is not None:
            self._listener.cancel()
        for observer in self._observers:
            try:
                observer(self)
            except Exception:
                _logger.exception("an observer of exchanges failed")


Observer = Callable[[Exchange], None]
"""Called once with each ended exchange; must not block."""
