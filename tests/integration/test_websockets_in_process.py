"""Sessions whose upstream is an ASGI application in the same process."""

import asyncio

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from proxyroutes import UpstreamPool
from proxyroutes.transports import ASGITransport
from tests.integration.support import eventually
from tests.integration.websocket_support import (
    BINARY,
    CLOSE,
    SERVERS,
    TEXT,
    closing,
    nothing_left,
    open_sessions,
    value_of,
    values_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:remove second argument:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
async def _nothing_left():
    async with nothing_left():
        yield


def sessions_with(app, ws="websockets-sansio", lane="router", transport=None, **route):
    """A gateway of one route whose upstream is the application."""

    def declare(proxy, pool):
        @proxy.websocket("/<path>", upstream=pool, **route)
        async def live() -> None:
            """Relay everything."""

    return open_sessions(
        "http://app.internal",
        ws=ws,
        lane=lane,
        declare=declare,
        pool={"transport": transport or ASGITransport(app)},
    )


@pytest.mark.parametrize("ws", SERVERS)
@pytest.mark.parametrize("lane", ["router", "app"])
async def test_messages_go_both_ways_and_keep_their_kind(ws, lane):
    """Text, bytes and empty ones, with the client's fields and the application's choice of subprotocol."""
    app = FastAPI()
    seen = []

    @app.websocket("/live/{name}")
    async def echo(websocket: WebSocket, name: str, q: str = "") -> None:
        seen.append((name, q, websocket.headers["x-own"], websocket.scope["subprotocols"]))
        await websocket.accept(subprotocol="b", headers=[(b"set-cookie", b"a=1")])
        for _ in range(3):
            event = await websocket.receive()
            await websocket.send({**event, "type": "websocket.send"})
        await websocket.close(4001, "enough")

    async with sessions_with(app, ws=ws, lane=lane) as gateway:
        client = await gateway.dial("/live/x?q=1", "X-Own: yes", "Sec-WebSocket-Protocol: a, b")
        await client.send(TEXT, "grün".encode())
        await client.send(BINARY, b"\x00\xff")
        await client.send(TEXT, b"")
        got = [await client.message() for _ in range(3)]
        code = await client.closed()
        record = await gateway.record()

    assert [("x", "1", "yes", ["a", "b"])] == seen
    assert (101, b"b", [b"a=1"]) == (
        client.status,
        value_of(client.head, b"sec-websocket-protocol"),
        values_of(client.head, b"set-cookie"),
    )
    assert [(TEXT, "grün".encode()), (BINARY, b"\x00\xff"), (TEXT, b"")] == got
    assert ((4001, "enough"), 101, 3, 3) == (
        code,
        record.status,
        record.request_messages,
        record.response_messages,
    )


@pytest.mark.parametrize(("code", "told"), [(1000, 1000), (4000, 4000), (None, 1005)])
async def test_a_clients_close_reaches_the_application(code, told):
    """As the event that a server would give it."""
    heard = asyncio.get_running_loop().create_future()
    app = FastAPI()

    @app.websocket("/live")
    async def listen(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect as gone:
            heard.set_result(gone.code)

    async with sessions_with(app) as gateway:
        client = await gateway.dial()
        await client.send(CLOSE, closing(code))
        actual = await heard
        await gateway.record()

    assert told == actual


async def test_a_client_that_vanishes_ends_the_application():
    """It is told so, and cancelled if it goes on all the same."""
    cancelled = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with sessions_with(app, close_timeout=0.1) as gateway:
        client = await gateway.dial()
        client.leave()
        await eventually(cancelled.is_set)

    assert cancelled.is_set()


async def test_a_refusal_of_the_application_reaches_the_client():
    """With its status, fields and content, or as 403 where it only closes."""
    app = FastAPI()

    @app.websocket("/denied")
    async def denied(websocket: WebSocket) -> None:
        await websocket.send(
            {
                "type": "websocket.http.response.start",
                "status": 401,
                "headers": [(b"www-authenticate", b"Basic")],
            }
        )
        await websocket.send(
            {"type": "websocket.http.response.body", "body": b"no", "more_body": True}
        )
        await websocket.send({"type": "websocket.http.response.body", "body": b"pe"})

    @app.websocket("/closed")
    async def closed(websocket: WebSocket) -> None:
        await websocket.close()

    async with sessions_with(app) as gateway:
        one = await gateway.dial("/denied")
        other = await gateway.dial("/closed")

    assert (401, b"nope", b"Basic", 403) == (
        one.status,
        one.body,
        value_of(one.head, b"www-authenticate"),
        other.status,
    )


async def test_an_application_that_has_refused_may_end_in_its_own_time():
    """What it does after that is not cancelled; one that never ends is, after a while."""
    steps = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})
        try:
            for _ in range(20):
                await asyncio.sleep(0)
            steps.append("tidied up")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    async with sessions_with(app, close_timeout=0.1) as gateway:
        client = await gateway.dial()
        await eventually(lambda: "cancelled" in steps)

    assert (403, ["tidied up", "cancelled"]) == (client.status, steps)


async def test_a_pool_that_closes_waits_for_nobody_who_has_refused():
    """Not beyond its grace time."""
    ended = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with sessions_with(app, close_timeout=30.0) as gateway:
        client = await gateway.dial()
        left = len(gateway.state.websockets)
        await gateway.state.websockets.aclose(grace=0.05)

    assert (403, 1, True) == (client.status, left, ended.is_set())


async def _raises(scope, receive, send):
    raise RuntimeError("broken")


async def _returns(scope, receive, send):
    await receive()


async def _chooses(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "other"})


async def _impossible(scope, receive, send):
    await receive()
    await send({"type": "websocket.http.response.start", "status": 101, "headers": []})


async def _field(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x", b"a\r\nb: c")]})
    await receive()


@pytest.mark.parametrize("app", [_raises, _returns, _chooses, _impossible, _field])
async def test_an_answer_that_is_none_is_a_502(app):
    """An application that fails in its handshake is an upstream that does."""
    async with sessions_with(app) as gateway:
        client = await gateway.dial("/live", "Sec-WebSocket-Protocol: a")

    assert 502 == client.status


async def test_an_application_that_fails_closes_with_1011():
    """What it raises in the middle of a session is no clean end; what it returns from is one."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/fails":
            raise RuntimeError("broken")

    async with sessions_with(app) as gateway:
        failed = await (await gateway.dial("/fails")).closed()
        returned = await (await gateway.dial("/returns")).closed()

    assert (1011, 1000) == (failed[0], returned[0])


async def test_a_message_over_the_limit_is_a_1009():
    """The application's too."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"x" * 1001})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with sessions_with(app, max_message_bytes=1000) as gateway:
        code, _ = await (await gateway.dial()).closed()

    assert 1009 == code


async def test_a_client_that_does_not_read_stops_the_application():
    """It waits in its send, with little in memory."""
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(1000):
            await send({"type": "websocket.send", "bytes": b"x" * 2**20})
            sent += 1

    async with sessions_with(app, close_timeout=0.1) as gateway:
        client = await gateway.dial()
        client.writer.transport.pause_reading()
        seen = -1
        while sent != seen or not sent:
            seen = sent
            for _ in range(200):
                await asyncio.sleep(0.001)
        stalled_at = sent
        client.leave()
        await gateway.record()

    assert stalled_at < 64


async def test_an_application_that_does_not_read_stops_the_client():
    """The other way round: a few messages wait, and then the client's own are not read."""
    go_on = asyncio.Event()
    got = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await go_on.wait()
        while (event := await receive())["type"] == "websocket.receive":
            got.append(len(event["bytes"]))

    async with sessions_with(app) as gateway:
        client = await gateway.dial()
        writing = asyncio.create_task(_write(client, 64))
        seen = -1
        while _sent(client) != seen:
            seen = _sent(client)
            for _ in range(100):
                await asyncio.sleep(0.001)
        stalled = not writing.done()
        go_on.set()
        await writing
        await client.send(CLOSE, closing(1000))
        await gateway.record()

    assert (True, [2**20] * 64) == (stalled, got)


async def _write(client, count):
    for _ in range(count):
        await client.send(BINARY, b"x" * 2**20)


def _sent(client):
    return client.writer.transport.get_write_buffer_size()


async def test_a_gateway_that_stops_ends_sessions_with_an_application():
    """With 1001, and the lifespan's state was the session's."""
    states = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["ready"] = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        states.append(dict(scope["state"]))
        await receive()
        await send({"type": "websocket.accept"})
        states.append((await receive())["code"])

    async with sessions_with(app, transport=ASGITransport(app, lifespan=True)) as gateway:
        client = await gateway.dial()
        await gateway.pool.close()
        code, _ = await client.closed()

    assert ([{"ready": True}, 1001], 1001) == (states, code)


async def test_an_app_is_given_as_upstream_itself():
    """``upstream=app`` serves sessions as it serves requests."""
    app = FastAPI()

    @app.websocket("/live")
    async def hello(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    def declare(proxy, pool):
        @proxy.websocket("/<path>", upstream=app)
        async def live() -> None: ...

    async with open_sessions("http://unused.test", declare=declare) as gateway:
        client = await gateway.dial()
        got = await client.message()
        await client.closed()

    assert (TEXT, b"hello") == got
    assert isinstance(gateway.pool, UpstreamPool)
