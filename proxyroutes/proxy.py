"""``Proxy``: the one façade that ties declaring, building, serving and operating together.

No logic of its own lives here: each method hands over to the room where it belongs.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket
from typing_extensions import Unpack, override

from proxyroutes._build.app import GatewayApp, make_app
from proxyroutes._build.compile import Compiled, compile_specs
from proxyroutes._build.defaults import Defaults
from proxyroutes._build.imperative import (
    FieldValues,
    UrlPools,
    edit_head,
    forward,
    imperative_plan,
)
from proxyroutes._build.lifespan import Lifespan
from proxyroutes._build.router import make_router
from proxyroutes._build.stubs import forwarded_request
from proxyroutes._build.websockets import imperative_session_plan, relay
from proxyroutes._declare.groups import Registry, RouteGroup, SharedOptions
from proxyroutes._serve.exchange import Observer
from proxyroutes._serve.fields import has_bad_name
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import BuildError
from proxyroutes.settings import Forwarding, Timeouts
from proxyroutes.typing import ForwardedHead

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Proxy"]


class Proxy(RouteGroup):
    """A registry of routes that is compiled into a FastAPI router.

    Also an asynchronous context manager, and ``FastAPI(lifespan=proxy.lifespan)`` is the same, for apps that only use
    ``forward``.

    Args:
        monitor: The health monitor that pools share; None makes one.
        timeouts: Time-outs for routes, groups and pools that say none.
        forwarding: What upstreams are told of the client's side.
        via: What ``Via`` calls this gateway (RFC 9110 §7.6.3). None makes a name that no other process has, by which a
            request that comes around again is known.
        redirect_slashes: Whether a path that only lacks the template's last slash is answered 307; else 404.
        on_exchange: Called with the record of each ended exchange, once; must not block.
        **defaults: Any other keyword that a group may have: the default of every route.

    Raises:
        ValueError: If ``via`` is not a token.
    """

    def __init__(
        self,
        *,
        monitor: HealthMonitor | None = None,
        timeouts: Timeouts | None = None,
        forwarding: Forwarding | None = None,
        via: str | None = None,
        redirect_slashes: bool = True,
        on_exchange: Observer | tuple[Observer, ...] = (),
        **defaults: Unpack[SharedOptions],
    ) -> None:
        name = f"proxyroutes-{secrets.token_hex(4)}" if via is None else via
        if has_bad_name(name.encode("latin-1", "replace")):
            raise ValueError(f"via is a token: {via!r}")
        super().__init__(Registry(), "", dict(defaults))
        self.monitor = monitor or HealthMonitor()
        self._defaults = Defaults(
            monitor=self.monitor,
            timeouts=timeouts or Timeouts(),
            forwarding=forwarding or Forwarding(),
            via=name.encode("ascii"),
            redirect_slashes=redirect_slashes,
            observers=(on_exchange,) if callable(on_exchange) else tuple(on_exchange),
        )
        self._compiled: Compiled | None = None
        self._lifespan = Lifespan(self.monitor)
        self._url_pools = UrlPools(self._defaults)
        self._routers: list[APIRouter] = []
        self._imperative = imperative_plan(self._defaults)
        self._imperative_session = imperative_session_plan(self._imperative)

    @override
    def __repr__(self) -> str:
        return f"<Proxy {len(self._registry.specs)} routes>"

    def compiled(self) -> Compiled:
        """Compile what was declared, once; later declarations are refused.

        The result may hold problems; ``build_router`` raises them.
        """
        if self._compiled is None:
            registry = self._registry
            registry.sealed = True
            self._compiled = compile_specs(registry.specs, self._defaults, registry.problems)
        return self._compiled

    def build_router(self, **options: Any) -> APIRouter:
        """Compile every declared route into a router for ``app.include_router``.

        Start and stop ride on the router's lifespan.

        Args:
            **options: Any keyword of ``APIRouter`` but ``route_class``. ``lifespan`` is entered within ours.

        Raises:
            BuildError: With every mistake of every declaration, each with its stub's file and line.
        """
        compiled = self.compiled()
        inner = options.pop("lifespan", None)

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncGenerator[Mapping[str, Any] | None, None]:
            async with self:
                if inner is None:
                    yield None
                else:
                    async with inner(app) as state:
                        yield state

        router = make_router(compiled, {**options, "lifespan": lifespan})
        self._routers.append(router)
        return router

    def owns(self, router: object) -> bool:
        """Whether a router was built by this proxy; ``GatewayMiddleware`` asks."""
        return any(router is own for own in self._routers)

    def build_app(self) -> GatewayApp:
        """Compile every declared route into an ASGI application of its own, with no FastAPI on the way of a request.

        Raises:
            BuildError: With every mistake, and with every route that needs FastAPI: dependencies, and stubs that speak.
        """
        return make_app(self.compiled(), lambda: self)

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        """A lifespan for ``FastAPI(lifespan=proxy.lifespan)``."""
        del app
        async with self:
            yield

    async def __aenter__(self) -> Self:
        pools = () if not self._registry.specs else self.compiled().pools
        if self._compiled is not None and self._compiled.problems:
            raise BuildError("the gateway cannot be built", self._compiled.problems)
        await self._lifespan.enter(pools)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lifespan.leave()

    async def forward(
        self,
        request: Request,
        upstream: UpstreamPool | str,
        *,
        path: str | None = None,
        method: str | None = None,
        headers: FieldValues | None = None,
        extra_headers: FieldValues | None = None,
        body: Any = None,
        forward_query: bool = True,
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Forward a request from any FastAPI endpoint and give the response, whose body is streamed when returned.

        Args:
            request: The request as the endpoint got it.
            upstream: A pool, or a URL with an optional base path; its pool is kept by origin, the 1,024 last used.
            path: Path, and query if it has one, instead of the request's; put behind the base path.
            method: Method instead of the request's.
            headers: Fields instead of the client's. The gateway's own are added to them.
            extra_headers: Fields that replace the client's of the same names.
            body: Content instead of the client's: bytes, str, an asynchronous iterable of bytes, or what JSON can hold.
            forward_query: Whether the request's query is forwarded.
            timeouts: Time-outs for this exchange; None takes the pool's or the proxy's.

        Returns:
            The response, with editable ``status_code`` and ``headers``. It has status 499 and sends nothing if the
            client has left.

        Raises:
            ValueError: If an override cannot be sent; nothing was.
            GatewayError: If the exchange failed. Uncaught, it is answered as problem+json with its status.
        """
        pool, base_path = await self._find_pool(upstream)
        return await forward(
            self._imperative,
            request,
            pool,
            base_path=base_path,
            path=path,
            method=method,
            headers=headers,
            extra_headers=extra_headers,
            body=body,
            forward_query=forward_query,
            timeouts=timeouts,
        )

    async def _find_pool(self, upstream: UpstreamPool | str) -> tuple[UpstreamPool, bytes]:
        """A pool that is ready to be used, and the base path of its URL."""
        pool, base_path = (
            await self._url_pools.find(upstream) if isinstance(upstream, str) else (upstream, b"")
        )
        pool.adopt(self.monitor)
        self._lifespan.use(pool)
        return pool, base_path

    async def relay(
        self,
        websocket: WebSocket,
        upstream: UpstreamPool | str,
        *,
        path: str | None = None,
        subprotocols: Sequence[str] | None = None,
        headers: FieldValues | None = None,
        extra_headers: FieldValues | None = None,
        forward_query: bool = True,
    ) -> None:
        """Relay a WebSocket from any FastAPI endpoint, from its handshake until both sides are closed.

        The endpoint does not accept it: the upstream is dialled first, and what it answers decides.

        Args:
            websocket: The WebSocket as the endpoint got it.
            upstream: As for ``forward``; ``ws(s)`` and ``http(s)`` are the same.
            path: Path, and query if it has one, instead of the handshake's; put behind the base path.
            subprotocols: What is offered to the upstream instead of what the client offers.
            headers: Fields instead of the client's. The gateway's own are added to them.
            extra_headers: Fields that replace the client's of the same names.
            forward_query: Whether the handshake's query is forwarded.

        Raises:
            ValueError: If an override cannot be sent; nothing was.
            StubError: If the WebSocket was accepted or closed already.
        """
        pool, base_path = await self._find_pool(upstream)

        def edit(head: ForwardedHead) -> None:
            edit_head(
                head,
                base_path=base_path,
                path=path,
                headers=headers,
                extra_headers=extra_headers,
                forward_query=forward_query,
            )

        await relay(
            self._imperative_session, websocket, pool, subprotocols=subprotocols, edit=edit
        )

    async def forwarded_request(self, connection: HTTPConnection) -> ForwardedRequest:
        """The dependency for a ``ForwardedRequest`` in a dependency of your own: ``Depends(proxy.forwarded_request)``."""
        return await forwarded_request(connection)
