"""The gateway that has its own tests."""

import subprocess
import sys

import httpx

from tests.examples.support import EXAMPLES, load


def test_its_own_tests_pass():
    """Run by pytest as its author would run it, in a process of its own."""
    options = ["-q", "-p", "no:cacheprovider", "--asyncio-mode=auto", "-c", "/dev/null"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(EXAMPLES / "tested_gateway.py")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "2 passed" in run.stdout, run.stdout + run.stderr
    assert 0 == run.returncode


async def test_its_tests_see_a_gateway_that_forwards_too_much(proxy_upstream, proxy_client):
    """With the login taken away, the test that nobody else gets in fails."""
    example = load("tested_gateway")
    example.app.dependency_overrides.clear()
    wrong = example.Proxy()

    @wrong.route("/api/<path>", upstream=example.users, rewrite="/v2/<path>")
    async def open_to_all() -> None: ...

    example.proxy = wrong
    example.app = example.FastAPI()
    example.app.include_router(wrong.build_router())

    def replace(place, instead):
        example.users.transport = example_transport(instead)

    try:
        await example.test_nobody_else_gets_in(proxy_upstream, replace, proxy_client)
    except AssertionError:
        failed = True
    else:
        failed = False

    assert failed


def example_transport(app):
    """An application in this process as a transport."""
    from proxyroutes.transports import ASGITransport

    return ASGITransport(app)


async def test_without_replacement_the_upstream_is_asked(proxy_client):
    """Port 9 is nobody's: the answer is a bad gateway."""
    example = load("tested_gateway")
    async with proxy_client(example.app) as client:
        response = await client.get("/api/users/ann", headers={"X-Token": "secret"})

    assert httpx.codes.BAD_GATEWAY == response.status_code
