"""WebSocket routes in FastAPI's hands: plain ``APIWebSocketRoute``s, because an inclusion rebuilds every other kind as one.

All behaviour lives in the endpoint. Starlette finds the route by the decoded path; what is captured and forwarded is what
our own index finds in the raw one, and where the two do not agree the handshake is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any

from attrs import fields
from fastapi import APIRouter, Depends, HTTPException, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match
from starlette.websockets import WebSocketState

from proxyroutes._build.calls import CALL
from proxyroutes._build.compile import CompiledWebSocket
from proxyroutes._build.sessions import session_field_actions
from proxyroutes._build.stubs import read_parameters
from proxyroutes._declare.specs import WebSocketSpec
from proxyroutes._serve.failures import problem
from proxyroutes._serve.guard import check_target
from proxyroutes._serve.match import Found, raw_path_of, split_path
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.session import Session
from proxyroutes._serve.websocket import SessionPlan, SessionSide, deny
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import ClientRequestError, StubError
from proxyroutes.transports.websocket import SessionSettings
from proxyroutes.typing import ForwardedHead, Receive, Scope, Send

__all__ = [
    "add_websocket",
    "choose_by_index",
    "imperative_session_plan",
    "plan_of",
    "refuse_session",
    "relay",
]

_PLAN = "proxyroutes_plan"
_SESSION, _WEBSOCKET = "proxyroutes_session", "proxyroutes_websocket"

Locate = Callable[[Scope], Found | None]
"""Matches a scope by the compiled index."""


async def refuse_session(scope: Scope, receive: Receive, send: Send, locate: Locate) -> bool:
    """Refuse a handshake whose target two parties could read differently, before any user code sees it."""
    try:
        check_target(raw_path_of(scope), scope.get("query_string", b""))
    except ClientRequestError as error:
        found = locate(scope)
        if found is None or not isinstance(found.plan, SessionPlan):
            await deny(scope, send, *problem(error))
        else:
            await SessionSide(found.plan, found, scope, receive, send).refuse(error)
        return True
    return False


def _channels(websocket: WebSocket) -> tuple[Any, Any, bool]:
    """The ASGI channel behind a WebSocket, and whether its first event was taken already.

    Messages pass without Starlette's state machine, that each of them would pay for.

    Raises:
        StubError: If it was accepted already: the upstream decides on that.
    """
    if websocket.application_state is not WebSocketState.CONNECTING:
        raise StubError("the WebSocket was accepted or closed before the upstream could answer")
    connected = websocket.client_state is not WebSocketState.CONNECTING
    receive, send = getattr(websocket, "_receive"), getattr(websocket, "_send")  # noqa: B009 - private to Starlette.
    return receive, send, connected


def plan_of(endpoint: Any) -> SessionPlan | None:
    """The plan of the route behind an endpoint, or None where it is not ours."""
    return getattr(endpoint, _PLAN, None)


def imperative_session_plan(plan: Plan) -> SessionPlan:
    """The plan of sessions that no declared route describes."""
    values = {one.name: getattr(plan, one.name) for one in fields(Plan)}
    return SessionPlan(
        **{**values, "name": "relay", "field_actions": session_field_actions(())},
        settings=SessionSettings(),
        allowed_origins=None,
    )


async def relay(
    plan: SessionPlan,
    websocket: WebSocket,
    pool: UpstreamPool,
    *,
    subprotocols: Sequence[str] | None,
    edit: Callable[[ForwardedHead], None],
) -> None:
    """Relay a session from its handshake to its end; see ``Proxy.relay``."""
    receive, send, connected = _channels(websocket)
    found = Found(plan, split_path(raw_path_of(websocket.scope)), 0)
    side = SessionSide(
        plan,
        found,
        websocket.scope,
        receive,
        send,
        pool=pool,
        edit=edit,
        subprotocols=subprotocols,
        connected=connected,
    )
    await Session(side).run()


def add_websocket(router: APIRouter, route: CompiledWebSocket, locate: Locate) -> None:
    """Add one declared WebSocket route.

    Raises:
        StubError: If FastAPI cannot take its stub.
    """
    spec = route.spec
    provider = _make_provider(route.plan, locate)
    router.add_api_websocket_route(
        route.template.starlette_path,
        _make_endpoint(route, provider),
        name=route.plan.name,
        # First of all, so that the other ones may ask what is forwarded.
        dependencies=[Depends(provider), *spec.dependencies],
    )
    added: Any = router.routes[-1]
    if added.dependant.body_params:
        raise StubError(
            f"stub {spec.facts.name!r} has a body parameter: a WebSocket's handshake has no body",
            location=spec.facts.location,
        )


def choose_by_index(routes: Iterable[Any], locate: Locate) -> None:
    """Have the index say which of several WebSocket routes on one path serves a handshake.

    The routes themselves are changed, because an inclusion rebuilds them as FastAPI's own class. The path is still
    matched by Starlette.

    Args:
        routes: Routes of the router itself, or those that an inclusion has rebuilt; others than ours are left alone.
        locate: Matches a scope by the compiled index.
    """
    for route in routes:
        plan = plan_of(getattr(route, "endpoint", None))
        if plan is not None and "matches" not in vars(route):
            route.matches = _matcher(plan, route.matches, locate)


def _matcher(
    plan: SessionPlan, match_path: Callable[[Scope], tuple[Match, Scope]], locate: Locate
) -> Callable[[Scope], tuple[Match, Scope]]:
    def matches(scope: Scope) -> tuple[Match, Scope]:
        found = locate(scope) if scope["type"] == "websocket" else None
        if found is None or found.plan is not plan:
            return Match.NONE, {}
        return match_path(scope)

    return matches


def _make_provider(plan: SessionPlan, locate: Locate) -> Callable[[WebSocket], Awaitable[Session]]:
    async def provide(websocket: WebSocket) -> Session:
        scope = websocket.scope
        try:
            check_target(raw_path_of(scope), scope.get("query_string", b""))
        except ClientRequestError as error:
            raise HTTPException(error.status_code, error.title) from error
        found = locate(scope)
        if found is None or found.plan is not plan:
            raise HTTPException(404)
        receive, send, connected = _channels(websocket)
        side = SessionSide(plan, found, scope, receive, send, connected=connected)
        scope[CALL] = side
        return Session(side)

    return provide


def _make_endpoint(
    route: CompiledWebSocket, provider: Callable[[WebSocket], Awaitable[Session]]
) -> Callable[..., Awaitable[None]]:
    spec = route.spec
    parameters = read_parameters(spec, {Session: provider})
    own = set(parameters)
    for name, annotation in (
        (_WEBSOCKET, WebSocket),
        (_SESSION, Annotated[Session, Depends(provider)]),
    ):
        parameters[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation
        )

    async def endpoint(**values: Any) -> None:
        session: Session = values[_SESSION]
        if spec.facts.speaks:
            arguments = {name: values[name] for name in own}
            await session.run(lambda: _call(spec, arguments, values[_WEBSOCKET]))
        else:
            _channels(values[_WEBSOCKET])
            await session.run()

    endpoint.__name__ = endpoint.__qualname__ = spec.facts.name
    endpoint.__module__ = __name__
    setattr(endpoint, _PLAN, route.plan)
    endpoint.__doc__ = inspect.getdoc(spec.stub)
    endpoint.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # inspect reads it, and no type says so.
    return endpoint


async def _call(spec: WebSocketSpec, arguments: dict[str, Any], websocket: WebSocket) -> None:
    if spec.facts.is_async:
        await spec.stub(**arguments)
    else:
        await run_in_threadpool(spec.stub, **arguments)
    _channels(websocket)
