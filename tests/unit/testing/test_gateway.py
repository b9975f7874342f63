"""The real server in the loop of the test."""

import asyncio
import signal
import sys

import httpx
import pytest

from proxyroutes.testing import gateway as gateway_module
from proxyroutes.testing import run_gateway


class App:
    """An application with a lifespan, a quick answer and one that never ends."""

    def __init__(self) -> None:
        self.events = []
        self.asked = asyncio.Event()
        self.stubborn = False
        self.failing = False
        self.go_on = asyncio.Event()

    async def __call__(self, scope, receive, send):
        """Serve either scope."""
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["path"] == "/slow":
            await self.hang()
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    async def live(self, receive, send):
        """Run the lifespan."""
        self.events.append((await receive())["type"])
        if self.failing:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        self.events.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    async def hang(self):
        """Answer nothing, and perhaps do not even stop."""
        self.asked.set()
        while not self.go_on.is_set():
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.events.append("cancelled")
                if not self.stubborn:
                    raise


@pytest.fixture
def quick(monkeypatch):
    """Make the time for stopping short."""
    monkeypatch.setattr(gateway_module, "_GRACE", 0.2)


@pytest.mark.parametrize("http", ["httptools", "h11", "auto"])
async def test_an_application_is_served_from_the_first_line_to_the_last(http):
    """With its lifespan around, and nothing left behind."""
    app = App()
    before = asyncio.all_tasks()
    async with run_gateway(app, http=http) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            response = await client.get("/")

        assert (200, "ok") == (response.status_code, response.text)
        assert f"http://127.0.0.1:{gateway.port}" == gateway.url
        assert gateway.server.started

    assert ["lifespan.startup", "lifespan.shutdown"] == app.events
    assert before == asyncio.all_tasks()

    with pytest.raises(httpx.ConnectError):
        await asyncio.to_thread(httpx.get, gateway.url)


async def test_two_gateways_run_side_by_side():
    """Each on a port of its own."""
    async with run_gateway(App()) as one, run_gateway(App(), lifespan="off") as two:
        assert one.port != two.port


async def test_signal_handlers_are_left_alone():
    """They belong to the test runner."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with run_gateway(App()):
        assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


async def test_responses_are_dated_by_default_and_not_where_it_is_off():
    """Further settings reach uvicorn."""
    dated = []
    for date_header in (True, False):
        async with (
            run_gateway(App(), date_header=date_header) as gateway,
            httpx.AsyncClient() as client,
        ):
            dated.append("date" in (await client.get(gateway.url)).headers)

    assert [True, False] == dated


async def test_a_failed_start_up_is_an_error():
    """The body of the block does not run."""
    app = App()
    app.failing = True
    with pytest.raises(RuntimeError, match="lifespan failed"):
        async with run_gateway(app):
            pytest.fail("it must not start")


async def test_the_server_may_be_stopped_in_the_middle():
    """A test of draining sets what a signal would."""
    app = App()
    async with run_gateway(app) as gateway:
        gateway.server.should_exit = True
        while "lifespan.shutdown" not in app.events:
            await asyncio.sleep(0)

    assert ["lifespan.startup", "lifespan.shutdown"] == app.events


async def test_a_request_that_does_not_end_is_cancelled(quick):
    """Stopping is bounded."""
    app = App()
    async with httpx.AsyncClient() as client:
        async with run_gateway(app, timeout_graceful_shutdown=0.05) as gateway:
            asking = asyncio.create_task(client.get(f"{gateway.url}/slow"))
            await app.asked.wait()

        assert 500 == (await asking).status_code

    assert "cancelled" in app.events
    assert "lifespan.shutdown" in app.events


async def test_a_request_that_outlives_uvicorns_own_patience_is_forced(quick):
    """Where uvicorn was told to wait for ever."""
    app = App()
    async with httpx.AsyncClient() as client:
        async with run_gateway(app, lifespan="off", timeout_graceful_shutdown=None) as gateway:
            asking = asyncio.create_task(client.get(f"{gateway.url}/slow"))
            await app.asked.wait()

        assert 500 == (await asking).status_code

    assert ["cancelled"] == app.events


async def test_a_request_that_does_not_let_itself_be_cancelled_loses_its_connection(quick):
    """The test goes on without it."""
    app = App()
    app.stubborn = True
    async with httpx.AsyncClient() as client:
        async with run_gateway(app, timeout_graceful_shutdown=0.05) as gateway:
            asking = asyncio.create_task(client.get(f"{gateway.url}/slow"))
            await app.asked.wait()
            (request,) = gateway.server.server_state.tasks
        with pytest.raises(httpx.HTTPError):
            await asking
    app.go_on.set()
    await asyncio.wait({request})


async def test_what_the_block_raises_comes_out():
    """After the server was stopped."""
    app = App()
    with pytest.raises(ZeroDivisionError):
        async with run_gateway(app):
            raise ZeroDivisionError

    assert "lifespan.shutdown" in app.events


async def test_without_uvicorn_the_error_says_what_to_install(monkeypatch):
    """The rest of the package does without it."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"proxyroutes\[standard\]"):
        async with run_gateway(App()):
            pytest.fail("it must not start")
