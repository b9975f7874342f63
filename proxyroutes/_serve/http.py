"""The way of an HTTP request: match → head → lease → attempt → observe → next? → relay.

``serve_http`` is the whole of it where no user code takes part. ``open_exchange``, ``attempts`` and ``Answer`` are its
pieces for where some does.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from proxyroutes._serve.body import BufferedBody, ReceivedBody, check_length
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.failures import log_failure
from proxyroutes._serve.fields import ReceivedFields
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.relay import Answer
from proxyroutes._serve.steps.answering import answer_failure
from proxyroutes._serve.steps.asking import ask_in_steps
from proxyroutes._serve.steps.further import Further, attempts_by_rules, end_attempt
from proxyroutes._serve.steps.protocols import Split
from proxyroutes._serve.steps.replay import ReplayedBody, begin_again, replayed
from proxyroutes._state.budgets import TRUST
from proxyroutes._state.pools import PoolState
from proxyroutes.exceptions import GatewayError, RelayInterruptedError
from proxyroutes.settings import Timeouts
from proxyroutes.typing import (
    Body,
    ForwardedHead,
    Message,
    Receive,
    Scope,
    Send,
    UpstreamResponse,
)

__all__ = [
    "ask",
    "attempts",
    "fail",
    "may_have_content",
    "open_exchange",
    "read_body",
    "record_refusal",
    "serve_http",
    "timeouts_of",
]


_HTTP1 = frozenset({"1.0", "1.1"})


async def serve_http(
    plan: Plan,
    found: Found,
    scope: Scope,
    receive: Receive,
    send: Send,
    received: ReceivedFields | None = None,
) -> None:
    """Serve a request from its match to its last byte, with no user code in between.

    ``received`` is what was read of it, where it was guarded before user code has let it pass.
    """
    pool, split = plan.pool, plan.split
    if pool is None and (split is None or not split.quick):
        raise TypeError(
            f"route {plan.name!r} chooses its pool per request: it cannot be served the short way"
        )
    state = (pool or cast("Split", split).first).state()
    exchange = open_exchange(plan, state, scope["method"], receive, scope=scope)
    exchange.attach()
    try:
        if received is None:
            received = read_request(scope, plan, found)
        head = make_head(scope, plan, found, received)
        if split is not None:
            pool = split(plan, found, scope, head)
            state = pool.state()
            exchange.pool, exchange.timeouts = state.name, timeouts_of(plan, state)
        body: Body | None = None
        if may_have_content(scope, received):
            body = await read_body(exchange, plan, scope, received)
        else:
            exchange.may_watch = True
        answer = await ask(exchange, plan, found, state, head, body, exchange.timeouts)
        await answer.relay(send)
    except GatewayError as error:
        fail(exchange, error)
        if isinstance(error, RelayInterruptedError):
            raise
        await answer_failure(error, plan, found, pool, scope, receive, send)
    except ClientLeft:
        exchange.status = 499
    finally:
        exchange.end()


def open_exchange(
    plan: Plan,
    state: PoolState,
    method: str,
    receive: Receive,
    timeouts: Timeouts | None = None,
    scope: Scope | None = None,
) -> Exchange:
    """Begin the record of an exchange."""
    exchange = Exchange(
        plan.name,
        method,
        receive,
        timeouts or timeouts_of(plan, state),
        state.sweeper,
        plan.observers,
    )
    exchange.pool = state.name
    exchange.scope = scope
    return exchange


def timeouts_of(plan: Plan, state: PoolState) -> Timeouts:
    """The time-outs of route, group, pool or proxy; the first one that has some."""
    if plan.pool_timeouts and state.timeouts is not None:
        return state.timeouts
    return plan.timeouts


def fail(exchange: Exchange, error: GatewayError) -> None:
    """Enter a failure into the record, and log it."""
    exchange.error = error
    error.recorded = True
    if not isinstance(error, RelayInterruptedError):
        exchange.status = error.status_code
    log_failure(exchange, error)


async def _no_receive() -> Message:
    return {"type": "http.disconnect"}


def record_refusal(
    plan: Plan, method: str, error: GatewayError, scope: Scope | None = None
) -> None:
    """Record a request that was refused before anything was asked of an upstream."""
    sweeper = plan.monitor.state().sweeper
    exchange = Exchange(plan.name, method, _no_receive, plan.timeouts, sweeper, plan.observers)
    exchange.pool = None if plan.pool is None else plan.pool.name
    exchange.scope = scope
    fail(exchange, error)
    exchange.end()


def may_have_content(scope: Scope, received: ReceivedFields) -> bool:
    """Whether ``read_body`` has to be asked."""
    return (
        received.chunked
        or received.content_length is not None
        or scope.get("http_version", "1.1") not in _HTTP1
    )


async def read_body(
    exchange: Exchange, plan: Plan, scope: Scope, received: ReceivedFields
) -> Body | None:
    """The content to forward, or None where the request has none (RFC 9112 §6.3).

    Raises:
        ClientRequestError: If its declared length is over the limit.
    """
    length = received.content_length
    if length is None and not received.chunked:
        if scope.get("http_version", "1.1") in _HTTP1:
            exchange.may_watch = True
            return None
        # HTTP/2 and 3 frame content without a field: only its first event tells whether there is some.
        first = await exchange.receive()
        if first["type"] == "http.disconnect":
            raise ClientLeft
        if not first.get("more_body", False) and not first.get("body"):
            exchange.may_watch = True
            return None
        return ReceivedBody(exchange, None, plan.max_body_bytes, first)
    check_length(length, plan.max_body_bytes)
    if length == 0:
        exchange.may_watch = True
        return BufferedBody(b"")
    return ReceivedBody(
        exchange, length, plan.max_body_bytes, expects_continue=received.expects_continue
    )


def ask(
    exchange: Exchange,
    plan: Plan,
    found: Found | None,
    state: PoolState,
    head: ForwardedHead,
    body: Body | None,
    timeouts: Timeouts,
) -> Coroutine[Any, Any, Answer]:
    """Forward a request and give its response, ready to be relayed: every way of a request comes through here.

    No coroutine of its own: on the plain way one more for each waiting request is what the garbage collector notices.

    Args:
        exchange: Its record.
        plan: Its route.
        found: Its match; None where no declared route describes it.
        state: The pool that is asked.
        head: What is sent.
        body: Its content, or None.
        timeouts: The time-outs that hold.

    Raises:
        GatewayError: If there is no response.
        ClientLeft: If the client left.
    """
    if plan.steps is None and state.transforms is None and state.rules is None:
        return attempts(exchange, state, head, body, timeouts, plan=plan, found=found)
    return ask_in_steps(exchange, plan, found, state, head, body, timeouts)


async def attempts(
    exchange: Exchange,
    state: PoolState,
    head: ForwardedHead,
    body: Body | None,
    timeouts: Timeouts,
    *,
    plan: Plan | None = None,
    found: Found | None = None,
) -> Answer:
    """Ask one destination, and others where that has failed and another attempt does no harm.

    What makes it more than one attempt is in ``steps.further``.

    Args:
        exchange: Its record.
        state: The pool that is asked.
        head: What is sent.
        body: Its content, or None.
        timeouts: The time-outs that hold.
        plan: Whose answer is prepared at once, for a plain way; None leaves that to the caller.
        found: The match that it is prepared with.

    Raises:
        GatewayError: The failure of the last attempt.
        ClientLeft: If the client left.
    """
    if state.rules is not None:
        return await attempts_by_rules(exchange, state, head, body, timeouts, None)
    retry = state.retry
    kept: Body | ReplayedBody | None = body
    if body is not None and retry is not None:
        kept = replayed(body, retry, head)
        body = begin_again(kept)
    lease = exchange.lease = state.lease(head)
    destination = lease.destination
    attempt = exchange.begin_attempt(destination.origin)
    outcome: UpstreamResponse | GatewayError
    try:
        exchange.enter()
        outcome = await state.transport.send(head, body, destination, timeouts, attempt)
    except BaseException as error:  # noqa: BLE001 - what is no failure is raised again there.
        outcome = end_attempt(exchange, lease, attempt, error)
    else:
        exchange.leave()
        lease.status = outcome.status
        destination.trust = TRUST
        if retry is None or outcome.status not in retry.statuses:
            exchange.connected = attempt.connected_at
            answer = Answer(exchange, outcome, lease)
            if plan is not None:
                answer.prepare(plan, found)
            return answer
    further = Further(exchange, state, head, kept, timeouts, retry)
    answer = await further.run(lease, attempt, outcome)
    if plan is not None:
        answer.prepare(plan, found)
    return answer
