"""One declared route in FastAPI's hands: its dependencies, its body, its stub.

An ``APIRoute`` subclass, because in an included router FastAPI rebuilds every plainer kind and answers without running the
inclusion's dependencies. Nothing here shortens that path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol, cast

from fastapi.routing import APIRoute, request_response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from typing_extensions import override

from proxyroutes._build.calls import (
    CALL,
    BodyRefusedError,
    Call,
    FindPool,
    refuse_to_read,
    stub_receive,
)
from proxyroutes._build.compile import Compiled
from proxyroutes._build.dependencies import Dependencies
from proxyroutes._build.responses import GoneResponse, failure_response, has_handler
from proxyroutes._build.stubs import wraps
from proxyroutes._serve.guard import check_method, check_target, refuse
from proxyroutes._serve.head import read_request
from proxyroutes._serve.http import record_refusal, serve_http
from proxyroutes._serve.match import Found, path_parameters, raw_path_of, redirect_location
from proxyroutes._serve.plan import Plan
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import GatewayError
from proxyroutes.typing import Receive, Scope, Send

__all__ = ["METHOD", "ProxyRoute"]

METHOD = "proxyroutes.method"
"""The key of a scope under which the received method is kept while FastAPI sees one that the route lists."""


class Located(Protocol):
    """What matching came to."""

    @property
    def found(self) -> Found | None:
        """The match."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the prefixes captured."""
        ...

    @property
    def malformed(self) -> bool:
        """Whether the target is no path."""
        ...


class Owner(Protocol):
    """The router of a route."""

    compiled: Compiled
    find_pool: FindPool

    def locate(self, scope: Scope) -> Located:
        """Match a request by the index."""
        ...

    def is_first(self, route: Any) -> bool:
        """Whether it is the route that was declared first."""
        ...


class ProxyRoute(APIRoute):
    """One declared route in FastAPI's hands."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        plan: Plan,
        owner: Owner,
        **options: Any,
    ) -> None:
        self.plan = plan
        self.owner = owner
        self._wraps = wraps(endpoint)
        # Whoever reads a body that nobody announced would take it from the upstream.
        self._unannounced = refuse_to_read(plan.name)
        super().__init__(path, endpoint, **options)

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by the compiled index, on the raw path."""
        if scope["type"] != "http":
            return Match.NONE, {}
        located = self.owner.locate(scope)
        found = located.found
        if found is None:
            # A target that is no path belongs to no route; the first of ours refuses it if nobody else takes it.
            malformed = located.malformed and self.owner.is_first(self)
            return (
                (Match.PARTIAL, {"endpoint": self.endpoint, "route": self})
                if malformed
                else (Match.NONE, {})
            )
        if found.plan is not self.plan:
            return Match.NONE, {}
        parameters = {
            **scope.get("path_params", {}),
            **located.parameters,
            **path_parameters(found),
        }
        child = {"endpoint": self.endpoint, "path_params": parameters, "route": self}
        return (Match.FULL if found.full else Match.PARTIAL), child

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve through FastAPI: dependencies, body, stub."""
        located = self.owner.locate(scope)
        found = located.found
        refusal = _refuse_target(scope)
        if found is None or refusal is not None:
            # First of all, so that no part of such a target gets into a Location.
            error = refusal or refuse("the request target is not in origin form")
            await (await self._refuse(scope, found, error))(scope, receive, send)
        elif not found.method_allowed:
            allow = {"Allow": found.allow.decode("ascii")}
            raise HTTPException(status_code=405, headers=allow)
        elif found.redirect:
            location = redirect_location(raw_path_of(scope), scope.get("query_string", b""))
            await Response(status_code=307, headers={"location": location.decode("ascii")})(
                scope, receive, send
            )
        elif scope["method"] in (self.methods or ()):
            await self._serve(scope, receive, send)
        else:
            # A route without `methods` serves every one, and FastAPI's routes know none but those they list.
            listed = next(iter(self.methods or ("GET",)))
            await self._serve({**scope, "method": listed, METHOD: scope["method"]}, receive, send)

    async def _refuse(self, scope: Scope, found: Found | None, error: GatewayError) -> Response:
        if found is not None and found.full:
            return await _answer(scope, found, error)
        # It is no request of this route: only the application may have something of its own to say.
        return await _answer(scope, Found(self.plan, [], 0), error, asks=False)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().handle(scope, receive, send)
        except ClientDisconnect:
            # It was raised while a stub read, or while what it made of a response was sent.
            if not isinstance(scope.get(CALL), Call):
                raise
        finally:
            call = scope.get(CALL)
            if isinstance(call, Call):
                call.end()

    async def serve(
        self,
        dependencies: Dependencies,
        found: Found,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a silent stub whose dependencies are known: guard, run them, forward.

        FastAPI puts exit stacks and the application's exception handlers around all of it. What has to do with them is
        given to it as soon as it comes up; where all goes well, it never does.
        """
        inner = scope["fastapi_inner_astack"] = AsyncExitStack()
        function = scope["fastapi_function_astack"] = AsyncExitStack()
        response: Any = None
        failure: BaseException | None = None
        try:
            received = read_request(scope, self.plan, found)
            await dependencies.solve(Request(scope, self._unannounced, send))
        except GatewayError as error:
            response = error
        except BaseException as error:  # noqa: BLE001 - it is raised again where FastAPI would see it.
            failure = error
        else:
            if not (_is_used(inner) or _is_used(function)):
                await serve_http(self.plan, found, scope, receive, send, received)
                return

            def response(scope: Scope, _: Receive, send: Send) -> Awaitable[None]:
                return serve_http(self.plan, found, scope, receive, send, received)

        async def go_on(_: Request) -> Any:
            await scope["fastapi_inner_astack"].enter_async_context(inner)
            await scope["fastapi_function_astack"].enter_async_context(function)
            if failure is not None:
                raise failure
            if isinstance(response, GatewayError):
                return await _answer(scope, found, response)
            return response

        try:
            await request_response(go_on)(scope, self._unannounced, send)
        finally:
            # An error that is not answered has this frame in its traceback: together they would wait for the collector.
            failure = None

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the guard in front of everything that user code does."""
        return self._guarded(super().get_route_handler())

    def _guarded(
        self, inner: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The guard, in front of what reads a request further."""

        async def handler(request: Request) -> Response:
            scope = request.scope
            method = scope.pop(METHOD, None)
            if method is not None:
                scope["method"] = method
            found = cast("Found", self.owner.locate(scope).found)
            try:
                call = self._open(found, scope, request.receive)
                # Dependencies read too, those of an inclusion as well, of which this route knows nothing.
                request = Request(scope, stub_receive(call), getattr(request, "_send"))  # noqa: B009 - private to Starlette.
            except GatewayError as error:
                return await _answer(scope, found, error)
            try:
                return await inner(request)
            except _ANSWERED as error:
                return await _answer_error(error, scope, call)

        return handler

    def _open(self, found: Found, scope: Scope, receive: Receive) -> Call:
        """Guard a request, and begin its call."""
        received = read_request(scope, self.plan, found)
        call = scope[CALL] = Call(
            self.plan,
            found,
            scope,
            received,
            receive,
            wraps=self._wraps,
            find_pool=self.owner.find_pool,
        )
        return call


def _is_used(stack: AsyncExitStack) -> bool:
    """Whether anything has to be done at its end; not known is taken for yes."""
    return bool(getattr(stack, "_exit_callbacks", True))


def _refuse_target(scope: Scope) -> GatewayError | None:
    try:
        check_method(scope.get(METHOD) or scope["method"])
        check_target(raw_path_of(scope), scope.get("query_string", b""))
    except GatewayError as error:
        return error
    return None


_ANSWERED = (GatewayError, HTTPException, ClientDisconnect)
"""What is not left to the application alone."""


async def _answer_error(error: Exception, scope: Scope, call: Call) -> Response:
    if isinstance(error, BodyRefusedError):
        return await _answer(scope, call.found, error.refusal, call.pool)
    if isinstance(error, GatewayError):
        return await _answer(scope, call.found, error, call.pool)
    if isinstance(error, ClientDisconnect):
        return GoneResponse()
    if call.misread is not None:
        # An HTTPException is what FastAPI makes of any exception that is raised while it reads a body.
        raise call.misread from error
    raise error


async def _answer(
    scope: Scope,
    found: Found,
    error: GatewayError,
    pool: UpstreamPool | None = None,
    *,
    asks: bool = True,
) -> Response:
    plan = found.plan
    if not error.recorded:
        record_refusal(plan, scope.get(METHOD) or scope["method"], error, scope)
    if has_handler(scope, error):
        raise error
    return await failure_response(error, found if asks else None, pool or plan.pool, scope)
