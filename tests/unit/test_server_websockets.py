"""Sessions of a server whose plain messages pass the engine by: whatever comes or goes is as with the engine alone."""

import asyncio
import logging
import platform
import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from proxyroutes.server import WebSocketProtocol
from tests.unit.server_support import Wire, turns
from tests.unit.transports.support import any_frame

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
KEY = b"\x01\x80\xff\x7f"
SIZES = [0, 1, 125, 126, 127, 4096, 4097, 65_535, 65_536, 100_000]
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class VectorWire(Wire):
    """One of uvloop's, as far as can be seen."""

    def writelines(self, pieces):
        self.written.append([bytes(piece) for piece in pieces])


VectorWire.__module__ = "uvloop.loop"


class Served:
    """One session of a server in memory.

    Attributes:
        events: What the application received.
        outbox: What it is to send.
        left: How sending failed, if it did.
    """

    def __init__(self, protocol_class, wire=None, **config):
        self.events = []
        self.outbox = asyncio.Queue()
        self.left = None
        self.wire = wire or Wire()
        loaded = Config(
            self.app,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            ws_ping_interval=None,
            **config,
        )
        loaded.load()
        self.protocol = protocol_class(config=loaded, server_state=ServerState(), app_state={})
        self.protocol.connection_made(self.wire)

    async def app(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        sending = asyncio.create_task(self.send_all(send))
        while not self.events or self.events[-1]["type"] != "websocket.disconnect":
            self.events.append(await receive())
        sending.cancel()

    async def send_all(self, send):
        while True:
            try:
                await send(await self.outbox.get())
            except Exception as error:  # noqa: BLE001 - any is compared.
                self.left = repr(error)

    async def open(self, *lines):
        """Do the handshake."""
        self.protocol.data_received(b"".join([HANDSHAKE, *lines, b"\r\n"]))
        await turns()
        assert self.wire.written[0].startswith(b"HTTP/1.1 101 ")
        del self.wire.written[0]
        return self

    async def feed(self, *pieces):
        """What the client sends."""
        for piece in pieces:
            if not self.wire.closed:
                self.protocol.data_received(piece)
            await turns(3)

    def given_to_engine(self):
        """Names what the engine is to be given from here on, and knows what it was."""
        engine = self.protocol.conn
        receive_data = engine.receive_data

        def given(piece):
            given.expected.append(piece)
            return piece

        def receive(data):
            given.actual.append(data)
            receive_data(data)

        given.expected, given.actual = [], []
        engine.receive_data = receive
        return given

    def seen(self):
        """All that can be seen of the server from the outside."""
        return self.events, b"".join(self.wire.written), self.wire.closed, self.left


def frame(first, content=b"", *, masked=True, form=0):
    """A frame of a client, or what a client must not send."""
    return any_frame(first, content, key=KEY if masked else None, form=form)


async def both(*pieces, lines=(), **config):
    """The same session with the engine alone, and ours."""
    sessions = [Served(kind, **config) for kind in (WebSocketsSansIOProtocol, WebSocketProtocol)]
    for one in sessions:
        await one.open(*lines)
        await one.feed(*pieces)
        one.protocol.connection_lost(None)
        await turns()
    return [one.seen() for one in sessions]


contents = st.one_of(
    st.binary(max_size=140), st.text(max_size=60).map(str.encode), st.sampled_from([b"", b"\xff"])
)
frames = st.builds(
    frame,
    st.one_of(st.sampled_from([TEXT, BINARY]), st.sampled_from([0x01, 0x02, 0x00, CONTINUATION])),
    contents,
    form=st.sampled_from([0, 0, 0, 1, 2]),
)
controls = st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125))
others = st.one_of(
    st.builds(frame, st.integers(0, 255), contents, masked=st.booleans()), st.binary(max_size=20)
)
pieces = st.lists(
    st.one_of(frames, frames, frames, controls, st.tuples(frames, frames).map(b"".join), others),
    max_size=12,
)


@MANY
@given(pieces, st.lists(st.integers(0, 3000), max_size=6))
@example([frame(0x01, b"a"), frame(TEXT, b"in a message")], [])
@example([frame(0x01, b"a"), frame(PING), frame(CONTINUATION, b"b"), frame(TEXT, b"c")], [])
@example([frame(0x01, b"a"), frame(PING), frame(TEXT, b"in a message")], [])
@example([b"\x82", b"\x81\x80abcd"], [])
@example([b"\x82\x87abcd", b"\x81\x81abcde"], [])
@example([frame(TEXT, b"unmasked", masked=False), frame(TEXT, b"behind")], [])
@example([frame(TEXT, b"a\xff"), frame(TEXT, b"behind")], [])
@example([frame(TEXT, b"whole") + frame(TEXT, b"cut"), frame(TEXT, b"behind")], [3, 17, 20])
@example([frame(CLOSE, b"\x03\xe8"), frame(TEXT, b"behind")], [])
async def test_whatever_comes_is_taken_as_by_the_engine(sent, cuts):
    """Frames by themselves and joined, cut anywhere, fragmented, broken: the same events, answers and end."""
    whole = b"".join(sent)
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    cut = [whole[a:b] for a, b in zip(places, places[1:], strict=False)]

    for piecewise in (sent, cut):
        engine, ours = await both(*piecewise)

        assert engine == ours


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", [TEXT, BINARY])
async def test_a_message_of_each_size_is_taken_as_by_the_engine(first, size):
    """Alone, two in a piece, and cut behind each byte of its header."""
    one = frame(first, b"m" * size)
    cuts = [piece for at in range(1, 16) for piece in (one[:at], one[at:])]
    engine, ours = await both(one, one + one, *cuts)

    assert engine == ours
    assert 3 + 15 + 1 == len(ours[0])


async def test_plain_messages_pass_the_engine_by():
    """Or the tests above would show nothing; and they go on doing so behind frames that do not."""
    served = await Served(WebSocketProtocol).open()
    given = served.given_to_engine()
    for piece in [
        frame(TEXT, b"a"),
        given(frame(PING, b"p")),
        frame(BINARY, b"b"),
        given(frame(TEXT, b"c") + frame(TEXT, b"d")),
        frame(TEXT, b"e"),
        given(frame(0x01, b"f")),
        given(frame(CONTINUATION, b"g")),
        frame(TEXT, b"h"),
        given(frame(TEXT, b"ij")[:1]),
        given(frame(TEXT, b"ij")[1:7]),
        given(frame(TEXT, b"ij")[7:]),
        frame(TEXT, b"k"),
        frame(TEXT, b"l" * 126),
        frame(TEXT, b"m" * 65_536),
    ]:
        await served.feed(piece)
    taken = [event.get("text") or event["bytes"].decode() for event in served.events]

    assert given.expected == given.actual
    assert ["a", "b", "c", "d", "e", "fg", "h", "ij", "k", "l" * 126, "m" * 65_536] == taken


async def test_what_comes_while_the_server_closes_is_taken_as_by_the_engine():
    """It is dropped until the client closes, too."""
    seen = []
    for kind in (WebSocketsSansIOProtocol, WebSocketProtocol):
        served = await Served(kind).open()
        await served.feed(frame(TEXT, b"before"))
        served.outbox.put_nowait({"type": "websocket.close", "code": 3000})
        await turns()
        await served.feed(frame(TEXT, b"behind"), frame(CLOSE, b"\x0b\xb8"))
        seen.append(served.seen())

    assert seen[0] == seen[1]
    assert ["before"] == [one["text"] for one in seen[1][0] if "text" in one]


async def test_a_message_that_is_too_large_is_the_engines():
    """Which closes with 1009; one as large as may be is taken."""
    engine, ours = await both(
        frame(BINARY, b"x" * 100), frame(BINARY, b"x" * 101), ws_max_size=100
    )

    assert engine == ours
    assert 1009 == struct.unpack("!H", ours[1][2:4])[0]


async def test_compressed_sessions_are_the_engines():
    """Plain frames in them as well."""
    engine, ours = await both(frame(TEXT, b"plain"), lines=[DEFLATE])

    assert engine == ours
    assert "plain" == ours[0][0]["text"]


async def test_who_does_not_get_the_handshake_alone_leaves_all_to_the_engine():
    """Nobody else would know where frames begin."""
    served = Served(WebSocketProtocol)
    served.protocol.data_received(HANDSHAKE[:20])
    served.protocol.data_received(HANDSHAKE[20:] + b"\r\n")
    await turns()
    given = served.given_to_engine()
    await served.feed(given(frame(TEXT, b"a")), given(frame(TEXT, b"b")))

    assert given.expected == given.actual
    assert ["a", "b"] == [event["text"] for event in served.events]


async def test_an_engine_that_logs_frames_gets_them(caplog):
    """Who asks for a log of all frames has it."""
    caplog.set_level(logging.DEBUG, "uvicorn.error")
    engine, ours = await both(frame(TEXT, b"logged"))

    assert engine == ours
    assert 2 == sum("logged" in one.getMessage() for one in caplog.records)


MESSAGES = [
    {"type": "websocket.send", "text": "ä" * 40},
    {"type": "websocket.send", "text": ""},
    {"type": "websocket.send", "bytes": b""},
    {"type": "websocket.send", "bytes": None, "text": "with none"},
    {"type": "websocket.send", "bytes": b"with none", "text": None},
    {"type": "websocket.send"},
    {"type": "websocket.send", "bytes": None, "text": None},
    {"type": "websocket.send", "bytes": bytearray(b"to be changed")},
    *({"type": "websocket.send", "bytes": b"m" * size} for size in SIZES),
]


@pytest.mark.parametrize("lines", [(), (DEFLATE,)], ids=["plain", "compressed"])
async def test_what_is_sent_is_written_as_by_the_engine(lines):
    """Each kind and size; and what cannot be sent fails alike, before and behind a close."""
    seen = []
    for kind in (WebSocketsSansIOProtocol, WebSocketProtocol):
        served = await Served(kind).open(*lines)
        for message in [
            *MESSAGES,
            {"type": "websocket.what"},
            {"type": "websocket.close", "code": 3000},
            MESSAGES[0],
        ]:
            served.outbox.put_nowait(message)
        await turns(100)
        seen.append(served.seen())

    assert seen[0] == seen[1]
    assert seen[1][3] is not None


async def test_a_large_message_is_not_copied_for_its_header():
    """Where the transport writes pieces as they are, uvloop's; a small one is one piece everywhere."""
    served = await Served(WebSocketProtocol, VectorWire()).open()
    for size in (1, 4096, 4097):
        served.outbox.put_nowait({"type": "websocket.send", "bytes": b"m" * size})
    await turns()

    assert [
        b"\x82\x01m",
        b"\x82\x7e\x10\x00" + b"m" * 4096,
        [b"\x82\x7e\x10\x01", b"m" * 4097],
    ] == served.wire.written


async def test_nothing_is_written_while_the_client_does_not_read():
    """Nor once it is gone: then who sends is told so."""
    served = await Served(WebSocketProtocol).open()
    served.protocol.pause_writing()
    served.outbox.put_nowait(MESSAGES[0])
    await turns()

    assert [] == served.wire.written

    served.protocol.resume_writing()
    await turns()

    assert 1 == len(served.wire.written)

    served.wire.close()
    served.protocol.connection_lost(None)
    await turns()

    assert "websocket.disconnect" == served.events[-1]["type"]


async def test_a_session_is_told_that_its_client_is_gone():
    """By the exception of uvicorn, as from its own protocol."""
    errors = []
    for kind in (WebSocketsSansIOProtocol, WebSocketProtocol):
        served = await Served(kind).open()
        served.wire.close()
        served.protocol.disconnected = True
        served.outbox.put_nowait(MESSAGES[0])
        await turns()
        errors.append(served.left)

    assert errors[0] == errors[1] is not None


FAULTS = """
import resource, sys
from proxyroutes.server import _keep_freed_memory
if sys.argv[1] == "kept":
    _keep_freed_memory()
for turn in range(200):
    if turn == 100:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [bytes(65_536) for _ in range(16)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what others do is not known")
def test_memory_of_messages_is_not_taken_anew_for_each():
    """Page by page, because it was given back just before."""
    kept, not_kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))
        for how in ("kept", "not")
    )
    if not_kept < 1000:
        pytest.skip("this interpreter has freed such a block by itself")

    assert kept < 1000
