"""``upstream=`` in all of its spellings becomes a pool, or what chooses one per request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from proxyroutes._build.check import Problems
from proxyroutes._build.defaults import Defaults
from proxyroutes._build.rates import check_key
from proxyroutes._declare.levels import UNSET
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Template
from proxyroutes._serve.steps.splits import BoundSplit, pick_for
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import DeclarationError, PolicyError
from proxyroutes.policies.splits import WeightedSplit
from proxyroutes.settings import Destination
from proxyroutes.transports.asgi import ASGITransport

__all__ = ["Chooser", "Upstream", "check_pool_names", "resolve_upstream"]

Chooser = Callable[[Any], Awaitable[UpstreamPool]]


@frozen(kw_only=True)
class Upstream:
    """What an ``upstream=`` has become: one of the three.

    Attributes:
        pool: The one pool.
        split: Several pools with their shares.
        choose: A function of the application.
    """

    pool: UpstreamPool | None = None
    split: BoundSplit | None = None
    choose: Chooser | None = None

    @property
    def pools(self) -> tuple[UpstreamPool, ...]:
        """Every pool that is known before a request."""
        if self.split is not None:
            return self.split.recipe.pools
        return () if self.pool is None else (self.pool,)


def resolve_upstream(
    spec: RouteSpec | WebSocketSpec,
    template: Template | None,
    defaults: Defaults,
    problems: Problems,
) -> Upstream:
    """What a route forwards to, and every mistake in it.

    Args:
        spec: What was declared.
        template: Its path; None where it cannot be read.
        defaults: What the proxy gives.
        problems: Where mistakes are entered.
    """
    try:
        resolved = _resolve(spec.upstream, spec, defaults)
    except (TypeError, ValueError) as error:
        problems.add(DeclarationError(f"upstream: {error}"), spec.facts.location)
        return Upstream()
    split = resolved.split
    if split is not None and split.recipe.key is not None and template is not None:
        check_key("upstream", split.recipe.key, template, problems, spec.facts.location)
    # A proxy that is included keeps the monitor that it was given.
    own = [origin.monitor for origin in spec.origins if origin.monitor is not None]
    for pool in resolved.pools:
        pool.adopt(own[0] if own else defaults.monitor)
    return resolved


def check_pool_names(specs: Iterable[RouteSpec | WebSocketSpec], problems: Problems) -> None:
    """Two pools of one name could not be told apart in logs, metrics and events; those without a name are left alone."""
    known: dict[str, UpstreamPool] = {}
    for spec in specs:
        upstream = spec.upstream
        named = upstream.pools if isinstance(upstream, WeightedSplit) else (upstream,)
        for pool in named:
            if isinstance(pool, UpstreamPool) and known.setdefault(pool.name, pool) is not pool:
                problems.add(
                    PolicyError(
                        f"another pool is named {pool.name!r} already: use that one, or another name"
                    ),
                    spec.facts.location,
                )


def _resolve(upstream: Any, spec: RouteSpec | WebSocketSpec, defaults: Defaults) -> Upstream:
    if isinstance(upstream, UpstreamPool):
        return Upstream(pool=upstream)
    if isinstance(upstream, WeightedSplit):
        _check_split(upstream)
        return Upstream(split=BoundSplit(upstream, defaults.monitor))
    if callable(upstream) and not _is_asgi(upstream):
        return Upstream(choose=_to_chooser(upstream, defaults))
    return Upstream(pool=_to_pool(upstream, spec))


def _check_split(split: WeightedSplit[Any]) -> None:
    for pool in split.pools:
        if not isinstance(pool, UpstreamPool):
            raise TypeError(f"a split is between pools, write UpstreamPool(...), not {pool!r}")


def _to_pool(upstream: Any, spec: RouteSpec | WebSocketSpec) -> UpstreamPool:
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
        name = f"asgi:{spec.facts.name}"
        return UpstreamPool(name, ["http://asgi.internal"], transport=ASGITransport(upstream))
    raise TypeError(
        f"an UpstreamPool, a WeightedSplit, a URL, a list of them, an ASGI app or a callable is meant, not {upstream!r}"
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


def _to_chooser(choose: Callable[..., Any], defaults: Defaults) -> Chooser:
    async def chosen(request: Any) -> UpstreamPool:
        result = choose(request)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, WeightedSplit):
            _check_split(result)
            result = pick_for(result, request, defaults.monitor)
        if not isinstance(result, UpstreamPool):
            raise TypeError(
                f"the callable given as upstream= returns an UpstreamPool or a WeightedSplit, not {result!r}"
            )
        # No spec has named it: it starts with its first request, and ends with the others.
        result.adopt(defaults.monitor)
        defaults.use(result)
        return result

    return chosen
