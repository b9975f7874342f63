"""What follows a first attempt: whether there is another one, where, and when; and the rules of pools that have some.

A request that is answered at first, in a pool without rules, never comes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic

from typing_extensions import override

from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.relay import Answer
from proxyroutes._serve.steps.admission import Passage, enter_circuit, take_lease, take_place, wait
from proxyroutes._serve.steps.hedge import Race, may_hedge
from proxyroutes._serve.steps.protocols import Steps
from proxyroutes._serve.steps.replay import (
    KeptResponse,
    ReplayedBody,
    Rewindable,
    begin_again,
    keep,
    may_repeat,
    replayed,
)
from proxyroutes._state.budgets import TRUST
from proxyroutes._state.lease import Lease
from proxyroutes._state.pools import DestinationState, PoolState
from proxyroutes.exceptions import (
    GatewayError,
    NoDestinationError,
    Side,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.policies.hedging import Hedge
from proxyroutes.policies.retries import Backoff, Retry, RetryBudget
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Attempt, Body, Fields, ForwardedHead, UpstreamResponse

__all__ = ["Further", "attempts_by_rules", "end_attempt"]

_BUDGET = RetryBudget()
_AT_ONCE = Backoff(base=0.0, most=0.0)


def _no_connection(failure: GatewayError, attempt: Attempt) -> bool:
    """Whether an attempt has failed before anything of the request was sent or read."""
    if attempt.sent or attempt.body_consumed:
        return False
    if isinstance(failure, UpstreamTimeoutError):
        return failure.stage is Stage.CONNECT
    return isinstance(failure, UpstreamConnectError)


def end_attempt(
    exchange: Exchange, lease: Lease, attempt: Attempt, error: BaseException
) -> GatewayError:
    """Let go of an attempt that has failed, and give its failure, with where it happened.

    Raises:
        ClientLeft: If the client left.
        BaseException: What is neither the upstream's nor the client's doing.
    """
    attempt.failure = failure = exchange.reason(error)
    attempt.failed_at = monotonic()
    cause = error if failure is not error else error.__cause__
    if isinstance(failure, GatewayError):
        lease.failed = failure.side is Side.UPSTREAM
        lease.destination.trust = 0
        failure.at(destination=lease.destination.origin, sent=attempt.sent)
        failure.__cause__ = cause
        lease.release()
        return failure
    lease.release()
    if failure is None:
        raise error
    raise failure from cause


class Further:
    """The attempts of one request, from its first failure on.

    Args:
        exchange: Its record.
        state: The pool that is asked.
        head: What is sent.
        body: Its content, as it was given to the first attempt.
        timeouts: The time-outs that hold.
        retry: When it is tried again; None never, but where nothing was sent.
        passage: Its way through the pool's circuit, if there is one.
    """

    __slots__ = (
        "_body",
        "_exchange",
        "_head",
        "_kept",
        "_passage",
        "_repeated",
        "_retries",
        "_retry",
        "_state",
        "_timeouts",
        "_tried",
        "_tries",
    )

    def __init__(
        self,
        exchange: Exchange,
        state: PoolState,
        head: ForwardedHead,
        body: Body | ReplayedBody | None,
        timeouts: Timeouts,
        retry: Retry | None,
        passage: Passage | None = None,
    ) -> None:
        self._exchange = exchange
        self._state = state
        self._head = head
        self._body = body
        self._timeouts = timeouts
        self._retry = retry
        self._passage = passage
        self._tried: tuple[DestinationState, ...] = ()
        # Attempts that have found a connection, and those that were made again.
        self._tries = 0
        self._retries = 0
        self._repeated = False
        self._kept: tuple[Lease, KeptResponse] | None = None

    async def run(
        self, lease: Lease, attempt: Attempt, outcome: UpstreamResponse | GatewayError
    ) -> Answer:
        """Go on from what the last attempt came to.

        Raises:
            GatewayError: The failure of the last attempt, where no upstream has given an answer.
            ClientLeft: If the client left.
        """
        while True:
            self._tried = (*self._tried, lease.destination)
            self._repeated = self._repeated or attempt.repeated
            following: Lease | None = None
            try:
                if isinstance(outcome, GatewayError):
                    following = await self._after_failure(outcome, attempt)
                else:
                    following, outcome = await self._after_answer(lease, outcome)
            except GatewayError as error:
                # The time is over.
                outcome = error
            except BaseException:
                if lease.held and not isinstance(outcome, GatewayError):
                    outcome.abort()
                lease.release()
                raise
            if following is None:
                return self._finish(lease, attempt, outcome)
            lease = following
            attempt, outcome = await self.ask(lease)

    async def ask(self, lease: Lease) -> tuple[Attempt, UpstreamResponse | GatewayError]:
        """Make one attempt."""
        exchange = self._exchange
        exchange.lease = lease
        attempt = exchange.begin_attempt(lease.destination.origin)
        # What was waited before it is none of its time.
        exchange.follow(attempt)
        attempt.may_repeat = not self._repeated
        body = begin_again(self._body)
        try:
            exchange.enter()
            upstream = await self._state.transport.send(
                self._head, body, lease.destination, self._timeouts, attempt
            )
        except BaseException as error:  # noqa: BLE001 - what is no failure is raised again there.
            return attempt, end_attempt(exchange, lease, attempt, error)
        exchange.leave()
        lease.status = upstream.status
        lease.destination.trust = TRUST
        return attempt, upstream

    async def ask_both(
        self, lease: Lease, hedge: Hedge
    ) -> tuple[Lease, Attempt, UpstreamResponse | GatewayError]:
        """Make one attempt, and a second one beside it if it is slow."""
        statuses = frozenset[int]() if self._retry is None else self._retry.statuses
        race = Race(self._exchange, self._state, self._head, self._timeouts, statuses)
        first = lease.destination

        def second() -> Lease | None:
            state = self._state
            if not any(one is not first for one in state.available):
                return None
            if not state.budgets.spend(hedge.budget, state.leases):
                return None
            return self._lease((first,), again=False)

        chosen = await race.run(lease, hedge.after, second)
        for one in race.tries:
            if one is not chosen:
                self._tried = (*self._tried, one.lease.destination)
                self._tries += 1
        if chosen.upstream is None:
            error = chosen.error or asyncio.CancelledError()
            failure = end_attempt(self._exchange, chosen.lease, chosen.attempt, error)
            return chosen.lease, chosen.attempt, failure
        chosen.lease.status = chosen.upstream.status
        chosen.lease.destination.trust = TRUST
        return chosen.lease, chosen.attempt, chosen.upstream

    def lease(self, tried: Sequence[DestinationState] = (), *, again: bool = False) -> Lease:
        """A lease for the next attempt.

        Args:
            tried: Those that were asked already.
            again: Whether they may be asked again.

        Raises:
            NoDestinationError: If there is none.
        """
        state = self._state
        if state.rules is None:
            return state.lease(self._head, tried)
        return state.rules.lease(state, self._head, tried, again=again)

    def _finish(
        self, lease: Lease, attempt: Attempt, outcome: UpstreamResponse | GatewayError
    ) -> Answer:
        exchange = self._exchange
        if isinstance(outcome, GatewayError):
            if self._kept is None:
                raise outcome
            # "The last real answer": the failure that came after it is none.
            exchange.resume()
            lease, outcome = self._kept
            exchange.destination = lease.destination.origin
        else:
            exchange.connected = attempt.connected_at
        if self._passage is not None:
            self._passage.answered(outcome.status)
        return _answer(self._state, self._head, exchange, outcome, lease)

    # Whether there is another attempt.

    async def _after_failure(self, failure: GatewayError, attempt: Attempt) -> Lease | None:
        exchange = self._exchange
        if exchange.expired:
            return None
        if _no_connection(failure, attempt):
            following = self._move()
            if following is not None:
                exchange.resume()
            return following
        self._tries += 1
        retry = self._retry
        if retry is None or failure.side is not Side.UPSTREAM:
            return None
        if not isinstance(failure, retry.errors) and not (
            isinstance(failure, UpstreamProtocolError) and self._left()
        ):
            return None
        if not self._may_try_again(retry, consumed=attempt.body_consumed):
            return None
        exchange.resume()
        await self._pause(0.0)
        return self._lease_again()

    async def _after_answer(
        self, lease: Lease, upstream: UpstreamResponse
    ) -> tuple[Lease | None, UpstreamResponse | GatewayError]:
        retry = self._retry
        self._tries += 1
        if retry is None or upstream.status not in retry.statuses:
            return None, upstream
        seconds = _retry_after(upstream)
        if not self._has_time_for(seconds) or not self._may_try_again(retry, consumed=True):
            return None, upstream
        kept = await self._keep(lease, upstream, retry)
        if isinstance(kept, GatewayError):
            # It broke off: there is no answer that could be relayed.
            await self._pause(seconds)
            return self._lease_again(), kept
        if not kept.complete:
            return None, kept
        lease.release()
        self._kept = lease, kept
        await self._pause(seconds)
        return self._lease_again(), kept

    async def _keep(
        self, lease: Lease, upstream: UpstreamResponse, retry: Retry
    ) -> KeptResponse | GatewayError:
        exchange = self._exchange
        try:
            exchange.enter()
            kept = await keep(upstream, retry.replay_bytes)
        except BaseException as error:  # noqa: BLE001 - what is no failure is raised again there.
            upstream.abort()
            attempt = exchange.attempt or Attempt()
            return end_attempt(exchange, lease, attempt, error)
        exchange.leave()
        return kept

    def _may_try_again(self, retry: Retry, *, consumed: bool) -> bool:
        """Whether the rules, the content and the budget allow one more."""
        if self._tries >= retry.attempts or not may_repeat(retry, self._head):
            return False
        body = self._body
        if isinstance(body, ReplayedBody):
            if not body.replayable:
                return False
        elif consumed and body is not None and not isinstance(body, Rewindable):
            return False
        return self._state.budgets.spend(retry.budget, self._state.leases)

    def _has_time_for(self, seconds: float) -> bool:
        """Whether ``Retry-After`` can be waited for, within the total time too."""
        backoff = (self._retry and self._retry.backoff) or _AT_ONCE
        total = self._exchange.timeouts.total
        left = None if total is None else total - (monotonic() - self._exchange.started)
        return seconds <= backoff.max_retry_after and (left is None or seconds < left)

    async def _pause(self, seconds: float) -> None:
        """Wait before a request is sent again: the back-off, or what the upstream asks for if that is longer.

        Raises:
            GatewayError: If the total time is over.
            ClientLeft: If the client left.
        """
        self._retries += 1
        exchange, monitor = self._exchange, self._state.monitor
        backoff = (self._retry and self._retry.backoff) or _AT_ONCE
        seconds = max(seconds, backoff.wait(self._retries, monitor.random))
        if seconds <= 0:
            return
        # No attempt is under way whose time could be over.
        if exchange.attempt is not None:
            exchange.earlier = (*exchange.earlier, exchange.attempt)
            exchange.attempt = None
        await wait(exchange, lambda: monitor.clock.sleep(seconds))

    # Where it goes.

    def _left(self) -> list[DestinationState]:
        """Those that this request has not asked yet."""
        return [one for one in self._state.available if one not in self._tried]

    def _move(self) -> Lease | None:
        state = self._state
        left = self._left()
        budget = _BUDGET if self._retry is None else self._retry.budget
        if not left or not state.budgets.move(budget, state.leases, left):
            return None
        return self._lease(self._tried, again=False)

    def _lease_again(self) -> Lease | None:
        return self._lease(self._tried if self._left() else (), again=True)

    def _lease(self, tried: Sequence[DestinationState], *, again: bool) -> Lease | None:
        try:
            return self.lease(tried, again=again)
        except NoDestinationError:
            # What came before says more than that nobody is left.
            return None


def _retry_after(upstream: UpstreamResponse) -> float:
    """Seconds that a response asks to wait, 0.0 if it does not (RFC 9110 §10.2.3)."""
    value = next((value for name, value in upstream.fields if name == b"retry-after"), b"")
    if value.isdigit():
        # More digits than a float has would be for ever in any case.
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value.decode("latin-1"))
    except (OverflowError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class _AffineAnswer(Answer):
    """An answer that begins an affinity."""

    __slots__ = ("added",)

    added: Fields

    @override
    def prepare(self, plan: Plan, found: Found | None, *, filtered: bool = True) -> None:
        super().prepare(plan, found, filtered=filtered)
        self.fields = [*self.fields, *self.added]


def _answer(
    state: PoolState,
    head: ForwardedHead,
    exchange: Exchange,
    upstream: UpstreamResponse,
    lease: Lease,
) -> Answer:
    try:
        added = [] if state.rules is None else state.rules.fields(state, head, lease.destination)
    except BaseException:
        # An affinity of the user's own may raise anything.
        upstream.abort()
        lease.release()
        raise
    if not added:
        return Answer(exchange, upstream, lease)
    answer = _AffineAnswer(exchange, upstream, lease)
    answer.added = added
    return answer


async def attempts_by_rules(
    exchange: Exchange,
    state: PoolState,
    head: ForwardedHead,
    body: Body | None,
    timeouts: Timeouts,
    steps: Steps | None,
) -> Answer:
    """The attempts of a request whose route or pool has rules of its own.

    Raises:
        GatewayError: The failure of the last attempt, or what has kept the first one from being made.
        ClientLeft: If the client left.
    """
    rules, retry, hedge = state.rules, state.retry, None
    clock = state.monitor.clock
    passage: Passage | None = None
    if steps is not None:
        retry, hedge = steps.retry or retry, steps.hedge
        if steps.limits is not None:
            await take_place(exchange, steps.limits.on(state.loop), clock)
    if rules is not None:
        if rules.limiter is not None:
            await take_place(exchange, rules.limiter, clock)
        passage = enter_circuit(exchange, rules, state.name)
    kept = body if body is None or retry is None else replayed(body, retry, head)
    further = Further(exchange, state, head, kept, timeouts, retry, passage)
    lease = await take_lease(exchange, state, further.lease)
    if hedge is not None and body is None and may_hedge(head):
        lease, attempt, outcome = await further.ask_both(lease, hedge)
    else:
        attempt, outcome = await further.ask(lease)
    return await further.run(lease, attempt, outcome)
