"""Other upstreams for pools that are declared already."""

import httpx
import pytest
from fastapi import FastAPI

from proxyroutes import HealthCheck, Proxy, UpstreamPool
from proxyroutes.testing import RecordingUpstream, open_client, replaced_transport, without_retries
from proxyroutes.transports import HttpxTransport


@pytest.fixture
def users():
    """A pool of two destinations that nobody is behind."""
    return UpstreamPool("users", ["http://a.invalid", "http://b.invalid"])


@pytest.fixture
def proxy(users):
    """A proxy with two routes, one to an anonymous pool."""
    proxy = Proxy()

    @proxy.get("/users", upstream=users)
    async def show_users() -> None: ...

    @proxy.get("/orders", upstream="http://c.invalid")
    async def show_orders() -> None: ...

    return proxy


def make_app(proxy):
    """The proxy's routes in an application."""
    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


async def test_every_pool_of_a_proxy_is_replaced(proxy):
    """Named and anonymous ones; the destination's own Host is still what it was."""
    app, upstream = make_app(proxy), RecordingUpstream()
    with replaced_transport(proxy, upstream):
        async with open_client(app) as client:
            await client.get("/users")
            await client.get("/orders")
    hosts = [request.get("host") for request in upstream.requests]

    assert "c.invalid" == hosts[1]
    assert hosts[0] in {"a.invalid", "b.invalid"}


async def test_one_pool_is_replaced(proxy, users):
    """The others are as they were, and so is this one afterwards."""
    before = users.transport
    app, upstream = make_app(proxy), RecordingUpstream()
    with replaced_transport(users, upstream):
        async with open_client(app) as client:
            await client.get("/users")

    assert 1 == len(upstream.requests)
    assert before is users.transport


async def test_a_transport_is_taken_too(proxy):
    """Such as one of httpx, with a handler of its own."""
    answered = httpx.MockTransport(lambda request: httpx.Response(200, text=str(request.url)))
    app = make_app(proxy)
    with replaced_transport(proxy, HttpxTransport(answered)):
        async with open_client(app) as client:
            actual = (await client.get("/orders")).text

    assert "http://c.invalid/orders" == actual


async def test_health_checks_go_there_too(users):
    """A probe is asked of what stands instead."""
    proxy, upstream = Proxy(), RecordingUpstream()
    users.set_health(HealthCheck("/healthz"))

    @proxy.get("/users", upstream=users)
    async def show_users() -> None: ...

    app = make_app(proxy)
    with replaced_transport(users, upstream):
        async with open_client(app):
            pass

    upstream.assert_forwarded("HEAD", "/healthz", times=2)


async def test_a_running_pool_is_not_replaced(proxy, users):
    """Its transport would stay what it was: that is an error, and no surprise."""
    app = make_app(proxy)
    with replaced_transport(proxy, RecordingUpstream()):
        async with open_client(app):
            with (
                pytest.raises(RuntimeError, match="pool 'users' is running"),
                replaced_transport(users, RecordingUpstream()),
            ):
                pass


def test_it_needs_no_running_loop(users):
    """A synchronous test may replace too."""
    with replaced_transport(users, RecordingUpstream()):
        actual = type(users.transport).__name__

    assert "ASGITransport" == actual


def test_anything_else_is_refused():
    """A name is neither a proxy nor a pool."""
    with (
        pytest.raises(TypeError, match="a Proxy or an UpstreamPool is meant, not 'users'"),
        replaced_transport("users", RecordingUpstream()),
    ):
        pass


async def test_a_pool_tries_again_once_the_test_is_over(users, proxy):
    """And it is not changed while it runs."""
    before = users.retry
    with without_retries(proxy):
        during = users.retry
        with replaced_transport(proxy, RecordingUpstream()):
            async with open_client(make_app(proxy)):
                with pytest.raises(RuntimeError, match="is running"), without_retries(users):
                    pass

    assert (None, before) == (during, users.retry)
