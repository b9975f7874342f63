"""The router of the status page."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from proxyroutes._operate.status.board import Board, Source
from proxyroutes._operate.status.control import Changes, read_change
from proxyroutes._operate.status.feed import MOST_VIEWERS, EventStream, Feed
from proxyroutes._operate.status.guard import Guard, check_origin
from proxyroutes._operate.status.page import read_page
from proxyroutes._state.loops import LoopStates
from proxyroutes.typing import Clock

__all__ = ["make_status_router"]

_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class StatusPage:
    """The endpoints of one status page."""

    def __init__(
        self,
        source: Source,
        running: Callable[[], AbstractAsyncContextManager[Any]],
        clock: Callable[[], Clock],
        guard: Guard,
        *,
        controls: bool,
    ) -> None:
        self._source = source
        self._running = running
        self._clock = clock
        self._guard = guard
        self._page = read_page()
        self._token = secrets.token_urlsafe(24) if controls else ""
        self._feeds: LoopStates[Feed] = LoopStates()
        self._changes = Changes()

    @property
    def public(self) -> bool:
        """Whether it is meant to be open to everybody; ``proxyroutes check`` asks."""
        return self._guard.public

    def _make_feed(self) -> Feed:
        feed = Feed(Board(self._source), self._clock())
        feed.start()
        return feed

    def feed(self) -> Feed:
        """The feed of the running loop; started here where the lifespan did not reach this router."""
        loop = asyncio.get_running_loop()
        feed = self._feeds.get(loop)
        if feed is None:
            feed = self._make_feed()
            self._feeds.open_lazily(loop, feed)
        return feed

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        """Runs with the application's."""
        self._guard.check_start(app)
        loop = asyncio.get_running_loop()
        async with self._running():
            self._feeds.enter(loop, self._make_feed)
            try:
                yield
            finally:
                await self._changes.aclose()
                await self._feeds.leave(loop)

    # Endpoints.

    async def show(self, request: Request) -> Response:
        """The page."""
        self._guard.check_request(request)
        return HTMLResponse(self._page.render(token=self._token), headers=self._page.headers)

    async def snapshot(self, request: Request) -> Response:
        """All that the page knows, once."""
        self._guard.check_request(request)
        return JSONResponse(self.feed().board.snapshot(), headers=_NO_STORE)

    async def events(self, request: Request) -> Response:
        """The stream of it."""
        self._guard.check_request(request)
        feed = self.feed()
        if feed.viewers >= MOST_VIEWERS:
            raise HTTPException(
                503, f"{MOST_VIEWERS} pages are open already.", {"Retry-After": "5"}
            )
        return EventStream(feed, request.headers.get("last-event-id"))

    async def explain(self, request: Request) -> Response:
        """What the gateway would do with a request."""
        self._guard.check_request(request)
        asked = request.query_params
        lines = [line.partition(":") for line in asked.getlist("header")]
        fields = [(name.strip(), value.strip()) for name, _, value in lines]
        try:
            explained = self._source.explain(
                asked.get("method", "GET"), asked.get("url", "/"), fields
            )
        except ValueError as error:
            raise HTTPException(400, "That is not what a request can be made of.") from error
        # Where the stub stands in the author's files is nothing for a page.
        explained.pop("location", None)
        return JSONResponse(explained, headers=_NO_STORE)

    async def control(self, request: Request) -> Response:
        """Change one destination."""
        self._guard.check_request(request)
        check_origin(request, self._token)
        self._changes.make(await read_change(request), self._source.pools())
        return Response(status_code=204, headers=_NO_STORE)


def make_status_router(
    source: Source,
    running: Callable[[], AbstractAsyncContextManager[Any]],
    clock: Callable[[], Clock],
    *,
    controls: bool,
    public: bool,
    dependencies: Sequence[Any],
    options: dict[str, Any],
) -> APIRouter:
    """Make the router.

    Args:
        source: What is shown.
        running: Starts the gateway, or joins those who have.
        clock: The monitor's clock on the running loop.
        controls: Whether the page can drain, undrain and weigh.
        public: Whether it may be open to everybody.
        dependencies: What FastAPI solves before anything is shown.
        options: Further keywords of ``APIRouter``.
    """
    guard = Guard(public=public)
    page = StatusPage(source, running, clock, guard, controls=controls)
    router = APIRouter(**options, dependencies=list(dependencies), lifespan=page.lifespan)
    for path, endpoint in (
        ("", page.show),
        ("/", page.show),
        ("/snapshot.json", page.snapshot),
        ("/events", page.events),
        ("/explain", page.explain),
    ):
        router.add_api_route(
            path, endpoint, methods=["GET"], include_in_schema=False, response_model=None
        )
    if controls:
        router.add_api_route(
            "/control",
            page.control,
            methods=["POST"],
            include_in_schema=False,
            response_model=None,
        )
    guard.routes = tuple(router.routes)
    return router
