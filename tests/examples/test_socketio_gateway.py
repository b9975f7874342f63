"""``examples/socketio_gateway.py``, with a real Socket.IO client."""

import aiohttp
import pytest
import socketio

from proxyroutes.testing import run_gateway
from tests.examples.support import load


@pytest.mark.parametrize(
    "transports", [["polling"], ["websocket"], ["polling", "websocket"]], ids="+".join
)
async def test_a_session_stays_with_its_server(monkeypatch, transports):
    """By polling, by a WebSocket, and by the upgrade from one to the other."""
    async with run_gateway(load("socketio_gateway").app, ws="websockets-sansio") as servers:
        monkeypatch.setenv("CHAT_URL", servers.url)
        async with run_gateway(load("socketio_gateway").app, ws="websockets-sansio") as gateway:
            heard = [await talk(gateway.url, transports) for _ in range(4)]

    assert {"one", "two"} == {names for names, _ in heard}
    assert {transports[-1]} == {transport for _, transport in heard}


async def talk(url, transports):
    """Who has answered five messages, and over what."""
    # Its own jar takes no cookies of addresses.
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        client = socketio.AsyncClient(http_session=session, reconnection=False)
        await client.connect(url, transports=transports)
        names = {(await client.call("say", str(turn))).split()[0] for turn in range(5)}
        transport = client.transport()
        # In good order it would wait for its long poll, with or without a gateway.
        await client.eio.disconnect(abort=True)
    (name,) = names
    return name, transport
