"""The status page over HTTP: who gets in, what is served, and how its stream ends."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import sys

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request

from proxyroutes import Proxy, UpstreamPool
from proxyroutes._operate.status import router as router_module
from proxyroutes.exceptions import BuildError
from proxyroutes.testing import RecordingUpstream, open_client, run_gateway
from tests.integration.support import eventually


def allow():
    """A guard that lets everybody in."""


def deny():
    """A guard that lets nobody in."""
    raise HTTPException(401)


GUARDED = {"prefix": "/_proxy", "dependencies": [Depends(allow)]}


def make_proxy(upstream=None):
    """A proxy with one route and two destinations."""
    from proxyroutes.transports import ASGITransport

    app = upstream or RecordingUpstream()
    pool = UpstreamPool("users", ["http://a:1", "http://b:1"], transport=ASGITransport(app))
    proxy = Proxy()

    @proxy.route("/api/<path>", upstream=pool)
    async def api() -> None: ...

    return proxy


def make_app(proxy=None, inclusion=None, **options):
    """The proxy's routes and its status page in an application."""
    proxy = proxy or make_proxy()
    app = FastAPI()
    app.include_router(proxy.build_router())
    app.include_router(proxy.status_router(**options), **(inclusion or GUARDED))
    return app


# What is served.


async def test_the_snapshot_counts_what_has_passed():
    """Its keys are those of the contract, and the exchanges are in it."""
    async with open_client(make_app()) as client:
        for number in range(3):
            await client.get(f"/api/{number}")
        snapshot = (await client.get("/_proxy/snapshot.json")).json()

    assert {"routes", "pools", "totals", "recent"} <= set(snapshot)
    assert ["api"] == [route["name"] for route in snapshot["routes"]]
    urls = [one["url"] for pool in snapshot["pools"] for one in pool["destinations"]]
    assert ["http://a:1", "http://b:1"] == urls
    assert 3 == snapshot["totals"]["requests"]
    assert ["/api/2", "/api/1", "/api/0"] == [one["path"] for one in snapshot["recent"]]


async def test_the_router_may_come_before_or_after_the_build():
    """The observer is there in either order, and two pages of a proxy count each exchange once."""
    proxy = make_proxy()
    first = proxy.status_router(prefix="/one", public=True)
    gateway = proxy.build_router()
    app = FastAPI()
    app.include_router(gateway)
    app.include_router(first)
    app.include_router(proxy.status_router(public=True), prefix="/two")
    async with open_client(app) as client:
        await client.get("/api/1")
        actual = [
            (await client.get(f"/{name}/snapshot.json")).json()["totals"]["requests"]
            for name in ("one", "two")
        ]

    assert [1, 1] == actual


async def test_the_page_is_one_small_file_that_runs_nothing_else():
    """No address of another host, and a policy with the hashes of what stands in it."""
    async with open_client(make_app(controls=True)) as client:
        page = await client.get("/_proxy")
        slash = await client.get("/_proxy/")
    text, policy = page.text, page.headers["content-security-policy"]
    hashes = [
        base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        for found in re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", text, re.DOTALL)
    ]

    assert len(page.content) < 40_000
    assert 2 == len(hashes)
    assert all(f"'sha256-{one}'" in policy for one in hashes)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert [] == [
        url for url in re.findall(r"https?://[^\s'\"`]+", text) if "www.w3.org" not in url
    ]
    assert [] == re.findall(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert slash.text == text
    assert "no-store" == page.headers["cache-control"]


async def test_the_page_is_not_in_the_document():
    """OpenAPI is about the API."""
    app = make_app(controls=True)

    assert [] == [path for path in app.openapi()["paths"] if path.startswith("/_proxy")]


async def test_explain_sends_nothing():
    """It says where a request would go; where the stub stands in somebody's files it does not."""
    upstream = RecordingUpstream()
    async with open_client(make_app(make_proxy(upstream))) as client:
        explained = await client.get(
            "/_proxy/explain", params={"url": "/api/a?b=1", "header": ["X-A: 1"]}
        )
        bad = await client.get("/_proxy/explain", params={"url": "/a", "header": ["X-A: ☃"]})

    assert ("api", "users") == tuple(explained.json()[name] for name in ("route", "pool"))
    assert ["x-a", "1"] in explained.json()["forwarded"]["fields"]
    assert "location" not in explained.json()
    assert 400 == bad.status_code
    upstream.assert_nothing_forwarded()


# Who gets in.


async def start(app):
    """Start an application and stop it."""
    async with app.router.lifespan_context(app):
        pass


@pytest.mark.parametrize("options", [{}, {"controls": True}], ids=["shows", "acts"])
async def test_an_open_page_does_not_start(options):
    """The error says what to write."""
    app = make_app(inclusion={"prefix": "/_proxy"}, **options)
    with pytest.raises(BuildError) as caught:
        await start(app)
    text = str(caught.value.exceptions[0])

    assert "dependencies=[Depends(admin)]" in text
    assert "public=True" in text


async def test_one_open_inclusion_of_two_does_not_start():
    """A guard in front of one door is none."""
    proxy = make_proxy()
    router = proxy.status_router()
    app = FastAPI()
    app.include_router(router, **GUARDED)
    app.include_router(router, prefix="/open")
    with pytest.raises(BuildError) as caught:
        await start(app)

    assert "open to everybody" in str(caught.value.exceptions[0])


@pytest.mark.parametrize(
    "place", ["router", "inclusion", "app", "outer", "outer-inclusion"], ids=str
)
async def test_a_guard_counts_wherever_it_stands(place):
    """It starts, and the guard is asked for every address."""
    guard = [Depends(deny)]
    proxy = make_proxy()
    router = proxy.status_router(
        dependencies=guard if place == "router" else (), controls=True, prefix="/_proxy"
    )
    app = FastAPI(dependencies=guard if place == "app" else None)
    outer = APIRouter(dependencies=guard if place == "outer" else None)
    if place.startswith("outer"):
        outer.include_router(router)
        app.include_router(outer, dependencies=guard if place == "outer-inclusion" else None)
    else:
        app.include_router(router, dependencies=guard if place == "inclusion" else None)
    async with open_client(app) as client:
        answers = [
            await client.request(method, f"/_proxy{path}")
            for method, path in [
                ("GET", ""),
                ("GET", "/"),
                ("GET", "/snapshot.json"),
                ("GET", "/events"),
                ("GET", "/explain"),
                ("POST", "/control"),
            ]
        ]

    assert [401] * 6 == [answer.status_code for answer in answers]


async def test_a_page_that_no_start_has_seen_refuses_by_itself():
    """Without a lifespan nothing was checked, so each request is."""
    app = make_app(inclusion={"prefix": "/_proxy"}, controls=True)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway.test"
    ) as client:
        answers = [
            await client.get("/_proxy"),
            await client.get("/_proxy/snapshot.json"),
            await client.get("/_proxy/events"),
            await client.get("/_proxy/explain"),
            await client.post("/_proxy/control"),
        ]

    assert [403] * 5 == [answer.status_code for answer in answers]


async def test_a_guarded_page_works_without_a_lifespan():
    """Its feed is started by the first who asks."""
    app = make_app()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway.test"
    ) as client:
        answer = await client.get("/_proxy/snapshot.json")

    assert "users" == answer.json()["pools"][0]["name"]


async def test_a_page_that_is_meant_to_be_open_is():
    """It has to be said."""
    async with open_client(make_app(inclusion={"prefix": "/_proxy"}, public=True)) as client:
        answer = await client.get("/_proxy")

    assert 200 == answer.status_code


# Who may act.


async def token_of(client):
    """The token that stands in the page."""
    page = await client.get("/_proxy")
    return re.search(r'name="proxyroutes-token" content="([^"]*)"', page.text)[1]


DRAIN = {"pool": "users", "destination": "http://a:1", "action": "drain"}


async def test_a_change_is_made_and_logged(caplog):
    """Drained, weighed, and back again."""
    states = []
    async with open_client(make_app(controls=True)) as client:
        fields = {"x-proxyroutes-token": await token_of(client)}
        for action, weight in (("drain", None), ("weight", 5), ("undrain", None)):
            answer = await client.post(
                "/_proxy/control",
                headers=fields,
                json={**DRAIN, "action": action, "weight": weight},
            )
            await asyncio.sleep(0)
            snapshot = (await client.get("/_proxy/snapshot.json")).json()
            row = snapshot["pools"][0]["destinations"][0]
            states.append((answer.status_code, row["draining"], row["weight"]))

    assert [(204, True, 1), (204, True, 5), (204, False, 5)] == states
    assert "pool=users destination=http://a:1 action=drain" in caplog.text


@pytest.mark.parametrize(
    ("fields", "token"),
    [({}, ""), ({}, "wrong"), ({}, "é"), ({"sec-fetch-site": "cross-site"}, None)],
    ids=["none", "wrong", "odd", "cross-site"],
)
async def test_another_sites_page_cannot_act(fields, token):
    """Neither without the token, nor with it from elsewhere."""
    async with open_client(make_app(controls=True)) as client:
        own = await token_of(client)
        given = (own if token is None else token).encode("latin-1")
        answer = await client.post(
            "/_proxy/control", headers={"x-proxyroutes-token": given, **fields}, json=DRAIN
        )
        row = (await client.get("/_proxy/snapshot.json")).json()["pools"][0]["destinations"][0]

    assert 403 == answer.status_code
    assert not row["draining"]


async def test_a_form_of_another_site_has_no_token():
    """Neither a token nor a field can be sent by a form."""
    async with open_client(make_app(controls=True)) as client:
        answer = await client.post("/_proxy/control", data={"pool": "users"})

    assert 403 == answer.status_code


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (json.dumps({**DRAIN, "action": "stop"}).encode(), 400),
        (json.dumps({**DRAIN, "pool": 1}).encode(), 400),
        (json.dumps({**DRAIN, "action": "weight"}).encode(), 400),
        (json.dumps({**DRAIN, "action": "weight", "weight": True}).encode(), 400),
        (json.dumps({**DRAIN, "action": "weight", "weight": 0}).encode(), 400),
        (json.dumps({**DRAIN, "action": ["drain"]}).encode(), 400),
        (json.dumps({**DRAIN, "pool": "orders"}).encode(), 404),
        (json.dumps({**DRAIN, "destination": "http://169.254.169.254"}).encode(), 404),
        (b"[" * 4_000, 400),
        (b" " * 5_000, 413),
    ],
    ids=lambda value: str(value)[:80],
)
async def test_what_is_no_change_is_refused(content, status):
    """With a status of its own."""
    async with open_client(make_app(controls=True)) as client:
        fields = {"x-proxyroutes-token": await token_of(client)}
        answer = await client.post("/_proxy/control", headers=fields, content=content)

    assert status == answer.status_code


async def test_a_page_that_only_shows_has_no_token():
    """There is nothing that it could be used for."""
    async with open_client(make_app()) as client:
        token = await token_of(client)
        answer = await client.post("/_proxy/control", json=DRAIN)

    assert "" == token
    assert answer.status_code in {404, 405}


# The stream.


def feed_of(app):
    """The feed that is running in an application."""
    for route in app.routes:
        for one in getattr(getattr(route, "original_router", None), "routes", ()):
            page = getattr(getattr(one, "endpoint", None), "__self__", None)
            if isinstance(page, router_module.StatusPage):
                return page.feed()
    raise LookupError("no status page")


async def test_a_viewer_that_leaves_frees_its_place():
    """On a real socket: the stream is cut, and nothing of it is left."""
    app = make_app()
    async with run_gateway(app) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        async with client.stream("GET", "/_proxy/events") as stream:
            first = await anext(stream.aiter_lines())
            watched = feed_of(app).viewers
        await eventually(lambda: feed_of(app).viewers == 0)

    assert first.startswith("id: ")
    assert 1 == watched


async def test_there_are_only_so_many_viewers(monkeypatch):
    """One more is told to come again."""
    monkeypatch.setattr(router_module, "MOST_VIEWERS", 1)
    app = make_app()
    async with run_gateway(app) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        async with client.stream("GET", "/_proxy/events") as stream:
            await anext(stream.aiter_lines())
            refused = await client.get("/_proxy/events")

    assert (503, "5") == (refused.status_code, refused.headers["retry-after"])


SERVED = """
import uvicorn
from fastapi import FastAPI
from proxyroutes import Proxy

proxy = Proxy()

@proxy.get("/", upstream="http://127.0.0.1:9")
async def stub() -> None: ...

app = FastAPI()
app.include_router(proxy.build_router())
app.include_router(proxy.status_router(public=True), prefix="/_proxy")
uvicorn.run(app, host="127.0.0.1", port=0, log_level="info")
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM")
async def test_an_open_page_does_not_hold_a_server_that_stops():
    """A server waits for open streams without a limit: ours end when uvicorn is told to stop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVED, stderr=asyncio.subprocess.PIPE
    )
    try:
        url = None
        while url is None:
            line = (await process.stderr.readline()).decode()
            assert line, "the server has ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            url = found and found[0]
        async with (
            httpx.AsyncClient(base_url=url, timeout=30.0) as client,
            client.stream("GET", "/_proxy/events") as stream,
        ):
            lines = stream.aiter_lines()
            await anext(lines)
            process.send_signal(signal.SIGTERM)
            async for _ in lines:
                pass
        async with asyncio.timeout(30):
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert code in {0, -signal.SIGTERM}


async def test_the_lane_leaves_the_page_alone():
    """A catch-all route behind the page does not take its addresses."""
    upstream = RecordingUpstream()
    proxy = Proxy()

    @proxy.route("/<path>", upstream=upstream)
    async def everything() -> None: ...

    app = FastAPI()
    app.include_router(proxy.status_router(), **GUARDED)
    app.include_router(proxy.build_router())
    async with open_client(app) as client:
        answers = [(await client.get(path)).status_code for path in ("/_proxy", "/_proxy/")]

    assert [200, 200] == answers
    upstream.assert_nothing_forwarded()


async def test_a_dependency_sees_the_request():
    """As in any other route of FastAPI."""

    def admin(request: Request):
        if request.headers.get("authorization") != "Bearer right":
            raise HTTPException(401)

    app = make_app(inclusion={"prefix": "/_proxy", "dependencies": [Depends(admin)]})
    async with open_client(app) as client:
        refused = await client.get("/_proxy")
        shown = await client.get("/_proxy", headers={"authorization": "Bearer right"})

    assert (401, 200) == (refused.status_code, shown.status_code)
