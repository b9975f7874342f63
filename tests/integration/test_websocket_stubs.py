"""Sessions in a stub's hands, imperative ones, and what FastAPI has to do with them."""

import asyncio
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Query, WebSocket, WebSocketException
from fastapi.exceptions import HTTPException

from proxyroutes import BuildError, ForwardedRequest, Proxy, Session, UpstreamPool
from proxyroutes.exceptions import StubError
from proxyroutes.testing import run_gateway
from tests.integration.websocket_support import (
    BINARY,
    TEXT,
    SessionOrigin,
    Sessions,
    accept,
    nothing_left,
    open_sessions,
    value_of,
    values_of,
)


@pytest.fixture
async def origin():
    """An origin whose sessions the test plays."""
    async with SessionOrigin() as one:
        yield one

    assert [] == one.errors


@pytest.fixture(autouse=True)
async def nothing_is_left():
    """Every test ends without a task of ours or an unhandled exception."""
    async with nothing_left():
        yield


def stubbed(stub, path="/live", **options):
    """Declare one stub."""

    def declare(proxy, upstream):
        proxy.websocket(path, upstream=upstream, **options)(stub)

    return declare


async def test_a_stub_sees_and_changes_the_messages_of_both_sides(origin):
    """Text as str, binary as bytes; None drops one; hooks may be asynchronous."""
    seen = []

    def from_client(message):
        seen.append(message)
        return None if message == "drop" else message

    async def from_upstream(message):
        await asyncio.sleep(0)
        return message.upper()

    async def live(session: Session) -> None:
        await session.relay(from_client=from_client, from_upstream=from_upstream)

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin)
        for opcode, payload in ((TEXT, b"one"), (TEXT, b"drop"), (BINARY, b"two")):
            await client.send(opcode, payload)
        towards_upstream = [await upstream.message(), await upstream.message()]
        await upstream.send(TEXT, b"hey")
        towards_client = await client.message()
        await client.close(1000)
        await upstream.closed()
        record = await gateway.record()

    assert (["one", "drop", b"two"], [(TEXT, b"one"), (BINARY, b"two")], (TEXT, b"HEY"), 2) == (
        seen,
        towards_upstream,
        towards_client,
        record.request_messages,
    )


async def test_a_stub_sends_messages_of_its_own():
    """To either side, before and while it relays; it knows the subprotocol."""

    async def live(session: Session) -> None:
        await session.open()
        await session.send_to_client(f"welcome to {session.subprotocol}")
        await session.send_to_upstream(b"token")
        await session.relay()

    async with SessionOrigin(lambda head: accept(head, b"Sec-WebSocket-Protocol: b")) as origin:
        async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
            client, upstream = await gateway.open(origin, "/live", "Sec-WebSocket-Protocol: a, b")
            got = (await client.message(), await upstream.message())
            await client.close(1000)
            await upstream.closed()

    assert ((TEXT, b"welcome to b"), (BINARY, b"token")) == got


@pytest.mark.parametrize("side", ["from_client", "from_upstream"])
@pytest.mark.parametrize("awaited", [True, False])
async def test_a_hook_ends_the_session(origin, side, awaited):
    """Both sides get the code and the reason."""

    async def live(session: Session) -> None:
        async def hook(message):
            closing = session.close(4403, "not allowed")
            if awaited:
                await closing

        await session.relay(**{side: hook})

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin)
        await (client if side == "from_client" else upstream).send(TEXT, b"x")
        got = (await client.closed(), await upstream.closed())
        record = await gateway.record()

    assert (((4403, "not allowed"),) * 2, "gateway") == (got, record.ending.side.value)


async def test_a_stub_ends_the_session_at_a_deadline(origin):
    """Its own time-out leaves both sides open for a close with a code."""

    async def live(session: Session) -> None:
        try:
            async with asyncio.timeout(0.05):
                await session.relay()
        except TimeoutError:
            session.close(4408, "token expired")

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin)
        got = (await client.closed(), await upstream.closed())

    assert ((4408, "token expired"),) * 2 == got


@pytest.mark.parametrize("side", ["from_client", "from_upstream"])
async def test_a_hook_that_fails_closes_both_sides(origin, side):
    """With 1011, and nothing of the exception."""

    async def live(session: Session) -> None:
        def hook(message):
            raise ValueError("secret")

        await session.relay(**{side: hook})

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin)
        await (client if side == "from_client" else upstream).send(TEXT, b"x")
        got = (await client.closed(), await upstream.closed())

    assert ((1011, "internal error"),) * 2 == got


async def test_a_slow_hook_stops_who_sends(origin):
    """The next message waits for it, and with it the side that sends; the other side goes on."""
    gate = asyncio.Event()
    seen = []

    async def live(session: Session) -> None:
        async def hook(message):
            seen.append(message)
            await gate.wait()
            return message

        await session.relay(from_upstream=hook)

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin)
        await upstream.send(TEXT, b"1")
        await upstream.send(TEXT, b"2")
        await client.send(TEXT, b"other way")
        other = await upstream.message()
        before = list(seen)
        gate.set()
        got = [await client.message(), await client.message()]
        await client.close(1000)
        await upstream.closed()

    assert (["1"], (TEXT, b"other way"), [(TEXT, b"1"), (TEXT, b"2")]) == (before, other, got)


async def test_a_stub_that_closes_before_it_opens_refuses_the_client(origin):
    """With 403, and the upstream is not dialled."""

    async def live(session: Session) -> None:
        session.close(4000)

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client = await gateway.dial()
        record = await gateway.record()

    assert (403, 0, 403) == (client.status, origin.connections, record.status)


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_a_code_that_cannot_be_sent_is_a_mistake(origin, code):
    """As is a reason that is too long; the session goes on."""
    raised = []

    async def live(session: Session) -> None:
        await session.open()
        for arguments in ((code,), (1000, "é" * 62)):
            try:
                session.close(*arguments)
            except ValueError as error:
                raised.append(error)
        await session.relay()

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin)
        await client.close(1000)
        code = await upstream.closed()

    assert (2, (1000, "")) == (len(raised), code)


async def test_parameters_and_dependencies_come_before_the_upstream(origin):
    """As in any endpoint; an exception there is the client's answer."""
    got = []

    async def login(key: Annotated[str, Query()] = "") -> str:
        if not key:
            raise HTTPException(401)
        return key

    async def live(room: int, key: Annotated[str, Depends(login)], session: Session) -> None:
        if room == 13:
            raise WebSocketException(1008)
        got.append((room, key))

    declare = stubbed(live, "/rooms/<int:room>/<path>")
    async with open_sessions(origin.url, declare=declare) as gateway:
        refused = [
            (await gateway.dial(target)).status for target in ("/rooms/7/x", "/rooms/13/x?key=k")
        ]
        before = origin.connections
        client, upstream = await gateway.open(origin, "/rooms/7/a%20b?key=k")
        await client.close(1000)
        await upstream.closed()

    assert ([401, 403], 0, [(7, "k")], b"/rooms/7/a%20b?key=k") == (
        refused,
        before,
        got,
        upstream.head.split(b" ")[1],
    )


async def test_a_stub_edits_what_is_forwarded(origin):
    """Fields, query and path of the handshake, in the stub and in its dependencies."""

    async def live(request: ForwardedRequest) -> None:
        request.headers["x-user"] = "ada"

    async with open_sessions(origin.url, declare=stubbed(live)) as gateway:
        client, upstream = await gateway.open(origin, "/live", "X-User: mallory")
        await client.close(1000)
        await upstream.closed()

    assert [b"ada"] == values_of(upstream.head, b"x-user")


async def test_identity_fields_are_dropped_from_handshakes(origin):
    """Those of a group hold for its WebSocket routes too."""

    def declare(proxy, upstream):
        group = proxy.group("", identity_headers=["X-User"])

        @group.websocket("/live", upstream=upstream)
        async def live() -> None: ...

    async with open_sessions(origin.url, declare=declare) as gateway:
        client, upstream = await gateway.open(origin, "/live", "X-User: mallory")
        await client.close(1000)
        await upstream.closed()

    assert [] == values_of(upstream.head, b"x-user")


async def test_the_upstream_may_be_chosen_for_each_session(origin):
    """By a callable that is given the handshake."""
    asked = []

    def declare(proxy, upstream):
        def choose(request):
            asked.append(request.path)
            return upstream

        @proxy.websocket("/live", upstream=choose)
        async def live() -> None: ...

    async with open_sessions(origin.url, declare=declare) as gateway:
        client, upstream = await gateway.open(origin)
        await client.close(1000)
        await upstream.closed()

    assert ["/live"] == asked


async def relaying(origin, endpoint, target, *lines):
    """Serve an endpoint that relays by itself, and open a session through it."""
    proxy = Proxy()
    app = FastAPI(lifespan=proxy.lifespan)

    @app.websocket("/own/{rest:path}")
    async def own(websocket: WebSocket, rest: str) -> None:
        await endpoint(proxy, websocket, rest)

    async with run_gateway(app, ws="websockets-sansio") as running:
        pool = UpstreamPool("none", ["http://127.0.0.1:9"], monitor=proxy.monitor)
        sessions = Sessions(running, pool, proxy, [], None)
        client = await sessions.dial(target, *lines)
        upstream = None
        if client.status == 101:
            upstream = await origin.session()
            await client.send(TEXT, b"x")

            assert (TEXT, b"x") == await upstream.message()
            await client.close(4001, "r")

            assert (4001, "r") == await upstream.closed()
        client.leave()
    return client, upstream


async def test_an_endpoint_relays_by_itself(origin):
    """To a URL with a base path, with a path, fields and subprotocols of its own."""

    async def endpoint(proxy, websocket, rest):
        await proxy.relay(
            websocket,
            origin.url.replace("http", "ws") + "/base",
            path=f"/to/{rest}?own=1",
            subprotocols=["mine"],
            extra_headers={"X-Own": "1"},
        )

    _, upstream = await relaying(origin, endpoint, "/own/a?x=2", "Sec-WebSocket-Protocol: theirs")

    assert (b"/base/to/a?own=1&x=2", b"mine", b"1") == (
        upstream.head.split(b" ")[1],
        value_of(upstream.head, b"sec-websocket-protocol"),
        value_of(upstream.head, b"x-own"),
    )


async def test_an_endpoint_relays_without_the_query(origin):
    """Where it says so; without a path the handshake's own is forwarded."""

    async def endpoint(proxy, websocket, rest):
        await proxy.relay(websocket, origin.url, forward_query=False, headers={"X-Only": "1"})

    _, upstream = await relaying(origin, endpoint, "/own/a%2Fb?x=2", "X-Client: 1")

    assert (b"/own/a%2Fb", b"1", None) == (
        upstream.head.split(b" ")[1],
        value_of(upstream.head, b"x-only"),
        value_of(upstream.head, b"x-client"),
    )


async def test_an_endpoint_that_accepted_by_itself_cannot_relay(origin):
    """The upstream decides on the handshake."""
    raised = []

    async def endpoint(proxy, websocket, rest):
        await websocket.accept()
        with pytest.raises(StubError) as caught:
            await proxy.relay(websocket, origin.url)
        raised.append(caught.value)
        await websocket.close(1000)

    proxy = Proxy()
    app = FastAPI(lifespan=proxy.lifespan)

    @app.websocket("/own")
    async def own(websocket: WebSocket) -> None:
        await endpoint(proxy, websocket, "")

    async with run_gateway(app, ws="websockets-sansio") as running:
        pool = UpstreamPool("none", ["http://127.0.0.1:9"], monitor=proxy.monitor)
        client = await Sessions(running, pool, proxy, [], None).dial("/own")
        code = await client.closed()

    assert (1, (1000, ""), 0) == (len(raised), code, origin.connections)


async def test_a_body_parameter_of_a_websocket_stub_is_a_mistake():
    """A handshake has none."""
    proxy = Proxy()

    @proxy.websocket("/live", upstream="http://a.test")
    async def live(content: dict) -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_router()

    assert "body parameter" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allowed_origins": ["app.test"]}, "scheme, host and port"),
        ({"allowed_origins": ["https://app.test/x"]}, "scheme, host and port"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"ping_interval": 0}, "ping_interval"),
        ({"ping_timeout": None}, "ping_timeout"),
        ({"close_timeout": -1}, "close_timeout"),
        ({"host": "bad host"}, "host is"),
    ],
)
async def test_a_setting_that_means_nothing_is_a_mistake(options, words):
    """Of the build, with the stub's place."""
    proxy = Proxy()

    @proxy.websocket("/live", upstream="http://a.test", **options)
    async def live() -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_router()

    assert words in str(caught.value)
