"""The Python subjects as ASGI applications, one attribute each; ``uvicorn benchmarks.apps:NAME`` serves it.

``BENCH_UPSTREAM`` is the upstream's URL, ``BENCH_ROUTES`` and ``BENCH_DESTINATIONS`` say how many there are. An attribute
is made when it is asked for, so that a process has in memory what it serves and nothing else.
"""

# Annotations are evaluated here: FastAPI reads those of endpoints whose names are imported inside of a function.

import contextlib
import gc
import os
from collections.abc import AsyncIterator
from typing import Any

BODY = b'{"id":12345,"name":"benchmark","ok":true,"tags":["a","b"]}'
_UPSTREAM = os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:9000")
_ROUTES = int(os.environ.get("BENCH_ROUTES", "1"))
_ECHO = os.environ.get("BENCH_ECHO", "http://127.0.0.1:9001")
_DESTINATIONS = int(os.environ.get("BENCH_DESTINATIONS", "1"))


def _destinations() -> list[str]:
    """As many loopback addresses of one upstream, which listens on all of them."""
    port = _UPSTREAM.rpartition(":")[2]
    return [f"http://127.0.{n // 250}.{n % 250 + 1}:{port}" for n in range(_DESTINATIONS)]


def _proxy(*, access_log: Any = False, **pool_options: Any) -> Any:
    from proxyroutes import Proxy, UpstreamPool

    proxy = Proxy(access_log=access_log)
    pool = UpstreamPool("upstream", _destinations(), **pool_options)
    for number in range(1, _ROUTES):

        @proxy.route(f"/r{number}/<path>", upstream=pool, name=f"r{number}")
        async def other() -> None: ...

    @proxy.route("/<path>", upstream=pool)
    async def everything() -> None: ...

    @proxy.websocket("/ws", upstream=_ECHO)
    async def messages() -> None: ...

    return proxy


def _app() -> Any:
    return _proxy().build_app()


def _router(**pool_options: Any) -> Any:
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(_proxy(**pool_options).build_router())
    return app


def _dependency() -> Any:
    """One asynchronous dependency, as an application has for its login."""
    from fastapi import Request

    async def user(request: Request) -> str:
        return request.headers.get("user-agent", "")

    return user


def _router_dependency() -> Any:
    """A stub with one dependency: the full path of FastAPI, and the gateway behind it."""
    from typing import Annotated

    from fastapi import Depends, FastAPI

    from proxyroutes import Proxy, UpstreamPool

    user = _dependency()
    proxy = Proxy()

    @proxy.route("/<path>", upstream=UpstreamPool("upstream", _destinations()))
    async def everything(name: Annotated[str, Depends(user)]) -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


def _hello_dependency() -> Any:
    """FastAPI answering by itself, with the same dependency."""
    from typing import Annotated

    from fastapi import Depends, FastAPI

    user = _dependency()
    app = FastAPI()

    @app.get("/json")
    async def answer(name: Annotated[str, Depends(user)]):  # type: ignore[no-untyped-def]  # As FastAPI's tutorial writes it.
        del name
        return {"id": 12345, "name": "benchmark", "ok": True, "tags": ["a", "b"]}

    return app


def _router_metrics() -> Any:
    """Counters on."""
    from fastapi import FastAPI

    proxy = _proxy()
    app = FastAPI()
    app.include_router(proxy.build_router())
    # Behind the gateway: it is the counters that are measured, not one more route to look at.
    app.include_router(proxy.metrics_router())
    return app


def _router_access_log() -> Any:
    """With an access log that is handed over many lines at a time to a queue, as the documents advise for production."""
    import logging
    import logging.handlers
    import queue

    from fastapi import FastAPI

    from proxyroutes.settings import AccessLog

    class PlainQueueHandler(logging.handlers.QueueHandler):
        def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
            return record

    lines: Any = queue.SimpleQueue()
    logger = logging.getLogger("proxyroutes.access")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(PlainQueueHandler(lines))
    sink = logging.FileHandler(os.devnull)
    logging.handlers.QueueListener(lines, sink).start()
    proxy = _proxy(access_log=AccessLog(delay=0.025))
    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


def _middleware() -> Any:
    from fastapi import FastAPI

    from proxyroutes import GatewayMiddleware

    proxy = _proxy()
    app = FastAPI()
    app.add_middleware(GatewayMiddleware, proxy=proxy)
    app.include_router(proxy.build_router())
    return app


def _httpx_transport() -> Any:
    import httpx

    from proxyroutes.transports import HttpxTransport

    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    return HttpxTransport(httpx.AsyncHTTPTransport(limits=limits))


def _router_httpx() -> Any:
    return _router(transport=_httpx_transport())


def _hello() -> Any:
    """FastAPI answering the same JSON by itself, as its tutorial does."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/json")
    async def answer():  # type: ignore[no-untyped-def]  # As FastAPI's tutorial writes it.
        return {"id": 12345, "name": "benchmark", "ok": True, "tags": ["a", "b"]}

    return app


def _hello_typed() -> Any:
    """The same with a return annotation: newer releases of FastAPI have a shorter way for it."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/json")
    async def answer() -> dict[str, Any]:
        return {"id": 12345, "name": "benchmark", "ok": True, "tags": ["a", "b"]}

    return app


async def _raw(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def _reverse_proxy() -> Any:
    """``fastapi-reverse-proxy`` as its documentation shows it."""
    from fastapi import FastAPI, Request, WebSocket
    from fastapi_reverse_proxy import (  # type: ignore[import-not-found]  # Measured where it is installed.
        Proxy,
        proxy_pass,
        proxy_pass_websocket,
    )

    async def lifespan(app: FastAPI) -> Any:
        async with Proxy(app):
            yield

    from contextlib import asynccontextmanager

    app = FastAPI(lifespan=asynccontextmanager(lifespan))

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def everything(request: Request, path: str) -> Any:
        return await proxy_pass(request, _UPSTREAM, path=f"/{path}")

    @app.websocket("/ws")
    async def messages(websocket: WebSocket) -> None:
        await proxy_pass_websocket(websocket, _ECHO)

    return app


def _proxy_lib() -> Any:
    from fastapi_proxy_lib.fastapi.app import reverse_http_app  # type: ignore[import-not-found]  # Measured where it is installed.

    return reverse_http_app(base_url=f"{_UPSTREAM}/")


def _aiohttp() -> Any:
    """What one writes by hand with aiohttp's client, in raw ASGI."""
    import aiohttp  # type: ignore[import-not-found]  # Measured where it is installed.

    session: Any = None
    dropped = {b"host", b"connection", b"transfer-encoding", b"content-length", b"date", b"server"}

    async def body_of(receive: Any) -> Any:
        while True:
            message = await receive()
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] == "lifespan":
            await receive()
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await session.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        received = [(n.decode(), v.decode()) for n, v in scope["headers"] if n not in dropped]
        content = body_of(receive) if scope["method"] == "POST" else None
        url = _UPSTREAM + scope["path"]
        async with session.request(
            scope["method"], url, headers=received, data=content
        ) as response:
            fields = [
                (name.lower(), value)
                for name, value in response.raw_headers
                if name.lower() == b"content-length" or name.lower() not in dropped
            ]
            await send(
                {"type": "http.response.start", "status": response.status, "headers": fields}
            )
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


_MAKERS = {
    "app": _app,
    "middleware": _middleware,
    "router": _router,
    "router_httpx": _router_httpx,
    "router_dependency": _router_dependency,
    "router_metrics": _router_metrics,
    "router_access_log": _router_access_log,
    "hello_dependency": _hello_dependency,
    "hello": _hello,
    "hello_typed": _hello_typed,
    "raw": lambda: _raw,
    "reverse_proxy": _reverse_proxy,
    "proxy_lib": _proxy_lib,
    "aiohttp": _aiohttp,
}


def __getattr__(name: str) -> Any:
    maker = _MAKERS.get(name)
    if maker is None:
        raise AttributeError(name)
    made = maker()
    # Advised for every server in production (docs, "Deploy"), so every Python subject has it.
    router = getattr(made, "router", None)
    if hasattr(router, "lifespan_context"):
        router.lifespan_context = _frozen_at_start(router.lifespan_context)
    else:
        _freeze()
    return made


def _frozen_at_start(inner: Any) -> Any:
    from fastapi.routing import iter_route_contexts

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with inner(app) as state:
            for _ in iter_route_contexts(app.routes):
                # FastAPI makes the routes of an inclusion when they are first asked for.
                pass
            _freeze()
            yield state

    return lifespan


def _freeze() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
