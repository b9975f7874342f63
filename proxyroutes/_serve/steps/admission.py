"""Before the first attempt: a place, where there are only so many, and a circuit that is closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from attrs import define

from proxyroutes._serve.exchange import Exchange
from proxyroutes._state.lease import Lease
from proxyroutes._state.limits import Limiter, Queue
from proxyroutes._state.pools import PoolState
from proxyroutes._state.rules import Rules
from proxyroutes.exceptions import NoDestinationError, Side
from proxyroutes.policies.breakers import Circuit
from proxyroutes.typing import Clock

__all__ = ["Passage", "enter_circuit", "take_lease", "take_place", "wait"]


@define(eq=False)
class Passage:
    """The way of one exchange through a circuit."""

    circuit: Circuit
    trial: int
    _judged: bool = False

    def answered(self, status: int) -> None:
        """The head of the response that will be relayed is there.

        A trial is decided by it: its content may take hours.
        """
        self._judged = True
        self.circuit.ended(self.circuit.counts(status), trial=self.trial)

    def release(self, exchange: Exchange) -> None:
        """The exchange has ended."""
        error = exchange.error
        failed = True if error is not None and error.side is Side.UPSTREAM else None
        if not self._judged:
            self.circuit.ended(failed, trial=self.trial)
        elif failed:
            # Its head was fine; what came after it was not.
            self.circuit.ended(failed)


def enter_circuit(exchange: Exchange, rules: Rules, pool: str) -> Passage | None:
    """Pass the pool's circuit breaker, if it has one.

    Raises:
        NoDestinationError: If the circuit is open.
    """
    circuit = rules.circuit
    if circuit is None:
        return None
    trial, seconds = circuit.admit()
    if seconds:
        raise NoDestinationError(
            f"the circuit of pool {pool!r} is {circuit.state}: {circuit.reason}",
            retry_after=seconds,
        )
    passage = Passage(circuit, trial)
    exchange.held = (*exchange.held, passage)
    return passage


async def wait(exchange: Exchange, begin: Callable[[], Awaitable[Any]]) -> Any:
    """Wait for what is not the upstream's.

    Raises:
        GatewayError: If the time is over.
        ClientLeft: If the client left.
    """
    try:
        exchange.enter()
        return await begin()
    except BaseException as error:
        reason = exchange.reason(error)
        if reason is None or reason is error:
            raise
        raise reason from None
    finally:
        exchange.leave()


async def _queue(exchange: Exchange, queue: Queue, wanted: Any, clock: Clock) -> Any:
    waiter = queue.join(wanted)
    began = monotonic()
    exchange.patience = (clock.monotonic() + queue.limits.queue_timeout, queue.late())
    try:
        return await wait(exchange, lambda: waiter)
    except BaseException:
        queue.leave(waiter)
        raise
    finally:
        exchange.patience = None
        exchange.queued += monotonic() - began


async def take_place(exchange: Exchange, limiter: Limiter, clock: Clock) -> None:
    """Take a place that is held until the exchange ends, and wait for it if there is none.

    Raises:
        NoDestinationError: If the queue is full, or the time is over.
        GatewayError: If the total time is over.
        ClientLeft: If the client left.
    """
    if not limiter.take():
        await _queue(exchange, limiter, None, clock)
    exchange.held = (*exchange.held, limiter)


async def take_lease(exchange: Exchange, state: PoolState, lease: Callable[[], Lease]) -> Lease:
    """Take the lease for a first attempt, and wait for it where only that is missing that a destination has room.

    Raises:
        NoDestinationError: If there is none, the queue is full, or the time is over.
        GatewayError: If the total time is over.
        ClientLeft: If the client left.
    """
    try:
        return lease()
    except NoDestinationError:
        if not state.is_crowded():
            raise
    taken: Lease = await _queue(exchange, state.queue, lease, state.monitor.clock)
    return taken
