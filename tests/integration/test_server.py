"""A server that writes at once, on real sockets: streams, clients that do not read, upgrades, and gateways behind it."""

import asyncio
import logging

import pytest
import uvicorn
import websockets
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes._operate import server as operated
from proxyroutes.server import HttpProtocol, WebSocketProtocol
from proxyroutes.testing import run_gateway
from tests.integration.support import RawClient, eventually, make_request
from tests.integration.test_command_line import DIRECT

CHUNK = 16 * 1024
CHUNKS = 4096
HANDSHAKE = make_request(
    "/session",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def post(body, *lines):
    """A request with this content."""
    return make_request("/echo", f"Content-Length: {len(body)}", *lines, method="POST", body=body)


async def test_a_client_that_does_not_read_stops_who_sends():
    """Also one that never lets the event loop turn but for its own sending; and it gets all of it once it reads."""
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        headers = [(b"content-length", b"%d" % (CHUNK * CHUNKS))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(CHUNKS):
            piece = number.to_bytes(4, "big") * (CHUNK // 4)
            more = number < CHUNKS - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            sent += 1

    async with run_gateway(app, http=HttpProtocol, lifespan="off") as gateway:
        client = await RawClient.connect(gateway.port)
        await client.send(make_request())
        await client.read_head()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)

        assert sent < CHUNKS / 2
        for number in range(CHUNKS):
            assert number.to_bytes(4, "big") * (CHUNK // 4) == await client.reader.readexactly(
                CHUNK
            )
        await client.close()


async def test_a_response_is_whole_behind_each_kind_of_request(served_by_ours):
    """Kept alive, in a row, of a client of HTTP/1.0, and where the connection is to be closed."""
    port, _ = served_by_ours
    client = await RawClient.connect(port)
    for _ in range(3):
        reply = await client.ask(post("hello"))

        assert (200, b"hello") == (reply.status, reply.body)
    await client.send(post("one") * 3)
    for _ in range(3):
        assert b"one" == (await client.read_reply()).body
    await client.send(post("last", "Connection: close"))

    assert (await client.read_rest()).endswith(b"\r\n\r\nlast")

    old = await RawClient.connect(port)
    await old.send(b"GET /echo HTTP/1.0\r\nHost: gateway\r\n\r\n")

    assert (await old.read_rest()).startswith(b"HTTP/1.1 200 ")
    for one in (client, old):
        await one.close()


async def test_a_session_follows_a_response_on_its_connection(served_by_ours):
    """The connection is handed on with nothing left in it."""
    port, _ = served_by_ours
    client = await RawClient.connect(port)
    reply = await client.ask(post("hello"))
    await client.send(HANDSHAKE)
    head = await client.read_head()

    client.leave()

    assert (b"hello", 101) == (reply.body, head.status)
    async with websockets.connect(f"ws://127.0.0.1:{port}/session", **DIRECT) as session:
        for message in ("a", b"b", "c" * 100_000):
            await session.send(message)

            assert message == await session.recv()


async def test_clients_that_leave_are_no_news(served_by_ours, caplog):
    """Before, while and after their answer is written."""
    port, counts = served_by_ours
    for turn in range(60):
        client = await RawClient.connect(port)
        await client.send(post("hello" * 1000))
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        client.leave()
    await eventually(lambda: counts["begun"] == counts["ended"])

    assert [] == [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_what_changes_after_it_was_sent_arrives_as_it_was():
    """To a client that reads late, in messages so large that they wait; uvloop would send them from where they are."""
    uvloop = pytest.importorskip("uvloop")
    size, letters = 8 * 1024 * 1024, b"abc"

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        buffer = bytearray(size)
        for letter in letters:
            buffer[:] = bytes([letter]) * size
            await send({"type": "websocket.send", "bytes": buffer})
            buffer[:] = b"x" * size
        await receive()

    async def read_late():
        async with run_gateway(app, ws=WebSocketProtocol, lifespan="off") as gateway:
            client = await RawClient.connect(gateway.port)
            await client.send(HANDSHAKE)
            await client.read_head()
            await asyncio.sleep(0.3)
            seen = []
            for _ in letters:
                header = await client.reader.readexactly(10)
                content = await client.reader.readexactly(size)
                seen.append((header, content == content[:1] * size, content[:1]))
            await client.close()
        return seen

    header = b"\x82\x7f" + size.to_bytes(8, "big")

    assert [(header, True, bytes([one])) for one in letters] == uvloop.run(read_late())


@pytest.fixture
async def served_by_ours():
    """The port of a gateway whose server writes at once, and how many requests its origin has seen."""
    counts = {"begun": 0, "ended": 0}

    async def origin(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] == "websocket.receive":
                content = {name: event[name] for name in ("text", "bytes") if event.get(name)}
                await send({"type": "websocket.send", **content})
            return
        counts["begun"] += 1
        try:
            body, more = b"", True
            while more:
                event = await receive()
                body += event.get("body", b"")
                more = event.get("more_body", False)
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            counts["ended"] += 1

    async with run_gateway(origin, lifespan="off") as upstream:
        proxy = Proxy()
        pool = UpstreamPool("origin", [upstream.url], health=None)

        @proxy.route("/echo", upstream=pool)
        async def echo():
            """Forwarded."""

        @proxy.websocket("/session", upstream=pool)
        async def session():
            """Relayed."""

        app = FastAPI()
        app.include_router(proxy.build_router())
        async with run_gateway(app, http=HttpProtocol) as gateway:
            yield gateway.port, counts


def test_the_command_serves_with_it(monkeypatch):
    """``proxyroutes run`` needs nobody to ask for it."""
    seen = []

    def refuse(config, app):
        seen.append(config)
        raise OSError("enough")

    monkeypatch.setattr(operated, "_make_server", refuse)
    with pytest.raises(OSError, match="enough"):
        operated.serve(
            FastAPI(), host="127.0.0.1", port=0, trusted="", grace=1.0, say=lambda text: None
        )
    config = seen[0]
    config.load()

    assert isinstance(config, uvicorn.Config)
    assert (HttpProtocol, WebSocketProtocol) == (
        config.http_protocol_class,
        config.ws_protocol_class,
    )
