"""What is special about httpx as a transport: what it is given, what it must not do, what it raises."""

import asyncio
import socket

import httpx
import httpx2
import pytest
import respx
import trustme

from proxyroutes.exceptions import (
    PolicyError,
    Side,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.testing import Close, ReadHead, ReadUntil, ScriptedOrigin, Wait
from proxyroutes.transports import HttpxTransport
from proxyroutes.typing import Attempt
from tests.unit.transports.support import (
    Content,
    SystemClock,
    Upstream,
    connect,
    make_head,
    make_place,
    read_all,
    settle,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda module: module.__name__)


def ok_handler(request):
    """Answer from memory."""
    return httpx.Response(200, content=b"ok")


# What it raises


@pytest.mark.parametrize(
    ("raised", "error", "stage", "sent", "side"),
    [
        (httpx.ConnectTimeout, UpstreamTimeoutError, Stage.CONNECT, False, Side.UPSTREAM),
        (httpx.PoolTimeout, UpstreamTimeoutError, Stage.CONNECT, False, Side.GATEWAY),
        (httpx.ReadTimeout, UpstreamTimeoutError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (httpx.WriteTimeout, UpstreamTimeoutError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (httpx.ConnectError, UpstreamConnectError, Stage.CONNECT, False, Side.UPSTREAM),
        (httpx.ProxyError, UpstreamConnectError, Stage.CONNECT, False, Side.UPSTREAM),
        (httpx.UnsupportedProtocol, UpstreamConnectError, Stage.CONNECT, False, Side.GATEWAY),
        (httpx.InvalidURL, UpstreamConnectError, Stage.CONNECT, False, Side.GATEWAY),
        (httpx.ReadError, UpstreamProtocolError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (httpx.WriteError, UpstreamProtocolError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (httpx.CloseError, UpstreamProtocolError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (
            httpx.RemoteProtocolError,
            UpstreamProtocolError,
            Stage.RESPONSE_HEAD,
            True,
            Side.UPSTREAM,
        ),
        (httpx.LocalProtocolError, UpstreamProtocolError, Stage.RESPONSE_HEAD, True, Side.GATEWAY),
        (httpx.TooManyRedirects, UpstreamProtocolError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (ConnectionRefusedError, UpstreamConnectError, Stage.CONNECT, False, Side.UPSTREAM),
        (socket.gaierror, UpstreamConnectError, Stage.CONNECT, False, Side.UPSTREAM),
        (TimeoutError, UpstreamTimeoutError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
        (ConnectionResetError, UpstreamProtocolError, Stage.RESPONSE_HEAD, True, Side.UPSTREAM),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_each_exception_of_httpx_is_one_of_ours(raised, error, stage, sent, side):
    """The one table of classes, stages and sides."""
    with respx.mock(assert_all_called=False) as router:
        router.get("http://origin.test/").mock(side_effect=raised("it happened"))
        async with connect(HttpxTransport(), "http://origin.test") as upstream:
            with pytest.raises(error) as caught:
                await upstream.send()

    found = caught.value

    assert (stage, sent, side, "http://origin.test", "it happened") == (
        found.stage,
        found.sent,
        found.side,
        found.destination,
        found.detail,
    )
    assert error is type(found)
    assert sent is upstream.attempt.sent
    assert type(found.__cause__) is raised


async def test_the_classes_of_httpx2_are_known_by_their_names():
    """The types of the two libraries do not mix."""

    def fail(request):
        raise httpx2.ConnectTimeout("")

    async with connect(
        HttpxTransport(httpx2.MockTransport(fail)), "http://origin.test"
    ) as upstream:
        with pytest.raises(UpstreamTimeoutError) as caught:
            await upstream.send()

    assert "ConnectTimeout" == caught.value.detail


async def test_an_exception_that_is_not_about_the_exchange_comes_out_unchanged():
    """A mistake in a client's auth is no fault of the upstream."""

    def fail(request):
        raise ZeroDivisionError

    async with connect(
        HttpxTransport(httpx.MockTransport(fail)), "http://origin.test"
    ) as upstream:
        with pytest.raises(ZeroDivisionError):
            await upstream.send()


async def test_an_exception_while_reading_that_is_not_about_the_exchange_comes_out_unchanged():
    """As before the head."""

    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b""
            yield b"a part"
            raise ZeroDivisionError

    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Stream()))
    async with connect(HttpxTransport(transport), "http://origin.test") as upstream:
        response = await upstream.send()

        assert b"a part" == await response.read()

        with pytest.raises(ZeroDivisionError):
            await response.read()


async def test_a_connect_error_after_the_request_was_sent_once_is_a_protocol_error():
    """Auth sends twice; that the second time fails early does not make the first one unsent."""

    class Auth(httpx.Auth):
        def auth_flow(self, request):
            yield request
            yield request

    async with ScriptedOrigin([ReadHead(), OK, Close()]) as origin:

        class Transport(httpx.AsyncHTTPTransport):
            used = False

            async def handle_async_request(self, request):
                if self.used:
                    raise httpx.ConnectError("refused")
                self.used = True
                return await super().handle_async_request(request)

        client = httpx.AsyncClient(transport=Transport(), auth=Auth())
        async with client, connect(HttpxTransport(client), origin.url) as upstream:
            with pytest.raises(UpstreamProtocolError) as caught:
                await upstream.send()

    assert caught.value.sent


async def test_a_body_is_not_sent_twice():
    """Digest auth repeats a request; the rest of a stream must not go out as if it were the whole."""
    denied = b'HTTP/1.1 401 No\r\nContent-Length: 0\r\nWWW-Authenticate: Digest realm="r", nonce="n"\r\n\r\n'
    async with (
        ScriptedOrigin([ReadHead(), ReadUntil(), denied]) as origin,
        httpx.AsyncClient(auth=httpx.DigestAuth("user", "password")) as client,
        connect(HttpxTransport(client), origin.url) as upstream,
    ):
        with pytest.raises(UpstreamProtocolError) as caught:
            await upstream.send(make_head(b"POST"), Content(b"abc"))

    assert Side.GATEWAY is caught.value.side
    # The second message has no last chunk.
    assert 1 == origin.requests[0].count(b"\r\n0\r\n\r\n")


async def test_a_body_shorter_than_its_length_is_not_the_upstreams_fault():
    """h11 refuses to end such a message."""
    async with (
        ScriptedOrigin([ReadHead()]) as origin,
        connect(HttpxTransport(), origin.url) as upstream,
    ):
        with pytest.raises(UpstreamProtocolError) as caught:
            await upstream.send(make_head(b"POST"), Content(b"abc", length=30))
        await origin.wait_until(lambda: origin.open_connections == 0)

    assert (Side.GATEWAY, Stage.RESPONSE_HEAD) == (caught.value.side, caught.value.stage)


async def test_an_answer_to_a_request_that_could_not_be_written_is_given():
    """A response is read after a write has failed; the stage follows."""
    async with connect(HttpxTransport(), "http://origin.test") as upstream:
        attempt = Attempt()
        trace = upstream.bound._make_extensions(Timeouts(), attempt, b"POST")["trace"]
        attempt.enter(Stage.REQUEST_BODY)
        await trace("http11.receive_response_headers.started", {})

    assert Stage.RESPONSE_HEAD is attempt.stage


# What it is given


@LIBRARIES
@pytest.mark.parametrize("kind", ["AsyncClient", "AsyncHTTPTransport"])
async def test_clients_and_transports_of_both_libraries_are_taken(library, kind):
    """Requests are made with the library that the object came from."""
    given = getattr(library, kind)()
    async with ScriptedOrigin([OK, ReadHead(), OK]) as origin:
        async with given, connect(HttpxTransport(given), origin.url) as upstream:
            for _ in range(2):
                body = Content(b"abc", length=3)
                response = await upstream.send(make_head(b"POST", b"/a//%2f?b"), body)

                assert (200, b"OK", b"ok") == (
                    response.status,
                    response.reason,
                    await read_all(response),
                )

    assert origin.requests[0].startswith(b"POST /a//%2f?b HTTP/1.1\r\nhost: 127.0.0.1")
    assert upstream.attempt.reused


async def test_a_transport_of_no_known_library_is_given_httpx_requests():
    """It only needs the method."""

    class Transport:
        async def handle_async_request(self, request):
            return ok_handler(request)

        async def aclose(self):
            """Nothing to close."""

    async with connect(HttpxTransport(Transport()), "http://origin.test") as upstream:
        response = await upstream.send()

        assert b"ok" == await read_all(response)


@pytest.mark.parametrize("given", [httpx.Client(), httpx.HTTPTransport(), "http://origin.test", 1])
def test_what_is_no_asynchronous_client_or_transport_is_refused(given):
    """At declaration."""
    with pytest.raises(TypeError, match="asynchronous httpx client or transport"):
        HttpxTransport(given)


def test_trust_env_is_refused_for_what_is_given():
    """The client has a setting of its own."""
    with pytest.raises(ValueError, match="trust_env"):
        HttpxTransport(httpx.MockTransport(ok_handler), trust_env=True)


@pytest.mark.parametrize("tls", [TLS(verify=False), TLS(ca="ca.pem"), TLS(context=object())])
async def test_tls_settings_that_a_given_transport_would_not_obey_are_refused(tls):
    """A check that is silently not made is worse than an error."""
    recipe = HttpxTransport(httpx.MockTransport(ok_handler))
    with pytest.raises(PolicyError, match="server_name"):
        recipe.bind(clock=SystemClock(), tls=tls)


async def test_time_outs_and_server_name_reach_a_given_transport():
    """Only those for connecting: the gateway watches the others."""
    seen = []

    def handler(request):
        seen.append(request.extensions)
        return ok_handler(request)

    recipe = HttpxTransport(httpx.MockTransport(handler))
    bound = recipe.bind(clock=SystemClock(), tls=TLS(server_name="name.test"))
    await read_all(
        await bound.send(
            make_head(), None, make_place("http://origin.test"), Timeouts(connect=2.5), Attempt()
        )
    )
    await bound.aclose()

    assert {"connect": 2.5, "pool": 2.5, "read": None, "write": None} == seen[0]["timeout"]
    assert "name.test" == seen[0]["sni_hostname"]


async def test_a_transport_that_does_not_tell_waits_for_the_response_from_the_start():
    """The time for connecting is then httpx's own affair."""
    go_on = asyncio.Event()

    async def handler(request):
        await go_on.wait()
        return ok_handler(request)

    recipe = HttpxTransport(httpx.MockTransport(handler))
    async with connect(recipe, "http://origin.test") as upstream:
        sending = asyncio.create_task(upstream.send())
        await settle(lambda: 0)

        assert (Stage.RESPONSE_HEAD, False) == (upstream.attempt.stage, upstream.attempt.connected)

        go_on.set()
        await read_all(await sending)

        assert (True, True) == (upstream.attempt.connected, upstream.attempt.sent)


async def test_mocked_requests_show_method_url_fields_and_body():
    """What users of respx match on."""
    with respx.mock as router:
        route = router.post("http://origin.test/base/a/b?c=d").respond(
            201, headers={"X-Answer": "42"}, content=b"made"
        )
        async with connect(HttpxTransport(), "http://origin.test/base") as upstream:
            response = await upstream.send(
                make_head(b"POST", b"/a/b?c=d", [(b"x-question", b"?")]), Content(b"abc", length=3)
            )

            assert (201, b"made") == (response.status, await read_all(response))

    request = route.calls.last.request

    assert (b"x-answer", b"42") in response.fields
    assert b"abc" == request.content
    assert [(b"host", b"origin.test"), (b"x-question", b"?"), (b"content-length", b"3")] == [
        (name.lower(), value) for name, value in request.headers.raw
    ]


async def test_a_transport_is_closed_with_the_pool_and_a_client_is_not():
    """Who makes a client may use it elsewhere."""
    closed = []

    class Transport(httpx.MockTransport):
        async def aclose(self):
            closed.append(self)

    alone, inside = Transport(ok_handler), Transport(ok_handler)
    async with httpx.AsyncClient(transport=inside) as client:
        for given in (alone, client):
            async with connect(HttpxTransport(given), "http://origin.test") as upstream:
                await read_all(await upstream.send())

        assert [alone] == closed
        assert not client.is_closed


async def test_closing_waits_until_aborted_responses_are_closed():
    """Nothing is left behind, however long it takes."""
    closed = []

    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"a part"

        async def aclose(self):
            for _ in range(50):
                await asyncio.sleep(0)
            closed.append(True)

    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Stream()))
    async with connect(HttpxTransport(transport), "http://origin.test") as upstream:
        response = await upstream.send()
        response.abort()

    assert [True] == closed


# What it must not do


@LIBRARIES
@pytest.mark.requirement("S-31")
async def test_cookies_are_neither_kept_nor_sent(library):
    """One user's ``Set-Cookie`` must not become another's ``Cookie``."""
    cookie = OK.replace(b"200 OK\r\n", b"200 OK\r\nSet-Cookie: session=one; Path=/\r\n")
    async with (
        ScriptedOrigin([cookie, ReadHead(), OK]) as origin,
        library.AsyncClient(cookies={"own": "jar"}) as client,
        connect(HttpxTransport(client), origin.url) as upstream,
    ):
        response = await upstream.send()
        await read_all(response)
        await read_all(await upstream.send())

        assert (b"set-cookie", b"session=one; Path=/") in response.fields
        assert b"cookie" not in origin.requests[0].lower()
        assert {"own": "jar"} == dict(client.cookies)


@LIBRARIES
@pytest.mark.requirement("S-38")
async def test_redirects_are_not_followed(library):
    """Not even where the client is told to."""
    found = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with (
        ScriptedOrigin([found, ReadHead(), OK]) as origin,
        library.AsyncClient(follow_redirects=True) as client,
        connect(HttpxTransport(client), origin.url) as upstream,
    ):
        response = await upstream.send()

        assert (302, b"") == (response.status, await read_all(response))

    assert 1 == origin.requests[0].count(b"HTTP/1.1")


@pytest.mark.requirement("H-20")
async def test_a_clients_default_fields_and_parameters_are_not_sent():
    """The forwarded message is the client's, and not the library's."""
    async with (
        ScriptedOrigin([OK]) as origin,
        httpx.AsyncClient(
            headers={"x-own": "1"}, params={"own": "1"}, base_url="http://other.test/base"
        ) as client,
        connect(HttpxTransport(client), origin.url) as upstream,
    ):
        await read_all(await upstream.send())

    assert b"GET / HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % make_port(upstream) == bytes(
        origin.requests[0]
    )


def make_port(upstream: Upstream) -> int:
    """The port of an upstream."""
    return upstream.place.port


async def test_a_clients_auth_is_used():
    """That is what a client is given for."""
    async with (
        ScriptedOrigin([OK]) as origin,
        httpx.AsyncClient(auth=("user", "password")) as client,
        connect(HttpxTransport(client), origin.url) as upstream,
    ):
        await read_all(await upstream.send())

    assert b"\r\nAuthorization: Basic dXNlcjpwYXNzd29yZA==\r\n" in origin.requests[0]


async def test_digest_auth_signs_the_request_target_as_it_is_sent():
    """The server computes the signature from the bytes that it got."""
    denied = b'HTTP/1.1 401 No\r\nContent-Length: 0\r\nWWW-Authenticate: Digest realm="r", nonce="n"\r\n\r\n'
    async with (
        ScriptedOrigin([denied, ReadHead(), OK]) as origin,
        httpx.AsyncClient(auth=httpx.DigestAuth("user", "password")) as client,
        connect(HttpxTransport(client), origin.url) as upstream,
    ):
        response = await upstream.send(make_head(target=b"/a/%7E/./b?c"))

        assert b"ok" == await read_all(response)

    assert b'uri="/a/%7E/./b?c"' in origin.requests[0]


@pytest.mark.requirement("S-32")
async def test_environment_proxies_are_not_used(monkeypatch):
    """A gateway's upstreams are reached directly."""
    async with ScriptedOrigin([OK]) as proxy, ScriptedOrigin([OK]) as origin:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with connect(HttpxTransport(), origin.url) as upstream:
            await read_all(await upstream.send())

    assert (0, 1) == (proxy.connections, origin.connections)


async def test_environment_proxies_are_used_where_they_are_asked_for(monkeypatch):
    """And no cookie is kept on that way either; the target goes out byte for byte in absolute form."""
    cookie = OK.replace(b"200 OK\r\n", b"200 OK\r\nSet-Cookie: session=one; Path=/\r\n")
    async with ScriptedOrigin([cookie, ReadHead(), OK]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with connect(HttpxTransport(trust_env=True), "http://origin.test") as upstream:
            for _ in range(2):
                await read_all(await upstream.send(make_head(target=b"/a//./%2f?b")))

    assert proxy.requests[0].startswith(b"GET http://origin.test/a//./%2f?b HTTP/1.1\r\n")
    assert b"cookie" not in proxy.requests[0].lower()


async def test_a_tunnel_through_a_proxy_is_asked_for_by_the_destinations_authority():
    """The request's target must not stand in ``CONNECT``; what the proxy is sent is not yet the request."""
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with ScriptedOrigin([refused]) as proxy:
        transport = httpx.AsyncHTTPTransport(proxy=proxy.url)
        async with connect(HttpxTransport(transport), "https://origin.test") as upstream:
            with pytest.raises(UpstreamConnectError) as caught:
                await upstream.send(make_head(target=b"/secret"))

    assert proxy.requests[0].startswith(b"CONNECT origin.test:443 HTTP/1.1\r\n")
    assert (Stage.CONNECT, False, False) == (
        caught.value.stage,
        caught.value.sent,
        upstream.attempt.connected,
    )


# Sockets and TLS


async def test_a_unix_socket_is_connected_to(tmp_path):
    """One transport for each path."""
    path = tmp_path / "origin.sock"
    async with ScriptedOrigin([OK, ReadHead(), OK], unix=path) as origin:
        async with connect(HttpxTransport(), origin.url + "/base") as upstream:
            for _ in range(2):
                await read_all(await upstream.send(make_head(target=b"/a")))

    assert origin.requests[0].startswith(b"GET /base/a HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (1, True) == (origin.connections, upstream.attempt.reused)


async def test_a_given_transport_is_not_sent_elsewhere_for_a_unix_socket():
    """It would connect to ``localhost``."""
    recipe = HttpxTransport(httpx.MockTransport(ok_handler))
    async with connect(recipe, "http+unix://%2Frun%2Fa.sock") as upstream:
        with pytest.raises(UpstreamConnectError) as caught:
            await upstream.send()

    assert (Side.GATEWAY, False) == (caught.value.side, caught.value.sent)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that only tests trust."""
    return trustme.CA()


@pytest.fixture
async def secure_origin(authority):
    """An origin that speaks TLS."""
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("name.test").configure_cert(context)
    async with ScriptedOrigin([OK], tls=context) as origin:
        yield origin


async def test_tls_is_spoken_as_declared(authority, secure_origin, tmp_path):
    """Trust in a file, and a name for the certificate that is not the address."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = TLS(ca=tmp_path / "ca.pem", server_name="name.test")
    bound = HttpxTransport().bind(clock=SystemClock(), tls=tls)
    attempt = Attempt()
    response = await bound.send(
        make_head(), None, make_place(secure_origin.url), Timeouts(), attempt
    )

    assert b"ok" == await read_all(response)
    assert (True, False) == (attempt.connected, attempt.reused)

    await bound.aclose()


async def test_a_certificate_that_is_not_trusted_is_a_connect_error(secure_origin):
    """Nothing was sent."""
    async with connect(HttpxTransport(), secure_origin.url) as upstream:
        with pytest.raises(UpstreamConnectError) as caught:
            await upstream.send()

    assert (Stage.CONNECT, False, False) == (
        caught.value.stage,
        caught.value.sent,
        upstream.attempt.connected,
    )


async def speak_http2(reader, writer):
    """Answer each stream with its path and its body; ``/open`` never ends."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import DataReceived, RequestReceived, StreamEnded

    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    streams = {}
    while received := await reader.read(65_536):
        for event in connection.receive_data(received):
            match event:
                case RequestReceived():
                    streams[event.stream_id] = dict(event.headers)[b":path"] + b" "
                case DataReceived():
                    streams[event.stream_id] += event.data
                case StreamEnded():
                    answer = streams[event.stream_id]
                    connection.send_headers(event.stream_id, [(":status", "200"), ("x-a", "1")])
                    ended = not answer.startswith(b"/open")
                    connection.send_data(event.stream_id, answer, end_stream=ended)
        writer.write(connection.data_to_send())


@pytest.fixture
async def http2(authority):
    """An upstream over HTTP/2."""
    pytest.importorskip("h2")
    import ssl

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    server.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    transport = httpx.AsyncHTTPTransport(verify=trusting, http2=True)
    async with (
        ScriptedOrigin(speak_http2, tls=server) as origin,
        connect(HttpxTransport(transport), origin.url) as upstream,
    ):
        yield upstream


async def test_http2_is_spoken_where_the_transport_speaks_it(http2):
    """The attempt's facts are the same."""
    answers = []
    for body in (Content(b"abc", b"def"), Content(b"abc", length=3)):
        response = await http2.send(make_head(b"POST", b"/a//%2f?x"), body)
        answers.append((response.status, response.fields, await read_all(response)))

    assert [
        (200, [(b"x-a", b"1")], b"/a//%2f?x abcdef"),
        (200, [(b"x-a", b"1")], b"/a//%2f?x abc"),
    ] == answers
    assert [Stage.REQUEST_BODY, Stage.RESPONSE_HEAD, Stage.RESPONSE_BODY] == http2.attempt.stages
    assert (True, True) == (http2.attempt.sent, http2.attempt.reused)


async def test_aborting_a_stream_of_http2_ends_its_read_and_no_other(http2):
    """The connection has other streams."""
    response = await http2.send(make_head(target=b"/open"))
    await response.read()
    reading = asyncio.create_task(response.read())
    await settle(lambda: 0)
    response.abort()
    with pytest.raises(UpstreamProtocolError):
        await reading

    assert b"/next " == await read_all(await http2.send(make_head(target=b"/next")))


async def test_the_connect_time_out_is_kept_by_httpx():
    """A server that accepts and does not speak TLS."""
    silent = asyncio.Event()
    async with ScriptedOrigin([Wait(silent)]) as origin:
        async with connect(HttpxTransport(), origin.url.replace("http:", "https:")) as upstream:
            with pytest.raises(UpstreamTimeoutError) as caught:
                await upstream.bound.send(
                    make_head(), None, upstream.place, Timeouts(connect=0.01), Attempt()
                )

    assert (Stage.CONNECT, False) == (caught.value.stage, caught.value.sent)


def test_a_response_may_be_aborted_after_its_loop_was_closed():
    """Clean-up at the end of a program must not fail."""
    responses = []

    async def main():
        bound = HttpxTransport(httpx.MockTransport(ok_handler)).bind(clock=SystemClock(), tls=None)
        place = make_place("http://origin.test")
        responses.append(await bound.send(make_head(), None, place, Timeouts(), Attempt()))

    asyncio.run(main())
    responses[0].abort()
    responses[0].abort()
