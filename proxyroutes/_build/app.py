"""``build_app()``: the gateway alone as an ASGI application, with no framework on the way of a request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from proxyroutes._build.compile import Compiled
from proxyroutes._build.proof import asks_for_pool
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._serve.dispatch import answer_partial, locate
from proxyroutes._serve.failures import problem, send_problem
from proxyroutes._serve.guard import refuse
from proxyroutes._serve.http import serve_http
from proxyroutes._serve.match import RouteIndex
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.session import serve_session
from proxyroutes._serve.websocket import SessionPlan, deny
from proxyroutes.exceptions import BuildError, ClientRequestError, DeclarationError, StubError
from proxyroutes.typing import Receive, Scope, Send

__all__ = ["GatewayApp", "make_app"]


class GatewayApp:
    """The gateway as an ASGI application."""

    def __init__(
        self,
        index: RouteIndex,
        sessions: RouteIndex,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]],
    ) -> None:
        self._index = index
        self._sessions = sessions
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, session or lifespan."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        try:
            found = locate(self._index, scope)
        except ClientRequestError as error:
            await send_problem(error, send, scope)
            return
        if found is None:
            await send_problem(refuse("no route has this path", 404, "Not found"), send, scope)
        elif found.full:
            await serve_http(found.plan, found, scope, receive, send)
        else:
            await answer_partial(found, scope, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self._serve_session(scope, receive, send)
        else:
            raise ValueError(f"not a scope that can be served: {scope['type']!r}")

    async def _serve_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            found = locate(self._sessions, {**scope, "method": "GET"})
            if found is None or not found.full:
                raise refuse("no route has this path", 404, "Not found")
        except ClientRequestError as error:
            await deny(scope, send, *problem(error))
            return
        await serve_session(cast("SessionPlan", found.plan), found, scope, receive, send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


def make_app(
    compiled: Compiled, lifespan: Callable[[], AbstractAsyncContextManager[Any]]
) -> GatewayApp:
    """Make the application of a compiled proxy.

    Raises:
        BuildError: With every mistake, and with every spec that needs FastAPI.
    """
    problems: list[DeclarationError] = list(compiled.problems)
    routes: list[tuple[RouteSpec | WebSocketSpec, Plan]] = [
        (spec, plan) for spec, plan, _ in compiled.routes
    ]
    routes.extend((one.spec, one.plan) for one in compiled.websockets)
    for spec, plan in routes:
        needs = [
            what
            for what, there in (
                ("its stub says something", spec.facts.speaks),
                ("its stub has parameters", spec.facts.parameters),
                ("it has dependencies", bool(spec.dependencies)),
                ("it chooses its upstream per request", asks_for_pool(plan)),
            )
            if there
        ]
        if needs:
            problems.append(
                StubError(
                    f"build_app() has no FastAPI, which {spec.path!r} needs ({', '.join(needs)}): use build_router()",
                    location=spec.facts.location,
                )
            )
    if problems:
        raise BuildError("the gateway cannot be built", problems)
    return GatewayApp(compiled.index, compiled.sessions, lifespan)
