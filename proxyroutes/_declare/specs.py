"""Specs: what a decorator was given, frozen. Nothing is resolved or checked across objects here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from proxyroutes._declare.stubs import StubFacts
from proxyroutes.settings import Timeouts

__all__ = ["RouteSpec", "WebSocketSpec"]


@frozen(kw_only=True)
class RouteSpec:
    """One declared HTTP route; the keywords of ``Proxy.route``, inheritance from groups applied."""

    path: str
    stub: Callable[..., Any] = field(eq=False, repr=False)
    facts: StubFacts
    upstream: Any = field(eq=False, repr=False)
    methods: Any
    rewrite: str | None
    host: str
    location: str
    forwarding: Any
    identity_headers: Any
    timeouts: Timeouts | None
    max_body_bytes: int | None
    dependencies: tuple[Any, ...] = field(eq=False, repr=False)
    tags: Any
    name: str | None
    summary: str | None
    responses: Mapping[int | str, dict[str, Any]] | None = field(eq=False, repr=False)
    include_in_schema: bool
    match: Any = field(default=None, eq=False, repr=False)
    request_headers: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    response_headers: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    query_rules: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    cookies: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    request_filters: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    response_filters: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    retry: Any = field(default=None, eq=False, repr=False)
    limits: Any = field(default=None, eq=False, repr=False)
    rate_limit: Any = field(default=None, eq=False, repr=False)
    hedge: Any = field(default=None, eq=False, repr=False)
    mirror: Any = field(default=None, eq=False, repr=False)
    on_error: Any = field(default=None, eq=False, repr=False)
    server_timing: Any = False
    problems: tuple[str, ...]
    """What was wrong with the keywords themselves."""
    levels: tuple[Mapping[str, Any], ...] = field(default=(), eq=False, repr=False)
    """What was given at each level, the outermost first."""
    origins: tuple[Any, ...] = field(default=(), eq=False, repr=False)
    """The registries that it was included from, the innermost first."""


@frozen(kw_only=True)
class WebSocketSpec:
    """One declared WebSocket route; the keywords of ``Proxy.websocket``, inheritance from groups applied."""

    path: str
    stub: Callable[..., Any] = field(eq=False, repr=False)
    facts: StubFacts
    upstream: Any = field(eq=False, repr=False)
    rewrite: str | None
    options: Mapping[str, Any] = field(eq=False, repr=False)
    dependencies: tuple[Any, ...] = field(eq=False, repr=False)
    name: str | None
    problems: tuple[str, ...]
    levels: tuple[Mapping[str, Any], ...] = field(default=(), eq=False, repr=False)
    origins: tuple[Any, ...] = field(default=(), eq=False, repr=False)
