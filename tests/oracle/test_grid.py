"""This gateway beside five proxies that are trusted: the same bytes, and what became of them."""

import os

import pytest

from tests.oracle.grid import (
    ANSWERS,
    CONFIGURATIONS,
    GOOD,
    HOSTILE,
    LAXNESS,
    NAMES,
    OURS,
    PAGE,
    look_at,
    read_grid,
    render,
)
from tests.oracle.proxies import missing

REQUIRED = os.environ.get("PROXYROUTES_ORACLE") == "required"

pytestmark = pytest.mark.timeout(240)


def kind(verdict):
    """What became of a request, without the status."""
    return verdict.split()[0]


def test_the_page_shows_the_grid():
    """The committed table is made of the committed verdicts: ``python -m tests.oracle.grid`` writes both."""
    assert PAGE.read_text(encoding="utf-8") == render(read_grid())


@pytest.mark.parametrize("name", NAMES)
async def test_verdicts_are_those_of_the_grid(name):
    """What is committed is what happens."""
    reason = "" if name == OURS else missing(name)
    if reason and not REQUIRED:
        pytest.skip(reason)

    assert "" == reason
    expected = {key: row[name] for key, row in read_grid().items()}

    assert expected == await look_at(name)


@pytest.mark.requirement("S-08")
@pytest.mark.parametrize("name", HOSTILE)
def test_what_two_programs_may_read_differently_is_refused(name):
    """Whatever the others do with it, this gateway is never the laxest: it lets nothing through."""
    row = read_grid()[name]

    assert 0 == LAXNESS[kind(row[OURS])]


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("name", GOOD)
def test_what_is_forwarded_is_forwarded_by_others_too(name):
    """Nothing that everybody else refuses or makes over goes through here as it came."""
    row = read_grid()[name]
    others = [kind(row[other]) for other in CONFIGURATIONS]

    assert "forwarded" == kind(row[OURS])
    assert "forwarded" in others


@pytest.mark.requirement("H-42")
@pytest.mark.parametrize("name", ANSWERS)
def test_no_response_is_taken_that_everybody_else_refuses(name):
    """A response that is relayed here is relayed by at least one of the others, and cut where it was cut."""
    row = read_grid()[f"response {name}"]
    relayed = [row[other][:3] for other in CONFIGURATIONS]

    assert row[OURS].startswith("502") or row[OURS][:3] in relayed
    assert ("cut" in row[OURS]) is name.startswith("cut-")
    assert ", then " not in row[OURS]
