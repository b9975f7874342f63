"""What the documents include and show is there."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PAGES = sorted((CHECKOUT / "docs").rglob("*.md"))
NAMES = [str(page.relative_to(CHECKOUT / "docs")) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_a_page_includes_is_there(page):
    """A line that looks like the mark of an included file is one, and the file exists."""
    lines = [
        line
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*-+\s*8\s*<", line)
    ]
    found = [re.fullmatch(r'--8<-- "([^":]+)(?::\d+:\d+)?"', line) for line in lines]

    assert all(found), lines
    assert [] == [one[1] for one in found if not (CHECKOUT / one[1]).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_part_of_a_file_is_whole(page):
    """Where only some lines are included, they begin and end with what is not blank."""
    for name, first, last in re.findall(
        r'--8<-- "([^":]+):(\d+):(\d+)"', page.read_text(encoding="utf-8")
    ):
        lines = (CHECKOUT / name).read_text(encoding="utf-8").splitlines()
        shown = lines[int(first) - 1 : int(last)]

        assert shown[0].strip()
        assert shown[-1].strip()


def test_the_pictures_are_shown():
    """Each picture that is kept is in a page."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    actual = [
        picture.name
        for picture in (CHECKOUT / "docs" / "assets").glob("*.png")
        if f"assets/{picture.name}" not in text
    ]

    assert [] == actual
