"""What every transport must do, whatever it speaks."""

import asyncio
import socket
from contextlib import suppress

import pytest

from proxyroutes.exceptions import (
    Side,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
)
from proxyroutes.testing import Close, ReadHead, ReadUntil, Reset, Wait
from tests.unit.transports.support import (
    FRAMING,
    SUBJECTS,
    Content,
    Subject,
    connect,
    make_head,
    read_all,
    settle,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request) -> Subject:
    """Every transport."""
    return request.param


@pytest.fixture(
    params=[subject for subject in SUBJECTS if subject.sockets], ids=lambda subject: subject.name
)
def wire(request) -> Subject:
    """Every transport that speaks through sockets."""
    return request.param


def need(subject: Subject, capability: str) -> None:
    """Expect the test to fail where the transport lacks the capability."""
    if reason := subject.gaps.get(capability):
        pytest.xfail(reason)


class Recorder:
    """An upstream's script that keeps what it received and answers ``ok``."""

    async def __call__(self, peer):
        """Receive a request and answer it."""
        self.method, self.target, self.fields = peer.method, peer.target, peer.fields
        self.body = await peer.read_all()
        await peer.start(200, [(b"content-length", b"2")])
        await peer.write(b"ok")
        await peer.end()


# The request


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a%2Fb%2fc",
        b"//double//slash/",
        b"/;p=1;q/x,y=z",
        b"/q?",
        b"/q?a=b+c&d=%zz&e=%7E~&f",
        b'/[]{}|^`"<>',
        b"/q?u=http://other.test/?x=/../",
        b"/" + b"x" * 8000,
    ],
    ids=lambda target: target[:20].decode(),
)
async def test_the_target_is_sent_byte_for_byte_behind_the_base_path(subject, target):
    """Nothing of path and query is decoded, encoded or normalised."""
    seen = Recorder()
    async with subject.serve(seen, base="/base/%2f") as upstream:
        await read_all(await upstream.send(make_head(target=target)))

    expected = b"/base/%2f" + target
    if not subject.sockets:
        expected = expected.removesuffix(b"?")  # a scope cannot say that there is an empty query

    assert expected == seen.target


@pytest.mark.parametrize("method", [b"GET", b"PROPFIND", b"get", b"DELETE"])
async def test_the_method_is_sent_as_it_is(subject, method):
    """RFC 9110 §9.1: a method's token is case-sensitive."""
    seen = Recorder()
    async with subject.serve(seen) as upstream:
        await read_all(await upstream.send(make_head(method)))

    assert method == seen.method


async def test_fields_keep_order_duplicates_and_bytes(subject):
    """Field values are opaque: obs-text, empty values and repeated lines arrive as they were given."""
    fields = [
        (b"x-b", b"2"),
        (b"accept", b"*/*;q=0.1"),
        (b"x-a", b"1"),
        (b"x-b", b"3"),
        (b"x-latin", b"caf\xe9"),
        (b"x-utf8", "ü€".encode()),
        (b"x-empty", b""),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
    ]
    seen = Recorder()
    async with subject.serve(seen) as upstream:
        await read_all(await upstream.send(make_head(fields=fields)))

    assert [(b"host", upstream.place.authority), *fields] == seen.fields


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"FOO"])
async def test_a_request_without_a_body_has_host_and_no_other_field(subject, method):
    """Neither framing nor a field such as ``User-Agent`` is invented."""
    seen = Recorder()
    async with subject.serve(seen) as upstream:
        await read_all(await upstream.send(make_head(method)))

    assert ([(b"host", upstream.place.authority)], b"") == (seen.fields, seen.body)


async def test_the_host_of_the_head_comes_before_the_destinations(subject):
    """A route may keep the client's ``Host``."""
    seen = Recorder()
    async with subject.serve(seen) as upstream:
        await read_all(await upstream.send(make_head(host=b"public.example:8443")))

    assert [(b"host", b"public.example:8443")] == seen.fields


@pytest.mark.parametrize("stated_by", ["head", "body"])
async def test_a_body_of_known_length_is_sent_with_content_length(subject, stated_by):
    """The length is taken from the head or the body, and nothing else frames the message."""
    seen = Recorder()
    length = {"head": (6, None), "body": (None, 6)}[stated_by]
    body = Content(b"abc", b"def", length=length[1])
    async with subject.serve(seen) as upstream:
        await read_all(await upstream.send(make_head(b"POST", content_length=length[0]), body))

    framing = [pair for pair in seen.fields if pair[0] in FRAMING]

    assert ([(b"content-length", b"6")], b"abcdef") == (framing, seen.body)


async def test_a_body_of_unknown_length_is_chunked(subject):
    """RFC 9112 §6.1: a request whose length is not known is sent in chunks."""
    seen = Recorder()
    body = Content(b"abc", b"d" * 100_000, b"e")
    async with subject.serve(seen) as upstream:
        await read_all(await upstream.send(make_head(b"PUT"), body))

    framing = [pair for pair in seen.fields if pair[0] in FRAMING]

    assert [(b"transfer-encoding", b"chunked")] == framing
    assert b"abc" + b"d" * 100_000 + b"e" == seen.body


async def test_an_empty_body_of_length_0_says_so(subject):
    """``Content-Length: 0`` is forwarded as such."""
    seen = Recorder()
    async with subject.serve(seen) as upstream:
        await read_all(
            await upstream.send(make_head(b"POST", content_length=0), Content(length=0))
        )

    assert (b"content-length", b"0") in seen.fields
    assert b"" == seen.body


async def test_the_body_is_not_read_before_there_is_a_connection(subject):
    """Until then another destination can still be asked."""
    body = Content(b"abc", length=3)
    async with subject.serve(Recorder()) as upstream:
        await read_all(await upstream.send(make_head(b"POST"), body))

    assert {True} == set(body.connected)
    assert upstream.attempt.body_consumed


@pytest.mark.requirement("S-41")
async def test_the_upload_waits_for_an_upstream_that_does_not_read(subject):
    """Back-pressure: memory is bounded whatever the size of the body."""
    chunk = bytes(65_536)
    go_on = asyncio.Event()
    total = 0

    async def script(peer):
        nonlocal total
        await go_on.wait()
        while received := await peer.read():
            total += len(received)
        await peer.start()
        await peer.end()

    body = Content(*[chunk] * 512, length=512 * len(chunk))
    async with subject.serve(script) as upstream:
        sending = asyncio.create_task(upstream.send(make_head(b"POST"), body))
        reads = await settle(lambda: body.reads)
        go_on.set()
        await read_all(await sending)

    assert reads < 400
    assert 512 * len(chunk) == total


async def test_what_the_body_raises_comes_out_unchanged(subject):
    """A client that breaks off its upload is not the upstream's fault."""
    failure = LookupError("the client is gone")

    async def script(peer):
        await peer.gone()

    async with subject.serve(script) as upstream:
        with pytest.raises(LookupError) as caught:
            await upstream.send(make_head(b"POST"), Content(b"abc", failure))
        await upstream.cut.wait()

    assert failure is caught.value


@pytest.mark.parametrize("failure", [ConnectionResetError, TimeoutError, OSError])
async def test_a_failure_of_the_body_is_not_taken_for_one_of_the_connection(subject, failure):
    """Even where it is of a type that a socket raises."""

    async def script(peer):
        await peer.gone()

    async with subject.serve(script) as upstream:
        with pytest.raises(failure) as caught:
            await upstream.send(make_head(b"POST"), Content(b"abc", failure("mine")))
        await upstream.cut.wait()

    assert "mine" == str(caught.value)


async def test_a_body_that_fails_never_looks_complete(wire):
    """RFC 9112 §8: no last chunk is sent."""
    async with wire.play([ReadHead(), ReadUntil()]) as upstream:
        with pytest.raises(LookupError):
            await upstream.send(make_head(b"POST"), Content(b"abc", LookupError()))
        await upstream.origin.wait_until(lambda: upstream.origin.open_connections == 0)

    assert upstream.origin.requests[0].endswith(b"3\r\nabc\r\n")


# The response


async def test_fields_of_the_response_keep_order_duplicates_and_bytes(subject):
    """Only names are made lower case."""

    async def script(peer):
        await peer.start(
            207,
            [
                (b"Set-Cookie", b"a=1"),
                (b"X-Latin", b"caf\xe9"),
                (b"SET-COOKIE", b"b=2"),
                (b"Content-Encoding", b"gzip"),
                (b"x-empty", b""),
                (b"Content-Length", b"4"),
            ],
        )
        await peer.write(b"\x1f\x8b\xff\x00")
        await peer.end()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        body = await read_all(response)

    assert 207 == response.status
    assert [
        (b"set-cookie", b"a=1"),
        (b"x-latin", b"caf\xe9"),
        (b"set-cookie", b"b=2"),
        (b"content-encoding", b"gzip"),
        (b"x-empty", b""),
        (b"content-length", b"4"),
    ] == response.fields
    assert b"\x1f\x8b\xff\x00" == body


async def test_the_reason_phrase_is_kept(wire):
    """For logs only; it may be empty."""
    async with wire.play([b"HTTP/1.1 200 So it is\r\nContent-Length: 0\r\n\r\n"]) as upstream:
        response = await upstream.send()
        await read_all(response)

    assert b"So it is" == response.reason


async def test_the_response_arrives_chunk_by_chunk(subject):
    """Each piece can be read before the next one is written."""
    steps = [asyncio.Event() for _ in range(3)]

    async def script(peer):
        await peer.start()
        for number, step in enumerate(steps):
            await step.wait()
            await peer.write(b"%d" % number)
        await peer.end()

    received, progress = [], []
    async with subject.serve(script) as upstream:
        response = await upstream.send()
        for step in steps:
            progress.append(upstream.attempt.progress)
            step.set()
            received.append(await response.read())
        received.append(await response.read())

    assert [b"0", b"1", b"2", b""] == received
    assert progress[0] < progress[1] < progress[2] < upstream.attempt.progress


@pytest.mark.requirement("S-41")
async def test_the_upstream_waits_for_a_reader_that_does_not_read(subject):
    """Back-pressure: memory is bounded whatever the size of the response."""
    chunk = bytes(65_536)
    written = 0

    async def script(peer):
        nonlocal written
        await peer.start()
        for _ in range(512):
            await peer.write(chunk)
            written += 1
        await peer.end()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        ahead = await settle(lambda: written)
        body = await read_all(response)

    assert ahead < 400
    assert 512 * len(chunk) == len(body)


async def test_after_the_end_reading_gives_nothing_again_and_aborting_does_nothing(subject):
    """Both may happen in a relay's clean-up."""
    async with subject.serve(Recorder()) as upstream:
        response = await upstream.send()
        await read_all(response)
        response.abort()
        response.abort()

        assert b"" == await response.read()
        assert [] == response.trailers


async def test_take_gives_the_rest_of_a_complete_response(subject):
    """``complete`` promises that; a transport that never promises it is right too."""
    async with subject.serve(Recorder()) as upstream:
        response = await upstream.send()
        await settle(lambda: response.complete)
        if response.complete:
            assert b"ok" == response.take()
        else:
            assert b"ok" == await read_all(response)
        assert b"" == await response.read()


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304), (b"HEAD", 404)]
)
async def test_a_response_that_has_no_content_ends_with_its_head(subject, method, status):
    """RFC 9112 §6.3: whatever its fields say."""

    async def script(peer):
        await peer.start(status, [(b"content-length", b"7")] if status != 204 else [])
        await peer.end()

    async with subject.serve(script) as upstream:
        for _ in range(2):
            response = await upstream.send(make_head(method))

            assert (status, b"") == (response.status, await read_all(response))

    if upstream.origin is not None:
        assert 1 == upstream.origin.connections


async def test_the_attempt_goes_through_its_stages(subject):
    """Time-outs and retry safety are decided from them."""
    async with subject.serve(Recorder()) as upstream:
        before = asyncio.get_running_loop().time()
        await read_all(await upstream.send(make_head(b"POST"), Content(b"abc", length=3)))
        attempt = upstream.attempt

    # Who relays the response may be the one to say that its body has begun.
    waits = [stage for stage in attempt.stages if stage is not Stage.RESPONSE_BODY]

    assert [Stage.REQUEST_BODY, Stage.RESPONSE_HEAD] == waits[-2:]
    assert (True, True, True, False) == (
        attempt.connected,
        attempt.sent,
        attempt.body_consumed,
        attempt.reused,
    )
    assert before <= attempt.connected_at


async def test_without_a_body_the_response_is_waited_for(subject):
    """While the upstream thinks, the stage says so and nothing of a body was consumed."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer):
        asked.set()
        await go_on.wait()
        await peer.start()
        await peer.end()

    async with subject.serve(script) as upstream:
        sending = asyncio.create_task(upstream.send())
        await asked.wait()
        await settle(lambda: upstream.attempt.progress)

        assert Stage.RESPONSE_HEAD is upstream.attempt.stage
        assert not upstream.attempt.body_consumed

        go_on.set()
        await read_all(await sending)


async def test_connections_are_used_again_after_whole_exchanges(wire):
    """And the attempt says so."""
    async with wire.serve(Recorder()) as upstream:
        facts = []
        for _ in range(3):
            await read_all(await upstream.send(make_head(b"POST"), Content(b"abc", length=3)))
            facts.append(upstream.attempt.reused)

    assert [False, True, True] == facts
    assert 1 == upstream.origin.connections


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["close", "1.0"],
)
async def test_a_connection_that_shall_not_persist_is_closed(wire, raw):
    """RFC 9112 §9.3."""
    async with wire.play([raw]) as upstream:
        assert b"ok" == await read_all(await upstream.send())

        await upstream.origin.wait_until(lambda: upstream.origin.open_connections == 0)


async def test_a_body_without_framing_ends_with_the_connection(wire):
    """RFC 9112 §6.3, the last case."""
    async with wire.play([b"HTTP/1.1 200 OK\r\n\r\nall of it", Close()]) as upstream:
        assert b"all of it" == await read_all(await upstream.send())


async def test_interim_responses_do_not_disturb_the_final_one(wire):
    """RFC 9110 §15.2."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with wire.play([interim + OK, ReadHead(), OK]) as upstream:
        for _ in range(2):
            response = await upstream.send()

            assert (200, b"ok") == (response.status, await read_all(response))


async def test_closing_the_transport_closes_idle_connections(wire):
    """Nothing is left to the garbage collector."""
    async with wire.serve(Recorder()) as upstream:
        await read_all(await upstream.send())
        await upstream.bound.aclose()
        await upstream.origin.wait_until(lambda: upstream.origin.open_connections == 0)


# Failures


async def test_a_refused_connection_is_a_connect_error(wire):
    """Nothing was sent and nothing of the body read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        body = Content(b"abc", length=3)
        async with connect(wire.make(), url) as upstream:
            with pytest.raises(UpstreamConnectError) as caught:
                await upstream.send(make_head(b"POST"), body)

    error = caught.value

    assert (Stage.CONNECT, Side.UPSTREAM, False, url) == (
        error.stage,
        error.side,
        error.sent,
        error.destination,
    )
    assert error.__cause__ is not None
    assert (0, False, False, False) == (
        body.reads,
        upstream.attempt.connected,
        upstream.attempt.sent,
        upstream.attempt.body_consumed,
    )


async def test_a_name_that_does_not_resolve_is_a_connect_error(wire):
    """Such as every name below ``.invalid`` (RFC 6761 §6.4)."""
    async with connect(wire.make(), "http://no-such-host.invalid") as upstream:
        with pytest.raises(UpstreamConnectError) as caught:
            await upstream.send()

    assert not caught.value.sent


async def test_an_exchange_that_breaks_before_the_head_is_a_protocol_error(subject):
    """The upstream may have seen the request."""

    async def script(peer):
        await peer.break_off()

    async with subject.serve(script) as upstream:
        with pytest.raises(UpstreamProtocolError) as caught:
            await upstream.send()

    error = caught.value

    assert (Stage.RESPONSE_HEAD, Side.UPSTREAM, True, upstream.place.origin) == (
        error.stage,
        error.side,
        error.sent,
        error.destination,
    )


@pytest.mark.parametrize(
    "script",
    [
        [ReadHead(), Close()],
        [ReadHead(), Reset()],
        [b"HTTP/1.1 200 OK\r\nContent-Le", Close()],
        [b"HTTP/1.1 200 OK\r\nContent-Le", Reset()],
        [b"HTTP/1.1 100 Continue\r\n\r\n", Close()],
    ],
    ids=["close", "reset", "half a head", "half a head, reset", "only 100"],
)
async def test_a_connection_that_ends_before_the_head_is_a_protocol_error(wire, script):
    """However it ends."""
    async with wire.play(script) as upstream:
        with pytest.raises(UpstreamProtocolError) as caught:
            await upstream.send()

    assert (Stage.RESPONSE_HEAD, True) == (caught.value.stage, caught.value.sent)


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"100")]], ids=["chunked", "length"])
async def test_an_exchange_that_breaks_in_the_body_is_a_protocol_error(subject, fields):
    """What came before is given; a short body never ends as if it were whole."""
    go_on = asyncio.Event()

    async def script(peer):
        await peer.start(200, fields)
        await peer.write(b"a part")
        await go_on.wait()
        await peer.break_off()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        first = await response.read()
        go_on.set()
        with pytest.raises(UpstreamProtocolError) as caught:
            await response.read()
        with pytest.raises(UpstreamProtocolError):
            await response.read()
        response.abort()

    error = caught.value.at(destination=upstream.place.origin, sent=upstream.attempt.sent)

    assert b"a part" == first
    assert (Stage.RESPONSE_BODY, Side.UPSTREAM, True, upstream.place.origin) == (
        error.stage,
        error.side,
        error.sent,
        error.destination,
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    ],
    ids=["length", "no last chunk", "half a chunk", "bad chunk size"],
)
@pytest.mark.parametrize("end", [Close(), Reset()], ids=["close", "reset"])
async def test_a_body_that_is_cut_off_is_a_protocol_error(wire, raw, end):
    """Also where the connection was closed in good order."""
    go_on = asyncio.Event()
    async with wire.play([raw, Wait(go_on), end]) as upstream:
        with pytest.raises(UpstreamProtocolError) as caught:
            # What is broken may have come together with the head.
            response = await upstream.send()
            await response.read()
            go_on.set()
            await read_all(response)
        go_on.set()

    assert (Stage.RESPONSE_BODY, True) == (caught.value.stage, upstream.attempt.sent)


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gibberish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["words", "status", "no colon", "name", "nul", "length", "lengths", "coding", "tls"],
)
async def test_garbage_is_a_protocol_error_and_closes_the_connection(wire, raw):
    """RFC 9112 §6.3: ambiguous framing is never guessed at."""
    async with wire.play([raw, Close()] if raw.startswith(b"\x16") else [raw]) as upstream:
        with pytest.raises(UpstreamProtocolError) as caught:
            await upstream.send()
        await upstream.origin.wait_until(lambda: upstream.origin.open_connections == 0)

    assert (Stage.RESPONSE_HEAD, True, upstream.place.origin) == (
        caught.value.stage,
        caught.value.sent,
        caught.value.destination,
    )


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, [(b"x-long", b"x" * 33_000)] * 2),
        (200, [(b"x", b"y")] * 201),
        (600, []),
        (999, []),
    ],
    ids=["bytes", "fields", "600", "999"],
)
@pytest.mark.requirement("R-20")
async def test_a_head_beyond_the_limits_is_a_protocol_error(subject, status, fields):
    """It is not relayed, and the exchange is cut."""

    async def script(peer):
        await peer.start(status, [*fields, (b"content-length", b"0")])
        await peer.gone()

    async with subject.serve(script) as upstream:
        with pytest.raises(UpstreamProtocolError) as caught:
            await upstream.send()
        await upstream.cut.wait()

    error = caught.value

    assert (Stage.RESPONSE_HEAD, True, upstream.place.origin) == (
        error.stage,
        error.sent,
        error.destination,
    )


async def test_a_head_within_the_limits_is_relayed(subject):
    """60 KB in one field and 190 others."""

    async def script(peer):
        fields = [(b"x-long", b"x" * 60_000), *[(b"x", b"y")] * 190]
        await peer.start(200, [*fields, (b"content-length", b"0")])
        await peer.end()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        await read_all(response)

    assert 192 == len(response.fields)


@pytest.mark.requirement("H-33")
async def test_a_switch_of_protocols_that_was_not_asked_for_is_a_protocol_error(wire):
    """RFC 9110 §7.8."""
    raw = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nfoo"
    async with wire.play([raw]) as upstream:
        with pytest.raises(UpstreamProtocolError):
            await upstream.send()
        await upstream.origin.wait_until(lambda: upstream.origin.open_connections == 0)


# Leaving


async def test_cancelling_while_the_body_is_read_closes_the_connection(subject):
    """The client left in the middle of its upload."""

    async def script(peer):
        await peer.gone()

    body = Content(b"abc", asyncio.Event())
    async with subject.serve(script) as upstream:
        sending = asyncio.create_task(upstream.send(make_head(b"POST"), body))
        await body.waiting.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await upstream.cut.wait()


async def test_cancelling_while_the_head_is_waited_for_closes_the_connection(subject):
    """The client left before the upstream answered."""
    asked = asyncio.Event()

    async def script(peer):
        asked.set()
        await peer.gone()

    async with subject.serve(script) as upstream:
        sending = asyncio.create_task(upstream.send())
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await upstream.cut.wait()


async def test_cancelling_before_anything_happened_leaves_nothing(subject):
    """The client left at once."""

    async def script(peer):
        await peer.gone()

    async with subject.serve(script) as upstream:
        sending = asyncio.create_task(upstream.send())
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_cancelling_a_read_breaks_the_response(subject):
    """It is aborted then; what was cut off never looks whole."""
    go_on = asyncio.Event()

    async def script(peer):
        await peer.start()
        await peer.write(b"a part")
        await peer.gone()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        await response.read()
        reading = asyncio.create_task(response.read())
        await settle(lambda: 0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        response.abort()
        await upstream.cut.wait()
        with pytest.raises(UpstreamProtocolError):
            await response.read()

    assert not go_on.is_set()


async def test_aborting_before_the_body_was_read_closes_the_connection(subject):
    """And reading on is an error, not an end."""

    async def script(peer):
        await peer.start()
        await peer.gone()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        response.abort()
        response.abort()
        await upstream.cut.wait()
        with pytest.raises(UpstreamProtocolError) as caught:
            await response.read()

    assert Side.GATEWAY is caught.value.side


async def test_aborting_in_the_body_closes_the_connection(subject):
    """The client left in the middle of its download."""

    async def script(peer):
        await peer.start()
        await peer.write(b"a part")
        await peer.gone()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        await response.read()
        response.abort()
        await upstream.cut.wait()


async def test_aborting_ends_a_read_that_is_waiting(subject):
    """A sweeper aborts while the relay reads."""

    async def script(peer):
        await peer.start()
        await peer.gone()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        reading = asyncio.create_task(response.read())
        await settle(lambda: 0)
        response.abort()
        with pytest.raises(UpstreamProtocolError):
            await reading
        await upstream.cut.wait()


async def test_cancelling_a_read_that_was_aborted_is_a_cancellation(subject):
    """The client's leaving is not hidden by our own letting go."""

    async def script(peer):
        await peer.start()
        await peer.gone()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        reading = asyncio.create_task(response.read())
        await settle(lambda: 0)
        response.abort()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await upstream.cut.wait()


async def test_an_aborted_connection_is_not_used_again(wire):
    """A response must never reach another request."""

    async def script(peer):
        await peer.start()
        await peer.write(b"first")
        if peer.target == b"/second":
            await peer.end()
        else:
            await peer.gone()

    async with wire.serve(script) as upstream:
        response = await upstream.send(make_head(target=b"/first"))
        response.abort()
        await upstream.cut.wait()
        body = await read_all(await upstream.send(make_head(target=b"/second")))

    assert (b"first", 2) == (body, upstream.origin.connections)


async def test_closing_the_transport_ends_what_is_still_running(subject):
    """A pool is closed with exchanges in flight."""

    async def script(peer):
        await peer.start()
        await peer.write(b"a part")
        await peer.gone()

    async with subject.serve(script) as upstream:
        response = await upstream.send()
        await response.read()
        reading = asyncio.create_task(response.read())
        await settle(lambda: 0)
        await upstream.bound.aclose()
        with pytest.raises(UpstreamProtocolError):
            await reading
        response.abort()
        await upstream.cut.wait()


async def test_many_exchanges_at_once_do_not_mix(subject):
    """Each response goes to its request."""

    async def script(peer):
        await peer.start(200, [(b"content-length", b"%d" % len(peer.target))])
        await peer.write(peer.target)
        await peer.end()

    async with subject.serve(script) as upstream:

        async def ask(number: int) -> bool:
            target = b"/%d" % number
            return target == await read_all(await upstream.send(make_head(target=target)))

        answers = await asyncio.gather(*map(ask, range(40)))

    assert [True] * 40 == answers


# What some cannot


async def test_a_response_may_come_before_the_body_was_sent(subject):
    """RFC 9112 §9.5: an early refusal reaches the client, and the connection is not used again."""
    need(subject, "early_response")

    async def script(peer):
        await peer.read()
        await peer.start(413, [(b"content-length", b"3")])
        await peer.write(b"big")
        await peer.end()
        await peer.gone()

    body = Content(b"abc", asyncio.Event())
    async with subject.serve(script) as upstream:
        response = await upstream.send(make_head(b"POST"), body)

        assert (413, b"big") == (response.status, await read_all(response))

        await upstream.cut.wait()


@pytest.mark.requirement("H-30")
async def test_trailers_are_given_after_the_body(wire):
    """RFC 9110 §6.5."""
    need(wire, "trailers")
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n"
    )
    async with wire.play([raw]) as upstream:
        response = await upstream.send()
        await read_all(response)

    assert [(b"x-sum", b"1"), (b"x-sum", b"2")] == response.trailers


@pytest.mark.requirement("H-31", "R-20")
async def test_too_many_interim_responses_are_a_protocol_error(wire):
    """An upstream must not keep an exchange alive for ever with them."""
    need(wire, "informational")
    async with wire.play([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + OK]) as upstream:
        with pytest.raises(UpstreamProtocolError):
            await upstream.send()


@pytest.mark.requirement("R-20")
async def test_a_head_is_refused_at_its_limit_and_not_at_its_end(wire):
    """A head that never ends is held to 64 KiB as well."""
    need(wire, "head_limit_before_parsing")
    raw = b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 80_000
    async with wire.play([raw]) as upstream:
        with pytest.raises(UpstreamProtocolError):
            await upstream.send()


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        (b"GET", OK + OK),
        (b"GET", OK + b"x"),
        (b"HEAD", OK),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n" + OK),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok"),
    ],
    ids=["second response", "one byte", "HEAD", "204", "304"],
)
@pytest.mark.requirement("S-30")
async def test_a_connection_with_bytes_after_the_response_is_closed(wire, method, raw):
    """They must not become another request's response."""
    need(wire, "surplus_bytes_close")
    second = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"
    async with wire.play([raw], [second]) as upstream:
        with suppress(UpstreamProtocolError):
            await read_all(await upstream.send(make_head(method)))

        assert b"second" == await read_all(await upstream.send())
        assert 2 == upstream.origin.connections
