"""Two attempts at a time: the second one begins where the first one is slow, and the first good answer wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxyroutes._serve.exchange import Exchange, drained
from proxyroutes._state.lease import Lease
from proxyroutes._state.pools import DestinationState, PoolState
from proxyroutes.exceptions import GatewayError, Side
from proxyroutes.policies.retries import IDEMPOTENT
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Attempt, ForwardedHead, UpstreamResponse

__all__ = ["HedgedTry", "Race", "may_hedge"]

Sending = Callable[[DestinationState, Attempt], Awaitable[UpstreamResponse]]


def may_hedge(head: ForwardedHead) -> bool:
    """Whether a request may be sent twice at a time."""
    return head.method.decode("ascii") in IDEMPOTENT


class HedgedTry:
    """One of two attempts, in a task of its own.

    Attributes:
        lease: Its lease.
        attempt: Its facts.
        task: Done when it has come to something.
        upstream: The response, if there is one.
        error: What was raised, if something was.
    """

    def __init__(self, exchange: Exchange, lease: Lease, send: Sending) -> None:
        self.lease = lease
        self.attempt = exchange.begin_attempt(lease.destination.origin)
        self.upstream: UpstreamResponse | None = None
        self.error: BaseException | None = None
        self._given_up = False
        self.task = exchange.spawn(self._run(send), "hedge")

    async def _run(self, send: Sending) -> None:
        try:
            self.upstream = await send(self.lease.destination, self.attempt)
        except BaseException as error:  # noqa: BLE001 - who waits for it raises it.
            self.error = self.error or error
        if self._given_up and self.upstream is not None:
            # It came in the very turn in which it was given up.
            self.upstream.abort()
            self.upstream = None

    @property
    def is_over(self) -> bool:
        """Whether it has come to something."""
        return self.upstream is not None or self.error is not None

    def interrupt(self, error: BaseException) -> None:
        """Abort it at once, for this reason; its lease is still held."""
        self._given_up = True
        self.task.cancel()
        if self.upstream is not None:
            self.upstream.abort()
        self.upstream, self.error = None, error

    def tick(self, now: float) -> None:
        """Its exchange looks at the time."""

    def cut(self, destination: object) -> bool:
        """End it alone if it asks this destination, which is taken away; whether it did."""
        if self.is_over or self.lease.destination is not destination:
            return False
        self.attempt.failure = error = drained(self.attempt)
        self.interrupt(error)
        self.lease.release()
        return True

    def give_up(self) -> None:
        """Abort it at once. One that has failed is charged with it; one that was only slower is not."""
        self._given_up = True
        self.task.cancel()
        if isinstance(self.error, GatewayError):
            self.lease.failed = self.error.side is Side.UPSTREAM
            self.lease.destination.trust = 0
        if self.upstream is not None:
            self.lease.status = self.upstream.status
            self.upstream.abort()
        self.lease.release()


class Race:
    """Two attempts of one exchange; whoever makes it waits for it once.

    Args:
        exchange: Whose they are.
        state: The pool.
        head: What is sent.
        timeouts: The time-outs that hold.
        statuses: Those of a response that is taken only where the other attempt comes to nothing better.
    """

    def __init__(
        self,
        exchange: Exchange,
        state: PoolState,
        head: ForwardedHead,
        timeouts: Timeouts,
        statuses: frozenset[int],
    ) -> None:
        self._exchange = exchange
        self._state = state
        self._head = head
        self._timeouts = timeouts
        self._statuses = statuses
        self.tries: list[HedgedTry] = []

    def _begin(self, lease: Lease) -> None:
        self.tries.append(HedgedTry(self._exchange, lease, self._send))
        self._state.sweeper.add(self.tries[-1])

    def _send(self, one: DestinationState, attempt: Attempt) -> Awaitable[UpstreamResponse]:
        return self._state.transport.send(self._head, None, one, self._timeouts, attempt)

    def _is_good(self, one: HedgedTry) -> bool:
        if one.upstream is not None:
            return one.upstream.status not in self._statuses
        # What is no failure of an upstream ends the race as it would end a lone attempt.
        return one.error is not None and not isinstance(one.error, GatewayError)

    async def run(
        self, lease: Lease, seconds: float, second: Callable[[], Lease | None]
    ) -> HedgedTry:
        """Wait for the first good one, or the last one.

        Args:
            lease: For the first attempt.
            seconds: When the second one begins.
            second: Gives the lease for it, if it may begin.

        Returns:
            The one that counts. All others are given up. If the waiting was interrupted, it is the one that was timed,
            and its error is what has interrupted it.
        """
        exchange = self._exchange
        self._begin(lease)
        timer = exchange.spawn(self._state.monitor.clock.sleep(seconds), "hedge-timer")
        try:
            exchange.enter()
            tasks = {self.tries[0].task, timer}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self.tries[0].is_over and (further := second()) is not None:
                self._begin(further)
            chosen = await self._first_good()
            exchange.leave()
        except BaseException as error:  # noqa: BLE001 - it is the error of the one that was timed.
            chosen = next(one for one in self.tries if one.attempt is exchange.attempt)
            chosen.interrupt(error)
        finally:
            timer.cancel()
        for one in self.tries:
            self._state.sweeper.discard(one)
            if one is not chosen:
                one.give_up()
        exchange.follow(chosen.attempt)
        exchange.lease = chosen.lease
        exchange.destination = chosen.lease.destination.origin
        return chosen

    async def _first_good(self) -> HedgedTry:
        while True:
            for one in self.tries:
                if self._is_good(one):
                    return one
            running = [one for one in self.tries if not one.is_over]
            if not running:
                # An answer that nobody wants is still better than none.
                return next((one for one in self.tries if one.upstream), self.tries[-1])
            self._exchange.follow(running[-1].attempt)
            await asyncio.wait([one.task for one in running], return_when=asyncio.FIRST_COMPLETED)
