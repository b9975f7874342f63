"""Fixtures of the integration tests."""

import asyncio
import contextlib
import logging

import pytest
import uvicorn.server

from proxyroutes._build import lane as lane_module
from proxyroutes._build import router as router_module
from proxyroutes.transports import Http1Transport, HttpxTransport
from tests.integration.apps import echo_origin, serve_app
from tests.integration.support import eventually, open_gateway

TRANSPORTS = [
    pytest.param(Http1Transport, id="http1"),
    pytest.param(HttpxTransport, id="httpx"),
]
"""Factories of the transports that every behaviour is shown with."""

SENDS_WHOLE_BODY_FIRST = {HttpxTransport}
"""Those that read no response before the request was sent whole."""


class _Impatient:
    """asyncio as the server sees it: its pauses of a tenth of a second are a hundred times shorter."""

    def __getattr__(self, name):
        return getattr(asyncio, name)

    async def sleep(self, seconds):
        """Wait, but not for long."""
        await asyncio.sleep(seconds / 100)


@pytest.fixture(scope="session", autouse=True)
def quick_stops():
    """Stop servers without their fixed pause, that hundreds of tests would wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", _Impatient())
        yield


@pytest.fixture(scope="session", params=["h11", "httptools"])
def http(request):
    """The parser of the server in front."""
    return request.param


@pytest.fixture(scope="session", params=["router", "guarded", "fastapi", "app"])
def lane(request):
    """The way that a request takes through the gateway."""
    return request.param


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request):
    """A factory of the transport."""
    return request.param


@pytest.fixture
def duplex(transport):
    """Skip a test that needs a response before the end of the request."""
    if transport in SENDS_WHOLE_BODY_FIRST:
        pytest.skip("this transport sends the whole request before it reads the response")


@pytest.fixture
def broken_relays():
    """Say that the test breaks a relay, which the server in front logs as an error of its application."""


@pytest.fixture
async def serve(request, transport, caplog):
    """Start watched gateways.

    The test ends by asserting that no lease is out, no exchange is swept, no task is left and nothing was logged as
    an error.
    """
    caplog.set_level(logging.INFO)
    loop = asyncio.get_running_loop()
    unhandled = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    async with contextlib.AsyncExitStack() as stack:

        async def start(*upstreams, **options):
            options.setdefault("transport", transport())
            return await stack.enter_async_context(open_gateway(*upstreams, **options))

        yield start
    # All but the one that runs this teardown.
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    if "broken_relays" in request.fixturenames:
        errors = [record for record in errors if not record.name.startswith("uvicorn")]

    assert [] == errors
    assert [] == unhandled


@pytest.fixture
async def echo():
    """An origin that answers every request with what it was; the test ends by asserting that it did not fail."""
    async with echo_origin() as origin:
        yield origin

    assert [] == origin.errors


def foreign_tasks():
    """Tasks that are neither the test's own nor an origin's."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return [task for task in tasks if not task.get_name().startswith("scripted origin")]


@pytest.fixture
async def serving(caplog):
    """Start applications.

    The test ends by asserting that no task is left, no exception was unhandled, and nothing but what the test allows
    was logged as an error.
    """
    caplog.set_level(logging.INFO)
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    allowed = []
    async with contextlib.AsyncExitStack() as stack:

        async def start(app, *, errors=(), **options):
            allowed.extend(errors)
            return await stack.enter_async_context(serve_app(app, **options))

        yield start
    await eventually(lambda: not foreign_tasks())
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]

    assert [] == [record.getMessage() for record in errors if record.name not in allowed]
    assert [] == unhandled


@pytest.fixture
def served(monkeypatch):
    """Where requests were served past FastAPI's full path."""
    places = []
    for module, name in ((lane_module, "lane"), (router_module, "router")):
        inner = module.serve_http

        async def recorded(*args, inner=inner, name=name):
            places.append(name)
            await inner(*args)

        monkeypatch.setattr(module, "serve_http", recorded)
    return places
