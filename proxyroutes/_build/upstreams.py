"""``upstream=`` in all of its spellings becomes a pool, or what chooses one per request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from proxyroutes._build.check import Problems
from proxyroutes._declare.groups import UNSET
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import DeclarationError, PolicyError
from proxyroutes.settings import Destination
from proxyroutes.transports.asgi import ASGITransport

__all__ = ["Chooser", "check_pool_names", "resolve_upstream"]

Chooser = Callable[[Any], Awaitable[UpstreamPool]]


def resolve_upstream(
    spec: RouteSpec | WebSocketSpec, monitor: HealthMonitor, problems: Problems
) -> UpstreamPool | Chooser | None:
    upstream = spec.upstream
    try:
        resolved = _to_pool(upstream, spec)
    except (TypeError, ValueError) as error:
        problems.add(DeclarationError(f"upstream: {error}"), spec.facts.location)
        return None
    if isinstance(resolved, UpstreamPool):
        resolved.adopt(monitor)
    return resolved


def check_pool_names(specs: Iterable[RouteSpec | WebSocketSpec], problems: Problems) -> None:
    """Two pools of one name could not be told apart in logs, metrics and events; those without a name are left alone."""
    known: dict[str, UpstreamPool] = {}
    for spec in specs:
        pool = spec.upstream
        if isinstance(pool, UpstreamPool) and known.setdefault(pool.name, pool) is not pool:
            problems.add(
                PolicyError(
                    f"another pool is named {pool.name!r} already: use that one, or another name"
                ),
                spec.facts.location,
            )


def _to_pool(upstream: Any, spec: RouteSpec | WebSocketSpec) -> UpstreamPool | Chooser:
    if isinstance(upstream, UpstreamPool):
        return upstream
    if upstream is UNSET or upstream is None:
        raise ValueError("a route needs an upstream, its own or its group's: write upstream=pool")
    if isinstance(upstream, str | Destination):
        destination = upstream if isinstance(upstream, Destination) else Destination(upstream)
        return UpstreamPool(urlsplit(destination.url).netloc, [destination])
    if isinstance(upstream, list | tuple):
        pool_name = ",".join(
            urlsplit(item.url if isinstance(item, Destination) else str(item)).netloc
            for item in upstream
        )
        return UpstreamPool(pool_name, upstream)
    if callable(upstream):
        if _is_asgi(upstream):
            name = f"asgi:{spec.facts.name}"
            return UpstreamPool(name, ["http://asgi.internal"], transport=ASGITransport(upstream))
        return _to_chooser(upstream)
    raise TypeError(
        f"an UpstreamPool, a URL, a list of them, an ASGI app or a callable is meant, not {upstream!r}"
    )


def _is_asgi(value: Callable[..., Any]) -> bool:
    """Whether it takes scope, receive and send; a chooser takes one argument."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [one for one in parameters if one.kind in positional and one.default is one.empty]
    if len(required) not in {1, 3}:
        raise TypeError(
            f"a callable takes a ForwardedRequest, an ASGI app scope, receive and send: {value!r} takes {len(required)}"
        )
    return len(required) == 3


def _to_chooser(choose: Callable[..., Any]) -> Chooser:
    async def chosen(request: Any) -> UpstreamPool:
        result = choose(request)
        if inspect.isawaitable(result):
            result = await result
        if not isinstance(result, UpstreamPool):
            raise TypeError(
                f"the callable given as upstream= returns an UpstreamPool, not {result!r}"
            )
        return result

    return chosen
