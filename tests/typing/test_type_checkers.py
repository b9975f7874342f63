"""Type checkers accept the examples and what users write, and reject what is wrong, line by line."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
RIGHT = [HERE / "accepted.py", *sorted((CHECKOUT / "examples").glob("*.py"))]
REJECTED = HERE / "rejected.py"


def mypy(paths, cache):
    """The lines with errors, by file name, as mypy in its strict mode sees them."""
    config = ["--config-file", str(CHECKOUT / "pyproject.toml"), "--cache-dir", str(cache)]
    output, problems, _ = api.run([*config, "--strict", *[str(path) for path in paths]])

    assert "" == problems
    return {
        (Path(found[1]).name, int(found[2]))
        for found in re.finditer(r"^(.+?):(\d+): error:", output, re.MULTILINE)
    }


def pyright(paths, cache):
    """The same as pyright sees them."""
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, check=False)
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in json.loads(done.stdout)["generalDiagnostics"]
        if one["severity"] == "error"
    }


@pytest.fixture(params=[mypy, pyright], ids=["mypy", "pyright"])
def check(request, tmp_path_factory):
    """A type checker."""
    return lambda paths: request.param(paths, tmp_path_factory.mktemp("cache"))


@pytest.mark.timeout(300)
def test_what_users_write_is_accepted(check):
    """Every example, and every public name in use."""
    assert set() == check(RIGHT)


@pytest.mark.timeout(300)
def test_what_is_wrong_is_rejected(check):
    """Each line that is marked, and no other one."""
    lines = REJECTED.read_text(encoding="utf-8").splitlines()
    expected = {
        (REJECTED.name, number) for number, line in enumerate(lines, 1) if "# wrong" in line
    }
    actual = check([REJECTED])

    assert (8, expected) == (len(expected), actual)
