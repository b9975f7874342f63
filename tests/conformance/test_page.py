"""The page that says which tests show which line."""

import pytest

from tests.conformance.page import Catalogue, Line, read_catalogue, render, short_name

LINES = {
    "H-01": Line("H-01", "P0", "one"),
    "H-02": Line("H-02", "P0", "two", gap="not yet"),
    "S-01": Line("S-01", "P1", "three", server="behind it"),
}


def make_catalogue():
    """A list of three lines."""
    return Catalogue(dict.fromkeys("HEWSR", "title"), LINES)


@pytest.mark.parametrize(
    ("line", "shown", "failed", "verdict"),
    [
        ("H-01", True, False, "holds"),
        ("H-01", True, True, "**fails**"),
        ("H-01", False, False, "**not shown**"),
        ("H-02", True, False, "in part"),
        ("H-02", False, False, "known gap"),
        ("S-01", True, False, "the server's"),
        ("S-01", False, False, "the server's"),
        ("S-01", True, True, "**fails**"),
    ],
)
def test_a_verdict_follows_from_tests_and_reasons(line, shown, failed, verdict):
    """A failing test outweighs every reason, and a line without either is told."""
    assert verdict == LINES[line].verdict(shown, failed)


def test_the_page_names_tests_and_reasons():
    """A row has the line, its reason, its verdict and its tests in order."""
    page = render(make_catalogue(), {"H-02": ["b.py::test_b", "a.py::test_a"]}, failed=["S-01"])

    assert "| H-02 P0 | two<br>*not yet* | in part | `a.py::test_a`<br>`b.py::test_b` |\n" in page
    assert "| S-01 P1 | three<br>*behind it* | **fails** |  |\n" in page
    assert "Of 3 lines: 0 holds, 1 in part, 0 the server's, 0 known gap" in page


def test_the_list_has_every_line_with_its_priority():
    """Each line has a priority and a claim."""
    lines = read_catalogue().lines.values()

    assert [] == [line for line in lines if line.priority not in {"P0", "P1", "P2"}]
    assert [] == [line for line in lines if not line.claim]


def test_a_reason_for_no_line_is_a_mistake(tmp_path):
    """A line that is misspelled in the list of reasons does not go unseen."""
    path = tmp_path / "lines.toml"
    sections = "".join(f'[{letter}]\ntitle = "t"\n' for letter in "HEWSR")
    path.write_text(sections + '[gap]\n"H-99" = "no"\n[server]\n[note]\n')

    with pytest.raises(ValueError, match="H-99"):
        read_catalogue(path)


def test_a_test_is_named_without_parameters():
    """All cases of a table are one test on the page."""
    assert "unit/test_a.py::test_b" == short_name("tests/unit/test_a.py::test_b[S-01-x]")
