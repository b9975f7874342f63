"""``run``: a gateway behind uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from typing_extensions import override

from proxyroutes.exceptions import RelayInterruptedError
from proxyroutes.typing import ASGIApp

if TYPE_CHECKING:
    import uvicorn

__all__ = ["app_of", "serve"]

_BACKLOG = 2048
_THRESHOLDS = (10_000, 20, 20)


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
) -> str | None:
    """Serve until the process is told to stop.

    Args:
        app: What is served.
        host: The address that is listened on.
        port: The TCP port; 0 for a free one.
        trusted: Addresses of the proxies in front whose ``X-Forwarded-*`` are believed, commas between; empty for none.
        grace: Seconds that running requests have when the process is told to stop.
        say: Is given the address.

    Returns:
        What went wrong at the start or at the end, or None.

    Raises:
        OSError: If the address cannot be listened on.
        ImportError: If uvicorn is not installed.
        KeyboardInterrupt: If a second Ctrl-C did not let it stop in good order.
    """
    import uvicorn  # noqa: PLC0415 - an extra

    from proxyroutes.server import (  # noqa: PLC0415 - of the same extra
        HttpProtocol,
        WebSocketProtocol,
    )

    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        lifespan="on",
        access_log=False,
        # A client's own word for where it comes from is not believed unless somebody says so.
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted or None,
        timeout_graceful_shutdown=max(1, round(grace)),
        log_level="warning",
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = _make_server(config, app)
    with socket.create_server((host, port), family=family, backlog=_BACKLOG) as listener:
        number = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        with _stopped_by_signals(server), _without_tracebacks(server):
            say(f"serving on http://{shown}:{number}, Ctrl-C stops it")
            try:
                server.run(sockets=[listener])
            except SystemExit:
                # uvicorn exits by itself where the application does not start.
                if server.started:
                    raise
    if server.force_exit:
        raise KeyboardInterrupt
    if not server.started:
        return "did not start"
    return "did not stop in good order" if server.lifespan.should_exit else None


def _make_server(config: uvicorn.Config, app: ASGIApp) -> uvicorn.Server:
    import uvicorn  # noqa: PLC0415 - an extra

    class Server(uvicorn.Server):
        @override
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            # uvicorn's own raises each signal again once it has stopped, and the process would end by it.
            yield

        @override
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # FastAPI makes the routes of an inclusion when they are first asked for; no request is to wait for that.
            for _ in iter_route_contexts(getattr(app, "routes", ())):
                pass
            # What is there now stays: the collector need not look at it again and again, and this process is ours.
            gc.collect()
            gc.freeze()
            # What waits for upstreams has hundreds of objects alive at once: more than a collection is made after by default.
            gc.set_threshold(*_THRESHOLDS)

    return Server(config)


@contextlib.contextmanager
def _without_tracebacks(server: uvicorn.Server) -> Iterator[None]:
    """Leave out of uvicorn's log what is no mistake of anybody's: to raise is the only way to break a connection."""

    def is_news(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            # It has said how many it cancels.
            return not server.should_exit
        # The gateway's own log has it, with where and why.
        return not isinstance(error, RelayInterruptedError)

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


@contextlib.contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Have signals stop the server in good order, from before its address is known until it has stopped."""
    import uvicorn.server  # noqa: PLC0415 - an extra

    # Only the main thread is told of signals.
    is_main = threading.current_thread() is threading.main_thread()
    handled = uvicorn.server.HANDLED_SIGNALS if is_main else ()
    # A bound method of the server: open status pages see by it that the server is stopping.
    before = {number: signal.signal(number, server.handle_exit) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
