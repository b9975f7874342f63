"""The pytest plugin, as it is installed."""

import importlib.metadata
import subprocess
import sys

import httpx
import pytest
import respx
from fastapi import FastAPI

from proxyroutes import HealthMonitor, Proxy, UpstreamPool
from proxyroutes.testing import Fault


def test_it_is_installed_with_the_package():
    """It is found by pytest by its entry point."""
    found = [
        point.value
        for point in importlib.metadata.entry_points(group="pytest11")
        if point.name == "proxyroutes"
    ]

    assert "pytest_proxyroutes" in found


def test_loading_it_imports_nothing_of_the_package():
    """A run of pytest that has nothing to do with gateways pays nothing for it."""
    code = "import sys, pytest_proxyroutes; print(sorted({'proxyroutes', 'fastapi', 'httpx', 'uvicorn'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == run.stdout.strip()


@pytest.fixture
def users():
    """A pool."""
    return UpstreamPool("users", ["http://users.invalid"])


@pytest.fixture
def app(users):
    """A gateway with one route."""
    proxy = Proxy()

    @proxy.get("/users/<name>", upstream=users)
    async def show() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


async def test_both_clients_reach_the_gateway(
    app, users, proxy_upstream, proxy_replace, proxy_client, proxy_gateway
):
    """In process and over sockets, with an upstream in process."""
    proxy_upstream.answer(json={"name": "ann"})
    proxy_replace(users, proxy_upstream)
    seen = []
    for opened in (proxy_client, proxy_gateway):
        async with opened(app) as client:
            seen.append((await client.get("/users/ann")).json())

    assert [{"name": "ann"}] * 2 == seen
    proxy_upstream.assert_forwarded("GET", "/users/ann", times=2)


async def test_respx_answers_for_a_pool(app, users, proxy_respx, proxy_client):
    """With the transport replaced, what respx raises is what the upstream did."""
    proxy_respx(users)
    with respx.mock:
        respx.get("http://users.invalid/users/ann").mock(side_effect=httpx.ConnectError("no"))
        async with proxy_client(app) as client:
            response = await client.get("/users/ann")

    assert 502 == response.status_code


async def test_the_clock_stands_still(proxy_clock):
    """It can be given to a monitor, and moves when it is told to."""
    HealthMonitor(clock=proxy_clock)
    await proxy_clock.advance(5.0)

    assert 5.0 == proxy_clock.monotonic()


async def test_nothing_is_tried_again(
    app, users, proxy_upstream, proxy_replace, proxy_no_retries, proxy_client
):
    """A bad answer is what comes, and one request is what was forwarded."""
    before = users.retry
    proxy_upstream.answer(503)
    proxy_replace(users, proxy_upstream)
    proxy_no_retries(users)
    async with proxy_client(app) as client:
        response = await client.get("/users/ann")

    assert 503 == response.status_code
    assert (None, True) == (users.retry, before is not None)
    proxy_upstream.assert_forwarded("GET", "/users/ann", times=1)


async def test_an_origin_fails_as_told(proxy_faulty_origin, proxy_client):
    """What it answers with is forwarded, and what it breaks is a bad gateway."""
    async with proxy_faulty_origin(b"hello") as origin:
        proxy = Proxy()

        @proxy.post("/", upstream=origin.url)
        async def one() -> None: ...

        app = FastAPI()
        app.include_router(proxy.build_router())
        async with proxy_client(app) as client:
            good = await client.post("/")
            origin.fail_next(Fault.GARBAGE)
            bad = await client.post("/")

    assert (200, b"hello", 502) == (good.status_code, good.content, bad.status_code)
