"""Each time-out fires at its stage, and is blamed on the side that was waited for."""

import asyncio

import pytest
from fastapi import FastAPI, Request, Response

from proxyroutes import Forward, Proxy
from proxyroutes.exceptions import Side, Stage
from proxyroutes.settings import Timeouts
from proxyroutes.testing import Close, ReadHead, ScriptedOrigin, run_gateway
from tests.integration.support import (
    OK,
    RawClient,
    eventually,
    make_request,
    silent_destination,
)

SHORT = 0.1
STREAM = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"


def facts(record):
    """Status of an exchange, and stage and side of its failure."""
    return record.status, record.error.stage, record.error.side


@pytest.mark.requirement("R-10")
async def test_an_upstream_that_does_not_accept_is_answered_504(serve, lane, caplog):
    """The connect time-out ends what never began."""
    with silent_destination() as url:
        gateway = await serve(url, lane=lane, timeouts=Timeouts(connect=SHORT))
        reply = await gateway.get()
        record = await gateway.wait_for_record()

        assert 504 == reply.status
        assert (504, Stage.CONNECT, Side.UPSTREAM) == facts(record)
        assert "stage=connect" in caplog.text
        assert f"destination={url}" in caplog.text


@pytest.mark.requirement("R-10")
async def test_an_upstream_that_does_not_answer_is_answered_504(serve, http, lane, caplog):
    """The time to the first byte begins with the last byte of the request."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(
            origin.url, http=http, lane=lane, timeouts=Timeouts(first_byte=SHORT)
        )
        reply = await gateway.get()
        record = await gateway.wait_for_record()
        await eventually(lambda: not origin.open_connections)

        assert (504, b"application/problem+json") == (reply.status, reply.get("content-type"))
        assert (504, Stage.RESPONSE_HEAD, Side.UPSTREAM) == facts(record)
        assert f"first_byte time-out after {SHORT} s stage=response_head" in caplog.text


@pytest.mark.requirement("R-10")
async def test_half_a_head_does_not_stop_the_time_to_the_first_byte(serve):
    """What trickles in is no response until its head is whole."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\n"]) as origin:
        gateway = await serve(origin.url, timeouts=Timeouts(first_byte=SHORT))
        reply = await gateway.get()

        assert 504 == reply.status


@pytest.mark.requirement("R-10")
@pytest.mark.usefixtures("broken_relays")
async def test_a_response_that_stalls_breaks_the_clients_connection(serve, http, lane):
    """Once the head was sent there is no second answer."""
    async with ScriptedOrigin([STREAM]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, timeouts=Timeouts(idle=SHORT))
        reply = await gateway.get()
        record = await gateway.wait_for_record()
        await eventually(lambda: not origin.open_connections)

        assert (200, b"hello", False) == (reply.status, reply.body, reply.complete)
        assert (200, Stage.RESPONSE_BODY, Side.UPSTREAM) == facts(record)


@pytest.mark.requirement("H-47")
@pytest.mark.requirement("R-12")
async def test_a_client_that_stalls_its_upload_is_answered_408(serve, http, lane):
    """The upstream is not to blame for what the client does not send, and sees no end of it."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, timeouts=Timeouts(idle=SHORT))
        reply = await gateway.ask(
            make_request("/", "Content-Length: 10", method="POST", body="hello")
        )
        record = await gateway.wait_for_record()
        await eventually(lambda: not origin.open_connections)

        assert 408 == reply.status
        assert (408, Stage.REQUEST_BODY, Side.CLIENT) == facts(record)
        assert bytes(origin.requests[0]).endswith(b"hello")


@pytest.mark.requirement("R-12")
@pytest.mark.parametrize("kind", ["model", "read", "forward"])
async def test_a_client_that_stalls_a_content_that_is_kept_is_answered_408(kind):
    """Whoever reads it: FastAPI, the stub, or the gateway for its first attempt."""
    records = []
    proxy = Proxy(timeouts=Timeouts(idle=SHORT), on_exchange=records.append)

    async def model(item: dict[str, int]) -> None: ...

    async def read(request: Request) -> None:
        await request.body()

    async def wraps(forward: Forward) -> Response:
        return await forward()

    stub = {"model": model, "read": read, "forward": wraps}[kind]
    async with ScriptedOrigin([OK]) as origin:
        proxy.post("/", upstream=origin.url, max_body_bytes=1000)(stub)
        app = FastAPI()
        app.include_router(proxy.build_router())
        async with run_gateway(app) as running:
            client = await RawClient.connect(running.port)
            lines = ("Content-Type: application/json", "Content-Length: 10")
            reply = await client.ask(make_request("/", *lines, method="POST", body='{"a"'))
            await client.close()
            await eventually(lambda: records)

    assert (408, 408, 0) == (reply.status, records[0].status, origin.connections)
    assert Side.CLIENT is records[0].error.side


@pytest.mark.requirement("R-12")
async def test_an_upstream_that_does_not_take_an_upload_is_answered_504(serve, lane):
    """A stalled upload is cut on the side that stalls."""
    stop = asyncio.Event()

    async def stall(reader, writer):
        writer.transport.pause_reading()
        await stop.wait()

    async with ScriptedOrigin(stall) as origin:
        gateway = await serve(origin.url, lane=lane, timeouts=Timeouts(idle=SHORT))
        client = await gateway.connect()
        head = make_request("/", "Content-Length: 100000000", method="POST")
        client.writer.write(head + bytes(30_000_000))
        reply = await client.read_reply()
        record = await gateway.wait_for_record()
        stop.set()
        client.leave()

        assert 504 == reply.status
        assert (504, Stage.REQUEST_BODY, Side.UPSTREAM) == facts(record)


@pytest.mark.usefixtures("broken_relays")
async def test_a_client_that_does_not_read_is_cut_and_blamed(serve, http, lane):
    """A response that nobody takes does not hold its upstream for ever."""

    async def flood(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async with ScriptedOrigin(flood) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, timeouts=Timeouts(idle=SHORT))
        client = await gateway.connect()
        client.writer.transport.pause_reading()
        await client.send(make_request())
        record = await gateway.wait_for_record()
        client.leave()
        await eventually(lambda: not origin.open_connections)

        assert (200, Stage.RESPONSE_BODY, Side.CLIENT) == facts(record)


@pytest.mark.requirement("R-11")
async def test_the_total_time_ends_an_exchange_before_its_head(serve, http, lane, caplog):
    """However patient the other time-outs are."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane, timeouts=Timeouts(total=SHORT))
        reply = await gateway.get()

        assert 504 == reply.status
        assert f"total time-out after {SHORT} s" in caplog.text


@pytest.mark.requirement("R-13")
@pytest.mark.usefixtures("broken_relays")
async def test_the_total_time_ends_a_response_that_trickles(serve, lane):
    """Progress does not help where a total is set."""

    async def trickle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with ScriptedOrigin(trickle) as origin:
        gateway = await serve(origin.url, lane=lane, timeouts=Timeouts(total=SHORT))
        reply = await gateway.get()
        await eventually(lambda: not origin.open_connections)

        assert (200, False) == (reply.status, reply.complete)


@pytest.mark.requirement("R-11")
async def test_the_total_time_covers_every_attempt(serve):
    """No further destination is asked once it is over."""
    with silent_destination() as url:
        async with ScriptedOrigin([OK]) as origin:
            gateway = await serve(url, origin.url, timeouts=Timeouts(connect=5.0, total=SHORT))
            reply = await gateway.get()
            record = await gateway.wait_for_record()

            assert (504, 1) == (reply.status, record.attempts)
            assert 0 == origin.connections


SLOW, QUICK = Timeouts(), Timeouts(first_byte=SHORT)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"proxy": {"timeouts": QUICK}}, id="proxy"),
        pytest.param(
            {"proxy": {"timeouts": SLOW}, "pool": {"timeouts": QUICK}}, id="pool-before-proxy"
        ),
        pytest.param({"pool": {"timeouts": SLOW}, "timeouts": QUICK}, id="route-before-pool"),
    ],
)
async def test_the_nearest_time_outs_count(serve, lane, options):
    """A route's own come before the pool's, and those before the proxy's."""
    async with ScriptedOrigin([ReadHead()]) as origin:
        gateway = await serve(origin.url, lane=lane, **options)
        reply = await gateway.get()

        assert 504 == reply.status


async def test_a_time_out_leaves_the_next_request_alone(serve):
    """The exchange that was cut takes its connection with it and nothing else."""
    async with ScriptedOrigin([ReadHead()], [OK]) as origin:
        gateway = await serve(origin.url, timeouts=Timeouts(first_byte=SHORT))
        client = await gateway.connect()
        replies = [await client.ask(make_request()), await client.ask(make_request())]

        assert [504, 200] == [reply.status for reply in replies]


async def test_a_whole_response_in_time_is_not_cut_by_any_time_out(serve):
    """Short time-outs do not harm a quick exchange."""
    timeouts = Timeouts(connect=SHORT, first_byte=SHORT, idle=SHORT, total=SHORT)
    async with ScriptedOrigin([OK, Close()]) as origin:
        gateway = await serve(origin.url, timeouts=timeouts)
        reply = await gateway.get()

        assert (200, b"ok") == (reply.status, reply.body)
