"""The gateway alone, without FastAPI."""

import asyncio

import pytest
from fastapi import Depends
from starlette.responses import PlainTextResponse

from proxyroutes import BuildError, Proxy, Session, UpstreamPool
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.integration.support import eventually


async def ask(app, path, method="GET"):
    """Call the application once and give the messages that it sends."""
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }
    await app({**scope, "headers": [(b"host", b"a")], "http_version": "1.1"}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.fixture
def app():
    """One route for GET."""
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream="http://127.0.0.1:9")
    async def api() -> None: ...

    return proxy.build_app()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        ("/api/x", "POST", 405),
        ("/api", "GET", 307),
        ("nonsense", "GET", 400),
        ("/api/../x", "GET", 400),
        ("a.test:443", "CONNECT", 405),
    ],
)
async def test_what_is_not_served_is_answered(app, path, method, status):
    """By the gateway itself."""
    assert status == (await ask(app, path, method))[0]


async def test_a_redirect_is_relative(app):
    """No field of the client takes part in it."""
    assert b"/api/" == (await ask(app, "/api"))[1][b"location"]


async def test_an_unknown_scope_is_an_error(app):
    """Servers then know that it is not supported."""
    with pytest.raises(ValueError, match="nonsense"):
        await app({"type": "nonsense"}, None, None)


async def test_a_lifespan_that_fails_says_so():
    """And fails the start."""
    proxy = Proxy()

    class Broken:
        def bind(self, *, clock, tls):
            raise RuntimeError("no transport")

    @proxy.get("/", upstream=UpstreamPool("p", ["http://a.test"], transport=Broken()))
    async def api() -> None: ...

    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message["type"])

    with pytest.raises(RuntimeError, match="no transport"):
        await proxy.build_app()({"type": "lifespan"}, receive, send)

    assert ["lifespan.startup.failed"] == sent


async def test_every_route_that_needs_fastapi_is_named():
    """All of them in one error."""
    proxy = Proxy()

    @proxy.get("/a", upstream="http://a.test", dependencies=[Depends(lambda: None)])
    async def guarded() -> None: ...

    @proxy.get("/b", upstream="http://a.test")
    async def speaks():
        return PlainTextResponse("mine")

    @proxy.get("/c", upstream=lambda request: None)
    async def chooses() -> None: ...

    @proxy.websocket("/d", upstream="http://a.test")
    async def live(session: Session) -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_app()

    assert 4 == len(caught.value.exceptions)


async def test_it_runs_behind_a_server():
    """With its lifespan."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with ScriptedOrigin([reply]) as origin:
        proxy = Proxy()

        @proxy.route("/<path>", upstream=origin.url)
        async def api() -> None: ...

        async with run_gateway(proxy.build_app()) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            raw = await reader.read()
            writer.close()
            await writer.wait_closed()
        await eventually(lambda: origin.open_connections == 0)

    assert (True, True) == (raw.startswith(b"HTTP/1.1 200"), raw.endswith(b"ok"))
