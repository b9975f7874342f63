"""Starting and stopping: with the router, counted, again and again, lazily, or by hand."""

import asyncio
import gc
import logging
from contextlib import asynccontextmanager

import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.testclient import TestClient

from proxyroutes import HealthMonitor, Proxy, UpstreamPool
from proxyroutes.transports import ASGITransport


class CountingTransport:
    """Counts how often it was bound and closed; serves in process."""

    def __init__(self):
        inner = FastAPI()
        inner.get("/{path:path}")(lambda: "ok")
        self._inner = ASGITransport(inner)
        self.bound = self.closed = 0

    def bind(self, *, clock, tls):
        """Bind."""
        self.bound += 1
        return _Bound(self, self._inner.bind(clock=clock, tls=tls))


class _Bound:
    def __init__(self, recipe, inner):
        self._recipe = recipe
        self._inner = inner

    async def send(self, *args):
        return await self._inner.send(*args)

    async def aclose(self):
        self._recipe.closed += 1
        await self._inner.aclose()


@pytest.fixture
def transport():
    """What counts."""
    return CountingTransport()


@pytest.fixture
def pool(transport):
    """A pool over it."""
    return UpstreamPool("counted", ["http://inner"], transport=transport)


@pytest.fixture
def proxy(pool):
    """A proxy with one route to it."""
    proxy = Proxy()
    proxy.get("/x", upstream=pool)(stub)
    return proxy


@pytest.fixture
def app():
    """An application without routes."""
    return FastAPI()


@pytest.fixture
def records(caplog):
    """Records of lazy starts."""
    caplog.set_level(logging.INFO)
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "proxyroutes.lifespan"
    ]


async def stub() -> None:
    """Forward."""


def test_start_and_stop_ride_on_the_router(proxy, app, transport, records):
    """The pool is opened before the first request and closed after the last; nothing else is to be wired."""
    app.include_router(proxy.build_router())
    with TestClient(app) as client:
        started = (transport.bound, transport.closed)
        status = client.get("/x").status_code

    assert ((1, 0), 200, (1, 1), []) == (
        started,
        status,
        (transport.bound, transport.closed),
        records(),
    )


def test_two_inclusions_are_counted(proxy, app, transport):
    """The router's lifespan is entered twice, the pool opened once."""
    router = proxy.build_router()
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b")
    with TestClient(app) as client:
        during = (
            client.get("/a/x").status_code,
            client.get("/b/x").status_code,
            transport.bound,
            transport.closed,
        )

    assert ((200, 200, 1, 0), 1) == (during, transport.closed)


@pytest.mark.requirement("R-46")
def test_an_application_runs_again(proxy, app, transport, records):
    """Two runs of one application, each on a loop of its own, start and stop cleanly."""
    app.include_router(proxy.build_router())
    for _ in range(2):
        with TestClient(app) as client:
            client.get("/x").raise_for_status()

    assert (2, 2, []) == (transport.bound, transport.closed, records())


@pytest.mark.requirement("R-46")
def test_without_a_lifespan_the_first_request_starts(proxy, app, transport, records):
    """Once, with a log record, and it ends with its loop."""
    app.include_router(proxy.build_router())

    async def run():
        import httpx

        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test"
        ) as client:
            for _ in range(3):
                (await client.get("/x")).raise_for_status()
        return transport.closed

    before = asyncio.run(run())

    assert (1, 0, 1, 1) == (transport.bound, before, transport.closed, len(records()))
    assert "pool started on first use" in records()[0]


def test_a_mounted_application_starts_lazily(proxy, transport, records):
    """FastAPI runs no lifespan of what is mounted."""
    inner, outer = FastAPI(), FastAPI()
    inner.include_router(proxy.build_router())
    outer.mount("/sub", inner)
    with TestClient(outer) as client:
        client.get("/sub/x").raise_for_status()

    assert (1, 1, 1) == (transport.bound, transport.closed, len(records()))


def test_a_router_that_is_nested_late_starts_lazily(proxy, app, transport, records):
    """Its parent was included before; the routes are live, the lifespan is not."""
    outer = APIRouter()
    app.include_router(outer)
    outer.include_router(proxy.build_router())
    with TestClient(app) as client:
        client.get("/x").raise_for_status()

    assert (1, 1, 1) == (transport.bound, transport.closed, len(records()))


def test_a_router_that_is_nested_early_starts_with_the_application(proxy, app, transport, records):
    """Nesting before the parent's inclusion is enough."""
    outer = APIRouter()
    outer.include_router(proxy.build_router(), prefix="/in")
    app.include_router(outer)
    with TestClient(app) as client:
        started = transport.bound
        client.get("/in/x").raise_for_status()

    assert (1, 1, []) == (started, transport.closed, records())


def test_the_routers_own_lifespan_is_composed(proxy, app, transport):
    """It runs within ours, and what it yields is the request's state."""
    order = []

    @asynccontextmanager
    async def own(served):
        order.append(("start", served is app, transport.bound))
        yield {"key": "value"}
        order.append(("stop", transport.closed))

    app.include_router(proxy.build_router(lifespan=own))

    @app.get("/key")
    async def key(request: Request) -> str:
        return request.state.key

    with TestClient(app) as client:
        value = client.get("/key").json()

    assert ("value", [("start", True, 1), ("stop", 0)], 1) == (value, order, transport.closed)


def test_a_failing_lifespan_closes_what_was_opened(proxy, app, transport):
    """A start that fails leaves nothing open."""

    @asynccontextmanager
    async def own(served):
        raise RuntimeError("no start")
        yield

    app.include_router(proxy.build_router(lifespan=own))
    with pytest.raises(RuntimeError, match="no start"), TestClient(app):
        pass

    assert (1, 1) == (transport.bound, transport.closed)


def test_a_pool_that_cannot_be_bound_fails_the_start(app, transport):
    """What was opened before it is closed."""

    class Broken:
        def bind(self, *, clock, tls):
            raise OSError("no transport")

    proxy = Proxy()
    proxy.get("/a", upstream=UpstreamPool("good", ["http://a"], transport=transport))(stub)
    proxy.get("/b", upstream=UpstreamPool("bad", ["http://b"], transport=Broken()))(stub)
    app.include_router(proxy.build_router())
    with pytest.raises(OSError, match="no transport"), TestClient(app):
        pass

    assert (1, 1) == (transport.bound, transport.closed)


async def test_a_proxy_is_a_context_manager(proxy, transport):
    """``async with proxy`` opens and closes."""
    async with proxy as entered:
        during = (entered is proxy, transport.bound, transport.closed)

    assert ((True, 1, 0), 1) == (during, transport.closed)


async def test_entering_a_proxy_twice_is_counted(proxy, transport):
    """The last who leaves closes."""
    async with proxy:
        async with proxy:
            pass
        during = transport.closed

    assert (1, 0, 1) == (transport.bound, during, transport.closed)


@pytest.mark.requirement("R-46")
async def test_a_proxy_runs_once_for_each_loop(proxy, transport):
    """A proxy knows on which loop it runs."""
    before = proxy._lifespan.running
    async with proxy:
        during = proxy._lifespan.running

    assert (False, True, False) == (before, during, proxy._lifespan.running)


def test_the_proxys_lifespan_is_the_applications(proxy, pool, transport, records):
    """``FastAPI(lifespan=proxy.lifespan)`` is for applications that only forward by hand."""
    app = FastAPI(lifespan=proxy.lifespan)

    @app.get("/x")
    async def forwards(request: Request):
        return await proxy.forward(request, pool)

    with TestClient(app) as client:
        started = transport.bound
        client.get("/x").raise_for_status()

    assert (1, 1, []) == (started, transport.closed, records())


def test_lifespans_of_proxy_and_router_are_counted_together(proxy, transport):
    """Both in one application open once and close once."""
    app = FastAPI(lifespan=proxy.lifespan)
    app.include_router(proxy.build_router())
    with TestClient(app) as client:
        client.get("/x").raise_for_status()

    assert (1, 1) == (transport.bound, transport.closed)


def test_a_pool_that_no_route_names_is_closed_with_the_proxy(transport, records):
    """What is first used by ``forward`` within a running proxy ends with it, and starts silently."""
    proxy = Proxy()
    pool = UpstreamPool("by hand", ["http://inner"], transport=transport)
    app = FastAPI(lifespan=proxy.lifespan)

    @app.get("/x")
    async def forwards(request: Request):
        return await proxy.forward(request, pool)

    with TestClient(app) as client:
        client.get("/x").raise_for_status()
        client.get("/x").raise_for_status()
        during = (transport.bound, transport.closed)

    assert ((1, 0), 1, []) == (during, transport.closed, records())


def test_a_pool_that_was_closed_meanwhile_is_forgotten(transport):
    """A running proxy does not collect every pool that it has ever used."""
    proxy = Proxy()
    app = FastAPI(lifespan=proxy.lifespan)
    kept = []

    @app.get("/x")
    async def forwards(request: Request):
        pool = UpstreamPool("short", ["http://inner"], transport=transport)
        response = await proxy.forward(request, pool)
        kept.append(pool)
        return response

    @app.get("/close")
    async def close():
        await kept.pop().close()

    with TestClient(app) as client:
        for _ in range(3):
            client.get("/x").raise_for_status()
            client.get("/close").raise_for_status()
        client.get("/x").raise_for_status()
        kept.clear()
        gc.collect()
        alive = [
            one
            for one in gc.get_objects()
            if isinstance(one, UpstreamPool) and one.name == "short"
        ]

    assert (1, 4, 4) == (len(alive), transport.bound, transport.closed)


def test_a_chosen_pool_is_closed_with_its_loop(transport, records):
    """No spec names it: the first request that chooses it opens it."""
    proxy = Proxy()
    pool = UpstreamPool("chosen", ["http://inner"], transport=transport)
    proxy.get("/x", upstream=lambda request: pool)(stub)
    app = FastAPI()
    app.include_router(proxy.build_router())
    with TestClient(app) as client:
        client.get("/x").raise_for_status()

    assert (1, 1) == (transport.bound, transport.closed)


def test_one_pool_serves_many_applications(pool, transport):
    """Two applications on two loops have two states."""
    clients = []
    for _ in range(2):
        proxy, app = Proxy(), FastAPI()
        proxy.get("/x", upstream=pool)(stub)
        app.include_router(proxy.build_router())
        clients.append(TestClient(app))
    with clients[0] as first, clients[1] as second:
        statuses = [first.get("/x").status_code, second.get("/x").status_code]
        during = (transport.bound, transport.closed)

    assert ([200, 200], (2, 0), 2) == (statuses, during, transport.closed)


def test_a_pools_own_monitor_is_started_too(transport):
    """A pool may have a monitor of its own beside the proxy's."""
    monitor = HealthMonitor()
    proxy, app = Proxy(), FastAPI()
    proxy.get(
        "/x", upstream=UpstreamPool("own", ["http://inner"], transport=transport, monitor=monitor)
    )(stub)
    app.include_router(proxy.build_router())
    with TestClient(app) as client:
        client.get("/x").raise_for_status()
        during = len(monitor._states.all())

    assert (1, 0) == (during, len(monitor._states.all()))


def test_a_proxy_without_routes_may_be_entered_before_it_is_declared(transport, pool):
    """Running it for ``forward`` alone does not close the registry."""
    proxy = Proxy()

    async def run():
        async with proxy:
            proxy.get("/x", upstream=pool)(stub)

    asyncio.run(run())

    assert "<Proxy 1 routes>" == repr(proxy)
