"""Section S: security, on raw sockets."""

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import pytest
import trustme
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes._serve import guard
from proxyroutes.exceptions import ClientRequestError
from proxyroutes.settings import TLS, Forwarding, Timeouts
from proxyroutes.testing import ReadHead, ReadUntil, ScriptedOrigin, run_gateway
from tests.integration.support import (
    OK,
    RawClient,
    eventually,
    make_request,
    one_transport,
    refusing_destination,
    values_of,
)

NTLM = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM TlRMTVNTUAACAAAA\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.requirement("S-36")
@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate", "nTlM", "negotiate"])
async def test_a_connection_that_is_being_authenticated_is_not_shared(serve, scheme):
    """A challenge whose answer would authenticate the connection ends it: the next client gets another one."""
    challenge = NTLM.replace(b"NTLM Tl", scheme.encode() + b" Tl")
    async with ScriptedOrigin([ReadHead(), challenge, ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        replies = [await gateway.get() for _ in range(2)]

        assert [401, 401] == [reply.status for reply in replies]
        assert 2 == origin.connections


@pytest.mark.requirement("S-36")
@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate", "negotiate"])
async def test_a_connection_that_a_client_has_authenticated_is_not_shared(serve, scheme):
    """Neither is one that carried credentials for the connection, whatever the upstream answered."""
    async with ScriptedOrigin([ReadHead(), OK, ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get("/", f"Authorization: {scheme} TlRMTVNTUAADAAAA")
        await gateway.get()

        assert 2 == origin.connections


@pytest.mark.requirement("S-36")
@one_transport
async def test_other_credentials_do_not_end_a_connection(serve):
    """Credentials of one request bind nothing."""
    async with ScriptedOrigin([ReadHead(), OK, ReadHead(), OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get("/", "Authorization: Bearer NTLM", "X-Authorization: NTLM a")
        await gateway.get()

        assert 1 == origin.connections


@pytest.mark.requirement("S-22", "S-23", "S-25")
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["1.1.1.1"], b"1.1.1.1"),
        (["9.9.9.9, 1.1.1.1"], b"1.1.1.1"),
        (["9.9.9.9", "1.1.1.1"], b"1.1.1.1"),
        (["1.1.1.1, 10.0.0.7"], b"1.1.1.1"),
        (["9.9.9.9, 1.1.1.1", "10.0.0.8, 10.0.0.7"], b"1.1.1.1"),
    ],
    ids=["one", "forged", "forged-in-a-line-of-its-own", "two-trusted", "several-lines"],
)
async def test_the_client_is_who_the_trusted_proxies_say(serve, http, lines, told):
    """Read from the right over trusted hops, by the server; the gateway tells the upstream that one address."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            origin.url,
            http=http,
            server={"proxy_headers": True, "forwarded_allow_ips": "127.0.0.1,10.0.0.0/8"},
        )
        await gateway.get("/", *[f"X-Forwarded-For: {line}" for line in lines])

        assert [told] == values_of(origin.requests[0], "x-forwarded-for")


@pytest.mark.requirement("S-26")
@pytest.mark.parametrize("forwarded", [False, True])
async def test_a_client_of_a_unix_socket_has_no_address(tmp_path, echo, forwarded):
    """Nothing crashes, and no address is made up for it."""
    proxy = Proxy(forwarding=Forwarding(forwarded=forwarded))

    @proxy.route("/<path>", upstream=UpstreamPool("p", [echo.url]))
    async def api() -> None: ...

    app = proxy.build_app()

    async def addressless(scope, receive, send):
        await app({**scope, "client": None} if scope["type"] == "http" else scope, receive, send)

    async with run_gateway(addressless) as gateway:
        client = await RawClient.connect(gateway.port)
        reply = await client.ask(make_request())
        await client.close()

    assert 200 == reply.status
    assert b"x-forwarded-for" not in reply.body
    assert (b"for=unknown" in reply.body) is forwarded


@pytest.mark.requirement("S-34")
async def test_pools_of_different_identities_share_no_connection(tmp_path, transport):
    """Two pools to one address, with and without a client certificate: each has connections of its own."""
    authority = trustme.CA()
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(own)
    own.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(own)
    ca, pair = tmp_path / "ca.pem", tmp_path / "client.pem"
    authority.cert_pem.write_to_path(ca)
    client = authority.issue_cert("client@example.org")
    client.private_key_and_cert_chain_pem.write_to_path(pair)
    shown = []

    async def serve(reader, writer):
        subject = writer.get_extra_info("peercert") or {}
        shown.append(bool(subject))
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            writer.write(OK)

    async with ScriptedOrigin(serve, tls=own) as origin:
        proxy = Proxy()
        settings = {"plain": TLS(ca=ca), "known": TLS(ca=ca, cert=pair)}
        for name, tls in settings.items():
            pool = UpstreamPool(name, [origin.url], tls=tls, transport=transport())

            @proxy.route(f"/{name}", upstream=pool)
            async def api() -> None: ...

        async with run_gateway(proxy.build_app()) as gateway:
            for name in ["plain", "known", "plain", "known"]:
                async with contextlib.AsyncExitStack() as stack:
                    asking = await RawClient.connect(gateway.port)
                    stack.push_async_callback(asking.close)

                    assert 200 == (await asking.ask(make_request(f"/{name}"))).status

    assert [False, True] == shown


def open_descriptors():
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.requirement("S-40")
@one_transport
async def test_slow_clients_do_not_keep_others_from_being_served(serve, http):
    """Half heads, half contents and readers that do not read wait by themselves."""
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + bytes(2**16)

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/big" in head:
            with contextlib.suppress(ConnectionError):
                writer.write(big)
                while True:
                    writer.write(bytes(2**16))
                    await writer.drain()
        if b"/body" in head:
            await reader.read()
            return
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    async with ScriptedOrigin(answer) as origin:
        gateway = await serve(origin.url, http=http)
        slow = [await gateway.connect() for _ in range(60)]
        for client in slow[:20]:
            await client.send(b"GET /head HTTP/1.1\r\nHost: gateway.test\r\nX-Slow: ")
        for client in slow[20:40]:
            await client.send(make_request("/body", "Content-Length: 9", method="POST", body="a"))
        for client in slow[40:]:
            client.writer.transport.pause_reading()
            await client.send(make_request("/big"))
        await origin.wait_until(lambda: origin.connections == 40)
        replies = [(await gateway.get("/quick")).status for _ in range(20)]
        for client in slow:
            client.leave()

        assert [200] * 20 == replies


@pytest.mark.requirement("S-40")
@one_transport
async def test_content_that_trickles_ends_with_the_total_time(serve, http):
    """A byte in time keeps the idle time-out away, and not the total one."""
    async with ScriptedOrigin([ReadHead(), ReadUntil()]) as origin:
        gateway = await serve(origin.url, http=http, timeouts=Timeouts(idle=30.0, total=0.3))
        client = await gateway.connect()
        await client.send(make_request("/", "Transfer-Encoding: chunked", method="POST"))

        async def trickle():
            while True:
                with contextlib.suppress(ConnectionError):
                    await client.send(b"1\r\na\r\n")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        reply = await client.read_reply()
        trickling.cancel()
        await asyncio.wait((trickling,))

        assert reply.status in {408, 504}
        await eventually(lambda: not origin.open_connections)


@pytest.mark.requirement("S-42", "H-47")
async def test_many_requests_to_a_dead_upstream_leave_nothing_behind(serving, echo, caplog):
    """Each has its answer and one line in the log; another route is served as before."""
    with refusing_destination() as dead:
        proxy = Proxy()

        @proxy.route("/dead", upstream=UpstreamPool("dead", [dead]))
        async def broken() -> None: ...

        @proxy.route("/well", upstream=UpstreamPool("well", [echo.url]))
        async def well() -> None: ...

        app = FastAPI(openapi_url=None)
        app.include_router(proxy.build_router())
        served = await serving(app)
        await served.ask("/well")
        before = open_descriptors(), len(asyncio.all_tasks())

        async def ask_many(statuses):
            client = await RawClient.connect(served.port)
            for _ in range(50):
                statuses.append((await client.ask(make_request("/dead"))).status)
            await client.close()

        statuses = []
        async with asyncio.TaskGroup() as clients:
            for _ in range(20):
                clients.create_task(ask_many(statuses))
            well = [await served.status("/well") for _ in range(20)]
        lines = [record for record in caplog.records if "exchange failed" in record.getMessage()]
        # The connections of the clients that asked for what is well stay open.
        await eventually(lambda: len(asyncio.all_tasks()) <= before[1] + 60)
        await eventually(lambda: open_descriptors() <= before[0] + 2 * 20 + 4)

    assert {502: 1000} == {status: statuses.count(status) for status in set(statuses)}
    assert [200] * 20 == well
    assert 1000 == len(lines)


HOSTILE = {
    "segments": lambda size: b"/a" * (size // 2),
    "dots": lambda size: b"/" + b"." * size,
    "escapes": lambda size: b"/" + b"%41" * (size // 3),
    "semicolons": lambda size: b"/" + b";" * size,
    "almost-plain": lambda size: b"/a" * (size // 2) + b"\x01",
    "slashes": lambda size: b"/" * size + b"\x01",
}


def cheapest(function, argument, rounds=5):
    """The least processor time of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        with contextlib.suppress(ClientRequestError):
            function(argument)
        best = min(best, time.process_time() - begin)
    return best


@pytest.mark.requirement("S-44")
@pytest.mark.parametrize("name", HOSTILE)
def test_looking_at_a_path_takes_time_in_proportion_to_its_length(name):
    """A path 16 times as long is not looked at 256 times as long."""
    make = HOSTILE[name]

    def look(path):
        with contextlib.suppress(ClientRequestError):
            guard._check_path(path)
        guard._PLAIN_PATH.fullmatch(path)

    short, long = make(16_000), make(256_000)
    # The clock of the processor has steps: what is too short to be measured counts as one of them.
    ratio = cheapest(look, long) / max(cheapest(look, short), 1e-4)

    assert ratio < 100


@pytest.mark.requirement("S-44")
def test_looking_at_a_host_takes_time_in_proportion_to_its_length():
    """Nothing that a client sends makes the pattern go back and forth."""

    def look(host):
        guard._HOST.fullmatch(host)

    short, long = b"a%41" * 4_000 + b"/", b"a%41" * 64_000 + b"/"

    assert cheapest(look, long) / max(cheapest(look, short), 1e-4) < 100
