"""Which line of the conformance list is shown by which test, and the page that says so.

Tests name lines with ``@pytest.mark.requirement("S-01")``. A run of the whole suite compares the committed page with what
it has collected, and fails where they differ; ``--conformance write`` writes the page, also with ``--collect-only``.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from attrs import define, field, frozen

CHECKOUT = Path(__file__).parent.parent.parent
LINES = CHECKOUT / "tests" / "conformance" / "lines.toml"
PAGE = CHECKOUT / "docs" / "reference" / "conformance.md"
SECTIONS = ("H", "E", "W", "S", "R")

HEAD = """# Conformance

What a correct gateway must do, line by line, and the tests that show that this one does it. The page is written by the
test suite, which fails where it is not up to date.

P0 is what a release waits for, P1 what a trusted gateway has, P2 good to have. *holds*: the tests pass, with every server
and transport that they name. *in part*: they pass, and the reason says what they do not show. *the server's*: decided by the
server in front, with what was seen there. *known gap*: not there yet, or not shown.

"""


@frozen
class Line:
    """One line of the list.

    Attributes:
        name: Its number.
        priority: P0, P1 or P2.
        claim: What must be so.
        gap: Why it is not shown, or not wholly; or empty.
        server: Why it is the server's in front to decide; or empty.
        note: What else a reader should know; or empty.
    """

    name: str
    priority: str
    claim: str
    gap: str = ""
    server: str = ""
    note: str = ""

    def verdict(self, shown: bool, failed: bool) -> str:
        """What a run says of it."""
        if failed:
            return "**fails**"
        if self.server:
            return "the server's"
        if not shown:
            return "known gap" if self.gap else "**not shown**"
        return "in part" if self.gap else "holds"


@frozen
class Catalogue:
    """The whole list: titles of its sections, and its lines by number."""

    titles: Mapping[str, str]
    lines: Mapping[str, Line]

    def section(self, letter: str) -> Iterable[Line]:
        """The lines of a section, in order."""
        return (line for name, line in self.lines.items() if name[0] == letter)


def read_catalogue(path: Path = LINES) -> Catalogue:
    """Read the list; a reason for a line that is not there is a mistake."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    titles, lines = {}, {}
    for letter in SECTIONS:
        titles[letter] = content[letter].pop("title")
        for name, text in content[letter].items():
            priority, _, claim = text.partition(" ")
            notes = {kind: content[kind].get(name, "") for kind in ("gap", "server", "note")}
            lines[name] = Line(name, priority, claim, **notes)
    stray = {*content["gap"], *content["server"], *content["note"]} - set(lines)
    if stray:
        raise ValueError(f"reasons for lines that do not exist: {sorted(stray)}")
    return Catalogue(titles, lines)


def render(
    catalogue: Catalogue, tests: Mapping[str, Iterable[str]], failed: Iterable[str] = ()
) -> str:
    """Write the page.

    Args:
        catalogue: The list.
        tests: The tests that show a line.
        failed: Lines with a test that failed.
    """
    broken = set(failed)
    verdicts = {
        name: line.verdict(bool(tests.get(name)), name in broken)
        for name, line in catalogue.lines.items()
    }
    counted = [
        f"{sum(one == verdict for one in verdicts.values())} {verdict}"
        for verdict in dict.fromkeys(
            ["holds", "in part", "the server's", "known gap", *verdicts.values()]
        )
    ]
    parts = [HEAD, f"Of {len(verdicts)} lines: {', '.join(counted)}.\n"]
    for letter in SECTIONS:
        parts.append(f"\n## {letter}: {catalogue.titles[letter]}\n\n")
        parts.append("| line | what | verdict | shown by |\n|---|---|---|---|\n")
        for line in catalogue.section(letter):
            reasons = "".join(f"<br>*{one}*" for one in (line.gap, line.server, line.note) if one)
            shown = "<br>".join(f"`{test}`" for test in sorted(tests.get(line.name, ())))
            parts.append(
                f"| {line.name} {line.priority} | {line.claim}{reasons} | {verdicts[line.name]} | {shown} |\n"
            )
    return "".join(parts)


def short_name(nodeid: str) -> str:
    """A test without its parameters, and without the folder that all are in."""
    return nodeid.partition("[")[0].removeprefix("tests/")


def is_whole(config: pytest.Config) -> bool:
    """Whether every test was asked for."""
    chosen = {Path(config.invocation_params.dir, one).resolve() for one in config.args}
    return chosen == {CHECKOUT / "tests"} and not config.getoption("ignore", None)


@define(eq=False)
class ConformancePlugin:
    """Compares or writes the page at the end of a whole run."""

    config: pytest.Config
    catalogue: Catalogue
    tests: dict[str, set[str]] = field(factory=dict)
    lines: dict[str, set[str]] = field(factory=dict)
    failed: set[str] = field(factory=set)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note what each test shows, before any is deselected."""
        for item in items:
            for mark in item.iter_markers("requirement"):
                for name in mark.args:
                    if name not in self.catalogue.lines:
                        raise pytest.UsageError(f"{item.nodeid}: no such requirement: {name!r}")
                    self.tests.setdefault(name, set()).add(short_name(item.nodeid))
                    self.lines.setdefault(item.nodeid, set()).add(name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which lines fail."""
        if report.failed:
            self.failed |= self.lines.get(report.nodeid, set())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the page, or compare it."""
        mode = self.config.getoption("conformance")
        if session.exitstatus in {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED}:
            return
        if not is_whole(self.config):
            if mode:
                self._fail(session, "the conformance page needs a run of all tests")
            return
        if mode == "write":
            PAGE.write_text(render(self.catalogue, self.tests, self.failed), encoding="utf-8")
        elif PAGE.read_text(encoding="utf-8") != render(self.catalogue, self.tests):
            self._fail(
                session,
                f"{PAGE.relative_to(CHECKOUT)} is not up to date: run pytest --collect-only -q --conformance write",
            )
        missing = sorted(
            line.name
            for line in self.catalogue.lines.values()
            if not (line.gap or line.server or self.tests.get(line.name))
        )
        if missing:
            self._fail(session, f"lines with neither a test nor a reason: {', '.join(missing)}")

    def _fail(self, session: pytest.Session, message: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            reporter.write_line(message, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
