"""The status page as a reader sees it, in a browser."""

import asyncio
import contextlib
import os
import re
from pathlib import Path

import httpx
import pytest
from attrs import define
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic

from proxyroutes import Destination, HealthCheck, HealthMonitor, Proxy, UpstreamPool
from proxyroutes.testing import RecordingUpstream, RunningGateway, run_gateway
from proxyroutes.transports import ASGITransport

pytestmark = pytest.mark.timeout(120)

SCREENSHOTS = os.environ.get("PROXYROUTES_SCREENSHOTS")
"""A folder for the pictures of the documents; they go to a temporary one otherwise."""


@define(eq=False)
class Scene:
    """A gateway with its page, and the upstreams behind it.

    Attributes:
        gateway: The gateway.
        client: A client of it.
        upstreams: The stacks that stop an upstream when they are closed, by URL.
        page: The page's URL.
    """

    gateway: RunningGateway
    client: httpx.AsyncClient
    upstreams: dict[str, contextlib.AsyncExitStack]

    @property
    def page(self):
        """The page's URL."""
        return f"{self.gateway.url}/_proxy"


@contextlib.asynccontextmanager
async def open_scene(**options):
    """Two upstreams that are probed five times a second, and the page on top."""
    answer = RecordingUpstream()
    answer.answer(body=b"ok")
    async with contextlib.AsyncExitStack() as stack:
        upstreams = {}
        for _ in range(2):
            own = await stack.enter_async_context(contextlib.AsyncExitStack())
            running = await own.enter_async_context(run_gateway(answer))
            upstreams[running.url] = own
        monitor = HealthMonitor(interval=0.2)
        pool = UpstreamPool("users", list(upstreams), monitor=monitor, health=HealthCheck(fall=1))
        proxy = Proxy(monitor=monitor)

        @proxy.route("/api/<path>", upstream=pool)
        async def users() -> None: ...

        app = FastAPI()
        app.include_router(proxy.build_router())
        guard = Depends(lambda: None)
        app.include_router(proxy.status_router(**options), prefix="/_proxy", dependencies=[guard])
        gateway = await stack.enter_async_context(run_gateway(app))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=gateway.url, trust_env=False)
        )
        yield Scene(gateway, client, upstreams)


@pytest.fixture
async def scene():
    """A page that shows."""
    async with open_scene() as scene:
        yield scene


@pytest.fixture
async def controlled():
    """A page that acts."""
    async with open_scene(controls=True) as scene:
        yield scene


@pytest.fixture
def expect():
    """Playwright's assertions, which wait."""
    return pytest.importorskip("playwright.async_api").expect


async def test_values_change_live(scene, open_page, expect):
    """Requests that pass while the page is open are counted, and listed with their path."""
    page = await open_page(scene.page)
    await expect(page.locator("#live-text")).to_have_text("live")
    await expect(page.locator("#rows tr.up")).to_have_count(2)
    await expect(page.locator("#process")).to_contain_text(" 0 exchanges")
    for number in range(30):
        await scene.client.get(f"/api/{number}?token=secret")
    await expect(page.locator("#process")).to_contain_text(" 30 exchanges")
    await expect(page.locator("#recent li")).to_have_count(30)
    await expect(page.locator("#recent li").first).to_contain_text("/api/29")
    await expect(page.locator("#total-requests")).not_to_have_text("0")
    await expect(page.locator("#total-p95")).to_contain_text("ms")

    assert "secret" not in await page.content()


async def test_a_killed_destination_turns_red(scene, open_page, expect):
    """Its row changes its state, says why, and the change is among the events."""
    page = await open_page(scene.page)
    url, stack = next(iter(scene.upstreams.items()))
    row = page.locator("#rows tr", has_text=url)
    await expect(row).to_have_attribute("data-state", "up")
    await stack.aclose()
    await expect(row).to_have_attribute("data-state", "down")
    await expect(row.locator("[data-label=Why]")).to_contain_text("UpstreamConnectError")
    await expect(page.locator("#events")).to_contain_text(f"down {url}")
    await expect(page.locator("#map rect.dot.down")).to_have_count(1)
    badge = row.locator(".badge")
    red, green, _ = map(
        int, re.findall(r"\d+", await badge.evaluate("e => getComputedStyle(e).color"))
    )

    assert red > 2 * green


async def test_an_exchange_opens_to_its_timeline(scene, open_page, expect):
    """By the keyboard alone: where the time went, and what it was."""
    page = await open_page(scene.page)
    await scene.client.get("/api/one")
    summary = page.locator("#recent summary").first
    await expect(summary).to_contain_text("/api/one")
    await summary.focus()
    await page.keyboard.press("Enter")
    more = page.locator("#recent .more")
    await expect(more).to_contain_text("first byte")
    await expect(more).to_contain_text("2 B relayed")


async def test_exchanges_are_filtered_and_paused(scene, open_page, expect):
    """What does not fit leaves the list; a pause keeps it as it is."""
    page = await open_page(scene.page)
    await scene.client.get("/api/one")
    await scene.client.get("/api/two")
    await expect(page.locator("#recent li")).to_have_count(2)
    await page.locator("#filter").fill("TWO")
    await expect(page.locator("#recent li")).to_have_count(1)
    await page.locator("#filter").fill("")
    await page.locator("#class").select_option("bad")
    await expect(page.locator("#none")).to_be_visible()
    await page.locator("#class").select_option("")
    await page.locator("#pause").click()
    await scene.client.get("/api/three")
    await expect(page.locator("#process")).to_contain_text(" 3 exchanges")
    await expect(page.locator("#recent li")).to_have_count(2)
    await page.locator("#pause").click()
    await expect(page.locator("#recent li")).to_have_count(3)


async def test_what_clients_send_is_text(scene, open_page, expect):
    """A path that is markup is shown as it is, and runs nothing."""
    page = await open_page(scene.page)
    hostile = "/api/<img src=x onerror=alert(1)>"
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.gateway.port)
    raw = hostile.replace(" ", "%20").encode()
    writer.write(b"GET " + raw + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    await writer.wait_closed()
    await expect(page.locator("#recent")).to_contain_text("onerror=alert(1)")

    assert 0 == await page.locator("#recent img").count()


async def test_explain_says_what_would_be_done(scene, open_page, expect):
    """The box asks the gateway, and sends nothing to an upstream."""
    page = await open_page(scene.page)
    await page.locator("#x-url").fill("/api/users?id=1")
    await page.locator("#x-headers").fill("Accept: text/html")
    await page.locator("#explain button").click()
    explained = page.locator("#explained")
    await expect(explained).to_contain_text("/api/<path>")
    await expect(explained).to_contain_text("/api/users?id=1")
    await expect(explained).to_contain_text("accept: text/html")


async def test_a_page_without_controls_has_none(scene, open_page, expect):
    """Neither buttons nor their address."""
    page = await open_page(scene.page)
    await expect(page.locator("#rows tr")).to_have_count(2)
    answer = await scene.client.post("/_proxy/control", json={})

    assert 0 == await page.locator("#rows button").count()
    assert 404 == answer.status_code


async def test_a_destination_is_drained_and_comes_back(controlled, open_page, expect):
    """Its row says so, nothing is sent there meanwhile, and its weight can be set."""
    page = await open_page(controlled.page)
    url = next(iter(controlled.upstreams))
    row = page.locator("#rows tr", has_text=url)
    await row.get_by_role("button", name="Drain", exact=True).click()
    await expect(row).to_have_attribute("data-state", "draining")
    total = await row.locator("[data-label=Total]").text_content()
    for _ in range(10):
        await controlled.client.get("/api/")
    await expect(page.locator("#recent li")).to_have_count(10)
    await expect(row.locator("[data-label=Total]")).to_have_text(total)
    await row.get_by_role("button", name="Undrain").click()
    await expect(row).to_have_attribute("data-state", "up")
    await row.locator("input").fill("7")
    await row.locator("input").press("Enter")
    await expect(row.locator("[data-label=Weight]")).to_have_text("7")


@pytest.mark.parametrize("width", [360, 1280], ids=["narrow", "wide"])
async def test_nothing_hangs_over_the_edge(scene, open_page, expect, width):
    """The page is as wide as the window, and no wider."""
    page = await open_page(scene.page, viewport={"width": width, "height": 800})
    await scene.client.get("/api/" + "long" * 40)
    await expect(page.locator("#recent li")).to_have_count(1)
    actual = await page.evaluate("document.documentElement.scrollWidth")

    assert actual <= width


async def test_motion_is_reduced_where_it_is_asked_for(scene, open_page, expect):
    """The traffic on the map stands still."""
    page = await open_page(scene.page, reduced_motion="reduce")
    await scene.client.get("/api/one")
    flow = page.locator("#map .edge.flow").first
    await expect(flow).to_be_attached()
    actual = await flow.evaluate("e => getComputedStyle(e).animationName")

    assert "none" == actual


async def test_a_login_of_the_browser_reaches_the_stream(open_page, expect):
    """The page behind HTTP's own authentication is live: the browser sends it with the stream too."""
    proxy = Proxy()

    @proxy.get("/", upstream="http://users.invalid")
    async def users() -> None: ...

    login = HTTPBasic()

    async def admin(request: Request):
        credentials = await login(request)
        if credentials.password != "right":
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})

    app = FastAPI()
    app.include_router(proxy.build_router())
    app.include_router(proxy.status_router(), prefix="/_proxy", dependencies=[Depends(admin)])
    async with run_gateway(app) as gateway:
        page = await open_page(
            f"{gateway.url}/_proxy/", http_credentials={"username": "a", "password": "right"}
        )
        await expect(page.locator("#live-text")).to_have_text("live")
        await page.close()


# The pictures of the documents.


failing = set()
"""Destinations that fail their check, by the beginning of their names."""


async def answer_by_host(scope, receive, send):
    """Upstreams by name: one that fails now and then, one that is slow."""
    request = Request(scope, receive)
    await request.body()
    host, status = request.headers["host"], 200
    if host[:7] in failing:
        status = 503
    elif host.startswith("search-2") and request.url.path.endswith("7"):
        status = 500
    await asyncio.sleep(0.03 if host.startswith("orders") else 0.004)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 512})


def make_shop():
    """A gateway with names that speak."""
    monitor = HealthMonitor(interval=1.0)
    inside = ASGITransport(answer_by_host)

    def pool(name, *destinations, **options):
        return UpstreamPool(
            name,
            destinations,
            monitor=monitor,
            transport=inside,
            health=HealthCheck("/healthz", fall=1),
            **options,
        )

    users = pool(
        "users",
        *[Destination(f"http://users-{n}.shop.internal:8000", weight=n) for n in (1, 2, 3)],
    )
    orders = pool(
        "orders", "http://orders-1.shop.internal:8000", "http://orders-2.shop.internal:8000"
    )
    search = pool(
        "search", "http://search-1.shop.internal:9200", "http://search-2.shop.internal:9200"
    )
    proxy = Proxy(monitor=monitor)

    @proxy.route("/api/users/<path>", upstream=users)
    async def users_api() -> None: ...

    @proxy.get("/api/orders/export", upstream=orders)
    async def export() -> None: ...

    @proxy.route("/api/orders/<path>", upstream=orders)
    async def orders_api() -> None: ...

    @proxy.get("/search", upstream=search)
    async def find() -> None: ...

    @proxy.get("/search/<path>", upstream=search)
    async def search_api() -> None: ...

    app = FastAPI()
    return proxy, app


async def load(client, stop):
    """Be many users."""
    paths = [
        *[f"/api/users/{number}" for number in range(9)],
        *[f"/api/orders/{number}" for number in range(3)],
        *[f"/search/{number}" for number in range(8)],
    ]
    number = 0
    while not stop.is_set():
        await asyncio.gather(
            *[
                client.get(paths[(number + offset) % len(paths)])
                for offset in range(1 + number % 5)
            ]
        )
        number += 3
        await asyncio.sleep(0.01)


@pytest.mark.skipif(not SCREENSHOTS, reason="PROXYROUTES_SCREENSHOTS names no folder")
async def test_pictures_for_the_documents(open_page, expect):
    """Light, dark and narrow, with traffic, a destination that is down and one that is drained."""
    folder = Path(SCREENSHOTS)
    proxy, app = make_shop()
    app.include_router(proxy.build_router())
    app.include_router(
        proxy.status_router(title="shop gateway", controls=True, public=True), prefix="/_proxy"
    )
    stop = asyncio.Event()
    async with (
        run_gateway(app) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
    ):
        busy = asyncio.create_task(load(client, stop))
        pages = {
            "light": await open_page(
                f"{gateway.url}/_proxy", viewport={"width": 1280, "height": 900}
            ),
            "dark": await open_page(
                f"{gateway.url}/_proxy",
                viewport={"width": 1280, "height": 900},
                color_scheme="dark",
            ),
            "narrow": await open_page(
                f"{gateway.url}/_proxy", viewport={"width": 360, "height": 800}
            ),
        }
        light = pages["light"]
        row = light.locator("#rows tr", has_text="orders-2")
        await row.get_by_role("button", name="Drain", exact=True).click()
        await light.locator("#x-url").fill("/api/users/7?fields=name")
        failing.add("users-3")
        await expect(light.locator("#rows tr.down")).to_have_count(1)
        await expect(light.locator("#process")).to_contain_text(
            re.compile(" up 4[0-9] s"), timeout=90_000
        )
        await light.locator("#explain button").click()
        await light.locator("#pause").click()
        await light.locator("#recent summary").nth(1).click()
        await light.mouse.move(0, 0)
        for name, page in pages.items():
            await page.bring_to_front()
            await expect(page.locator("#live-text")).to_have_text("live")
            await page.screenshot(
                path=folder / f"status-{name}.png", full_page=True, animations="disabled"
            )
        stop.set()
        await busy
