"""Section S: security, on raw sockets."""

import pytest

from proxyroutes.testing import ReadHead, ScriptedOrigin
from tests.integration.support import OK, one_transport

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
