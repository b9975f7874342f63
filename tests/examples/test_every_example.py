"""What all examples have in common."""

import ast
import runpy
from pathlib import Path

import pytest
import uvicorn

from tests.examples.support import EXAMPLES

PATHS = sorted(EXAMPLES.glob("*.py"))
NAMES = [path.stem for path in PATHS]


@pytest.fixture
def served(monkeypatch):
    """Every uvicorn configuration that is asked to serve; nothing is served."""
    configs = []

    async def serve(self, sockets=None):
        configs.append(self.config)

    def run(app, **settings):
        configs.append(uvicorn.Config(app, **settings))

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    monkeypatch.setattr(uvicorn, "run", run)
    monkeypatch.setattr(uvicorn.Config, "configure_logging", lambda self: None)
    return configs


def test_an_example_has_tests_of_its_own():
    """Beside this module there is one for each of them."""
    tests = Path(__file__).parent.glob("test_*.py")
    actual = set(NAMES) - {path.stem.removeprefix("test_") for path in tests}

    assert set() == actual


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_an_example_is_read_in_one_sitting(path):
    """It has less than 60 lines."""
    actual = len(path.read_text(encoding="utf-8").splitlines())

    assert actual < 60


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_an_example_says_how_to_look_at_it(path):
    """Its docstring has the command that runs it, a curl line, and what to watch."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    parts = [f"python examples/{path.name}", "curl ", "Watch "]
    actual = [part for part in parts if part in docstring]

    assert parts == actual


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_an_example_serves_on_loopback(path, served):
    """Run as a program it serves its app on port 8000 of this machine alone."""
    runpy.run_path(str(path), run_name="__main__")
    actual = [(config.host, config.port) for config in served]

    assert [("127.0.0.1", 8000)] == actual


def test_pages_include_examples_by_the_marker():
    """A formatter that takes the marker for an expression would leave a page without its example."""
    pages = sorted((EXAMPLES.parent / "docs").rglob("*.md"))
    actual = [page.name for page in pages if "--8 <" in page.read_text(encoding="utf-8")]

    assert [] == actual
