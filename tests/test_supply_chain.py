"""Dependencies with known faults are not allowed in: neither by what is declared nor by what is installed."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))[
    "project"
]

FLOORS = {
    "h11": ("0.16", "CVE-2025-43859: malformed chunks are taken, and requests smuggled"),
    "starlette": ("1.3.1", "CVE-2026-48710, PYSEC-2026-248: targets that are no paths"),
    "h2": ("4.4.1", "CVE-2025-57804, CVE-2026-71554: line ends and second Hosts in HTTP/2"),
    "websockets": ("12.0", "CVE-2018-1000518 and CVE-2021-33880 are fixed in 5.0 and 9.1"),
    "fastapi": ("0.137.2", "the proof of short ways reads what this release introduced"),
}
"""The lowest version of a dependency that may be used, and why."""


def version_of(text):
    """A version that can be compared: its numbers, without what follows them."""
    return tuple(int(part) for part in re.match(r"[0-9]+(?:\.[0-9]+)*", text)[0].split("."))


def declared():
    """What is declared of each dependency, in the core and in every extra."""
    extras = PROJECT["optional-dependencies"].values()
    for requirement in [*PROJECT["dependencies"], *[one for extra in extras for one in extra]]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower()
        yield name, requirement


@pytest.mark.parametrize("name", FLOORS)
def test_a_declared_bound_leaves_known_faults_out(name):
    """Wherever a dependency is declared, its lowest version is not below the floor."""
    floor, reason = FLOORS[name]
    bounds = [
        version_of(re.search(r">=\s*([0-9.]+)", requirement)[1])
        for known, requirement in declared()
        if known == name
    ]

    assert bounds, f"{name} is not declared: {reason}"
    assert min(bounds) >= version_of(floor), reason


@pytest.mark.parametrize("name", FLOORS)
def test_an_installed_version_is_not_below_its_floor(name):
    """What these tests run with has none of the known faults."""
    floor, reason = FLOORS[name]

    assert version_of(importlib.metadata.version(name)) >= version_of(floor), reason


def test_every_dependency_of_the_core_has_a_lowest_version():
    """A dependency without one would let anything in."""
    unbounded = [one for one in PROJECT["dependencies"] if ">=" not in one and "==" not in one]

    assert [] == unbounded


def test_the_core_is_no_larger_than_it_must_be():
    """Each further dependency is one more whom every user trusts."""
    names = {name for name, requirement in declared() if requirement in PROJECT["dependencies"]}

    assert {
        "attrs",
        "fastapi",
        "h11",
        "httptools",
        "httpx",
        "starlette",
        "websockets",
    } >= names
