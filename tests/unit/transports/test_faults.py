"""The native transport when an origin breaks off, when TLS does not hold, and when who waits gives up."""

import asyncio
import datetime as dt
import ssl

import pytest
import trustme

from proxyroutes import Destination
from proxyroutes._state.clock import SystemClock
from proxyroutes._state.pools import DestinationState
from proxyroutes.exceptions import UpstreamConnectError, UpstreamProtocolError
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.testing import Close, ReadHead, Reset, ScriptedOrigin
from proxyroutes.transports import Http1Transport
from proxyroutes.transports import _connect as connecting
from proxyroutes.transports._connect import Addresses
from proxyroutes.typing import Attempt, ForwardedHead
from tests.integration.support import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
}


class Wire:
    """A bound transport and one destination."""

    def __init__(self, url, tls=None, **settings):
        self.bound = Http1Transport(**settings).bind(clock=SystemClock(), tls=tls)
        self.place = DestinationState.of(Destination(url))

    async def ask(self, body=None):
        """Send a request and give the whole of its response."""
        method = b"GET" if body is None else b"POST"
        head = ForwardedHead(method, b"/", [], None, None)
        response = await self.bound.send(head, body, self.place, Timeouts(), Attempt())
        try:
            content = b""
            while chunk := await response.read():
                content += chunk
            return content
        finally:
            response.abort()

    def connections(self):
        """Open and idle ones."""
        return self.bound.connections(self.place)


def tasks():
    """The tasks of the transport."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("proxyroutes")]


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("framing", RESPONSES)
@pytest.mark.requirement("H-16")
async def test_a_response_that_breaks_off_at_any_byte_is_never_whole(framing, reused, end):
    """Nor is its connection used again, nor is anything of it left."""
    raw = RESPONSES[framing]
    for cut in range(len(raw) + 1):
        first = [OK, ReadHead()] if reused else [ReadHead()]
        async with ScriptedOrigin(
            [*first, raw[:cut], end] if cut else [*first, end], [OK]
        ) as origin:
            wire = Wire(origin.url)
            if reused:
                assert b"ok" == await wire.ask()
            if cut == len(raw):
                assert b"hello" == await wire.ask()
            elif cut == 0 and reused:
                # The origin had closed a connection that looked idle: the request is repeated on a fresh one.
                assert b"ok" == await wire.ask()
            else:
                with pytest.raises(UpstreamProtocolError):
                    await wire.ask()
            await eventually(lambda: wire.connections()[0] == (1 if cut == 0 and reused else 0))  # noqa: B023 - called within its turn.
            assert [] == tasks()
            await wire.bound.aclose()
            await origin.wait_until(lambda: origin.open_connections == 0)  # noqa: B023 - called within its turn.


class Chunks:
    """Content that comes with pauses."""

    content_length = None

    def __init__(self, count):
        self.left = count

    async def read(self):
        """The next piece, after others have had their turn."""
        await asyncio.sleep(0)
        self.left -= 1
        return b"x" * 1000 if self.left >= 0 else b""


@pytest.mark.parametrize("uploads", [False, True], ids=["get", "upload"])
@pytest.mark.requirement("R-01")
async def test_giving_up_at_any_step_leaves_nothing(uploads):
    """Whatever it waited for: no place is lost, no connection is used that is not at rest."""

    async def slowly(reader, writer):
        while True:
            await reader.readuntil(b"0\r\n\r\n" if uploads else b"\r\n\r\n")
            for byte in RESPONSES["chunked"]:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)

    async with ScriptedOrigin(slowly) as origin:
        wire = Wire(origin.url, max_connections=1)
        for steps in range(400):
            body = Chunks(3) if uploads else None
            task = asyncio.create_task(wire.ask(body))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                assert b"hello" == task.result()
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: not tasks())
            opened, idle = wire.connections()
            assert opened == idle
        else:
            pytest.fail("it never came to its end")
        assert b"hello" == await wire.ask(Chunks(3) if uploads else None)
        assert (1, 1) == wire.connections()
        await wire.bound.aclose()
        await origin.wait_until(lambda: origin.open_connections == 0)


# TLS.


@pytest.fixture(scope="module")
def authority():
    """A certificate authority that only tests trust."""
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path):
    """Settings that trust it."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"ca": tmp_path / "ca.pem"}


def server_context(authority, *names, **options):
    """A server's context with a certificate for these names, and the names that clients have asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    asked = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    return context, asked


async def test_tls_with_an_own_authority_names_the_host(authority, trusted):
    """The name is checked, and told to the server (RFC 6066 §3)."""
    context, asked = server_context(authority, "localhost")
    async with ScriptedOrigin([OK], tls=context) as origin:
        wire = Wire(f"https://localhost:{origin.port}", TLS(**trusted))

        assert (b"ok", ["localhost"]) == (await wire.ask(), asked)
        await wire.bound.aclose()


async def test_another_server_name_may_be_asked_for(authority, trusted):
    """For an address whose certificate has a name."""
    context, asked = server_context(authority, "inside.test")
    async with ScriptedOrigin([OK], tls=context) as origin:
        wire = Wire(origin.url, TLS(**trusted, server_name="inside.test"))

        assert (b"ok", ["inside.test"]) == (await wire.ask(), asked)
        await wire.bound.aclose()


@pytest.mark.parametrize("fault", ["another name", "another authority", "expired"])
@pytest.mark.requirement("S-35")
async def test_a_certificate_that_does_not_hold_is_a_connect_failure(authority, trusted, fault):
    """Nothing is sent to whoever that is."""
    issuer = trustme.CA() if fault == "another authority" else authority
    name = "elsewhere.test" if fault == "another name" else "127.0.0.1"
    now = dt.datetime.now(tz=dt.UTC)
    options = {"not_before": now - dt.timedelta(days=2), "not_after": now - dt.timedelta(days=1)}
    context, _ = server_context(issuer, name, **(options if fault == "expired" else {}))
    async with ScriptedOrigin([OK], tls=context) as origin:
        wire = Wire(origin.url, TLS(**trusted))
        with pytest.raises(UpstreamConnectError):
            await wire.ask()

        assert ((0, 0), b"") == (wire.connections(), b"".join(origin.requests))
        await wire.bound.aclose()


async def test_without_verification_any_certificate_will_do():
    """That is what it says, and it is logged."""
    context, _ = server_context(trustme.CA(), "elsewhere.test")
    async with ScriptedOrigin([OK], tls=context) as origin:
        wire = Wire(origin.url, TLS(verify=False))

        assert b"ok" == await wire.ask()
        await wire.bound.aclose()


async def test_a_client_certificate_is_shown(authority, trusted, tmp_path):
    """And without it a server that wants one refuses."""
    context, _ = server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    own = tmp_path / "client.pem"
    authority.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(own)
    async with ScriptedOrigin([OK], tls=context) as origin:
        wire = Wire(origin.url, TLS(**trusted, cert=own))
        stranger = Wire(origin.url, TLS(**trusted))

        assert b"ok" == await wire.ask()
        # TLS 1.3: the client is through before the server has looked.
        with pytest.raises((UpstreamConnectError, UpstreamProtocolError)):
            await stranger.ask()
        assert (0, 0) == stranger.connections()
        await wire.bound.aclose()
        await stranger.bound.aclose()


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
async def test_a_handshake_that_breaks_off_is_a_connect_failure(trusted, end):
    """Whether it was told or not."""

    async def hang_up(reader, writer):
        await reader.read(1)
        writer.transport.abort() if isinstance(end, Reset) else writer.close()

    async with ScriptedOrigin(hang_up) as origin:
        wire = Wire(origin.url.replace("http:", "https:"), TLS(**trusted))
        with pytest.raises(UpstreamConnectError):
            await wire.ask()

        assert (0, 0) == wire.connections()
        await wire.bound.aclose()


# Unix sockets.


async def test_a_unix_socket_is_a_destination_like_any_other(tmp_path):
    """Its base path too."""
    async with ScriptedOrigin([OK], unix=tmp_path / "a.sock") as origin:
        wire = Wire(origin.url + "/base")

        assert b"ok" == await wire.ask()
        assert origin.requests[0].startswith(b"GET /base/ HTTP/1.1\r\nhost: localhost\r\n")
        await wire.bound.aclose()


async def test_a_unix_socket_that_is_not_there_is_a_connect_failure(tmp_path):
    """Like a port that nobody listens on."""
    wire = Wire(f"http+unix://{str(tmp_path).replace('/', '%2F')}%2Fnone.sock")
    with pytest.raises(UpstreamConnectError):
        await wire.ask()

    assert (0, 0) == wire.connections()
    await wire.bound.aclose()


# Addresses.


class Opened:
    """What a try opens."""

    def __init__(self):
        self.closed = False

    def close(self):
        """Close it."""
        self.closed = True


async def race(monkeypatch, *tries):
    """Race tries without the pause between them."""
    monkeypatch.setattr(connecting, "_STAGGER", 0.001)
    return await connecting._race(asyncio.get_running_loop(), tries)


async def test_an_address_that_hangs_is_passed_by(monkeypatch):
    """And given up as soon as another one answers (RFC 8305 §5)."""
    second = Opened()
    given_up = asyncio.Event()

    async def hangs():
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async def answers():
        return second

    assert second is await race(monkeypatch, hangs, answers)
    async with asyncio.timeout(5):
        await given_up.wait()
    assert not second.closed


async def test_of_two_that_answer_at_once_one_is_closed(monkeypatch):
    """Or its socket would be nobody's."""
    go_on = asyncio.Event()
    both = [Opened(), Opened()]

    def answering(number):
        async def answers():
            await go_on.wait()
            return both[number]

        return answers

    racing = asyncio.create_task(race(monkeypatch, answering(0), answering(1)))
    await eventually(lambda: len(tasks()) == 2)
    go_on.set()
    won = await racing
    await eventually(lambda: [won is not one for one in both] == [one.closed for one in both])


async def test_an_address_that_refuses_is_passed_by_at_once(monkeypatch):
    """Its failure is what is said if no other one answers."""

    async def refuses():
        raise ConnectionRefusedError("no")

    async def answers():
        return "second"

    assert "second" == await race(monkeypatch, refuses, answers)
    with pytest.raises(ConnectionRefusedError):
        await race(monkeypatch, refuses, refuses)


@pytest.mark.requirement("R-07")
async def test_addresses_are_kept_when_the_resolver_fails(monkeypatch):
    """The last good ones; and they are resolved again at once after a connect failure (CONFORMANCE R-04, R-07)."""
    loop = asyncio.get_running_loop()
    answers = [
        [("", "", "", "", ("127.0.0.9", 80))],
        OSError("down"),
        [("", "", "", "", ("127.0.0.8", 80))],
    ]
    asked = []

    async def getaddrinfo(host, port, **options):
        asked.append(host)
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    addresses = Addresses(loop, DestinationState.of(Destination("http://name.test")), 30.0)
    found = [await addresses.find(), await addresses.find()]
    addresses.failed()
    found.append(await addresses.find())
    addresses.failed()
    found.append(await addresses.find())

    assert [("127.0.0.9",), ("127.0.0.9",), ("127.0.0.9",), ("127.0.0.8",)] == found
    assert 3 == len(asked)


async def test_both_families_are_tried_in_turn(monkeypatch):
    """The resolver's first one first (RFC 8305 §4)."""
    loop = asyncio.get_running_loop()
    found = ["::1", "::2", "127.0.0.1", "::1", "127.0.0.2"]

    async def getaddrinfo(host, port, **options):
        return [("", "", "", "", (address, port)) for address in found]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    addresses = Addresses(loop, DestinationState.of(Destination("http://name.test")), 30.0)

    assert ("::1", "127.0.0.1", "::2", "127.0.0.2") == await addresses.find()


async def test_a_name_with_two_addresses_is_connected_to(monkeypatch):
    """On a real socket, where only the second one listens."""
    async with ScriptedOrigin([OK]) as origin:
        both = ("127.0.0.2", "127.0.0.1")
        monkeypatch.setattr(Addresses, "find", lambda self: asyncio.sleep(0, both))
        wire = Wire(f"http://name.test:{origin.port}")

        assert b"ok" == await wire.ask()
        await wire.bound.aclose()
