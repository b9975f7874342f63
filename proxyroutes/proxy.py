"""``Proxy``: the one façade that ties declaring, building, serving and operating together.

No logic of its own lives here: each method hands over to the room where it belongs.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from attrs import evolve
from fastapi import APIRouter
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket
from typing_extensions import Unpack, override

from proxyroutes._build.app import GatewayApp, make_app
from proxyroutes._build.compile import Compiled, compile_specs
from proxyroutes._build.defaults import Defaults
from proxyroutes._build.imperative import UrlPools, forward, imperative_plan, imperative_view
from proxyroutes._build.lifespan import Lifespan
from proxyroutes._build.overrides import FieldValues, Overrides
from proxyroutes._build.readiness import HealthMonitor
from proxyroutes._build.router import make_router
from proxyroutes._build.stubs import forwarded_request
from proxyroutes._build.websockets import imperative_session_plan, relay
from proxyroutes._declare.groups import RouteGroup, SharedOptions
from proxyroutes._declare.registry import Registry, flatten
from proxyroutes._operate.access_log import AccessLogger
from proxyroutes._operate.counters import Counters
from proxyroutes._operate.explain import HeaderValues, explain
from proxyroutes._operate.explanation import Explanation
from proxyroutes._operate.metrics import Collector, make_metrics_router
from proxyroutes._operate.openapi.documents import Documents
from proxyroutes._operate.status.board import Source
from proxyroutes._operate.status.router import make_status_router
from proxyroutes._operate.status.traffic import Traffic
from proxyroutes._serve.exchange import Observer
from proxyroutes._serve.fields import has_bad_name
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.steps.splits import pick_for
from proxyroutes._state.on_error import read_on_error
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import BuildError, DeclarationError, GatewayError
from proxyroutes.policies.splits import WeightedSplit
from proxyroutes.settings import AccessLog, Forwarding, Timeouts
from proxyroutes.typing import ForwardedHead

if TYPE_CHECKING:
    from typing import Self

    from prometheus_client import CollectorRegistry

__all__ = ["Proxy"]

Upstream: TypeAlias = UpstreamPool | WeightedSplit[UpstreamPool] | str
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


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
        on_exchange: Called with the record of each ended exchange and session, once; must not block. More can be added
            with ``@proxy.on_exchange``.
        access_log: Whether each of them is logged to ``proxyroutes.access``, or how.
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
        access_log: AccessLog | bool = False,
        **defaults: Unpack[SharedOptions],
    ) -> None:
        name = f"proxyroutes-{secrets.token_hex(4)}" if via is None else via
        if has_bad_name(name.encode("latin-1", "replace")):
            raise ValueError(f"via is a token: {via!r}")
        super().__init__(Registry(monitor=monitor), "")
        self._take_defaults(defaults, {"timeouts": timeouts, "forwarding": forwarding})
        self.monitor = monitor or HealthMonitor()
        self._lifespan = Lifespan(self.monitor)
        self._observers = [on_exchange] if callable(on_exchange) else list(on_exchange)
        self._access_logger: AccessLogger | None = None
        if access_log:
            recipe = AccessLog() if access_log is True else access_log
            self._access_logger = AccessLogger(recipe)
            self._observers.append(self._access_logger)
        self._registry.observers = self._observers
        self._defaults = Defaults(
            monitor=self.monitor,
            timeouts=timeouts or Timeouts(),
            forwarding=forwarding or Forwarding(),
            via=name.encode("ascii"),
            redirect_slashes=redirect_slashes,
            observers=self._observers,
            on_error=self._registry.on_error,
            use=self._lifespan.use,
        )
        self._collector: Collector | None = None
        self._compiled: Compiled | None = None
        self._url_pools = UrlPools(self._defaults)
        self._routers: list[APIRouter] = []
        self._status_source: Source | None = None
        self._documents = Documents(self.compiled, lambda: self.monitor.state().clock)
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
            specs, problems = flatten(self._registry)
            self._compiled = compile_specs(specs, self._defaults, problems)
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
            async with self, self._documents.merged_into(app):
                if inner is None:
                    yield None
                else:
                    async with inner(app) as state:
                        yield state

        router = make_router(compiled, {**options, "lifespan": lifespan}, self._find_pool)
        self._routers.append(router)
        return router

    def on_error(self, kind: type[GatewayError] = GatewayError) -> Callable[[HandlerT], HandlerT]:
        """Have failures answered by a function, where the handlers of route, groups and pool have no answer.

        It is given the error and the request as the client sent it, and may be asynchronous. It returns a ``Response``,
        what JSON can hold, which is sent with the error's status, or None: then the next handler is asked, and at last
        the answer is problem+json, or a page where the client would rather have HTML. It must not block. One that fails
        itself is logged and passed over. An exception handler that the application has registered comes before all of
        them; nobody is asked once the head of a response was sent.

        ```python
        @proxy.on_error(UpstreamTimeoutError)
        async def slow(error: UpstreamTimeoutError, request: ForwardedRequest) -> dict[str, str]:
            return {"slow": request.route}
        ```

        Args:
            kind: The errors that it is asked about; ``GatewayError`` is all of them.

        Returns:
            A decorator that records the function and gives it back unchanged.

        Raises:
            TypeError: From the decorator, if it is no handler.
            DeclarationError: From the decorator, if the proxy was already built.
        """

        def decorate(handle: HandlerT) -> HandlerT:
            if self._registry.sealed:
                raise DeclarationError("a handler of errors is declared before the build")
            self._registry.on_error.extend(read_on_error({kind: handle}))
            return handle

        return decorate

    def on_exchange(self, observer: Observer) -> Observer:
        """Have every exchange and session that ends seen by one more observer; may be a decorator, also after the build.

        Args:
            observer: Called once with each record; must not block. What it raises is logged and harms nobody.

        Returns:
            The observer.
        """
        self._observers.append(observer)
        return observer

    def status_router(
        self,
        *,
        title: str = "proxyroutes",
        controls: bool = False,
        public: bool = False,
        dependencies: Sequence[Any] = (),
        **options: Any,
    ) -> APIRouter:
        """Make the live status page: ``app.include_router(proxy.status_router(), prefix="/_proxy", dependencies=[…])``.

        Below the prefix are the page, ``snapshot.json`` and ``events``, a stream of server-sent events. Numbers are those of
        one process: with several workers each page shows one of them.

        Args:
            title: What the page is called.
            controls: Whether the page can drain, undrain and weigh destinations.
            public: Whether it may be open to everybody.
            dependencies: What FastAPI solves before anything is shown, besides those of the inclusion.
            **options: Any other keyword of ``APIRouter`` but ``lifespan``, such as ``prefix``.

        Returns:
            The router. The application does not start where none of its dependencies stands in front of it, unless
            it is ``public``.
        """
        source = self._status_source or self._make_status_source()
        return make_status_router(
            evolve(source, title=title),
            lambda: self,
            lambda: self.monitor.state().clock,
            controls=controls,
            public=public,
            dependencies=dependencies,
            options=options,
        )

    def _make_status_source(self) -> Source:
        """Where every status page of this proxy looks; only one observer feeds them."""
        traffic = Traffic()
        self.on_exchange(traffic.observe)
        self._status_source = source = Source(
            title="",
            routes=lambda: (*self.compiled().index.plans, *self.compiled().sessions.plans),
            pools=self.pools,
            explain=lambda method, url, fields: self.explain(method, url, fields).to_dict(),
            traffic=traffic,
        )
        return source

    def explain(self, method: str, url: str, headers: HeaderValues = ()) -> Explanation:
        """Say what would be done with a request, and why; nothing is sent.

        The verdicts are the engine's own: it matches, guards and composes the head as for a received request. What runs
        in FastAPI before it, dependencies and stubs that speak, is named and not run.

        Args:
            method: The request's method.
            url: Its path with its query, or a whole URL; ``ws://…`` asks for a WebSocket session.
            headers: Its fields. ``Host`` is the URL's where they have none.

        Returns:
            The explanation: print it, or write ``to_dict()`` as JSON.

        Raises:
            BuildError: If a declaration is wrong.
        """
        return explain(self.compiled(), method, url, headers)

    def pools(self) -> tuple[UpstreamPool, ...]:
        """Every pool that a declared route names, and those that are kept for URLs."""
        return (*self.compiled().pools, *self._url_pools.all())

    def metrics_collector(self) -> Collector:
        """The collector of this proxy's Prometheus metrics, to be registered in a registry of your own.

        Exchanges are counted from the first call on. Needs the extra ``metrics`` where it is collected.
        """
        if self._collector is None:
            counters = Counters()
            self._observers.append(counters)
            self._collector = Collector(counters, self.pools)
        return self._collector

    def metrics_router(
        self, path: str = "/metrics", *, registry: CollectorRegistry | None = None
    ) -> APIRouter:
        """A router with the page that Prometheus scrapes; include it with the dependencies that guard it.

        Exchanges are counted from the first call on, in this process: with several workers, each has its own numbers.

        Args:
            path: Where the page is.
            registry: Your own registry, all of which is shown; this proxy's collector is added. None shows this proxy
                alone.

        Raises:
            ImportError: If prometheus-client is not installed: ``pip install "proxyroutes[metrics]"``.
        """
        return make_metrics_router(self.metrics_collector(), path, registry)

    def merge_openapi(
        self, pool: UpstreamPool, path: str = "/openapi.json", *, prefix: str | None = None
    ) -> None:
        """Merge the upstream's OpenAPI document into that of the application, and so into its ``/docs``.

        It is fetched through the pool when the application starts, and again from time to time. Only operations that a
        route of this proxy leads to are kept, under the paths, tags, names and security that clients meet here. Where the
        document does not come the application starts all the same, and documents its routes as they are declared.

        Args:
            pool: The pool whose routes are documented.
            path: The document's path at its destinations.
            prefix: What is put in front of its tags, operation ids and components; None is the pool's name.

        Raises:
            ValueError: If the path is none, or the prefix is taken or cannot be part of a component's name.
        """
        self._documents.add(pool, path, prefix)

    async def check_contract(self) -> tuple[str, ...]:
        """Compare routes with the documents given to ``merge_openapi``, which are fetched now.

        Returns:
            One line for each route that leads to what its upstream does not have, with its stub's file and line, and one
            for each document that did not come. Empty if all is well.

        Raises:
            BuildError: If a declaration is wrong.
        """
        async with self:
            await self._documents.fetch()
            return tuple(self._documents.breaches())

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
        try:
            await self._lifespan.leave()
        finally:
            if self._access_logger is not None:
                self._access_logger.flush(asyncio.get_running_loop())

    async def forward(
        self,
        request: Request,
        upstream: Upstream,
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
            upstream: A pool, a ``WeightedSplit``, or a URL with an optional base path; the pool of a URL is kept by
                origin, the 1,024 last used.
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
        pool, base_path = await self._find_pool(
            upstream, lambda: imperative_view(self._imperative, request.scope)
        )
        return await forward(
            self._imperative,
            request,
            pool,
            base_path=base_path,
            overrides=Overrides(
                path=path,
                method=method,
                headers=headers,
                extra_headers=extra_headers,
                body=body,
                forward_query=forward_query,
            ),
            timeouts=timeouts,
        )

    async def _find_pool(
        self, upstream: Upstream, view: Callable[[], ForwardedRequest]
    ) -> tuple[UpstreamPool, bytes]:
        """A pool that is ready to be used, and the base path of its URL."""
        if isinstance(upstream, WeightedSplit):
            upstream = pick_for(upstream, view(), self.monitor)
        pool, base_path = (
            await self._url_pools.find(upstream) if isinstance(upstream, str) else (upstream, b"")
        )
        pool.adopt(self.monitor)
        self._lifespan.use(pool)
        return pool, base_path

    async def relay(
        self,
        websocket: WebSocket,
        upstream: Upstream,
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
        pool, base_path = await self._find_pool(
            upstream, lambda: imperative_view(self._imperative, websocket.scope)
        )

        overrides = Overrides(
            path=path, headers=headers, extra_headers=extra_headers, forward_query=forward_query
        )

        def edit(head: ForwardedHead) -> None:
            overrides.write(head, base_path)

        await relay(
            self._imperative_session, websocket, pool, subprotocols=subprotocols, edit=edit
        )

    async def forwarded_request(self, connection: HTTPConnection) -> ForwardedRequest:
        """The dependency for a ``ForwardedRequest`` in a dependency of your own: ``Depends(proxy.forwarded_request)``."""
        return await forwarded_request(connection)
