"""What the client is answered with when an exchange fails: problem+json that shows nothing from inside (RFC 9457)."""

from __future__ import annotations

import html
import json
import logging
import math
from collections.abc import Iterable, Iterator

from proxyroutes._serve.exchange import Exchange
from proxyroutes.exceptions import ClientRequestError, GatewayError
from proxyroutes.typing import Fields, Scope, Send

__all__ = ["PROBLEM_BASE", "log_failure", "prefers_html", "problem", "send_problem"]

PROBLEM_BASE = "https://proxyroutes.readthedocs.io/problems/"
"""What a problem's type begins with; the error's ``slug`` follows."""

_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    '<h1>{title}</h1><p><a href="{kind}" rel="help noreferrer">What does this mean?</a></p></html>'
)
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
        title = html.escape(f"{status} {error.title}")
        body = _PAGE.format(title=title, kind=html.escape(kind)).encode()
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
    if isinstance(error, ClientRequestError):
        fields.extend(error.fields)
        # What is left of a refused request must not be read as the next one.
        fields.append((b"connection", b"close"))
    return status, fields, body


def prefers_html(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a client says that it would rather have HTML than JSON, as browsers do (RFC 9110 §12.5.1)."""
    accept = b",".join([value for name, value in headers if name == b"accept"])
    if b"text/html" not in accept.lower():
        return False
    weights = dict(_weights(accept.decode("latin-1").lower()))
    page = weights.get("text/html", 0.0)
    ranges = ("application/problem+json", "application/json", "application/*", "*/*")
    return page > next((weights[one] for one in ranges if one in weights), 0.0)


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            yield name, float(weight)
        except ValueError:
            yield name, 0.0


async def send_problem(error: GatewayError, send: Send, scope: Scope | None = None) -> None:
    """Answer an error."""
    status, fields, body = problem(error, scope)
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def log_failure(exchange: Exchange, error: GatewayError) -> None:
    """One line for one failed exchange: what, where, why."""
    level = logging.INFO if isinstance(error, ClientRequestError) else logging.WARNING
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
