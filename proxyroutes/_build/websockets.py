"""WebSocket routes. In this release their dependencies run and the handshake is then refused: sessions are not there yet."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, WebSocket

from proxyroutes._build.compile import CompiledWebSocket
from proxyroutes._build.responses import problem_response
from proxyroutes.exceptions import GatewayError, Side

__all__ = ["add_websocket"]

_logger = logging.getLogger("proxyroutes.serve")


class SessionsMissingError(GatewayError):
    """This release does not relay WebSockets."""

    status_code = 501
    title = "WebSockets are not relayed by this release"
    slug = "no-sessions"
    default_side = Side.GATEWAY


def add_websocket(router: APIRouter, route: CompiledWebSocket) -> None:
    """Add one declared WebSocket route."""
    router.add_api_websocket_route(
        route.template.starlette_path,
        _make_endpoint(route),
        name=route.spec.name or route.spec.facts.name,
        dependencies=list(route.spec.dependencies),
    )


def _make_endpoint(route: CompiledWebSocket) -> Callable[[WebSocket], Awaitable[None]]:
    async def endpoint(websocket: WebSocket) -> None:
        _logger.warning(
            "session refused: route=%s WebSockets are not in this release", route.spec.facts.name
        )
        if "websocket.http.response" in websocket.scope.get("extensions", {}):
            await websocket.send_denial_response(problem_response(SessionsMissingError()))
        else:
            await websocket.close(1011)

    return endpoint
