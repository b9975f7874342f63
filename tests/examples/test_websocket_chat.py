"""``examples/websocket_chat.py``."""

import contextlib

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from proxyroutes.testing import run_gateway
from tests.examples.support import load


@contextlib.asynccontextmanager
async def chatting(monkeypatch):
    """The address of the example's chat, whose server is a second one of it."""
    async with run_gateway(load("websocket_chat").app, ws="websockets-sansio") as server:
        monkeypatch.setenv("CHAT_URL", server.url)
        async with run_gateway(load("websocket_chat").app, ws="websockets-sansio") as gateway:
            yield gateway.url.replace("http", "ws") + "/chat/tea"


async def test_members_read_each_other(monkeypatch):
    """With the name that the gateway gives, whatever the client says of itself."""
    async with (
        chatting(monkeypatch) as url,
        connect(f"{url}?token=ada-secret", additional_headers={"X-User": "Eve"}) as ada,
        connect(f"{url}?token=bob-secret") as bob,
    ):
        await ada.send("hello")
        first = (await ada.recv(), await bob.recv())
        await bob.send("hi")
        second = await ada.recv()

    assert (("Ada: hello", "Ada: hello"), "Bob: hi") == (first, second)


async def test_a_stranger_is_refused(monkeypatch):
    """Before the chat server is dialled."""
    async with chatting(monkeypatch) as url:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{url}?token=guessed")

    assert 401 == caught.value.response.status_code
