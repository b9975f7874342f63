"""The tests that the documents show."""

import subprocess
import sys

import pytest

from tests.examples.support import EXAMPLES

PATHS = sorted((EXAMPLES / "tests").glob("*.py"))


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_a_shown_test_passes(path):
    """Run by pytest as a reader would run it, in a process of its own."""
    options = ["-q", "-p", "no:cacheprovider", "--asyncio-mode=auto", "-c", "/dev/null"]
    # Starlette's test client asks for another httpx where this one is not installed.
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "1 passed" in run.stdout, run.stdout + run.stderr
    assert 0 == run.returncode
