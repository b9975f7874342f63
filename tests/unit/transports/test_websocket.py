"""The parts of a session's transport that need no peer: the handshake's bytes, codes, and who waits for what."""

import asyncio

import pytest
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from proxyroutes.exceptions import Side, UpstreamProtocolError
from proxyroutes.transports._websocket_connection import WebSocketConnection
from proxyroutes.transports._websocket_ending import LOST, NO_CODE, Ending, may_send_code, size_of
from proxyroutes.transports._websocket_handshake import Handshake
from proxyroutes.transports._websocket_tunnel import Tunnel, client_close, upstream_close
from proxyroutes.transports.websocket import SessionSettings


def make_engine(**options):
    """An engine as a session has it."""
    return ClientProtocol(parse_uri("ws://upstream/"), state=State.OPEN, **options)


REFUSAL = b"HTTP/1.1 403 No\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"


def test_a_refusal_may_come_byte_by_byte():
    """It is complete with its last one, and nothing is left over."""
    handshake = Handshake(make_engine())
    surplus = [
        (handshake.feed(REFUSAL[place : place + 1]), handshake.complete)
        for place in range(len(REFUSAL))
    ]

    assert (403, b"hello", [(b"content-length", b"5"), (b"x-a", b"b")]) == (
        handshake.status,
        bytes(handshake.body),
        handshake.fields,
    )
    assert ([(b"", False)] * (len(REFUSAL) - 1), (b"", True)) == (surplus[:-1], surplus[-1])


def test_a_refusal_that_is_cut_off_is_none():
    """Its length says so."""
    handshake = Handshake(make_engine())
    handshake.feed(REFUSAL[:-1])

    assert not handshake.end()


def test_a_refusal_without_end_is_not_read_to_the_last():
    """A mebibyte is the most."""
    handshake = Handshake(make_engine())
    handshake.feed(b"HTTP/1.1 403 No\r\n\r\n")
    with pytest.raises(UpstreamProtocolError):
        for _ in range(17):
            handshake.feed(b"x" * 65_536)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1014, 3000, 4999])
def test_a_code_that_may_be_sent(code):
    """RFC 6455 §7.4 and the registry."""
    assert may_send_code(code)


@pytest.mark.parametrize("code", [0, 999, 1004, NO_CODE, LOST, 1015, 2999, 5000, 65_535])
def test_a_code_that_may_not_be_sent(code):
    """Reserved, or of nobody."""
    assert not may_send_code(code)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(Side.UPSTREAM, 1012, "again"), (1012, "again")),
        (Ending(Side.UPSTREAM, NO_CODE), (1000, "")),
        (Ending(Side.UPSTREAM, LOST), (1011, "the upstream's connection was lost")),
        (Ending(Side.UPSTREAM, 1007, faulty=True), (1011, "the upstream broke the protocol")),
        (Ending(Side.UPSTREAM, 1009, faulty=True), (1009, "message too big")),
        (Ending(Side.GATEWAY, 4000, "mine"), (4000, "mine")),
    ],
)
def test_what_a_client_is_told(ending, expected):
    """1005 and 1006 are never on the wire, and nobody is blamed for another one's fault."""
    assert expected == client_close(ending)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(Side.CLIENT, 4000, "mine"), (4000, "mine")),
        (Ending(Side.CLIENT, NO_CODE), (None, "")),
        (Ending(Side.CLIENT, LOST), (1001, "")),
        (Ending(Side.CLIENT, 1012, "server"), (1001, "")),
        (Ending(Side.CLIENT, 1015), (1001, "")),
        (Ending(Side.GATEWAY, 1009, "message too big"), (1009, "message too big")),
    ],
)
def test_what_an_upstream_is_told(ending, expected):
    """The same for its side."""
    assert expected == upstream_close(ending)


@pytest.mark.parametrize(("message", "expected"), [("abc", 3), ("aé", 3), (b"\xff", 1), ("", 0)])
def test_a_message_is_measured_in_bytes(message, expected):
    """Of UTF-8."""
    assert expected == size_of(message)


async def test_everybody_who_waits_to_write_is_woken():
    """Also after one of them has given up."""
    connection = WebSocketConnection(make_engine(), 1.0, lambda lost: None, None)
    connection.pause_writing()
    waiting = [asyncio.create_task(connection.drain()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.sleep(0)
    before = [task.done() for task in waiting]
    connection.resume_writing()
    async with asyncio.timeout(5):
        await asyncio.gather(waiting[0], waiting[2])

    assert [False, True, False] == before


async def test_nobody_waits_for_a_connection_that_is_lost():
    """Neither to read, nor to write, nor for its end."""
    lost = []
    connection = WebSocketConnection(make_engine(), 1.0, lost.append, None)
    connection._handshake = None
    connection.pause_writing()
    waiting = [
        asyncio.create_task(one)
        for one in (connection.receive(), connection.drain(), connection.wait_closed())
    ]
    await asyncio.sleep(0)
    connection.connection_lost(None)
    async with asyncio.timeout(5):
        got = await asyncio.gather(*waiting)

    assert ([Ending(Side.UPSTREAM, LOST), None, None], [connection]) == (got, lost)


class Counts:
    """What a session counts."""

    request_bytes = response_bytes = request_messages = response_messages = 0

    def holds(self, destination):
        """None."""
        del destination
        return False


async def test_a_message_wakes_nobody_above_the_session():
    """An application has a score of coroutines there, and waiting for the end is all that they do."""
    messages, wakes, counts = asyncio.Queue(), [], Counts()
    connection = WebSocketConnection(make_engine(), 1.0, lambda lost: None, None)
    tunnel = Tunnel(messages.get, lambda message: None, connection, SessionSettings(), counts)

    class Application:
        def __await__(self):
            waiting = tunnel.run().__await__()
            for future in waiting:
                wakes.append(None)
                yield future

    task = asyncio.create_task(asyncio.wait_for(Application(), 5))
    for _ in range(3):
        await messages.put({"type": "websocket.receive", "bytes": b"four"})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    seen = (len(wakes), counts.request_messages)
    await messages.put({"type": "websocket.disconnect", "code": 1000, "reason": "done"})
    await task

    assert (1, 3) == seen
    assert Ending(Side.CLIENT, 1000, "done") == tunnel.ending


@pytest.mark.parametrize("hook", [None, lambda message: None, lambda message: message])
async def test_a_session_that_is_idle_holds_no_message(hook):
    """One of 16 MiB is let go of once it is sent, or dropped, and not when the next one comes."""
    gone = []

    class Message(bytes):
        def __del__(self):
            gone.append(bytes(self))

    async def send(event):
        assert b"down" == event["bytes"]

    messages, connection = (
        asyncio.Queue(),
        WebSocketConnection(make_engine(), 1.0, lambda lost: None, None),
    )
    tunnel = Tunnel(messages.get, send, connection, SessionSettings(), Counts())
    tunnel.from_client = tunnel.from_upstream = hook
    session = asyncio.create_task(tunnel.run())
    messages.put_nowait({"type": "websocket.receive", "bytes": Message(b"up")})
    connection._put((Message(b"down"), 4))
    for _ in range(5):
        await asyncio.sleep(0)

    assert ["down", "up"] == sorted(one.decode() for one in gone)

    tunnel.end(Ending(Side.GATEWAY, 1001))
    await session
