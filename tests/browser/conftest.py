"""A headless Chromium for the tests of pages, where the machine has one."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
REQUIRED = "PROXYROUTES_REQUIRE_BROWSER"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(what):
    """Skip, or fail where a browser is required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}, and {REQUIRED} is set")
    pytest.skip(what)


@pytest.fixture
async def browser():
    """A browser of its own for each test."""
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        missing("playwright is not installed: pip install 'proxyroutes[browser]'")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing(f"no browser is installed: none of {', '.join(NAMES)}")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield running
        await running.close()


@pytest.fixture
async def open_page(browser):
    """Open pages; the test ends by asserting that none of them complained."""
    complaints = []
    async with contextlib.AsyncExitStack() as stack:

        async def start(url, **options):
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.on(
                "console", lambda message: complaints.append(f"{message.type}: {message.text}")
            )
            page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
            page.on(
                "requestfailed",
                lambda request: complaints.append(f"{request.url}: {request.failure}"),
            )
            await page.goto(url)
            return page

        yield start
        seen = list(complaints)

    assert [] == seen
