"""``proxyroutes demo``: two upstreams and a gateway with a pool over them, in one process and on real sockets.

The check proves streaming without a look at the clock: each side goes on only when the other has got what was sent
before. A gateway that collected a body first would stand still, and the check would end with a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from attrs import define, field, frozen
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typing_extensions import override

from proxyroutes._operate.routes_table import Table
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.policies import RoundRobin
from proxyroutes.typing import ASGIApp

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Observation", "Registry", "check_demo", "report", "run_demo"]

_NAMES = ("red", "blue")
_EVENTS = 5
_BLOCKS = 16
_BLOCK_BYTES = 16_384
_REQUESTS = 6
# So much an upstream keeps to echo it.
_MAX_BODY_BYTES = 8 * 1024 * 1024
_CLIENT_SECONDS = 5.0
_CHECK_SECONDS = 30.0
_STOP_SECONDS = 5.0


class Registry(Protocol):
    """What the demo needs of a ``Proxy``, which is above it in the layers."""

    def route(
        self, path: str, *, upstream: Any, rewrite: str | None, max_body_bytes: int | None
    ) -> Callable[[Any], Any]:
        """Declare a route."""
        ...

    def status_router(self, *, title: str, controls: bool, public: bool) -> APIRouter:
        """Make the status page."""
        ...

    def build_router(self) -> APIRouter:
        """Compile what was declared."""
        ...


@frozen(kw_only=True)
class Observation:
    """What one part of the check saw.

    Attributes:
        tried: What was done.
        expected: What should be seen.
        seen: What was seen, or the failure.
        passed: Whether that is the same.
    """

    tried: str
    expected: str
    seen: str
    passed: bool


def report(observations: list[Observation]) -> Table:
    """The observations as a table."""
    return Table(
        ("tried", "seen", "result"),
        tuple(
            (one.tried, one.seen, "ok" if one.passed else f"FAILED, expected: {one.expected}")
            for one in observations
        ),
    )


# The upstreams.


@define(eq=False)
class _Pace:
    """How fast upstreams go on: by the clock for a human reader, by the reader's own progress for the check."""

    seconds: float | None = None
    read: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(0))
    received_bytes: asyncio.Queue[int] = field(factory=asyncio.Queue)

    async def pause(self) -> None:
        """Wait until the next event may be sent."""
        if self.seconds is None:
            await self.read.acquire()
        else:
            await asyncio.sleep(self.seconds)

    def receive(self, block: bytes) -> None:
        """Take note of what an upstream has received."""
        if self.seconds is None:
            self.received_bytes.put_nowait(len(block))


def _make_upstream(name: str, pace: _Pace) -> Starlette:
    async def hello(request: Request) -> Response:
        fields = ("host", "via", "x-forwarded-for")
        received = {field: request.headers.get(field) for field in fields}
        return JSONResponse({"upstream": name, "path": request.url.path, "received": received})

    async def count() -> AsyncIterator[str]:
        for number in range(1, _EVENTS + 1):
            yield f"id: {number}\ndata: {name} {number} of {_EVENTS}\n\n"
            if number < _EVENTS:
                await pace.pause()

    async def events(_: Request) -> Response:
        return StreamingResponse(count(), media_type="text/event-stream")

    async def echo(request: Request) -> Response:
        content = bytearray()
        async for block in request.stream():
            pace.receive(block)
            content += block
        return Response(bytes(content), media_type=request.headers.get("content-type"))

    return Starlette(
        routes=[
            Route("/hello", hello),
            Route("/events", events),
            Route("/echo", echo, methods=["POST", "PUT"]),
        ]
    )


# Servers.


@define(eq=False)
class _Running:
    """A server on a socket of its own."""

    port: int
    server: uvicorn.Server
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self.server.should_exit = True
        await asyncio.wait({self.task}, timeout=_STOP_SECONDS)
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=_STOP_SECONDS)


@contextlib.asynccontextmanager
async def _serve(app: ASGIApp, *, name: str, port: int = 0) -> AsyncIterator[_Running]:
    import uvicorn  # noqa: PLC0415 - an extra

    class Server(uvicorn.Server):
        @override
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            # Several servers share this process; its signals are handled in one place.
            yield

    config = uvicorn.Config(
        app,
        loop="none",
        ws="none",
        log_config=None,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    with socket.create_server(("127.0.0.1", port)) as listener:
        # Connections wait in the listener's backlog until the server has started.
        task = asyncio.create_task(server.serve(sockets=[listener]), name=f"demo: {name}")
        running = _Running(listener.getsockname()[1], server, task)
        try:
            yield running
        finally:
            await running.stop()


@define(eq=False)
class _Demo:
    """The running demo."""

    gateway: _Running
    upstreams: dict[str, _Running]
    pace: _Pace


@contextlib.asynccontextmanager
async def _start(proxy: Registry, pace: _Pace, port: int) -> AsyncIterator[_Demo]:
    async with contextlib.AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(_serve(_make_upstream(name, pace), name=name))
            for name in _NAMES
        }
        pool = UpstreamPool(
            "colours", [one.url for one in upstreams.values()], balancing=RoundRobin()
        )

        @proxy.route(
            "/api/<path>", upstream=pool, rewrite="/<path>", max_body_bytes=_MAX_BODY_BYTES
        )
        async def api() -> None:
            """Forward to one of the two upstreams."""

        app = FastAPI(title="proxyroutes demo")
        # On loopback, and gone with the demo.
        page = proxy.status_router(title="proxyroutes demo", controls=True, public=True)
        app.include_router(page, prefix="/_proxy")
        app.include_router(proxy.build_router())
        gateway = await stack.enter_async_context(_serve(app, name="gateway", port=port))
        yield _Demo(gateway, upstreams, pace)


# To look at.


async def run_demo(proxy: Registry, *, port: int, say: Callable[[str], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        proxy: A new ``Proxy``; the demo's route is declared on it.
        port: The gateway's TCP port on 127.0.0.1; 0 for a free one.
        say: Is given what a reader should see.

    Raises:
        OSError: If the port cannot be listened on.
        ImportError: If uvicorn is not installed.
    """
    async with _start(proxy, _Pace(seconds=0.5), port) as demo:
        url = demo.gateway.url
        tries = {
            f"curl {url}/api/hello": "again and again: the two take turns",
            f"curl -N {url}/api/events": "event by event",
            f"echo hello | curl -X POST -T - {url}/api/echo": "streamed there and back",
        }
        width = max(map(len, tries))
        lines = [
            *(f"upstream {name:5} {one.url}" for name, one in demo.upstreams.items()),
            f"gateway        {url}",
            f"status page    {url}/_proxy/",
            "",
            *(f"  {command:{width}}  # {comment}" for command, comment in tries.items()),
            "",
            "Ctrl-C stops it.",
        ]
        say("\n".join(lines))
        await _interruption()
        say("stopped")


async def _interruption() -> None:
    """Wait for Ctrl-C or a request to terminate."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    # Where the loop handles no signals (Windows), Ctrl-C cancels the running task.
    with contextlib.suppress(NotImplementedError):
        for one in signals:
            loop.add_signal_handler(one, interrupted.set)
    try:
        await interrupted.wait()
    finally:
        with contextlib.suppress(NotImplementedError):
            for one in signals:
                loop.remove_signal_handler(one)


# To check.


async def check_demo(proxy: Registry, *, port: int = 0) -> list[Observation]:
    """Make the requests of a curious user, over real sockets, and say what came of them.

    It ends by itself, whatever the gateway does.

    Args:
        proxy: A new ``Proxy``; the demo's route is declared on it.
        port: The gateway's TCP port on 127.0.0.1; 0 for a free one.

    Raises:
        OSError: If the port cannot be listened on.
        ImportError: If uvicorn is not installed.
    """
    expectations: list[tuple[str, str, Callable[[httpx.AsyncClient, _Demo], Awaitable[str]]]] = [
        (f"GET, {_REQUESTS} times", _counts(_REQUESTS // 2, _NAMES), _get),
        (
            "POST, streamed",
            f"{_BLOCKS} of {_BLOCKS} blocks arrive one by one, echoed whole",
            _post,
        ),
        ("server-sent events", f"{_EVENTS} of {_EVENTS} events arrive one by one", _listen),
        (f"GET, {_NAMES[0]} killed", _counts(_REQUESTS, _NAMES[1:]), _lose_one),
    ]
    observations = []
    async with (
        _start(proxy, _Pace(), port) as demo,
        httpx.AsyncClient(
            base_url=f"{demo.gateway.url}/api/", timeout=_CLIENT_SECONDS, trust_env=False
        ) as client,
    ):
        for tried, expected, check in expectations:
            try:
                async with asyncio.timeout(_CHECK_SECONDS / len(expectations)):
                    seen = await check(client, demo)
            except (httpx.HTTPError, OSError, LookupError, ValueError) as error:
                seen = f"{type(error).__name__}: {error}".removesuffix(": ")
            observations.append(
                Observation(tried=tried, expected=expected, seen=seen, passed=seen == expected)
            )
    return observations


def _counts(count: int, names: tuple[str, ...]) -> str:
    return ", ".join(f"{count} x 200 from {name}" for name in names)


async def _get(client: httpx.AsyncClient, _: _Demo) -> str:
    answers: Counter[tuple[int, str]] = Counter()
    for _number in range(_REQUESTS):
        response = await client.get("hello")
        answered = response.status_code == httpx.codes.OK
        answers[response.status_code, response.json()["upstream"] if answered else "gateway"] += 1
    return ", ".join(
        f"{count} x {status} from {name}" for (status, name), count in answers.items()
    )


async def _post(client: httpx.AsyncClient, demo: _Demo) -> str:
    arrived = 0
    blocks = [bytes([number]) * _BLOCK_BYTES for number in range(_BLOCKS)]

    async def content() -> AsyncIterator[bytes]:
        nonlocal arrived
        for block in blocks:
            yield block
            missing = len(block)
            while missing > 0:
                missing -= await demo.pace.received_bytes.get()
            arrived += 1

    response = await client.post("echo", content=content())
    whole = response.status_code == httpx.codes.OK and response.content == b"".join(blocks)
    echo = "whole" if whole else f"as {response.status_code} with {len(response.content)} bytes"
    return f"{arrived} of {_BLOCKS} blocks arrive one by one, echoed {echo}"


async def _listen(client: httpx.AsyncClient, demo: _Demo) -> str:
    events = 0
    async with client.stream("GET", "events") as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                events += 1
                demo.pace.read.release()
    return f"{events} of {_EVENTS} events arrive one by one"


async def _lose_one(client: httpx.AsyncClient, demo: _Demo) -> str:
    await demo.upstreams[_NAMES[0]].stop()
    return await _get(client, demo)
