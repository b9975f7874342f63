"""Who answers a failure: the handlers of route, groups, pool and proxy, the nearest first; then the default."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
from collections.abc import Iterable
from typing import Any

from proxyroutes._serve.failures import problem
from proxyroutes._serve.fields import read_fields
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.forwarded import ForwardedRequest, forwarded_request
from proxyroutes._state.on_error import OnError
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import ClientRequestError, GatewayError
from proxyroutes.typing import ASGIApp, Fields, ForwardedHead, Message, Receive, Scope, Send

__all__ = ["answer_failure", "choose_answer", "handlers_of", "received_view"]

_logger = logging.getLogger("proxyroutes.serve")

Raw = tuple[int, Fields, bytes]


def handlers_of(plan: Plan, pool: UpstreamPool | None) -> tuple[OnError, ...]:
    """The handlers that are asked, in order."""
    own = () if pool is None else pool.on_error
    return (*plan.on_error, *own, *plan.last_on_error)


async def answer_failure(
    error: GatewayError,
    plan: Plan,
    found: Found,
    pool: UpstreamPool | None,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer a failure.

    Args:
        error: What failed.
        plan: The route.
        found: Where it fits the path.
        pool: The pool that was asked, or None.
        scope: The request.
        receive: The client's channel.
        send: To the client.
    """
    answer = await choose_answer(error, handlers_of(plan, pool), found, scope)
    if not isinstance(answer, tuple):
        await answer(scope, receive, _closing(send) if _is_refusal(error) else send)
        return
    status, fields, body = answer
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def choose_answer(
    error: GatewayError, handlers: Iterable[OnError], found: Found, scope: Scope
) -> Raw | ASGIApp:
    """What answers a failure: status, fields and body, or an application such as a response of Starlette."""
    view: ForwardedRequest | None = None
    if error.status_code < 400:
        # What the gateway answers itself, as the last one to be asked, is no failure.
        return problem(error, scope)
    for handler in handlers:
        if not isinstance(error, handler.kind):
            continue
        view = view or received_view(found, scope)
        try:
            result = handler.handle(error, view)
            if inspect.isawaitable(result):
                result = await result
            if result is not None:
                return _to_answer(result, error)
        except Exception:
            # The client gets an answer all the same.
            _logger.exception("a handler of errors failed: route=%s", found.plan.name)
    return problem(error, scope)


def received_view(found: Found, scope: Scope) -> ForwardedRequest:
    """The request as the client sent it, without what belongs to its connection."""
    method = scope.get("method", "GET").encode("latin-1", "replace")
    query = scope.get("query_string", b"")
    fields: Fields = []
    # What cannot be read may be what failed.
    with contextlib.suppress(ClientRequestError):
        fields = read_fields(
            scope["headers"], scope.get("http_version", "1.1"), found.plan.field_actions
        ).fields
    target = found.raw_path + (b"?" + query if query else b"")
    return forwarded_request(scope, found, ForwardedHead(method, target, fields, None, None))


def _to_answer(result: Any, error: GatewayError) -> Raw | ASGIApp:
    if callable(result):
        return result  # type: ignore[no-any-return]  # Whatever is called is the application's.
    body = json.dumps(result, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    status, fields, _ = problem(error)
    own = {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    return status, [(name, own.get(name, value)) for name, value in fields], body


def _is_refusal(error: GatewayError) -> bool:
    return isinstance(error, ClientRequestError)


def _closing(send: Send) -> Send:
    """What is left of a refused request must not be read as the next one."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = [field for field in message.get("headers", ()) if field[0] != b"connection"]
            message = {**message, "headers": [*fields, (b"connection", b"close")]}
        await send(message)

    return sending
