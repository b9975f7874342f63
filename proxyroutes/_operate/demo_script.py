"""What ``demo`` shows, step by step, over real sockets; each step says what it saw, and whether that is as it should be.

Streaming is proved without a look at the clock: each side goes on only when the other has got what was sent before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import httpx
from attrs import define, field
from fastapi import APIRouter, FastAPI

from proxyroutes._operate.demo_servers import EVENTS, Pace, Running, make_upstream, start_server
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.policies import OutlierDetection, RoundRobin
from proxyroutes.settings import HealthCheck

__all__ = ["Registry", "Stage", "Step", "perform"]

NAMES = ("red", "blue")
_BLOCKS = 16
_BLOCK_BYTES = 16_384
_CLIENTS = 4
_ANSWERS = 20
# So much an upstream keeps to echo it.
_MAX_BODY_BYTES = 8 * 1024 * 1024
_CLIENT_SECONDS = 5.0
_STEP_SECONDS = 10.0


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


class _UnexpectedError(Exception):
    """What was seen is not as it should be."""


def _expect(seen: object, text: str) -> None:
    if not seen:
        raise _UnexpectedError(text)


@define(eq=False)
class Step:
    """One step of the script.

    Attributes:
        title: What is done.
        act: Does it, and says what was seen.
        state: ``"waiting"``, ``"running"``, ``"ok"`` or ``"failed"``.
        seen: What was seen, or the failure.
    """

    title: str
    act: Callable[[], Awaitable[str]]
    state: str = "waiting"
    seen: str = ""


@define(eq=False)
class Stage:
    """Everything that the demo runs.

    Attributes:
        proxy: The demo's route is declared on it.
        port: The gateway's TCP port; 0 for a free one.
        pause: Seconds between two requests of a client.
        interval: Seconds between two health checks of an upstream.
        answers: Requests that were answered as they should be, by upstream.
        failures: What else clients got.
    """

    proxy: Registry
    port: int
    stack: contextlib.AsyncExitStack
    pause: float = 0.0
    interval: float = 0.05
    pace: Pace = field(factory=Pace)
    upstreams: dict[str, Running] = field(factory=dict)
    gateway: Running | None = None
    pool: UpstreamPool | None = None
    answers: Counter[str] = field(factory=Counter)
    failures: list[str] = field(factory=list)
    steps: list[Step] = field(init=False)
    _client: httpx.AsyncClient = field(init=False)
    _changed: asyncio.Event = field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=_CLIENT_SECONDS, trust_env=False)
        red = NAMES[0]
        self.steps = [
            Step("start two upstreams", self._start_upstreams),
            Step("start the gateway", self._start_gateway),
            Step("let clients send", self._send),
            Step("stream an upload", self._upload),
            Step("stream events", self._listen),
            Step(f"kill {red}", self._kill),
            Step(f"start {red} again", self._recover),
        ]

    @property
    def url(self) -> str:
        """The gateway's address; empty until it listens."""
        return "" if self.gateway is None else self.gateway.url

    @property
    def page(self) -> str:
        """The status page's address."""
        return f"{self.url}/_proxy/"

    async def _start_upstreams(self) -> str:
        await self.stack.enter_async_context(self._client)
        for name in NAMES:
            await self._start_upstream(name)
            response = await self._client.get(f"{self.upstreams[name].url}/health")
            _expect(response.is_success, f"{name} answers {response.status_code}")
        return " and ".join(f"{name} on {one.url}" for name, one in self.upstreams.items())

    async def _start_upstream(self, name: str, port: int = 0) -> None:
        app = make_upstream(name, self.pace)
        server = start_server(app, name=name, port=port)
        self.upstreams[name] = await self.stack.enter_async_context(server)

    async def _start_gateway(self) -> str:
        self.pool = UpstreamPool(
            "colours",
            [one.url for one in self.upstreams.values()],
            balancing=RoundRobin(),
            health=HealthCheck("/health", interval=self.interval),
            outliers=OutlierDetection(ejection=4 * self.interval),
        )

        @self.proxy.route(
            "/api/<path>", upstream=self.pool, rewrite="/<path>", max_body_bytes=_MAX_BODY_BYTES
        )
        async def api() -> None:
            """Forward to one of the two upstreams."""

        self.pool.on_change(lambda _: self._notify())
        app = FastAPI(title="proxyroutes demo")
        # On loopback, and gone with the demo.
        page = self.proxy.status_router(title="proxyroutes demo", controls=True, public=True)
        app.include_router(page, prefix="/_proxy")
        app.include_router(self.proxy.build_router())
        server = start_server(app, name="gateway", port=self.port)
        self.gateway = await self.stack.enter_async_context(server)
        response = await self._client.get(self.page)
        _expect(response.is_success, f"the status page answers {response.status_code}")
        states = await self.look()
        up = sum(one["state"] == "up" for one in states)
        _expect(up == len(NAMES), f"{up} of {len(NAMES)} upstreams are up")
        return f"{up} of {up} upstreams are up, live status page on {self.page}"

    async def look(self) -> list[dict[str, Any]]:
        """The destinations as the status page has them."""
        response = await self._client.get(f"{self.page}snapshot.json")
        found: list[dict[str, Any]] = response.json()["pools"][0]["destinations"]
        return found

    # Clients.

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._changed.wait()

    @contextlib.asynccontextmanager
    async def _traffic(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._ask_always(), name=f"demo: client {number}")
            for number in range(_CLIENTS)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_always(self) -> None:
        while True:
            try:
                response = await self._client.get(f"{self.url}/api/hello")
                if response.status_code == httpx.codes.OK:
                    self.answers[response.json()["upstream"]] += 1
                else:
                    self.failures.append(f"status {response.status_code}")
            except (httpx.HTTPError, LookupError, ValueError) as error:
                self.failures.append(type(error).__name__)
            self._notify()
            await asyncio.sleep(self.pause)

    def _failed(self, since: int = 0) -> str:
        _expect(not self.failures, f"clients see {', '.join(sorted(set(self.failures)))}")
        return f"0 of {self.answers.total() - since} requests failed"

    async def _send(self) -> str:
        await self.stack.enter_async_context(self._traffic())
        await self._until(
            lambda: bool(self.failures) or all(self.answers[one] >= _ANSWERS for one in NAMES)
        )
        return f"{' and '.join(NAMES)} take turns, {self._failed()}"

    # Streams.

    async def _upload(self) -> str:
        blocks = [bytes([number]) * _BLOCK_BYTES for number in range(_BLOCKS)]

        async def content() -> AsyncIterator[bytes]:
            for block in blocks:
                yield block
                missing = len(block)
                while missing > 0:
                    missing -= await self.pace.received_bytes.get()

        response = await self._client.post(f"{self.url}/api/echo?scripted", content=content())
        whole = response.is_success and response.content == b"".join(blocks)
        _expect(whole, f"{response.status_code} with {len(response.content)} bytes")
        return f"{_BLOCKS} blocks arrive one by one, and are echoed whole"

    async def _listen(self) -> str:
        events = 0
        async with self._client.stream("GET", f"{self.url}/api/events?scripted") as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    events += 1
                    self.pace.read.release()
        _expect(events == EVENTS, f"{events} of {EVENTS} events")
        return f"{events} of {EVENTS} events arrive one by one"

    # A loss, and its end.

    def _is_available(self, name: str) -> bool:
        url = self.upstreams[name].url
        found = () if self.pool is None else self.pool.status()
        return any(one.available for one in found if one.url == url)

    async def _kill(self) -> str:
        name, other = NAMES
        before = self.answers.total()
        await self.upstreams[name].kill()
        await self._until(lambda: not self._is_available(name))
        served = self.answers[other]
        await self._until(lambda: bool(self.failures) or self.answers[other] >= served + _ANSWERS)
        (state,) = [
            one["state"] for one in await self.look() if one["url"] == self.upstreams[name].url
        ]
        _expect(state in {"down", "ejected"}, f"{name} is {state}")
        return f"{name} is {state}, {self._failed(before)}"

    async def _recover(self) -> str:
        name = NAMES[0]
        before, served = self.answers.total(), self.answers[name]
        await self._start_upstream(name, self.upstreams[name].port)
        await self._until(lambda: self._is_available(name))
        await self._until(lambda: bool(self.failures) or self.answers[name] >= served + _ANSWERS)
        return f"{name} is back in rotation, {self._failed(before)}"


async def perform(stage: Stage, tell: Callable[[Step], object], dwell: float = 0.0) -> bool:
    """Go through the script, up to the first step that fails.

    Args:
        stage: Where it is played.
        tell: Is called with each step when it begins and when it has ended.
        dwell: Seconds after each step, for a human reader.

    Returns:
        Whether all of it was seen as it should be.
    """
    for step in stage.steps:
        step.state = "running"
        tell(step)
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                step.seen = await step.act()
            step.state = "ok"
        except (httpx.HTTPError, OSError, LookupError, ValueError, _UnexpectedError) as error:
            named = "" if isinstance(error, _UnexpectedError) else f"{type(error).__name__}: "
            step.seen, step.state = f"{named}{error}".removesuffix(": "), "failed"
        tell(step)
        if step.state == "failed":
            return False
        await asyncio.sleep(dwell)
    return True
