"""``examples/message_filter.py``."""

import contextlib

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from proxyroutes.testing import run_gateway
from tests.examples.support import load


@contextlib.asynccontextmanager
async def visiting(monkeypatch, seconds=60.0):
    """The address of the example, whose support desk is a second one of it."""
    async with run_gateway(load("message_filter").app, ws="websockets-sansio") as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        module = load("message_filter")
        module.VISIT_SECONDS = seconds
        async with run_gateway(module.app, ws="websockets-sansio") as gateway:
            yield gateway.url.replace("http", "ws") + "/support"


async def test_card_numbers_do_not_pass(monkeypatch):
    """Nor does what is not text."""
    async with visiting(monkeypatch) as url, connect(url) as visitor:
        await visitor.send(b"4111111111111111")
        await visitor.send("my card is 4111 1111 1111 1111, thanks")
        answer = await visitor.recv()

    assert "You said: my card is [card], thanks" == answer


async def test_a_visit_ends(monkeypatch):
    """With a code that says so."""
    async with visiting(monkeypatch, 0.05) as url, connect(url) as visitor:
        with pytest.raises(ConnectionClosed) as caught:
            await visitor.recv()

    assert (4408, "the visit is over") == (caught.value.rcvd.code, caught.value.rcvd.reason)
