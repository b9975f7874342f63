"""What ``README.md`` promises."""

import re
from pathlib import Path

import httpx
import pytest

from proxyroutes.testing import ScriptedOrigin, run_gateway

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def app_of(block):
    """What a block calls ``app``."""
    names = {"__name__": "readme"}
    exec(compile(block, str(README), "exec"), names)
    return names["app"]


async def fetch(app, method, path, **request):
    """Ask the app over a socket."""
    async with (
        run_gateway(app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        return await client.request(method, path, **request)


def test_every_python_block_has_a_test_below():
    """There are two."""
    actual = len(BLOCKS)

    assert 2 == actual


async def test_the_first_example_forwards():
    """It is a whole program, and its curl line works."""
    path = re.search(r"`curl http://127\.0\.0\.1:8000(\S+)`", TEXT)[1]
    response = await fetch(app_of(BLOCKS[0]), "GET", path)
    actual = (response.status_code, response.json()["name"])

    assert (200, "ann") == actual


def test_the_first_example_has_twenty_lines():
    """Empty ones are not counted."""
    actual = len([line for line in BLOCKS[0].splitlines() if line.strip()])

    assert actual <= 20


async def test_the_three_lines_proxy_everything():
    """Any path and method reach the upstream."""
    async with ScriptedOrigin([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]) as origin:
        block = BLOCKS[1].replace("http://127.0.0.1:9001", origin.url)
        response = await fetch(app_of(block), "DELETE", "/a//b?c=%2F")
        line = bytes(origin.requests[0]).partition(b"\r\n")[0]

    assert (b"DELETE /a//b?c=%2F HTTP/1.1", "ok") == (line, response.text)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_a_link_leads_somewhere(target):
    """Files that are linked to are in the tree."""
    assert (README.parent / target).exists()


def test_the_test_command_is_marked():
    """Continuous integration runs the block that follows the marker."""
    actual = re.search(r"^<!-- test-command -->\s+```sh\n(.*?)\n```$", TEXT, re.MULTILINE)[1]

    assert "sh scripts/setup && sh scripts/test" == actual
