"""Clients of an application in the test's process."""

import asyncio
import contextlib

import pytest
from fastapi import FastAPI, Request

from proxyroutes.testing import open_client, open_socket_client


def make_app(events):
    """An application whose lifespan leaves traces."""

    @contextlib.asynccontextmanager
    async def lifespan(_):
        events.append("up")
        yield {"answer": 42}
        events.append("down")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def show(request: Request) -> dict[str, object]:
        return {"answer": request.state.answer, "url": str(request.url), "events": list(events)}

    return app


@pytest.mark.parametrize("opened", [open_client, open_socket_client])
async def test_the_lifespan_runs_around_the_client(opened):
    """It has started before the first request, its state is there, and it ends with the client."""
    events = []
    async with opened(make_app(events)) as client:
        seen = (await client.get("/")).json()

    assert (42, ["up"]) == (seen["answer"], seen["events"])
    assert ["up", "down"] == events


async def test_the_base_url_is_a_keyword():
    """The client takes those of httpx, and has a base URL of its own."""
    app = make_app([])
    async with open_client(app) as client:
        first = (await client.get("/")).json()["url"]
    async with open_client(app, base_url="http://a.test/b/") as client:
        second = client.base_url

    assert ("http://gateway.test/", "http://a.test/b/") == (first, second)


async def test_a_start_that_fails_is_an_error():
    """What the application says of it is in the message."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="startup failed: no database"):
        async with open_client(app):
            pass


async def test_a_shutdown_that_fails_is_an_error():
    """An exception of the lifespan's end comes out, and no task is left."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        async with open_client(app):
            pass

    assert 1 == len(asyncio.all_tasks())


async def test_an_application_without_a_lifespan_is_served():
    """One that raises when it is asked for one has none."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with open_client(app) as client:
        actual = (await client.get("/")).status_code

    assert 204 == actual


async def test_an_application_that_does_not_stop_is_cancelled(monkeypatch):
    """A lifespan that goes on after its last word does not keep the test."""
    ended = asyncio.Event()

    async def app(scope, receive, send):
        try:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(LookupError):
        async with open_client(app):
            raise LookupError

    assert ended.is_set()
