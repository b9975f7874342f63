"""From a scope to a route, for the lanes that have no router: the application alone, and the middleware."""

from __future__ import annotations

from proxyroutes._serve.failures import send_problem
from proxyroutes._serve.guard import check_method, check_target, refuse
from proxyroutes._serve.match import (
    Found,
    RouteIndex,
    raw_path_of,
    redirect_location,
    route_start,
    split_path,
)
from proxyroutes.exceptions import ClientRequestError
from proxyroutes.typing import Scope, Send

__all__ = ["answer_partial", "locate"]


def locate(index: RouteIndex, scope: Scope) -> Found | None:
    """Find the route of a request.

    Raises:
        ClientRequestError: If its target is no path.
    """
    raw_path = raw_path_of(scope)
    if not raw_path.startswith(b"/"):
        # CONNECT names an authority; it is the method that is refused then.
        check_method(scope["method"])
        raise refuse("the request target is not in origin form")
    parts = split_path(raw_path)
    root_path = scope.get("root_path", "")
    start = route_start(parts, root_path) if root_path else 0
    return index.match(parts, start, scope["method"], scope)


async def answer_partial(found: Found, scope: Scope, send: Send) -> None:
    """Answer a path that is there in another way: with another method, or with a slash at its end."""
    try:
        # First of all, so that no part of a target that two parties read differently gets into a Location.
        check_target(found.raw_path, scope.get("query_string", b""))
    except ClientRequestError as refusal:
        await send_problem(refusal, send, scope)
        return
    if found.redirect:
        location = redirect_location(raw_path_of(scope), scope.get("query_string", b""))
        fields = [(b"location", location), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": fields})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    error = refuse("the route does not serve this method", 405, "Method not allowed")
    await send_problem(
        ClientRequestError(
            error.detail, status_code=405, title=error.title, fields=((b"allow", found.allow),)
        ),
        send,
        scope,
    )
