"""The upstream that keeps what was forwarded to it."""

import asyncio

import pytest
from fastapi import FastAPI

from proxyroutes import Proxy
from proxyroutes.testing import RecordingUpstream, open_client, open_socket_client


def gateway(upstream, **options):
    """An application with one route to it."""
    proxy = Proxy()

    @proxy.route("/api/<path>", upstream=upstream, rewrite="/<path>", **options)
    async def api() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


async def test_a_request_is_kept_as_it_came():
    """Method, raw target, fields with their duplicates, and content."""
    upstream = RecordingUpstream()
    async with open_client(gateway(upstream)) as client:
        await client.post(
            "/api/a%2Fb?x=1&x=2", headers=[("X-A", "1"), ("X-A", "2")], content=b"hello"
        )
    request = upstream.requests[0]
    actual = (
        request.method,
        request.target,
        request.path,
        request.query,
        request.all("X-A"),
        request.get("x-a"),
        request.get("x-b"),
        request.body,
        request.complete,
    )

    assert (
        "POST",
        "/a%2Fb?x=1&x=2",
        "/a/b",
        "x=1&x=2",
        ["1", "2"],
        "1",
        None,
        b"hello",
        True,
    ) == actual


async def test_it_answers_as_it_is_told():
    """Status, fields and content; once, or from then on."""
    upstream = RecordingUpstream()
    upstream.answer(201, headers={"X-Made": "yes"}, body="täxt")
    upstream.answer(503, once=True)
    async with open_client(gateway(upstream)) as client:
        first, second, third = [await client.get("/api/") for _ in range(3)]
    actual = [
        (one.status_code, one.headers.get("x-made"), one.text) for one in (first, second, third)
    ]

    assert [(503, None, ""), (201, "yes", "täxt"), (201, "yes", "täxt")] == actual


async def test_json_has_its_type():
    """A value is sent as JSON, with a type of its own or a given one."""
    upstream = RecordingUpstream()
    upstream.answer(json=None, once=True)
    upstream.answer(json={"a": 1}, headers=[("Content-Type", "application/vnd.a+json")])
    async with open_client(gateway(upstream)) as client:
        first, second = await client.get("/api/"), await client.get("/api/")
    actual = [(one.headers["content-type"], one.json()) for one in (first, second)]

    assert [("application/json", None), ("application/vnd.a+json", {"a": 1})] == actual


async def test_pieces_are_streamed():
    """A piece is with the client before the next one is made."""
    read = asyncio.Event()
    upstream = RecordingUpstream()

    async def pieces():
        yield b"one"
        await read.wait()
        yield b"two"

    upstream.answer(body=pieces(), once=True)
    upstream.answer(body=[b"th", b"ree"])
    got = []
    async with (
        open_socket_client(gateway(upstream)) as client,
        client.stream("GET", "/api/") as response,
    ):
        async for piece in response.aiter_bytes():
            got.append(piece)
            read.set()
        got.append((await client.get("/api/")).content)

    assert [b"one", b"two", b"three"] == got


async def test_it_records_for_an_application():
    """What an application of one's own reads is kept, and its answer given."""
    app = FastAPI()

    @app.post("/sum")
    def add(values: list[int]) -> int:
        return sum(values)

    upstream = RecordingUpstream(app)
    async with open_client(gateway(upstream)) as client:
        response = await client.post("/api/sum", json=[1, 2])
    request = upstream.assert_forwarded("POST", "/sum", json=[1, 2])

    assert 3 == response.json()
    assert [1, 2] == request.json()


async def test_a_client_that_leaves_is_seen():
    """The request's content never comes to its end, and the record says so."""
    upstream = RecordingUpstream()
    scope = {"type": "http", "method": "PUT", "path": "/é", "headers": []}
    messages = [
        {"type": "http.request", "body": b"ha", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    await upstream(scope, receive, sent.append)
    request = upstream.requests[0]

    assert [] == sent
    assert (b"ha", False, True) == (request.body, request.complete, request.disconnected)
    assert "/é" == request.path.encode("latin-1").decode("utf-8")


@pytest.fixture
async def asked():
    """An upstream that was asked twice."""
    upstream = RecordingUpstream()
    async with open_client(gateway(upstream)) as client:
        await client.get("/api/one?a=1", headers={"X-A": "1"})
        await client.post("/api/two", content=b'{"b": 2}')
    return upstream


@pytest.mark.parametrize(
    ("method", "options", "target"),
    [
        ("GET", {}, "/one?a=1"),
        (None, {"headers": {"X-A": "1"}}, "/one?a=1"),
        (None, {"headers": [("x-a", "1")], "absent": ["x-b"]}, "/one?a=1"),
        (None, {"absent": ["X-A"]}, "/two"),
        ("POST", {"body": '{"b": 2}'}, "/two"),
        ("POST", {"json": {"b": 2}}, "/two"),
        (None, {"times": 2}, "/two"),
    ],
    ids=["method", "field", "pairs", "absent", "body", "json", "times"],
)
async def test_what_was_forwarded_is_found(asked, method, options, target):
    """A claim that holds gives the last request of which it does."""
    actual = asked.assert_forwarded(method, **options).target

    assert target == actual


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["PUT"], {}, "! the method is not 'PUT'"),
        ([None, "/one"], {}, "! the target is not '/one'"),
        ([], {"headers": {"X-A": "2"}}, "! x-a is not '2'"),
        ([], {"absent": ["via"]}, "! via was sent"),
        ([], {"body": b"other"}, "! the body is not b'other'"),
        ([], {"json": {"b": 3}}, "! the body is not the JSON of {'b': 3}"),
        ([], {"times": 3}, "2 requests are like that, not 3"),
        ([], {"times": 1}, "2 requests are like that, not 1"),
    ],
    ids=["method", "target", "field", "absent", "body", "json", "fewer", "more"],
)
async def test_a_wrong_claim_fails_with_what_was_forwarded(asked, arguments, options, message):
    """The message has every request, and where it differs."""
    with pytest.raises(AssertionError) as caught:
        asked.assert_forwarded(*arguments, **options)
    text = str(caught.value)

    assert message in text
    assert "GET /one?a=1\n" in text
    assert "POST /two\n" in text


async def test_nothing_forwarded_is_a_claim_too(asked):
    """It fails with what was forwarded, and the other claim fails where nothing was."""
    RecordingUpstream().assert_nothing_forwarded()
    with pytest.raises(AssertionError, match="POST /two"):
        asked.assert_nothing_forwarded()
    with pytest.raises(AssertionError, match="nothing was forwarded"):
        RecordingUpstream().assert_forwarded("GET")


async def test_a_long_body_is_cut_in_the_message():
    """A message stays readable."""
    upstream = RecordingUpstream()
    async with open_client(gateway(upstream)) as client:
        await client.post("/api/", content=b"x" * 5_000)
    actual = str(upstream.requests[0])

    assert actual.endswith("…")
    assert len(actual) < 1_000


async def test_it_can_be_served_on_a_socket():
    """As an application of its own, its lifespan included."""
    upstream = RecordingUpstream()
    upstream.answer(body=b"ok")
    async with open_socket_client(upstream) as client:
        response = await client.get("/a")

    assert b"ok" == response.content
    upstream.assert_forwarded("GET", "/a")


async def test_sessions_are_refused_by_name():
    """It records requests, and says so."""
    with pytest.raises(NotImplementedError, match="'websocket' is not recorded"):
        await RecordingUpstream()({"type": "websocket"}, None, None)
