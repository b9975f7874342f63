"""What the client gets, and what the log says, when an upstream fails."""

import asyncio
import json
import logging

import pytest

from proxyroutes.testing import Close, ReadHead, Reset, ScriptedOrigin, Wait
from tests.integration.support import OK, eventually, make_request, refusing_destination

HEAD = b"HTTP/1.1 200 OK\r\n"


def failures(caplog):
    """The lines that the gateway has logged of failed exchanges."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.getMessage().startswith("exchange failed")
    ]


def origin_of(url):
    """Scheme, host and port of a destination as the log has it."""
    return f"destination={url}"


@pytest.mark.requirement("H-47")
async def test_a_refused_connection_is_answered_502(serve, lane, caplog):
    """Nothing was sent; the log says where, at which stage and why."""
    with refusing_destination() as url:
        gateway = await serve(url, lane=lane)
        reply = await gateway.get()
        record = await gateway.wait_for_record()
        (line,) = failures(caplog)

        assert 502 == reply.status
        assert (502, 1, "UpstreamConnectError") == (
            record.status,
            record.attempts,
            type(record.error).__name__,
        )
        assert [True] * 4 == [
            part in line
            for part in (
                "error=UpstreamConnectError",
                "stage=connect",
                "sent=False",
                origin_of(url),
            )
        ]
        assert "cause=None" not in line


BEFORE_THE_HEAD = [
    pytest.param([ReadHead(), Reset()], id="reset"),
    pytest.param([ReadHead(), Close()], id="close"),
    pytest.param([HEAD, Close()], id="half-a-head"),
    pytest.param([HEAD + b"Content-Len", Reset()], id="half-a-head-and-reset"),
    pytest.param([b"SSH-2.0-OpenSSH_9.2\r\n", Close()], id="garbage"),
    pytest.param([b"\x15\x03\x01\x00\x02\x02\x46" * 10 + b"\r\n\r\n"], id="tls-alert"),
    pytest.param([b"HTTP/1.1 OK\r\n\r\n"], id="no-status"),
    pytest.param([b"HTTP/1.1 20 OK\r\n\r\n"], id="two-digits"),
    pytest.param([HEAD + b"no colon\r\n\r\n"], id="no-colon"),
    pytest.param([HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"], id="two-lengths"),
    pytest.param([HEAD + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n"], id="huge-field"),
    pytest.param([HEAD + b"X-A: b\r\n" * 9_000 + b"\r\n"], id="huge-head"),
    pytest.param([HEAD + b"X-A: b\r\n" * 300 + b"\r\n"], id="many-fields"),
    pytest.param([b"HTTP/1.1 103 Early Hints\r\n\r\n", Close()], id="no-final-response"),
]


@pytest.mark.requirement("H-47")
@pytest.mark.requirement("H-42")
@pytest.mark.parametrize("script", BEFORE_THE_HEAD)
async def test_an_upstream_that_breaks_before_its_head_is_answered_502(serve, script, caplog):
    """What is no response is not shown; the log says where, at which stage and why."""
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url)
        reply = await gateway.get()
        await eventually(lambda: not origin.open_connections)
        record = await gateway.wait_for_record()
        (line,) = failures(caplog)

        assert 502 == reply.status
        assert (502, 1) == (record.status, record.attempts)
        assert [True] * 4 == [
            part in line
            for part in (
                "error=UpstreamProtocolError",
                "stage=response_head",
                "sent=True",
                origin_of(origin.url),
            )
        ]


@pytest.mark.requirement("R-01")
@pytest.mark.parametrize("script", BEFORE_THE_HEAD[:6])
async def test_the_pool_serves_on_after_a_broken_exchange(serve, script):
    """A connection that failed is gone, and the next request has one of its own."""
    async with ScriptedOrigin(script, [OK]) as origin:
        gateway = await serve(origin.url)
        replies = [await gateway.get(), await gateway.get()]

        assert [502, 200] == [reply.status for reply in replies]


@pytest.mark.requirement("H-48")
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(one.values[0], id=one.id)
        for one in BEFORE_THE_HEAD
        if one.id in {"reset", "garbage"}
    ],
)
async def test_a_failure_is_a_problem_document_that_shows_nothing_from_inside(
    serve, http, lane, script
):
    """Type, title and status are there; no address, no exception and no field of the upstream is."""
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        reply = await gateway.get()
        document = json.loads(reply.body)

        assert [b"application/problem+json"] == reply.all("content-type")
        assert {"type", "title", "status"} == set(document)
        assert 502 == document["status"]
        assert str(origin.port) not in reply.body.decode() + str(reply.fields)


@pytest.mark.requirement("H-48")
async def test_a_failed_head_request_is_answered_without_content(serve, http, lane):
    """The connection stays usable, because nothing stands behind the head."""
    with refusing_destination() as url:
        gateway = await serve(url, http=http, lane=lane)
        client = await gateway.connect()
        replies = [await client.ask(make_request(method="HEAD"), "HEAD") for _ in range(2)]

        assert [502, 502] == [reply.status for reply in replies]


CUT_OFF = [
    pytest.param(b"Content-Length: 10\r\n\r\nhello", Close(), id="length-close"),
    pytest.param(b"Content-Length: 10\r\n\r\nhello", Reset(), id="length-reset"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Close(), id="chunked-close"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Reset(), id="chunked-reset"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\nff\r\nhello", Close(), id="half-a-chunk"),
    pytest.param(
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", Close(), id="half-an-end"
    ),
]


@pytest.mark.requirement("H-16")
@pytest.mark.usefixtures("broken_relays")
@pytest.mark.parametrize(("response", "end"), CUT_OFF)
async def test_a_response_that_is_cut_off_breaks_the_clients_connection(
    serve, http, lane, response, end, caplog
):
    """Half a body never comes to a clean end, and the log says where and why once."""
    async with ScriptedOrigin([HEAD + response, end]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        reply = await client.ask(make_request())
        rest = await client.read_rest()
        record = await gateway.wait_for_record()
        (line,) = failures(caplog)

        assert (200, False) == (reply.status, reply.complete)
        assert b"" == rest
        assert (200, "RelayInterruptedError") == (record.status, type(record.error).__name__)
        assert [True] * 4 == [
            part in line
            for part in (
                "error=RelayInterruptedError",
                "stage=response_body",
                "sent=True",
                origin_of(origin.url),
            )
        ]


@pytest.mark.requirement("H-42")
@pytest.mark.usefixtures("broken_relays")
async def test_a_chunk_that_is_none_breaks_the_clients_connection(serve, lane):
    """Framing that breaks in the middle is no end of a body."""
    more = asyncio.Event()
    script = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Wait(more), b"xyz\r\n"]
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, lane=lane)
        client = await gateway.connect()
        await client.send(make_request())
        await client.read_head()
        await client.read_chunk()
        more.set()

        assert b"" == await client.read_rest()


@pytest.mark.usefixtures("broken_relays")
async def test_a_cut_off_response_is_logged_as_a_warning_of_the_gateway(serve, caplog):
    """An upstream's fault is no error of this process."""
    async with ScriptedOrigin([HEAD + b"Content-Length: 10\r\n\r\nhello", Close()]) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        await gateway.wait_for_record()
        levels = [one.levelno for one in caplog.records if one.name == "proxyroutes.serve"]

        assert [logging.WARNING] == levels


@pytest.mark.usefixtures("duplex")
async def test_an_upload_that_the_upstream_resets_is_answered_502(serve, http, lane):
    """What was sent of the content is lost, so that no second attempt is made."""
    async with ScriptedOrigin([ReadHead(), Reset()], [OK]) as origin:
        gateway = await serve(origin.url, http=http, lane=lane)
        client = await gateway.connect()
        await client.send(
            make_request("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n"
        )
        reply = await client.read_reply()

        assert 502 == reply.status
        assert 1 == origin.connections


@pytest.mark.requirement("S-45")
async def test_log_lines_hold_no_line_ends_of_others(serve, caplog):
    """What an upstream sends cannot write a line of the log."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nX: a\x00\nforged=yes\r\n\r\n"]) as origin:
        gateway = await serve(origin.url)
        await gateway.get()

        assert [0] == [line.count("\n") for line in failures(caplog)]
