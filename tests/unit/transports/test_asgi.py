"""What is special about an application in the same process."""

import asyncio
import logging

import pytest

from proxyroutes.exceptions import Side, Stage, UpstreamConnectError, UpstreamProtocolError
from proxyroutes.transports import ASGITransport, asgi
from tests.unit.transports.support import Content, connect, make_head, read_all, settle

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body"}


def part(body: bytes):
    """A piece of a response."""
    return {"type": "http.response.body", "body": body, "more_body": True}


async def answer(app, head=None, body=None, *, url="http://asgi.test", **settings):
    """Send one request, and give the response and its body."""
    async with connect(ASGITransport(app, **settings), url) as upstream:
        response = await upstream.send(head, body)
        return response, await read_all(response)


async def ok(scope, receive, send):
    """Answer without a body."""
    await send(START)
    await send(END)


# The application's view


async def test_the_scope_is_what_a_server_would_show():
    """ASGI, HTTP connection scope."""
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await ok(scope, receive, send)

    head = make_head(b"PUT", b"/a%2F%C3%A9?b=%20", [(b"x", b"y")], content_length=0)
    await answer(app, head, url="https://asgi.test:8443/base")

    assert {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "https",
        "path": "/base/a/é",
        "raw_path": b"/base/a%2F%C3%A9",
        "query_string": b"b=%20",
        "root_path": "",
        "headers": [(b"host", b"asgi.test:8443"), (b"x", b"y"), (b"content-length", b"0")],
        "client": ("127.0.0.1", 0),
        "server": ("asgi.test", 8443),
        "extensions": {},
    } == scopes[0]


async def test_the_server_of_a_unix_socket_is_its_path():
    """ASGI: ``[path, None]``."""
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await ok(scope, receive, send)

    await answer(app, url="http+unix://%2Frun%2Fa.sock")

    assert (("/run/a.sock", None), "http") == (scopes[0]["server"], scopes[0]["scheme"])


async def test_the_request_is_received_in_pieces_and_then_the_client_is_gone():
    """The disconnect comes after the response has ended, and not before."""
    messages = []

    async def app(scope, receive, send):
        for _ in range(3):
            messages.append(await receive())
        leaving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        messages.append(leaving.done())
        await ok(scope, receive, send)
        messages.append(await leaving)
        messages.append(await receive())

    await answer(app, make_head(b"POST"), Content(b"a", b"b"))

    assert [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
        False,
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ] == messages


async def test_the_end_of_the_response_ends_the_reading_of_the_request():
    """Nobody reads the rest of the client's body then."""
    messages = []
    body = Content(b"a", asyncio.Event())

    async def app(scope, receive, send):
        messages.append(await receive())
        rest = asyncio.create_task(receive())
        await body.waiting.wait()
        await ok(scope, receive, send)
        messages.append(await rest)

    response, _ = await answer(app, make_head(b"POST"), body)

    assert 200 == response.status
    assert ["http.request", "http.disconnect"] == [message["type"] for message in messages]


async def test_an_application_may_stop_waiting_for_the_request():
    """Its own cancellation of ``receive`` is left to it."""
    body = Content(b"a", asyncio.Event())

    async def app(scope, receive, send):
        await receive()
        rest = asyncio.create_task(receive())
        await body.waiting.wait()
        rest.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rest
        await ok(scope, receive, send)

    response, _ = await answer(app, make_head(b"POST"), body)

    assert 200 == response.status


async def test_names_of_fields_are_made_lower_case():
    """And values that are not ``bytes`` are made so."""

    async def app(scope, receive, send):
        await send({**START, "headers": [[bytearray(b"X-A"), memoryview(b"B")]]})
        await send({"type": "http.response.body", "body": bytearray(b"ok")})

    response, body = await answer(app)

    assert ([(b"x-a", b"B")], b"ok") == (response.fields, body)


async def test_the_application_is_one_piece_ahead_of_the_reader():
    """Full back-pressure."""
    sent = []

    async def app(scope, receive, send):
        await send(START)
        for number in range(4):
            await send(part(b"%d" % number))
            sent.append(number)
        await send(END)

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()
        await settle(lambda: len(sent))
        ahead = [len(sent)]
        for _ in range(4):
            await response.read()
            await settle(lambda: len(sent))
            ahead.append(len(sent))

        assert [1, 2, 3, 4, 4] == ahead
        assert response.complete
        assert b"" == response.take()


async def test_a_piece_that_is_there_is_taken_without_waiting():
    """``take`` makes room as ``read`` does."""

    async def app(scope, receive, send):
        await send(START)
        await send(part(b"a"))
        await send(part(b"b"))
        await send(END)

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()
        await settle(lambda: 0)

        assert (False, b"a", b"") == (response.complete, response.take(), response.take())
        assert b"b" == await response.read()


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_a_body_that_must_not_be_is_dropped(method, status):
    """As a server does; the application need not know."""

    async def app(scope, receive, send):
        await send({**START, "status": status, "headers": [(b"content-length", b"2")]})
        await send(part(b"ok"))
        await send(END)

    response, body = await answer(app, make_head(method))

    assert (status, b"") == (response.status, body)


async def test_work_after_the_response_goes_on():
    """Background tasks are not cut off, and closing waits for them."""
    go_on, done = asyncio.Event(), []

    async def app(scope, receive, send):
        await ok(scope, receive, send)
        await go_on.wait()
        done.append(True)

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()
        await read_all(response)
        response.abort()
        asyncio.get_running_loop().call_soon(go_on.set)

    assert [True] == done


# Its failures


async def test_an_exception_before_the_head_is_a_protocol_error_and_logged(caplog):
    """The cause is kept for logs."""

    async def app(scope, receive, send):
        raise ZeroDivisionError("mine")

    with pytest.raises(UpstreamProtocolError) as caught:
        await answer(app)

    error = caught.value

    assert (Stage.RESPONSE_HEAD, Side.UPSTREAM, True, "http://asgi.test") == (
        error.stage,
        error.side,
        error.sent,
        error.destination,
    )
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert ["asgi_application_failed upstream=http://asgi.test"] == [
        record.getMessage() for record in caplog.records if record.name.startswith("proxyroutes")
    ]


async def test_an_exception_in_the_body_comes_after_what_was_written():
    """As with a connection that breaks."""

    async def app(scope, receive, send):
        await send(START)
        await send(part(b"a part"))
        raise ZeroDivisionError

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()

        assert b"a part" == await response.read()

        with pytest.raises(UpstreamProtocolError) as caught:
            await response.read()

    assert Stage.RESPONSE_BODY is caught.value.stage


async def test_exceptions_come_out_where_they_are_asked_for(caplog):
    """As tests of an application want them; they are not logged then."""

    async def app(scope, receive, send):
        if scope["path"] == "/late":
            await send(START)
        raise ZeroDivisionError("mine")

    transport = ASGITransport(app, raise_app_exceptions=True)
    async with connect(transport, "http://asgi.test") as upstream:
        with pytest.raises(ZeroDivisionError):
            await upstream.send()
        response = await upstream.send(make_head(target=b"/late"))
        with pytest.raises(ZeroDivisionError):
            await response.read()

    assert [] == [record for record in caplog.records if record.name.startswith("proxyroutes")]


async def test_an_exception_after_the_response_is_only_logged(caplog):
    """The client has its whole response."""

    async def app(scope, receive, send):
        await ok(scope, receive, send)
        raise ZeroDivisionError

    response, _ = await answer(app, raise_app_exceptions=True)

    assert 200 == response.status
    assert "asgi_application_failed upstream=http://asgi.test" in caplog.messages


@pytest.mark.parametrize(
    ("messages", "stage"),
    [([], Stage.RESPONSE_HEAD), ([START, part(b"a")], Stage.RESPONSE_BODY)],
    ids=["no head", "half a body"],
)
async def test_an_application_that_ends_too_early_is_a_protocol_error(messages, stage):
    """Never a clean end of a short response."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    with pytest.raises(UpstreamProtocolError) as caught:
        await answer(app)

    assert stage is caught.value.stage


async def test_an_application_that_cancels_itself_is_a_protocol_error():
    """It is not the client that left."""

    async def app(scope, receive, send):
        raise asyncio.CancelledError

    with pytest.raises(UpstreamProtocolError):
        await answer(app)


@pytest.mark.parametrize(
    ("length", "chunks"),
    [(b"3", [b"ab"]), (b"3", [b"ab", b"cd"]), (b"0", [b"a"])],
    ids=["short", "long", "not empty"],
)
async def test_a_body_of_another_length_than_announced_is_a_protocol_error(length, chunks):
    """A server would break the connection."""

    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-length", length)]})
        for chunk in chunks:
            await send(part(chunk))
        await send(END)

    with pytest.raises(UpstreamProtocolError, match="Content-Length"):
        await answer(app)


async def test_a_body_of_the_announced_length_is_whole():
    """In any number of pieces."""

    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-length", b"3")]})
        await send(part(b"ab"))
        await send(part(b""))
        await send({"type": "http.response.body", "body": b"c"})

    _, body = await answer(app)

    assert b"abc" == body


@pytest.mark.parametrize("lengths", [[b"x"], [b"1", b"2"], [b""]], ids=["word", "two", "empty"])
async def test_a_length_that_is_not_one_number_is_a_protocol_error(lengths):
    """RFC 9112 §6.3: it is not guessed at."""

    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-length", length) for length in lengths]})
        await send(part(b"a"))

    with pytest.raises(UpstreamProtocolError, match="Content-Length"):
        await answer(app)


@pytest.mark.parametrize(
    "messages",
    [[END], [START, START], [START, END, END], [START, {"type": "http.unknown"}]],
    ids=["body first", "two heads", "after the end", "unknown"],
)
async def test_a_message_that_is_not_its_turn_is_refused(messages):
    """The application is told, as a server tells it."""
    refused = []

    async def app(scope, receive, send):
        try:
            for message in messages:
                await send(message)
        except RuntimeError as error:
            refused.append(str(error))
            raise

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        try:
            await read_all(await upstream.send())
        except UpstreamProtocolError:
            pass

    assert [f"unexpected ASGI message: {messages[-1]['type']!r}"] == refused


# Leaving


async def test_aborting_cancels_the_application_and_its_clean_up_sees_the_client_gone():
    """What it still sends is dropped."""
    seen = []

    async def app(scope, receive, send):
        await send(START)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(await receive())
            await send(part(b"too late"))
            await send(END)

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()
        response.abort()

    assert [{"type": "http.disconnect"}] == seen


async def test_aborting_cancels_an_application_that_waits_for_the_request():
    """It is not told instead that the client is gone."""
    seen = []
    body = Content(asyncio.Event())

    async def app(scope, receive, send):
        await send(START)
        try:
            seen.append(await receive())
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send(make_head(b"POST"), body)
        await body.waiting.wait()
        response.abort()

    assert ["cancelled"] == seen


async def test_aborting_releases_an_application_that_waits_for_the_reader():
    """Also where another task of it writes."""
    done = []

    async def app(scope, receive, send):
        await send(START)
        await send(part(b"a"))
        writing = asyncio.create_task(send(part(b"b")))
        try:
            await asyncio.shield(writing)
        finally:
            done.append(await writing)

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()
        await settle(lambda: 0)
        response.abort()

    assert [None] == done


async def test_aborting_a_whole_response_that_was_not_read_does_not_cancel_the_application():
    """As with a server: it has been sent."""
    go_on, done = asyncio.Event(), []

    async def app(scope, receive, send):
        await send(START)
        await send({"type": "http.response.body", "body": b"ok"})
        await go_on.wait()
        done.append(True)

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send()
        await settle(lambda: response.complete)
        response.abort()
        with pytest.raises(UpstreamProtocolError):
            await response.read()
        go_on.set()

    assert [True] == done


async def test_a_failing_body_after_an_early_response_breaks_the_response():
    """The client's upload failed; the exchange is over."""
    body = Content(b"a", LookupError("gone"))
    messages = []

    async def app(scope, receive, send):
        await send(START)
        while "http.disconnect" not in messages:
            messages.append((await receive())["type"])

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        response = await upstream.send(make_head(b"POST"), body)
        with pytest.raises(LookupError):
            await response.read()

    assert ["http.request", "http.disconnect"] == messages


async def test_an_application_that_does_not_end_is_cancelled_and_reported(monkeypatch, caplog):
    """Closing is bounded."""
    monkeypatch.setattr(asgi, "_GRACE", 0.01)
    go_on = asyncio.Event()

    async def app(scope, receive, send):
        await ok(scope, receive, send)
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    async with connect(ASGITransport(app), "http://asgi.test") as upstream:
        await read_all(await upstream.send())
    go_on.set()

    assert ["asgi_tasks_left count=1"] == caplog.messages


# Its lifespan


class App:
    """An application with a lifespan that keeps what happens."""

    def __init__(self, *, startup: dict | None = None) -> None:
        self.events = []
        self.startup = startup or {"type": "lifespan.startup.complete"}
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope, receive, send):
        """Serve either scope."""
        if scope["type"] == "http":
            self.events.append(scope["state"])
            scope["state"]["mine"] = True
            await ok(scope, receive, send)
            return
        scope["state"]["shared"] = 42
        self.events.append((await receive())["type"])
        await self.go_on.wait()
        await send(self.startup)
        self.events.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})


async def test_the_lifespan_runs_from_the_first_request_until_the_pool_is_closed():
    """Once, and each request has a copy of its state."""
    app = App()
    async with connect(ASGITransport(app, lifespan=True), "http://asgi.test") as upstream:
        for _ in range(2):
            await read_all(await upstream.send())

    assert [
        "lifespan.startup",
        {"shared": 42, "mine": True},
        {"shared": 42, "mine": True},
        "lifespan.shutdown",
    ] == app.events


async def test_requests_wait_until_the_application_is_up():
    """All of them for the one start-up."""
    app = App()
    app.go_on.clear()
    async with connect(ASGITransport(app, lifespan=True), "http://asgi.test") as upstream:
        sending = [asyncio.create_task(upstream.send()) for _ in range(3)]
        await settle(lambda: len(app.events))

        assert ["lifespan.startup"] == app.events

        app.go_on.set()
        await asyncio.gather(*sending)


@pytest.mark.parametrize(
    ("reason", "detail"), [("no database", "no database"), ("", "no reason given")]
)
async def test_a_failed_start_up_is_a_connect_error(reason, detail):
    """Nothing was sent; each request says so."""
    app = App(startup={"type": "lifespan.startup.failed", "message": reason})
    async with connect(ASGITransport(app, lifespan=True), "http://asgi.test") as upstream:
        for _ in range(2):
            with pytest.raises(UpstreamConnectError, match=detail) as caught:
                await upstream.send()

    assert (False, "http://asgi.test") == (caught.value.sent, caught.value.destination)


async def test_an_application_without_a_lifespan_is_served_without_one():
    """ASGI: the server must continue."""

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await ok(scope, receive, send)

    response, _ = await answer(app, lifespan=True)

    assert 200 == response.status


async def test_a_lifespan_that_breaks_later_is_logged(caplog):
    """Requests are still served."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await ok(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise ZeroDivisionError

    await answer(app, lifespan=True)

    assert ["asgi_lifespan_failed"] == caplog.messages


async def test_an_application_that_is_still_starting_is_cancelled_when_the_pool_is_closed():
    """Its client has left already."""
    app = App()
    app.go_on.clear()
    async with connect(ASGITransport(app, lifespan=True), "http://asgi.test") as upstream:
        sending = asyncio.create_task(upstream.send())
        await settle(lambda: len(app.events))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    assert ["lifespan.startup"] == app.events


async def test_without_a_request_no_lifespan_is_started():
    """A pool that was never used has nothing to shut down."""
    app = App()
    async with connect(ASGITransport(app, lifespan=True), "http://asgi.test"):
        pass

    assert [] == app.events


def test_a_recipe_is_a_value():
    """Frozen, comparable and shareable."""
    assert ASGITransport(ok, lifespan=True) == ASGITransport(ok, lifespan=True)
    assert ASGITransport(ok) != ASGITransport(ok, raise_app_exceptions=True)


async def test_logging_of_an_unsupported_lifespan_is_quiet(caplog):
    """It is not a failure."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        await ok(scope, receive, send)

    with caplog.at_level(logging.INFO, "proxyroutes.transports"):
        await answer(app, lifespan=True)

    assert ["asgi_lifespan_unsupported error=ValueError('lifespan')"] == caplog.messages
