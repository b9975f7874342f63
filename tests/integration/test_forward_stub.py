"""``forward: Forward``: a stub wraps the exchange, and nothing that it asks for and does not return is left behind."""

import asyncio
import gzip
import json
from typing import Annotated

import pytest
from attrs import define, field
from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Request,
    Response,
    WebSocket,
)
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect

from proxyroutes import (
    Forward,
    ForwardedRequest,
    GatewayError,
    Proxy,
    RelayResponse,
    Session,
    Timeouts,
    UpstreamPool,
)
from proxyroutes.exceptions import (
    BuildError,
    EditError,
    StubError,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.policies import CookieAffinity
from proxyroutes.settings import HeaderRules
from proxyroutes.testing import Close, ReadHead, ScriptedOrigin, Wait
from tests.integration.apps import Served
from tests.integration.support import OK, eventually, make_request, refusing_destination

LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


@define(eq=False)
class Bench:
    """A proxy under test.

    Attributes:
        proxy: The proxy.
        records: Records of ended exchanges.
        pools: The pools, whose leases are counted at the end.
    """

    proxy: Proxy
    records: list
    serving: object
    pools: list[UpstreamPool] = field(factory=list)

    def pool(self, *urls: str, **options) -> UpstreamPool:
        """Make a pool; it is shown to be idle at the end."""
        pool = UpstreamPool(f"pool{len(self.pools)}", urls, **options)
        self.pools.append(pool)
        return pool

    async def serve(self, app: FastAPI | None = None, **options) -> Served:
        """Serve the proxy's routes."""
        app = app or FastAPI()
        app.include_router(self.proxy.build_router())
        return await self.serving(app, **options)

    def is_idle(self) -> bool:
        """Whether no lease is out and no exchange is swept."""
        states = [pool.state() for pool in self.pools]
        return not any(
            state.in_flight
            or len(state.sweeper)
            or any(one.in_flight for one in state.destinations)
            for state in states
        )


@pytest.fixture
async def bench(serving):
    """A proxy; the test ends by asserting that no lease is out, no exchange is swept and every record has ended."""
    records = []
    bench = Bench(Proxy(via="gw", on_exchange=records.append), records, serving)
    yield bench
    await eventually(bench.is_idle)

    assert all(record.ended for record in records)


# One forward.


async def test_a_stub_returns_what_it_is_answered(bench, echo):
    """Status and fields may be edited, the body is relayed as a stream."""

    @bench.proxy.route("/x/<path>", upstream=bench.pool(echo.url), rewrite="/y/<path>")
    async def wraps(forward: Forward, path: str) -> Response:
        response = await forward()
        response.status_code = 203
        response.headers["X-Wrapped"] = path
        del response.headers["x-origin"]
        return response

    reply = await (await bench.serve()).ask("/x/a%2Fb?q=1", method="POST", body="content")
    seen = json.loads(reply.body)

    assert (203, b"a/b", None, "POST", "/y/a%2Fb?q=1", "content") == (
        reply.status,
        reply.get("x-wrapped"),
        reply.get("x-origin"),
        seen["method"],
        seen["target"],
        seen["body"],
    )


async def test_affinity_sees_what_rules_have_taken_out(bench, echo):
    """The client's cookie, which the upstream does not get, still names its destination."""
    pool = bench.pool(echo.url, affinity=CookieAffinity(secret="s" * 32))

    @bench.proxy.get("/x", upstream=pool, request_headers=HeaderRules(remove=["Cookie"]))
    async def wraps(forward: Forward) -> Response:
        return await forward()

    served = await bench.serve()
    cookie = (await served.ask("/x")).get("set-cookie")
    again = await served.ask("/x", "Cookie: " + cookie.decode().partition(";")[0])

    assert None is again.get("set-cookie")


async def test_the_stream_stays_a_stream(bench):
    """What has come is relayed before the rest has."""
    more = asyncio.Event()
    async with ScriptedOrigin([LONG, Wait(more), b"later"]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            return await forward()

        client = await (await bench.serve()).connect()
        await client.send(make_request("/x"))
        first = await client.reader.readuntil(b"short")
        more.set()
        rest = await client.reader.readexactly(5)

        assert (True, b"later") == (first.startswith(b"HTTP/1.1 200"), rest)


async def test_everything_of_a_request_may_be_given(bench, echo):
    """The same keywords as ``proxy.forward``, for one call; the stub's other edits stay."""

    @bench.proxy.post("/x", upstream=bench.pool(f"{echo.url}/base"), max_body_bytes=100)
    async def wraps(forward: Forward, forwarded: ForwardedRequest) -> Response:
        forwarded.headers["X-Edited"] = "yes"
        own = await forward(
            method="PUT",
            path="/other?own=1",
            headers={"X-Only": "1"},
            extra_headers={"X-Only": "2"},
            body={"a": 1},
            forward_query=False,
            timeouts=Timeouts(total=5.0),
        )
        given = json.loads(await own.read())
        plain = await forward()
        return JSONResponse([given, json.loads(await plain.read())])

    body = (
        await (await bench.serve()).ask("/x?q=1", "X-Client: c", method="POST", body="content")
    ).body
    own, plain = json.loads(body)
    names = {name for name, _ in own["headers"]}

    assert ("PUT", "/base/other?own=1", '{"a":1}', True, False) == (
        own["method"],
        own["target"],
        own["body"],
        ["x-only", "2"] in own["headers"],
        "x-client" in names,
    )
    assert ("POST", "/base/x?q=1", "content", True, True) == (
        plain["method"],
        plain["target"],
        plain["body"],
        ["x-edited", "yes"] in plain["headers"],
        ["x-client", "c"] in plain["headers"],
    )


async def test_a_stub_may_answer_by_itself(bench, echo):
    """Nothing is asked then."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(
        forward: Forward, x_cached: Annotated[str | None, Header()] = None
    ) -> Response:
        if x_cached is not None:
            return Response(x_cached)
        return await forward()

    served = await bench.serve()
    reply = await served.ask("/x", "X-Cached: kept")
    before = echo.connections
    await served.see("/x")

    assert (b"kept", 0, 1) == (reply.body, before, echo.connections)


async def test_a_stub_that_asks_for_nothing_forwards(bench, echo):
    """None forwards, as ever."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> None:
        assert "wraps" in repr(forward)

    assert "/x" == (await (await bench.serve()).see("/x")).target


async def test_a_stub_may_ask_another_one_first(bench, echo):
    """Somebody else decides whether the request is forwarded; the client's content is still there."""

    @bench.proxy.post("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response | None:
        asked = await forward(upstream=f"{echo.url}/auth", method="GET", body=b"", path="/me")
        verdict = json.loads(await asked.read())
        return None if verdict["target"] == "/auth/me" else Response(status_code=403)

    seen = await (await bench.serve()).see("/x", method="POST", body="content")

    assert ("/x", "content", 2) == (seen.target, seen.body, len(bench.records))


async def test_a_response_that_was_forgotten_is_an_error(bench, echo):
    """The request is not forwarded a second time."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> None:
        await forward()

    served = await bench.serve(errors=["uvicorn.error"])

    assert (500, 1) == (await served.status("/x"), echo.connections)


async def test_injected_fields_and_background_tasks_hold(bench, echo):
    """They belong to the relayed response, as where the stub returns nothing."""
    ran = []

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward, response: Response, tasks: BackgroundTasks) -> Response:
        response.set_cookie("seen", "1")
        tasks.add_task(ran.append, "later")
        return await forward()

    reply = await (await bench.serve()).ask("/x")
    await eventually(lambda: ran)

    assert (True, ["later"]) == (reply.get("set-cookie").startswith(b"seen=1"), ran)


async def test_a_location_is_mapped_unless_the_path_was_given(bench):
    """The inverse of the rewrite is no way back from another path."""
    moved = (
        b"HTTP/1.1 302 Found\r\nLocation: /v2/b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    async with ScriptedOrigin([moved]) as origin:
        pool = bench.pool(origin.url)

        @bench.proxy.get("/old/<path>", upstream=pool, rewrite="/v2/<path>")
        async def mapped(forward: Forward) -> Response:
            return await forward()

        @bench.proxy.get("/other/<path>", upstream=pool, rewrite="/v2/<path>")
        async def kept(forward: Forward) -> Response:
            return await forward(path="/v2/a")

        served = await bench.serve()
        replies = [await served.ask("/old/a"), await served.ask("/other/a")]

        assert [b"/old/b", b"/v2/b"] == [reply.get("location") for reply in replies]


# Reading.


async def test_a_response_is_read_and_relayed_all_the_same(bench):
    """Bytes, text and JSON; a coded body is decoded for the reader and relayed as it was."""
    packed = gzip.compress(b'{"a": "\xc3\xbc"}')
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    )
    got = []
    async with ScriptedOrigin([head.encode() + packed]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            with pytest.raises(RuntimeError, match="read"):
                response.json()
            await response.read(limit=100)
            got.extend([response.content == packed, response.text, response.json()])
            got.append(bench.is_idle())
            return response

        reply = await (await bench.serve()).ask("/x")

        assert ([True, '{"a": "ü"}', {"a": "ü"}, True], packed) == (got, reply.body)
        assert [200] == [record.status for record in bench.records]


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=none-such"])
async def test_a_text_in_an_unknown_charset_is_read_all_the_same(bench, charset):
    """As UTF-8, which everybody means."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain{charset}\r\nContent-Length: 2\r\n\r\n"
    async with ScriptedOrigin([head.encode() + "ü".encode()]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            await response.read()
            return Response(response.text.upper())

        reply = await (await bench.serve()).ask("/x")

        assert "Ü".encode() == reply.body


@pytest.mark.parametrize("framing", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_response_over_the_limit_is_not_read(bench, framing):
    """It is answered 502, and the destination is not to blame."""
    body = b"hello world" if "Length" in framing else b"b\r\nhello world\r\n0\r\n\r\n"
    async with ScriptedOrigin([f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + body]) as origin:
        pool = bench.pool(origin.url)

        @bench.proxy.get("/x", upstream=pool)
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            await response.read(limit=10)
            return response

        status = await (await bench.serve()).status("/x")

        assert (502, UpstreamProtocolError, 1) == (
            status,
            type(bench.records[0].error),
            len(bench.records),
        )


async def test_a_response_is_streamed_by_the_stub(bench):
    """Chunk by chunk, into a response of its own."""
    more = asyncio.Event()
    async with ScriptedOrigin([LONG, Wait(more), b"later"]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            response = await forward()

            async def shout():
                async for chunk in response.aiter_bytes():
                    yield chunk.upper()

            return StreamingResponse(shout(), media_type="text/plain")

        client = await (await bench.serve()).connect()
        await client.send(make_request("/x"))
        await client.reader.readuntil(b"SHORT")
        more.set()
        await client.reader.readuntil(b"LATER")
        await eventually(lambda: bench.records)

        assert (200, 10) == (bench.records[0].status, bench.records[0].response_bytes)


async def test_a_response_is_streamed_once(bench, echo):
    """What is gone cannot be had again, and not be relayed."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        response = await forward()
        assert [chunk async for chunk in response.aiter_bytes()]
        with pytest.raises(RuntimeError, match="already"):
            await response.read()
        return response

    served = await bench.serve(errors=["uvicorn.error"])

    assert 500 == await served.status("/x")


async def test_a_response_that_breaks_off_while_it_is_read_is_a_failure(bench, echo):
    """Nothing was answered yet: the stub may ask another one."""
    async with ScriptedOrigin([LONG, Close()]) as origin:
        fallback = bench.pool(echo.url)

        @bench.proxy.get("/x", upstream=bench.pool(origin.url, outliers=None))
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            try:
                await response.read()
            except UpstreamProtocolError:
                return await forward(upstream=fallback)
            return response

        seen = await (await bench.serve()).see("/x")

        assert ("/x", UpstreamProtocolError, None) == (
            seen.target,
            type(bench.records[0].error),
            bench.records[1].error,
        )


# The client's content.


async def test_a_stream_is_forwarded_once(bench, echo):
    """A second forward of it is an error that names the cure."""
    caught = []

    @bench.proxy.post("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        first = await forward()
        await first.read()
        with pytest.raises(StubError, match="max_body_bytes") as error:
            await forward()
        caught.append(str(error.value))
        return first

    seen = await (await bench.serve()).see("/x", method="POST", body="content")

    assert ("content", 1, True) == (seen.body, len(caught), "'wraps'" in caught[0])


async def test_a_stream_is_not_forwarded_twice_at_once(bench, echo):
    """One of two forwards has it, the other one is refused."""
    got = []

    @bench.proxy.post("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        results = await asyncio.gather(forward(), forward(), return_exceptions=True)
        got.extend([type(result) for result in results])
        return results[0]

    seen = await (await bench.serve()).see("/x", method="POST", body="content")

    assert ("content", [RelayResponse, StubError]) == (seen.body, got)


@pytest.mark.parametrize("limit", [None, 100], ids=["stream", "buffered"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_body_that_nobody_has_read_goes_to_the_fallback(bench, echo, limit, chunked):
    """A destination that cannot be reached has read nothing."""
    fallback = bench.pool(echo.url)
    with refusing_destination() as dead:

        @bench.proxy.post("/x", upstream=bench.pool(dead), max_body_bytes=limit)
        async def wraps(forward: Forward) -> Response:
            try:
                return await forward()
            except UpstreamConnectError as error:
                assert not error.sent
                return await forward(upstream=fallback)

        served = await bench.serve()
        line = "Transfer-Encoding: chunked" if chunked else "Content-Length: 7"
        body = "7\r\ncontent\r\n0\r\n\r\n" if chunked else "content"
        client = await served.connect()
        reply = await client.ask(make_request("/x", line, method="POST", body=body), "POST")
        seen = json.loads(reply.body)

    assert ("content", UpstreamConnectError, 502, None) == (
        seen["body"],
        type(bench.records[0].error),
        bench.records[0].status,
        bench.records[1].error,
    )


async def test_a_buffered_body_is_sent_as_often_as_wanted(bench, echo):
    """With a limit; at once, too, and after FastAPI has validated it."""

    class Item(BaseModel):
        name: str

    @bench.proxy.post("/x", upstream=bench.pool(echo.url), max_body_bytes=100)
    async def wraps(item: Item, forward: Forward) -> list:
        responses = await asyncio.gather(*[forward(path=f"/{n}/{item.name}") for n in range(3)])
        return [json.loads(await response.read()) for response in responses]

    body = '{"name":  "n"}'
    served = await bench.serve()
    reply = await served.ask("/x", "Content-Type: application/json", method="POST", body=body)
    invalid = await served.status("/x", "Content-Type: application/json", method="POST", body="{}")

    assert [(f"/{n}/n", body) for n in range(3)] == [
        (seen["target"], seen["body"]) for seen in json.loads(reply.body)
    ]
    assert 422 == invalid


@pytest.mark.parametrize("line", ["Content-Length: 101", "Transfer-Encoding: chunked"])
async def test_a_body_over_the_limit_is_413(bench, echo, line):
    """Before anything is sent, although nobody but the forward has read it."""

    @bench.proxy.post("/x", upstream=bench.pool(echo.url), max_body_bytes=100)
    async def wraps(forward: Forward) -> Response:
        try:
            return await forward()
        except GatewayError:
            return Response("caught")

    client = await (await bench.serve()).connect()
    body = "x" * 101 if "Length" in line else "65\r\n" + "x" * 101 + "\r\n0\r\n\r\n"
    reply = await client.ask(make_request("/x", line, method="POST", body=body), "POST")

    assert (413, 0) == (reply.status, echo.connections)


async def test_content_may_be_made_of_the_clients(bench, echo):
    """What the stub reads itself goes elsewhere, with and without an exchange that watches meanwhile."""

    @bench.proxy.post("/x", upstream=bench.pool(echo.url), max_body_bytes=100)
    async def wraps(forward: Forward, request: Request) -> Response:
        content = await request.body()
        return await forward(body=content.upper())

    seen = await (await bench.serve()).see("/x", method="POST", body="content")

    assert "CONTENT" == seen.body


async def test_content_may_be_made_while_it_is_sent(bench, echo):
    """Of a stream of the stub's own; a client that leaves meanwhile is still heard."""

    async def made():
        yield b"one "
        yield b""
        yield b"two"

    @bench.proxy.post("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        return await forward(body=made())

    seen = await (await bench.serve()).see("/x", method="POST", body="content")

    assert ("one two", "chunked") == (seen.body, seen.get("transfer-encoding"))


async def test_a_client_that_leaves_ends_content_that_is_made(bench):
    """Its stream goes no further."""
    waits = asyncio.Event()
    ended = []

    async def made():
        try:
            yield b"one"
            waits.set()
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async with ScriptedOrigin([ReadHead()]) as origin:

        @bench.proxy.post("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            return await forward(body=made())

        client = await (await bench.serve()).connect()
        await client.send(make_request("/x", method="POST"))
        await waits.wait()
        client.leave()
        await origin.wait_until(lambda: origin.connections and not origin.open_connections)
        await eventually(lambda: bench.records and ended)

        assert (499, ["ended"]) == (bench.records[0].status, ended)


async def test_an_exchange_that_watches_does_not_steal_the_clients_content(bench, echo):
    """It waits longer than a tick while the content comes in; all of it reaches the upstream."""
    waits, release = asyncio.Event(), asyncio.Event()

    async def slow(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        waits.set()
        await release.wait()
        writer.write(OK)

    async with ScriptedOrigin(slow) as side:
        side_pool = bench.pool(side.url)

        @bench.proxy.post("/x", upstream=bench.pool(echo.url))
        async def wraps(forward: Forward) -> Response:
            asked = asyncio.create_task(forward(upstream=side_pool, method="GET", body=b""))
            await waits.wait()
            response = await forward()
            await response.read()
            release.set()
            await (await asked).read()
            return response

        served = await bench.serve()
        client = await served.connect()
        await client.send(make_request("/x", "Content-Length: 9", method="POST", body="abc"))
        await waits.wait()
        state = bench.pools[0].state()
        # The watch of the side exchange has the channel first, and keeps what comes.
        await eventually(lambda: _watches() == 1)
        await client.send(b"def")
        await echo.wait_until(lambda: echo.requests and b"abcdef" in bytes(echo.requests[0]))
        await client.send(b"ghi")
        reply = await client.read_reply("POST")

        assert ("abcdefghi", True) == (json.loads(reply.body)["body"], bool(state))


def _watches():
    return len([one for one in asyncio.all_tasks() if "proxyroutes-watch" in one.get_name()])


# Fallback and fan-out.


async def test_an_answer_may_be_dropped_for_another_one(bench, echo):
    """Its connection and lease are let go of at once, not at the end of the request."""
    in_flight = []
    async with ScriptedOrigin([BROKEN]) as origin:
        pool, fallback = bench.pool(origin.url), bench.pool(echo.url)

        @bench.proxy.get("/x", upstream=pool)
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            if response.status_code >= 500:
                response = await forward(upstream=fallback)
                in_flight.append(pool.state().in_flight)
            return response

        seen = await (await bench.serve()).see("/x")

        assert ("/x", [0]) == (seen.target, in_flight)


async def test_a_url_is_an_upstream_of_a_forward(bench, echo):
    """With its base path."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        return await forward(upstream=f"{echo.url}/base")

    assert "/base/x?q=1" == (await (await bench.serve()).see("/x?q=1")).target


@pytest.mark.parametrize("upstream", ["ftp://a.test", 7], ids=["scheme", "number"])
async def test_what_is_no_upstream_is_refused(bench, echo, upstream):
    """Nothing is asked."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        return await forward(upstream=upstream)

    served = await bench.serve(errors=["uvicorn.error"])

    assert (500, 0) == (await served.status("/x"), echo.connections)


async def test_a_chosen_pool_is_chosen_for_each_forward(bench, echo):
    """The callable given as upstream is asked each time."""
    asked = []
    pool = bench.pool(echo.url)

    def choose(request: ForwardedRequest) -> UpstreamPool:
        asked.append(request.path)
        return pool

    @bench.proxy.get("/x", upstream=choose)
    async def wraps(forward: Forward) -> Response:
        await (await forward()).read()
        return await forward()

    await (await bench.serve()).see("/x")

    assert ["/x", "/x"] == asked


async def test_several_are_asked_at_once(bench):
    """All of them wait at the same time, and each has a record of its own."""
    together = asyncio.Barrier(3)

    async def meet(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await together.wait()
        writer.write(OK)

    async with ScriptedOrigin(meet) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> dict:
            responses = await asyncio.gather(*[forward() for _ in range(3)])
            return {"all": [(await response.read()).decode() for response in responses]}

        reply = await (await bench.serve()).ask("/x")

        assert ({"all": ["ok"] * 3}, [(1, 200)] * 3) == (
            json.loads(reply.body),
            [(record.attempts, record.status) for record in bench.records],
        )


async def test_a_timeout_ends_one_of_several(bench, echo):
    """The others are not touched, and neither is the stub that waits for all."""
    got = []
    async with ScriptedOrigin([ReadHead()]) as silent:
        pools = [bench.pool(silent.url), bench.pool(echo.url)]

        @bench.proxy.get("/x", upstream=pools[0])
        async def wraps(forward: Forward) -> Response:
            results = await asyncio.gather(
                forward(timeouts=Timeouts(first_byte=0.05)),
                forward(upstream=pools[1]),
                return_exceptions=True,
            )
            got.extend([type(result) for result in results])
            assert not asyncio.current_task().cancelling()
            return results[1]

        seen = await (await bench.serve()).see("/x")

        assert ("/x", [UpstreamTimeoutError, RelayResponse]) == (seen.target, got)


async def test_a_stubs_own_timeout_stays_its_own(bench, echo):
    """``asyncio.timeout`` around a forward cancels it, and blames nobody."""
    async with ScriptedOrigin([ReadHead()]) as silent:
        fallback = bench.pool(echo.url)

        @bench.proxy.get("/x", upstream=bench.pool(silent.url))
        async def wraps(forward: Forward) -> Response:
            try:
                async with asyncio.timeout(0.05):
                    return await forward()
            except TimeoutError:
                return await forward(upstream=fallback)

        seen = await (await bench.serve()).see("/x")
        await silent.wait_until(lambda: silent.open_connections == 0)

        assert ("/x", None) == (seen.target, bench.records[0].error)


# What is left behind: leases, exchanges, tasks and sockets are counted at the end of each.


@pytest.mark.parametrize("ending", ["returns", "raises", "refuses"])
async def test_answers_that_are_not_returned_are_let_go_of(bench, ending):
    """Held ones too, to the end of the request and not beyond."""
    held = []
    async with ScriptedOrigin([LONG]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            held.extend(await asyncio.gather(forward(), forward()))
            if ending == "raises":
                raise ValueError("between")
            if ending == "refuses":
                raise HTTPException(418)
            return Response("mine")

        served = await bench.serve(errors=["uvicorn.error"])
        status = await served.status("/x")
        await origin.wait_until(lambda: origin.open_connections == 0)
        await eventually(bench.is_idle)

        assert ({"returns": 200, "raises": 500, "refuses": 418}[ending], 2, 2) == (
            status,
            len(held),
            len(bench.records),
        )


async def test_a_forward_that_nobody_waits_for_ends_with_the_request(bench):
    """Its task is cancelled, its connection closed."""
    tasks = []
    async with ScriptedOrigin([ReadHead()]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            tasks.append(asyncio.create_task(forward(), name="lost"))
            await origin.wait_until(lambda: origin.requests and origin.requests[0])
            return Response("mine")

        reply = await (await bench.serve()).ask("/x")
        await asyncio.wait(tasks)
        await origin.wait_until(lambda: origin.open_connections == 0)

        assert (b"mine", True) == (reply.body, tasks[0].cancelled())


async def test_a_forward_after_the_request_is_refused(bench, echo):
    """A background task has no request to forward any more."""
    errors = []

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        async def later():
            await over.wait()
            try:
                await forward()
            except RuntimeError as error:
                errors.append(str(error))

        task.append(asyncio.create_task(later()))
        return await forward()

    over, task = asyncio.Event(), []
    served = await bench.serve()
    await served.see("/x")
    await eventually(bench.is_idle)
    over.set()
    await asyncio.wait(task)

    assert (True, 1) == ("over" in errors[0], echo.connections)


@pytest.mark.parametrize("phase", ["head", "held", "read", "relay", "stream", "upload"])
async def test_a_client_that_leaves_ends_everything(bench, phase):
    """Whatever the stub is about: both upstreams are let go of, nobody is blamed, nothing goes on."""
    went_on = []
    script = [ReadHead()] if phase in {"head", "upload"} else [LONG]
    async with ScriptedOrigin(script) as origin:
        pool = bench.pool(origin.url)

        @bench.proxy.route("/x", upstream=pool)
        async def wraps(forward: Forward) -> Response:
            if phase == "held":
                held = await forward()
            responses = await asyncio.gather(forward(), forward(body=b"own"))
            if phase == "held":
                await held.read()
            if phase == "read":
                await responses[0].read()
            if phase == "stream":
                return StreamingResponse(responses[0].aiter_bytes())
            if phase == "relay":
                return responses[0]
            went_on.append(phase)
            return Response("mine")

        served = await bench.serve()
        client = await served.connect()
        if phase == "upload":
            await client.send(make_request("/x", "Content-Length: 9", method="POST", body="abc"))
        else:
            await client.send(make_request("/x"))
        wanted = 3 if phase == "held" else 2
        await origin.wait_until(
            lambda: sum(b"\r\n\r\n" in bytes(one) for one in origin.requests) == wanted
        )
        if phase in {"relay", "stream"}:
            await client.reader.readuntil(b"short")
        client.leave()
        await origin.wait_until(lambda: origin.open_connections == 0)
        await eventually(lambda: len(bench.records) == wanted)

        statuses = {record.status for record in bench.records}

        # A stream of the stub's own is ended by whoever sends it: the framework, which does not say why.
        assert ([], {None}, True) == (
            went_on,
            {record.error for record in bench.records},
            499 in statuses or phase == "stream",
        )


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("Transfer-Encoding: chunked", "0\r\n\r\n"),
        ("Content-Length: 0", ""),
        ("X-Content: none", ""),
    ],
    ids=["chunked", "length 0", "none"],
)
async def test_a_client_that_leaves_a_second_forward_is_heard(bench, line, body):
    """An empty content that the first upstream has read to its end hides nothing."""
    async with ScriptedOrigin([BROKEN]) as first, ScriptedOrigin([ReadHead()]) as second:
        fallback = bench.pool(second.url)

        @bench.proxy.post("/x", upstream=bench.pool(first.url))
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            await response.read()
            return await forward(upstream=fallback)

        client = await (await bench.serve()).connect()
        await client.send(make_request("/x", line, method="POST") + body.encode())
        await second.wait_until(lambda: second.requests and b"\r\n\r\n" in second.requests[0])
        client.leave()
        await second.wait_until(lambda: second.open_connections == 0)
        await eventually(lambda: len(bench.records) == 2)

    assert [503, 499] == [record.status for record in bench.records]


async def test_a_client_that_leaves_is_told_to_the_stub(bench):
    """As what Starlette's own requests raise."""
    caught = []
    async with ScriptedOrigin([ReadHead()]) as origin:

        @bench.proxy.get("/x", upstream=bench.pool(origin.url))
        async def wraps(forward: Forward) -> Response:
            try:
                return await forward()
            except ClientDisconnect:
                caught.append("left")
                raise

        client = await (await bench.serve()).connect()
        await client.send(make_request("/x"))
        await origin.wait_until(lambda: origin.requests and b"\r\n\r\n" in origin.requests[0])
        client.leave()
        await eventually(lambda: caught)
        await eventually(lambda: bench.records)

        assert 499 == bench.records[0].status


async def test_a_middleware_in_front_changes_nothing(bench, echo):
    """One that reads the channel by itself, and runs the application in another task."""
    app = FastAPI()

    async def passes(request, call_next):
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    async with ScriptedOrigin([BROKEN]) as origin:
        fallback = bench.pool(echo.url)

        @bench.proxy.post("/x", upstream=bench.pool(origin.url), max_body_bytes=100)
        async def wraps(forward: Forward) -> Response:
            response = await forward()
            return response if response.status_code < 500 else await forward(upstream=fallback)

        seen = await (await bench.serve(app)).see("/x", method="POST", body="content")

        assert ("/x", "content") == (seen.target, seen.body)


# Declaring.


async def test_a_guard_stands_in_front(bench, echo):
    """Dependencies of the inclusion run before the stub, whatever it wraps."""

    def login(authorization: Annotated[str | None, Header()] = None) -> None:
        if authorization is None:
            raise HTTPException(401)

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward) -> Response:
        return await forward()

    app = FastAPI()
    app.include_router(bench.proxy.build_router(), dependencies=[Depends(login)])
    served = await bench.serving(app)

    assert (401, 0, 200) == (
        await served.status("/x"),
        echo.connections,
        await served.status("/x", "Authorization: me"),
    )


def test_a_stub_that_cannot_wrap_is_refused():
    """A synchronous one, a WebSocket's, and a Session in an HTTP stub; each at its line."""
    proxy = Proxy()
    pool = UpstreamPool("a", ["http://127.0.0.1:9"])

    @proxy.get("/sync", upstream=pool)
    def sync(forward: Forward) -> None: ...

    @proxy.websocket("/ws", upstream=pool)
    async def socket(websocket: WebSocket, forward: Forward) -> None: ...

    @proxy.get("/session", upstream=pool)
    async def session(session: Session) -> None: ...

    async def depends(forward: Forward) -> None: ...

    @proxy.get("/depends", upstream=pool, dependencies=[Depends(depends)])
    async def dependent() -> None: ...

    with pytest.raises(BuildError) as error:
        proxy.build_router()
    problems = [str(one) for one in error.value.exceptions]

    assert [True, True, True, True] == [
        any(part in problem and __file__ in problem for problem in problems)
        for part in (
            "write async def",
            "asks for a Forward, which only HTTP",
            "asks for a Session, which only WebSocket",
            "only the stub itself",
        )
    ]


async def test_a_wrapping_stub_is_documented(bench, echo):
    """``forward`` is no parameter of the API."""

    @bench.proxy.get("/x/<name>", upstream=bench.pool(echo.url))
    async def wraps(forward: Forward, name: str, limit: int = 1) -> Response:
        return await forward()

    app = FastAPI()
    app.include_router(bench.proxy.build_router())
    operation = app.openapi()["paths"]["/x/{name}"]["get"]

    assert ["name", "limit"] == [one["name"] for one in operation["parameters"]]
    assert "requestBody" not in operation


# Edits.


@pytest.mark.parametrize(
    "edit",
    [
        lambda one: one.headers.set("x-a", "a\r\nX-Evil: 1"),
        lambda one: one.headers.add("x-a", "a\nb"),
        lambda one: one.headers.__setitem__("x-a", "a\0b"),
        lambda one: one.headers.set("x a", "v"),
        lambda one: one.headers.set("content-length", "1"),
        lambda one: one.headers.set("host", "a/b"),
        lambda one: setattr(one, "method", "CONNECT"),
        lambda one: setattr(one, "path", "/a/../b"),
        lambda one: setattr(one, "query_string", "a b"),
    ],
    ids=["crlf", "lf", "nul", "name", "framing", "host", "method", "path", "query"],
)
async def test_an_edit_that_cannot_be_sent_names_its_line(bench, echo, edit):
    """File and line of the stub are in the error."""
    caught = []

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def edits(forwarded: ForwardedRequest) -> None:
        try:
            edit(forwarded)
        except ValueError as error:
            caught.append(error)
            raise

    served = await bench.serve(errors=["uvicorn.error"])
    status = await served.status("/x")
    line = edit.__code__.co_firstlineno

    assert (500, 0, EditError, f"{__file__}:{line}") == (
        status,
        echo.connections,
        type(caught[0]),
        caught[0].location,
    )
    assert str(caught[0]).startswith(f"{__file__}:{line}: ")


async def test_what_the_client_sent_of_an_edited_field_is_deleted(bench, echo):
    """In both spellings of its name, by a stub's edit and by an override."""

    @bench.proxy.get("/x", upstream=bench.pool(echo.url))
    async def edits(forwarded: ForwardedRequest) -> None:
        forwarded.headers["X-User"] = "ann"

    @bench.proxy.get("/y", upstream=bench.pool(echo.url))
    async def overrides(forward: Forward) -> Response:
        return await forward(extra_headers={"X-User": "ann"})

    served = await bench.serve()
    forged = ("X-User: root", "X_User: root", "x-user: root", "X-Other: 1")
    seen = [await served.see("/x", *forged), await served.see("/y", *forged)]

    assert [(["ann"], [], ["1"])] * 2 == [
        (one.all("x-user"), one.all("x_user"), one.all("x-other")) for one in seen
    ]
