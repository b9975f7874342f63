"""What the client is answered with when an exchange fails: problem+json that shows nothing from inside (RFC 9457)."""

from __future__ import annotations

import json
import logging
import math

from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.steps.pages import make_page, prefers_html
from proxyroutes.exceptions import ClientRequestError, GatewayError, RateLimitError
from proxyroutes.typing import Fields, Scope, Send

__all__ = ["PROBLEM_BASE", "log_failure", "problem", "send_problem"]

PROBLEM_BASE = "https://proxyroutes.readthedocs.io/problems/"
"""What a problem's type begins with; the error's ``slug`` follows."""

# What clients can cause at will is no warning.
_FREQUENT = (ClientRequestError, RateLimitError)
_logger = logging.getLogger("proxyroutes.serve")


def problem(error: GatewayError, scope: Scope | None = None) -> tuple[int, Fields, bytes]:
    """Status, fields and body that answer an error: problem+json, or a page where the client would rather have one."""
    status = error.status_code
    if status == 204 and isinstance(error, ClientRequestError):
        # What the gateway answers as the final recipient (RFC 9110 §7.6.2) is no problem.
        return status, [*error.fields, (b"connection", b"close")], b""
    kind = PROBLEM_BASE + error.slug
    if scope is not None and prefers_html(scope["headers"]):
        media_type = b"text/html; charset=utf-8"
        body = make_page(f"{status} {error.title}", kind)
    else:
        media_type = b"application/problem+json"
        body = json.dumps({"type": kind, "title": error.title, "status": status}).encode()
    fields: Fields = [
        (b"content-type", media_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if error.retry_after is not None:
        fields.append((b"retry-after", str(max(1, math.ceil(error.retry_after))).encode()))
    if isinstance(error, RateLimitError):
        fields.extend(error.fields)
    if isinstance(error, ClientRequestError):
        fields.extend(error.fields)
        # What is left of a refused request must not be read as the next one.
        fields.append((b"connection", b"close"))
    return status, fields, body


async def send_problem(error: GatewayError, send: Send, scope: Scope | None = None) -> None:
    """Answer an error."""
    status, fields, body = problem(error, scope)
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def log_failure(exchange: Exchange, error: GatewayError) -> None:
    """One line for one failed exchange: what, where, why."""
    level = logging.INFO if isinstance(error, _FREQUENT) else logging.WARNING
    if _logger.isEnabledFor(level):
        _logger.log(
            level,
            "exchange failed: route=%s pool=%s error=%s cause=%r attempts=%d detail=%s",
            exchange.route,
            exchange.pool,
            type(error).__name__,
            error.__cause__,
            exchange.attempts,
            error,
        )
