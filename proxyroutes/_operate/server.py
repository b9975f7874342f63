"""``run``: a gateway behind uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Callable

from fastapi import APIRouter, FastAPI

from proxyroutes.typing import ASGIApp

__all__ = ["app_of", "serve"]

_BACKLOG = 2048


def app_of(router: APIRouter) -> FastAPI:
    """The smallest application of FastAPI that serves a router."""
    app = FastAPI()
    app.include_router(router)
    return app


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    trusted: str,
    grace: float,
    say: Callable[[str], None],
) -> bool:
    """Serve until the process is told to stop.

    Args:
        app: What is served.
        host: The address that is listened on.
        port: The TCP port; 0 for a free one.
        trusted: Addresses of the proxies in front whose ``X-Forwarded-*`` are believed, commas between; empty for none.
        grace: Seconds that running requests have when the process is told to stop.
        say: Is given the address.

    Returns:
        Whether the application has started.

    Raises:
        OSError: If the address cannot be listened on.
        ImportError: If uvicorn is not installed.
    """
    import uvicorn  # noqa: PLC0415 - an extra

    config = uvicorn.Config(
        app,
        lifespan="on",
        access_log=False,
        # A client's own word for where it comes from is not believed unless somebody says so.
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted or None,
        timeout_graceful_shutdown=max(1, round(grace)),
        log_level="warning",
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=_BACKLOG) as listener:
        number = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        say(f"serving on http://{shown}:{number}, Ctrl-C stops it")
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        return server.started
