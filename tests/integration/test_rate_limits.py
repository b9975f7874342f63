"""Rate limits on real sockets: who is counted, what is answered, and that no upstream is asked."""

import asyncio
import json
import re

import pytest
from fastapi import Depends, FastAPI, HTTPException
from starlette.testclient import TestClient

from proxyroutes import BuildError, Forward, ForwardedRequest, HealthMonitor, Proxy, RateLimit
from proxyroutes.testing import ManualClock, ScriptedOrigin, run_gateway
from proxyroutes.transports import Http1Transport
from tests.integration.support import OK, RawClient, make_request, open_gateway
from tests.integration.websocket_support import SessionOrigin, nothing_left, open_sessions

CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Requests:
    """A client of a gateway; each request has a connection of its own."""

    def __init__(self, port):
        self.port = port

    async def ask(self, target="/", *lines, **options):
        """Send one request."""
        client = await RawClient.connect(self.port)
        try:
            return await client.ask(make_request(target, *lines, **options))
        finally:
            await client.close()

    async def statuses(self, count, *args, **options):
        """The statuses of so many requests."""
        return [(await self.ask(*args, **options)).status for _ in range(count)]


async def upstream(scope, receive, send):
    """Say ok."""
    fields = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("lane", ["router", "fastapi", "app"])
@pytest.mark.requirement("H-49")
async def test_what_is_too_much_is_answered_429_and_nothing_is_asked(lane):
    """With Retry-After, the RateLimit fields and a problem; the upstream sees none of it."""
    async with (
        ScriptedOrigin([CLOSING]) as origin,
        open_gateway(
            origin.url, transport=Http1Transport(), lane=lane, rate_limit=RateLimit("2/hour")
        ) as gateway,
    ):
        replies = [await gateway.get(method="POST") for _ in range(3)]
        last = replies[-1]
        seen = len(origin.requests)
        record = await gateway.wait_for_record(3)

    assert [200, 200, 429] == [one.status for one in replies]
    assert 2 == seen
    assert ("RateLimitError", 0, 429) == (
        type(record.error).__name__,
        record.attempts,
        record.status,
    )
    assert {
        "type": "https://proxyroutes.readthedocs.io/problems/rate-limit",
        "title": "Too many requests",
        "status": 429,
    } == json.loads(last.body)
    assert [b"2", b"0", b"1800", b"2;w=3600", b"1800"] == [
        last.get(name)
        for name in (
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "ratelimit-policy",
            "retry-after",
        )
    ]
    assert not [name for name, _ in replies[0].fields if name.startswith(b"ratelimit")]


async def test_a_forged_address_does_not_help():
    """What a client says of its address is not what it is counted by."""
    proxy = Proxy()

    @proxy.route("/<path>", upstream=upstream, rate_limit=RateLimit("2/hour"))
    async def api() -> None: ...

    async with run_gateway(proxy.build_app(), proxy_headers=False) as running:
        requests = Requests(running.port)
        actual = [
            (
                await requests.ask("/", f"X-Forwarded-For: 192.0.2.{number}", "Forwarded: for=x")
            ).status
            for number in range(3)
        ]

    assert [200, 200, 429] == actual


async def test_a_limit_of_a_group_counts_all_of_its_routes():
    """One object is one count; a route's own takes its place, and None lifts it."""
    proxy = Proxy()
    group = proxy.group("/g", upstream=upstream, rate_limit=RateLimit("2/hour"))

    @group.route("/a")
    async def a() -> None: ...

    @group.route("/b")
    async def b() -> None: ...

    @group.route("/own", rate_limit=RateLimit("1/hour"))
    async def own() -> None: ...

    @group.route("/free", rate_limit=None)
    async def free() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        requests = Requests(running.port)
        actual = [
            await requests.statuses(1, "/g/a"),
            await requests.statuses(2, "/g/b"),
            await requests.statuses(2, "/g/own"),
            await requests.statuses(3, "/g/free"),
        ]

    assert [[200], [200, 429], [200, 429], [200] * 3] == actual


async def test_several_limits_hold_together():
    """A short burst and a long rate, each with its own key."""
    proxy = Proxy()
    limits = [RateLimit("100/hour", key="header:x-key", burst=1), RateLimit("2/hour")]

    @proxy.route("/", upstream=upstream, rate_limit=limits)
    async def api() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        requests = Requests(running.port)
        actual = [(await requests.ask("/", f"X-Key: {key}")).status for key in "aabc"]

    assert [200, 429, 200, 429] == actual


@pytest.mark.parametrize(
    ("key", "asked", "expected"),
    [
        pytest.param(
            "header:X-Key",
            [("/t/a", "X-Key: 1"), ("/t/a", "X-Key: 2"), ("/t/b", "X-Key: 1")],
            [200, 200, 429],
            id="header",
        ),
        pytest.param(
            "cookie:id",
            [("/t/a", "Cookie: x=1; id=1"), ("/t/a", "Cookie: id=2"), ("/t/a", "Cookie: id=1")],
            [200, 200, 429],
            id="cookie",
        ),
        pytest.param(
            "path:tenant", [("/t/a",), ("/t/b",), ("/t/%61",)], [200, 200, 429], id="path"
        ),
        pytest.param(
            lambda request: request.path_params["tenant"] + request.headers.get("x-key", ""),
            [("/t/a",), ("/t/a", "X-Key: 1"), ("/t/a",)],
            [200, 200, 429],
            id="function",
        ),
        pytest.param(
            "header:x-key",
            [("/t/a", "X-Key: 1"), ("/t/a",), ("/t/a", "X-Key:")],
            [200, 200, 429],
            id="none-is-the-address",
        ),
    ],
)
async def test_requests_are_counted_by_a_key(key, asked, expected):
    """One request of a key passes, the second one does not."""
    proxy = Proxy()

    @proxy.route("/t/<tenant>", upstream=upstream, rate_limit=RateLimit("1/hour", key=key))
    async def api() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        requests = Requests(running.port)
        actual = [(await requests.ask(*one)).status for one in asked]

    assert expected == actual


def test_a_key_that_the_stub_has_set_counts():
    """An identity that the gateway proves, and not the one that a client claims."""
    proxy = Proxy()

    @proxy.route(
        "/",
        upstream=upstream,
        identity_headers=["x-user-id"],
        rate_limit=RateLimit("1/hour", key="header:x-user-id"),
    )
    async def api(user: str, request: ForwardedRequest) -> None:
        request.headers["x-user-id"] = user

    app = FastAPI()
    app.include_router(proxy.build_router())
    client = TestClient(app)
    actual = [
        client.get(f"/?user={user}", headers={"x-user-id": claimed}).status_code
        for user, claimed in (("a", "1"), ("b", "1"), ("a", "2"))
    ]

    assert [200, 200, 429] == actual


def test_a_request_that_a_dependency_refuses_is_not_counted():
    """Limits stand behind the guards, right in front of the upstream."""
    allowed = []

    def guard():
        if not allowed:
            raise HTTPException(401)

    proxy = Proxy()

    @proxy.route(
        "/", upstream=upstream, rate_limit=RateLimit("1/hour"), dependencies=[Depends(guard)]
    )
    async def api() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    client = TestClient(app)
    refused = client.get("/").status_code
    allowed.append(True)

    assert (401, 200, 429) == (
        refused,
        client.get("/").status_code,
        client.get("/").status_code,
    )


async def test_time_is_the_monitor_s():
    """A request is due again once its time has passed on the clock that was handed in."""
    clock = ManualClock()
    proxy = Proxy(monitor=HealthMonitor(clock=clock), rate_limit=RateLimit("1/minute"))

    @proxy.route("/", upstream=upstream)
    async def api() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        requests = Requests(running.port)
        before = await requests.statuses(2)
        await clock.advance(60.0)
        after = await requests.statuses(2)

    assert ([200, 429], [200, 429]) == (before, after)


class Broken:
    """A store that is down."""

    async def read(self, key):
        """Fail."""
        raise ConnectionError(key)

    async def swap(self, key, old, new, seconds):
        """Fail."""
        raise ConnectionError(key)


async def test_a_store_that_is_down_lets_requests_pass(caplog):
    """The gateway does not go down with it, and says so."""
    proxy = Proxy()

    @proxy.route("/", upstream=upstream, rate_limit=RateLimit("1/hour", store=Broken()))
    async def api() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        actual = await Requests(running.port).statuses(3)

    assert [200] * 3 == actual
    assert "store failed" in caplog.text


class Slow:
    """A store that answers when it is told to."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def read(self, key):
        """Wait for ever."""
        self.asked.set()
        await asyncio.Event().wait()

    async def swap(self, key, old, new, seconds):
        """Never asked."""


async def test_a_client_that_leaves_while_it_is_counted_leaves_nothing():
    """The wait for a store ends with the client, and no lease was taken."""
    store = Slow()
    async with (
        ScriptedOrigin([OK]) as origin,
        open_gateway(
            origin.url, transport=Http1Transport(), rate_limit=RateLimit("1/hour", store=store)
        ) as gateway,
    ):
        client = await gateway.connect()
        await client.send(make_request())
        await store.asked.wait()
        client.leave()
        record = await gateway.wait_for_record()

    assert (499, 0) == (record.status, len(origin.requests))


class Remote(Slow):
    """A store that takes a few turns, as one over a network does."""

    def __init__(self):
        super().__init__()
        self.numbers = {}

    async def read(self, key):
        """Give what is there, later."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.numbers.get(key), 0.0

    async def swap(self, key, old, new, seconds):
        """Keep it."""
        self.numbers[key] = new
        return True


async def test_no_forward_passes_while_another_one_is_counted():
    """A stub that asks twice at a time is refused twice, and nothing is sent."""
    proxy = Proxy()

    async with ScriptedOrigin([CLOSING]) as origin:

        @proxy.get("/", upstream=origin.url, rate_limit=RateLimit("1/hour", store=Remote()))
        async def both(forward: Forward) -> dict[str, list[str]]:
            found = await asyncio.gather(forward(), forward(), return_exceptions=True)
            return {"seen": [type(one).__name__ for one in found]}

        app = FastAPI()
        app.include_router(proxy.build_router())
        async with run_gateway(app) as running:
            replies = [await Requests(running.port).ask() for _ in range(2)]
            asked = len(origin.requests)

    assert [
        {"seen": ["RelayResponse", "RelayResponse"]},
        {"seen": ["RateLimitError", "RateLimitError"]},
    ] == [json.loads(one.body) for one in replies]
    assert 2 == asked


async def test_handshakes_are_counted():
    """A session that is too much is refused before the upstream is dialled."""
    async with nothing_left(), SessionOrigin() as origin:

        def declare(proxy, pool):
            @proxy.websocket("/live", upstream=pool, rate_limit=RateLimit("1/hour"))
            async def live() -> None: ...

        async with open_sessions(origin.url, declare=declare) as gateway:
            client, server = await gateway.open(origin)
            refused = await gateway.dial()
            await server.close(1000)
            await client.closed()
            server.leave_gently()

    assert (429, b"HTTP/1.1 429") == (refused.status, refused.head[:12])
    assert b"ratelimit-limit: 1" in refused.head.lower()


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        pytest.param("1/second", "RateLimit\\('100/minute'\\)", id="text"),
        pytest.param([RateLimit("1/s"), 5], "not 5", id="one-of-several"),
        pytest.param(RateLimit("1/s", key="path:user"), "no parameter 'user'", id="parameter"),
    ],
)
def test_a_limit_that_cannot_count_is_a_mistake(limit, words):
    """The build reports it."""
    proxy = Proxy()

    @proxy.route("/<tenant>", upstream=upstream, rate_limit=limit)
    async def api() -> None: ...

    with pytest.raises(BuildError) as caught:
        proxy.build_app()

    assert re.search(words, str(caught.value))
