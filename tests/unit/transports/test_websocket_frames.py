"""Frames that pass the engine by: whatever comes, and however it is cut, ends as with the engine alone."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from proxyroutes.exceptions import Side
from proxyroutes.transports._websocket_connection import HIGH_WATER_BYTES, WebSocketConnection
from proxyroutes.transports._websocket_ending import LOST, Ending
from proxyroutes.transports._websocket_frames import ENDLESS, FrameReader, find_frame, make_frame
from tests.unit.transports.support import any_frame

TEXT, BINARY, PING = 0x81, 0x82, 0x89
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def frame(first, content, *, masked=False, form=0):
    """A frame; one that is masked can be read as it is."""
    return any_frame(first, content, key=bytes(4) if masked else None, form=form)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.written = []
        self.reading = True

    def write(self, piece):
        self.written.append(bytes(piece))

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def abort(self):
        """Nothing is to be let go of."""


class VectorWire(Wire):
    """One of uvloop's, as far as can be seen."""

    def writelines(self, pieces):
        self.written.append([bytes(piece) for piece in pieces])


VectorWire.__module__ = "uvloop.loop"


def open_connection(limit=None, wire=None, **options):
    """A connection whose handshake is over, and its wire."""
    engine = ClientProtocol(
        parse_uri("ws://upstream/"), state=State.OPEN, max_size=limit, **options
    )
    connection = WebSocketConnection(engine, 1.0, lambda lost: None, limit)
    wire = wire or Wire()
    connection.connection_made(wire)
    connection._handshake = None
    connection._choose_reader()
    return connection, wire


def take(connection):
    """What may be received without waiting: messages, and the ending at the last."""
    taken = []
    while not taken or not isinstance(taken[-1], Ending):
        receiving = connection.receive()
        try:
            receiving.send(None)
        except StopIteration as stop:
            taken.append(stop.value)
        else:
            with contextlib.suppress(RuntimeError):
                receiving.close()
            break
    return taken


def read_by_server(written):
    """The frames that a server reads."""
    server = ServerProtocol(state=State.OPEN, max_size=None)
    server.receive_data(b"".join(written))
    assert server.parser_exc is None
    return [
        (one.opcode, bytes(one.data), one.fin)
        for one in server.events_received()
        if not isinstance(one, str)
    ]


def by_engine(received, limit):
    """What the engine alone makes of it, byte by byte: messages, and ending; and what it answers."""
    engine = ClientProtocol(parse_uri("ws://upstream/"), state=State.OPEN, max_size=limit)
    taken, answers, partial = [], [], None
    for place in range(len(received)):
        engine.receive_data(received[place : place + 1])
        for one in engine.events_received():
            if one.opcode is Opcode.CLOSE:
                close = engine.close_rcvd
                taken.append(Ending(Side.UPSTREAM, close.code, close.reason))
            elif one.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                kind, content = partial if one.opcode is Opcode.CONT else (one.opcode, b"")
                partial = (kind, content + one.data)
                if one.fin:
                    try:
                        whole = bytes(partial[1])
                        taken.append(whole.decode() if kind is Opcode.TEXT else whole)
                    except UnicodeDecodeError:
                        engine.fail(1007, "invalid UTF-8")
                        taken.append(Ending(Side.UPSTREAM, 1007, "", faulty=True))
                    partial = None
        answers += engine.data_to_send()
        if engine.parser_exc is not None and not any(isinstance(one, Ending) for one in taken):
            told = engine.close_sent
            code = LOST if told is None else told.code
            taken.append(Ending(Side.UPSTREAM, code, "", faulty=True))
    return taken, read_by_server(answers)


def cut_up(received, cuts):
    """It in pieces of these sizes, again and again."""
    start, number = 0, 0
    while start < len(received):
        size = cuts[number % len(cuts)]
        yield received[start : start + size]
        start += size
        number += 1


async def by_connection(reads, limit, *, taken_late=False):
    """What our connection makes of what is read so."""
    connection, wire = open_connection(limit)
    taken = []
    for read in reads:
        connection.data_received(read)
        if not taken_late and (not taken or not isinstance(taken[-1], Ending)):
            taken += take(connection)
    if taken_late:
        taken += take(connection)
    connection.connection_lost(None)
    return taken, read_by_server(wire.written)


CONTENTS = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=6).map(str.encode),
    st.sampled_from([b"a" * size for size in (124, 125, 126, 127, 200)]),
    st.sampled_from([b"\xff", "€".encode()[:2], "€".encode()[2:], b"\xed\xa0\x80"]),
)
GOOD = st.builds(frame, st.sampled_from([TEXT, BINARY, BINARY, PING, 0x8A]), CONTENTS.map(bytes))
FRAGMENTS = st.builds(
    lambda first, contents, between: (
        frame(first, contents[0])
        + between
        + b"".join(frame(0x00, one) for one in contents[1:-1])
        + frame(0x80, contents[-1])
    ),
    st.sampled_from([0x01, 0x02]),
    st.lists(st.binary(max_size=5), min_size=2, max_size=4),
    st.sampled_from([b"", frame(PING, b"p")]),
)
ANY = st.builds(
    lambda first, content, masked, form: frame(first, content, masked=masked, form=form),
    st.one_of(st.sampled_from([0x00, 0x80, 0x01, TEXT, BINARY, 0x88]), st.integers(0, 255)),
    CONTENTS,
    st.sampled_from([False, False, False, True]),
    st.integers(0, 2),
)
CLOSES = st.sampled_from(
    [frame(0x88, b""), frame(0x88, b"\x03\xe8bye"), frame(0x88, b"\x03"), frame(0x88, b"\x00\x01")]
)
FRAMES = st.lists(st.one_of(GOOD, GOOD, GOOD, FRAGMENTS, ANY, CLOSES), max_size=8)
STREAMS = FRAMES.map(b"".join)
CUTS = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 400)), min_size=1, max_size=6)
LIMITS = st.sampled_from([None, 1, 125, 126, 199, 1 << 24])


@pytest.mark.requirement("W-11", "W-15", "W-18")
@given(STREAMS, CUTS, LIMITS)
@example(frame(0x01, b"a") + frame(TEXT, b"b"), [400], None)
@example(frame(TEXT, b"\xff"), [400], None)
@example(frame(TEXT, b"\xff") + frame(PING, b"") + frame(BINARY, b"x"), [400], None)
@example(frame(0x01, b"\xff") + frame(0x80, b"") + frame(PING, b""), [400], None)
@example(frame(PING, b"", form=1) + frame(0x01, b"\xff") + frame(0x80, b"") + b"\x88\0", [3], 9)
@example(frame(PING, b"") + frame(0x88, b"") + frame(PING, b""), [400], None)
@example(frame(BINARY, b"x") + frame(TEXT, b"y", masked=True), [1], None)
@example(frame(BINARY, b"x") + b"\x82\x7f" + b"\xff" * 8 + b"x", [400], None)
@example(frame(BINARY, b"x") + b"\x82\x7f" + b"\xff" * 8 + b"x", [3], 125)
@MANY
def test_frames_end_as_with_the_engine_alone(received, cuts, limit):
    """Messages, endings and answers, wherever the reads end."""
    expected = by_engine(received, limit)

    assert expected == asyncio.run(by_connection(cut_up(received, cuts), limit))


@pytest.mark.requirement("W-11", "W-15", "W-18")
@given(FRAMES, LIMITS, st.booleans(), st.integers(0, 3))
@example([frame(0x01, b"a"), frame(TEXT, b"b")], None, False, 0)
@example(
    [frame(0x01, b"a"), frame(0x00, b"") + frame(PING, b""), frame(TEXT, b"b")], None, True, 0
)
@example([frame(TEXT, b"\xff"), frame(BINARY, b"x")], None, False, 0)
@example([frame(0x88, b""), frame(BINARY, b"x")], None, True, 0)
@example([frame(TEXT, b"", masked=True, form=1)], None, False, 0)
@example([frame(BINARY, b"x"), frame(BINARY, b"xy"), frame(BINARY, b"z")], 1, False, 0)
@example([frame(BINARY, b"x")[:1], frame(BINARY, b"x")[1:], frame(TEXT, b"y")], None, True, 0)
@MANY
def test_frames_that_are_read_one_by_one_end_as_with_the_engine_alone(
    frames, limit, taken_late, left
):
    """So are most of them; the last may lack its end. Messages may be taken at once, or when all have come."""
    if frames and left:
        frames[-1] = frames[-1][:-left]
    expected = by_engine(b"".join(frames), limit)

    assert expected == asyncio.run(by_connection(frames, limit, taken_late=taken_late))


@pytest.mark.requirement("W-15")
@given(STREAMS, st.data(), CUTS)
@MANY
def test_frames_with_a_wrong_byte_end_as_with_the_engine_alone(received, drawn, cuts):
    """Whatever the byte says now."""
    if received:
        place = drawn.draw(st.integers(0, len(received) - 1))
        received = (
            received[:place] + bytes([drawn.draw(st.integers(0, 255))]) + received[place + 1 :]
        )
    expected = by_engine(received, 199)

    assert expected == asyncio.run(by_connection(cut_up(received, cuts), 199))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("first", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("cut", [1, 2, 3, 9, 10, 11, 16_384, 65_536])
async def test_a_message_of_every_length_comes_whole(size, first, cut):
    """Cut in two, in many, and with the next one behind it."""
    connection, _ = open_connection(1 << 20)
    content = bytes(range(65, 91)) * (size // 26 + 1)
    sent = frame(first, content[:size])
    expected = content[:size].decode() if first == TEXT else content[:size]
    for piece in (sent[:cut], sent[cut:], sent + sent[:cut], sent[cut:]):
        connection.data_received(piece)
    taken = take(connection)
    for start in range(0, len(sent), max(cut, len(sent) // 50)):
        connection.data_received(sent[start : start + max(cut, len(sent) // 50)])
    taken += take(connection)

    assert [expected] * 4 == taken


@pytest.mark.requirement("W-18")
@pytest.mark.parametrize("size", [100, 70_000])
async def test_a_message_over_the_limit_is_refused_by_its_header(size):
    """None of its content has to come, and one of just the limit passes."""
    connection, wire = open_connection(size)
    connection.data_received(frame(BINARY, bytes(size)))
    connection.data_received(frame(BINARY, bytes(size + 1))[:10])

    assert [bytes(size), Ending(Side.UPSTREAM, 1009, "", faulty=True)] == take(connection)
    assert [1009] == [
        int.from_bytes(content[:2], "big") for _, content, _ in read_by_server(wire.written)
    ]


@pytest.mark.requirement("W-17")
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
async def test_messages_that_nobody_takes_are_not_read_on(size):
    """What came in the same read waits as bytes, and all of it arrives in order."""
    connection, wire = open_connection()
    count = 4 * HIGH_WATER_BYTES // (size + 256) + 1
    numbers = [number.to_bytes(4, "big") for number in range(count)]
    connection.data_received(b"".join(frame(BINARY, one + bytes(size)) for one in numbers))
    waiting, reading = connection._waiting_bytes, wire.reading
    taken = take(connection)

    assert (False, True) == (reading, HIGH_WATER_BYTES <= waiting <= HIGH_WATER_BYTES + size + 260)
    assert [one + bytes(size) for one in numbers] == taken
    assert wire.reading


async def test_short_frames_are_given_to_the_engine_together():
    """A call for each would make a flood of them twice as dear; yet no message is begun while others wait."""
    connection, wire = open_connection()
    calls, receive = [], connection._engine.receive_data
    connection._engine.receive_data = lambda received: (calls.append(received), receive(received))
    connection.data_received(frame(PING, b"") * 2000 + frame(BINARY, b"x") + frame(PING, b""))
    pings, taken = len(calls), take(connection)
    calls.clear()
    connection.data_received((frame(0x02, b"a") + frame(0x80, b"b")) * 3000)

    assert (2, HIGH_WATER_BYTES // 258 + 1) == (pings, len(calls))
    assert [b"x"] + [b"ab"] * 3000 == taken + take(connection)
    assert 2001 == len(read_by_server(wire.written))


@pytest.mark.requirement("W-17")
def test_small_pieces_grow_together():
    """A message that comes byte by byte is not a list of its bytes."""
    reader = FrameReader(None)
    taken = [reader.take(b"\x82\x7f\0\0\0\0\0\x01\x86\xa0x", 0, fragmented=False)]
    taken += [reader.take(b"y", 0, fragmented=False) for _ in range(99_998)]
    pieces = len(reader._pieces)
    taken += [reader.take(b"yz", 0, fragmented=False)]

    assert (b"x" + b"y" * 99_999, 1) == taken[-1]
    assert {None} == {content for content, _ in taken[:-1]}
    assert 1 + 100_000 // 8192 >= pieces


async def test_what_is_gathered_when_the_session_ends_is_dropped():
    """The Close frame behind it is found all the same."""
    connection, wire = open_connection()
    sent = frame(BINARY, bytes(100))
    connection.data_received(sent[:50])
    connection.close(1000)
    connection.data_received(sent[50:] + sent + frame(0x88, b"\x03\xe8"))

    assert [Ending(Side.UPSTREAM, 1000)] == take(connection)
    assert [(Opcode.CLOSE, b"\x03\xe8", True)] == read_by_server(wire.written)


async def test_what_is_gathered_when_the_gateway_stops_is_dropped():
    """Its ending is the gateway's."""
    connection, _ = open_connection()
    sent = frame(BINARY, bytes(100))
    connection.data_received(sent[:50])
    connection.shut_down()
    connection.data_received(sent[50:] + sent)

    assert [Ending(Side.GATEWAY, 1001, "the gateway stops")] == take(connection)


async def test_frames_are_logged_by_the_engine_that_is_asked_to(caplog):
    """Its logger at DEBUG shows every frame, and so none passes it by."""
    caplog.set_level(logging.DEBUG, "websockets.client")
    connection, wire = open_connection()
    connection.data_received(frame(BINARY, b"came") + frame(TEXT, b"too"))
    connection.send(b"went", is_text=True)
    connection.send(b"left", is_text=False)

    assert [b"came", "too"] == take(connection)
    assert [(Opcode.TEXT, b"went", True), (Opcode.BINARY, b"left", True)] == read_by_server(
        wire.written
    )
    assert ["<", "<", ">", ">"] == [
        one.getMessage()[0] for one in caplog.records if one.getMessage()[0] in "<>"
    ]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("is_text", [True, False], ids=["text", "binary"])
async def test_a_server_reads_what_is_sent(size, is_text):
    """In one write, and in pieces where the loop's transport takes them as they are."""
    content = bytes(range(33, 123)) * (size // 90 + 1)
    joined, wire = open_connection()
    pieces, vector_wire = open_connection(wire=VectorWire())
    for connection in (joined, pieces):
        connection.send(content[:size], is_text=is_text)
    expected = [(Opcode.TEXT if is_text else Opcode.BINARY, content[:size], True)]

    assert (1, 1) == (len(wire.written), len(vector_wire.written))
    assert expected == read_by_server(wire.written)
    assert expected == read_by_server(vector_wire.written[0])


def test_each_frame_has_a_key_of_its_own():
    """Nobody may foresee it."""
    keys = {make_frame(b"same", BINARY)[0][-4:] for _ in range(2000)}

    assert len(keys) > 1990


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_processes_have_keys_of_their_own():
    """Not those that were drawn before one was made out of the other."""
    script = """
import os
from proxyroutes.transports._websocket_frames import BINARY, make_frame
make_frame(b"", BINARY)
child = os.fork()
keys = [make_frame(b"", BINARY)[0][-4:].hex() for _ in range(50)]
os.write(1, (" ".join(keys) + " ").encode())
if child:
    os.waitpid(child, 0)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    keys = ended.stdout.decode().split()

    assert 100 == len(keys)
    assert len(set(keys)) > 95


async def test_nothing_is_sent_once_a_side_closes():
    """Nor before there is a connection."""
    connection, wire = open_connection()
    connection.close(1000)
    wire.written.clear()
    connection.send(b"x", is_text=False)
    connection.connection_lost(None)
    connection.send(b"x", is_text=False)

    assert [] == wire.written


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"", None),
        (b"\x82", None),
        (b"\x82\x05", (2, 7)),
        (b"\x82\x7e\x01", None),
        (b"\x82\x7e\x01\x00", (4, 260)),
        (b"\x82\x7f" + bytes(7), None),
        (b"\x82\x7f" + bytes(7) + b"\x01", (10, 11)),
        (b"\x89\x7d", (2, 127)),
        (b"\x89\x7e", None),
        (b"\x89\x7e\x00\x05", (4, 9)),
        (b"\x89\x7e\x00\x7e", (4, ENDLESS)),
        (b"\x82\x85", (2, ENDLESS)),
        (b"\xc2\x05", (2, ENDLESS)),
        (b"\x83\x05", (2, ENDLESS)),
        (b"\x09\x00", (2, ENDLESS)),
    ],
)
def test_where_a_frame_ends(received, expected):
    """Known once its header is whole, and at once of one that the engine refuses."""
    assert expected == find_frame(received, 0)


def test_a_frame_is_found_behind_others():
    """Places are those of what was received."""
    assert (7, 9) == find_frame(b"\x82\x03abc\x81\x02hi", 5)


async def send_without_a_reader():
    """Send until the transport says stop, then read; how much was sent, how it was written, and what was read."""
    loop = asyncio.get_running_loop()
    own, other = socket.socketpair()
    other.setblocking(False)  # noqa: FBT003 - the socket's own way.
    engine = ClientProtocol(parse_uri("ws://upstream/"), state=State.OPEN)
    connection = WebSocketConnection(engine, 1.0, lambda lost: None, None)
    await loop.create_connection(lambda: connection, sock=own)
    connection._handshake = None
    connection._choose_reader()
    sent = []
    while not connection.writing_paused and len(sent) < 1000:
        sent.append(bytes([65 + len(sent) % 26]) * 65_536)
        connection.send(sent[-1], is_text=False)
    paused, draining = connection.writing_paused, asyncio.create_task(connection.drain())
    received, size = [], sum(len(content) + 14 for content in sent)
    with other:
        while size > 0:
            received.append(await loop.sock_recv(other, 1 << 20))
            size -= len(received[-1])
        await draining
        connection.abort()
        await connection.wait_closed()
    contents = [content for _, content, _ in read_by_server(received)]
    return paused, connection._writes_pieces, sent == contents, len(sent)


@pytest.mark.requirement("W-17")
@pytest.mark.parametrize("own", ["asyncio", "uvloop"])
def test_an_upstream_that_does_not_read_stops_who_sends(own):
    """On either loop; what waited arrives whole once it reads."""
    make_loop = asyncio.new_event_loop
    if own == "uvloop":
        make_loop = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        paused, pieces, whole, count = runner.run(asyncio.wait_for(send_without_a_reader(), 20))

    assert (True, own == "uvloop", True) == (paused, pieces, whole)
    assert count < 100
