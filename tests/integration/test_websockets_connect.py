"""How sessions are connected: TLS, Unix sockets, and what goes wrong with them."""

import ssl

import pytest
import trustme

from proxyroutes.settings import TLS
from tests.integration.websocket_support import TEXT, SessionOrigin, open_sessions, value_of


@pytest.fixture(scope="module")
def authority():
    """A certificate authority."""
    return trustme.CA()


def server_context(authority, name):
    """What a server of this name speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def echo_once(gateway, origin):
    """Open a session, send a message through it, and close it."""
    client, upstream = await gateway.open(origin)
    await client.send(TEXT, b"x" * 200_000)
    got = await upstream.message()
    await upstream.send(*got)
    back = await client.message()
    await client.close(4000, "r")
    return upstream, back, await upstream.closed()


async def test_a_session_speaks_tls_as_its_pool_says(authority, tmp_path):
    """With its authority, and its name for the server."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pool = {"tls": TLS(ca=tmp_path / "ca.pem", server_name="origin.test")}
    async with SessionOrigin(tls=server_context(authority, "origin.test")) as origin:
        async with open_sessions(origin.url.replace("http", "ws", 1), pool=pool) as gateway:
            got = await echo_once(gateway, origin)

    assert ((TEXT, b"x" * 200_000), (4000, "r")) == got[1:]


@pytest.mark.parametrize(
    "tls", [None, TLS(ca="/nowhere/ca.pem")], ids=["unknown authority", "unreadable"]
)
async def test_a_certificate_that_is_not_trusted_is_a_502(authority, tls):
    """Nothing is sent to who is not who it should be."""
    async with SessionOrigin(tls=server_context(authority, "127.0.0.1")) as origin:
        async with open_sessions(origin.url, pool={"tls": tls}) as gateway:
            client = await gateway.dial()

    assert (502, True) == (client.status, not any(origin.requests))


async def test_a_session_goes_over_a_unix_socket(tmp_path):
    """Whose Host is the one of its URL."""
    path = tmp_path / "o.sock"
    async with SessionOrigin(unix=path) as origin:
        async with open_sessions(origin.url) as gateway:
            upstream, back, code = await echo_once(gateway, origin)

    assert ((TEXT, b"x" * 200_000), (4000, "r"), b"localhost") == (
        back,
        code,
        value_of(upstream.head, b"host"),
    )
