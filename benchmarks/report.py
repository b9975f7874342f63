"""From samples to tables: medians, ratios within one round, and which floors were reached."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field, frozen

from benchmarks.load import Sample

Results = dict[str, dict[str, list[Sample]]]


@frozen
class Floor:
    """A ratio that must be reached.

    Attributes:
        what: What is compared.
        subject: Case and subject that are measured.
        against: Case and subject that they are measured against.
        least: The least ratio.
    """

    what: str
    subject: tuple[str, str]
    against: tuple[str, str]
    least: float


APP, LANE, ROUTER = "proxyroutes app", "proxyroutes middleware", "proxyroutes router"
PEER = "fastapi-reverse-proxy"

FLOORS = (
    Floor("router / fastapi-reverse-proxy", ("json-64", ROUTER), ("json-64", PEER), 25.0),
    Floor("router / FastAPI alone", ("json-64", ROUTER), ("json-64", "FastAPI alone"), 1.0),
    Floor("middleware / FastAPI alone", ("json-64", LANE), ("json-64", "FastAPI alone"), 1.3),
    Floor("app / uvicorn alone", ("json-64", APP), ("json-64", "uvicorn alone"), 0.42),
    Floor("app / nginx", ("json-64", APP), ("json-64", "nginx"), 0.22),
    Floor("app / Envoy", ("json-64", APP), ("json-64", "Envoy"), 0.85),
    Floor("app / Traefik", ("json-64", APP), ("json-64", "Traefik"), 1.05),
    Floor("app / Caddy", ("json-64", APP), ("json-64", "Caddy"), 1.2),
    Floor("router / Caddy", ("json-64", ROUTER), ("json-64", "Caddy"), 0.75),
    Floor(
        "app, 256 / 64 connections", ("json-256", APP), ("json-256", f"{APP}, 64 connections"), 0.9
    ),
    Floor(
        "router, 256 / 64 connections",
        ("json-256", ROUTER),
        ("json-256", f"{ROUTER}, 64 connections"),
        0.9,
    ),
    Floor("app, 1,000 / 1 routes", ("routes-1000", APP), ("routes-1000", f"{APP}, 1 route"), 0.9),
    Floor(
        "middleware, 1,000 / 1 routes",
        ("routes-1000", LANE),
        ("routes-1000", f"{LANE}, 1 route"),
        0.9,
    ),
    Floor(
        "app, 1,000 / 1 destinations",
        ("destinations-1000", APP),
        ("destinations-1000", f"{APP}, 1 destination"),
        0.9,
    ),
    Floor("download, app / nginx unbuffered", ("download", APP), ("download", "nginx"), 1.0),
    Floor("download, app / fastapi-reverse-proxy", ("download", APP), ("download", PEER), 1.5),
    Floor("upload, app / fastapi-reverse-proxy", ("upload", APP), ("upload", PEER), 1.3),
    Floor("messages, 128 bytes", ("messages-128", ROUTER), ("messages-128", PEER), 1.0),
    Floor("router, metrics on / off", ("costs", f"{ROUTER}, metrics"), ("costs", ROUTER), 0.96),
    Floor(
        "router, access log on / off", ("costs", f"{ROUTER}, access log"), ("costs", ROUTER), 0.9
    ),
    Floor("messages, 64 KiB", ("messages-64k", ROUTER), ("messages-64k", PEER), 1.3),
    Floor(
        "messages, 128 bytes, uvicorn's protocol",
        ("messages-128", f"{ROUTER}, uvicorn's protocol"),
        ("messages-128", PEER),
        1.0,
    ),
    Floor(
        "messages, 64 KiB, uvicorn's protocol",
        ("messages-64k", f"{ROUTER}, uvicorn's protocol"),
        ("messages-64k", PEER),
        1.3,
    ),
)


def median(samples: Sequence[Sample]) -> float:
    """The median rate."""
    return statistics.median([sample.rate for sample in samples])


def ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """The median of the ratios within each round: what slows a whole round down cancels out.

    Where the numbers of rounds differ, the ratio of the medians.
    """
    if len(samples) == len(others):
        return statistics.median(
            [sample.rate / other.rate for sample, other in zip(samples, others, strict=True)]
        )
    return median(samples) / median(others)


DEPENDENCY = "router, a dependency: time allowed / taken"
"""Allowed is 1.1 times FastAPI's own time with the dependency, and what proxying costs beside answering."""


def dependency_ratio(rows: dict[str, list[Sample]]) -> float | None:
    """What a stub with one dependency may take, over what it takes; the median of the rounds."""
    names = ("FastAPI alone, one dependency", ROUTER, "FastAPI alone", f"{ROUTER}, one dependency")
    if any(not rows.get(name) for name in names):
        return None
    rounds = zip(*[rows[name] for name in names], strict=False)
    return statistics.median(
        [
            1.1 * (1 / guarded.rate + 1 / plain.rate - 1 / hello.rate) * stub.rate
            for guarded, plain, hello, stub in rounds
        ]
    )


@define
class Run:
    """Everything that one run found."""

    seconds: float
    rounds: int
    results: Results = field(factory=dict)
    titles: dict[str, str] = field(factory=dict)
    units: dict[str, str] = field(factory=dict)
    peaks: dict[str, int] = field(factory=dict)
    absent: dict[str, str] = field(factory=dict)
    failed: dict[str, str] = field(factory=dict)

    def floors(self) -> list[tuple[Floor, float | None]]:
        """Each floor with the ratio that was measured, None where a part of it is missing."""
        found: list[tuple[Floor, float | None]] = []
        for floor in FLOORS:
            mine = self.results.get(floor.subject[0], {}).get(floor.subject[1])
            other = self.results.get(floor.against[0], {}).get(floor.against[1])
            found.append((floor, ratio(mine, other) if mine and other else None))
        costs = dependency_ratio(self.results.get("costs", {}))
        found.append(
            (Floor(DEPENDENCY, ("costs", ROUTER), ("costs", "FastAPI alone"), 1.0), costs)
        )
        return found


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _case_table(run: Run, case: str) -> list[str]:
    rows = run.results[case]
    first = rows.get(APP) or next(iter(rows.values()))
    lines = [
        f"### {run.titles[case]}",
        "",
        _row(["", run.units[case], "lowest to highest", "of `build_app()`", "p99 ms", "errors"]),
        _row(["---", "---:", "---:", "---:", "---:", "---:"]),
    ]
    for name, samples in sorted(rows.items(), key=lambda item: -median(item[1])):
        rates = [sample.rate for sample in samples]
        tails = [sample.p99_ms for sample in samples if sample.p99_ms is not None]
        cells = [
            name,
            f"{median(samples):,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"{ratio(samples, first):.2f}",
            f"{statistics.median(tails):.1f}" if tails else "",
            str(sum(sample.errors for sample in samples)),
        ]
        lines.append(_row(cells))
    return [*lines, ""]


def _floor_table(run: Run) -> list[str]:
    lines = [
        "## Floors",
        "",
        _row(["", "least", "measured", ""]),
        _row(["---", "---:", "---:", "---"]),
    ]
    for floor, measured in run.floors():
        if measured is None:
            lines.append(_row([floor.what, f"{floor.least:.2f}", "", "not measured"]))
        else:
            verdict = "reached" if measured >= floor.least else "**not reached**"
            lines.append(_row([floor.what, f"{floor.least:.2f}", f"{measured:.2f}", verdict]))
    return [*lines, ""]


def machine() -> list[str]:
    """What it ran on, by processor, system and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = []
    names = ("proxyroutes", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "httpx")
    for name in (*names, "fastapi-reverse-proxy", "fastapi-proxy-lib", "aiohttp"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [
        f"- {model}, {os.cpu_count()} cores, {platform.system()}",
        f"- Python {platform.python_version()}: {', '.join(versions)}",
    ]


def to_markdown(run: Run, date: str, versions: dict[str, str]) -> str:
    """The whole report."""
    lines = [
        "# Results",
        "",
        f"Made by `python -m benchmarks` on {date}: {run.rounds} interleaved rounds of {run.seconds:g} s, "
        "two or three times as many of the cases that most floors stand on. Ratios are medians of the ratios within each "
        "round. Figures of one run compare; figures of two do not.",
        "",
        *machine(),
    ]
    if versions:
        lines.append("- " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    lines += [
        "- Each proxy has one core, load and upstream (nginx) share the other. Python subjects run on uvicorn with uvloop "
        "and httptools, without `--proxy-headers`, and call `gc.freeze()` and `gc.set_threshold(10_000, 20, 20)` once "
        "after start-up, with `--ws websockets-sansio`; ours with `--http proxyroutes.server:HttpProtocol` and "
        "`--ws proxyroutes.server:WebSocketProtocol`, which are uvicorn's with fewer writes and fewer copies.",
        "",
        *_floor_table(run),
        "## Tables",
        "",
    ]
    for case in run.results:
        if run.results[case]:
            lines += _case_table(run, case)
    lines += _memory_table(run)
    if run.absent or run.failed:
        lines += ["## Not measured", ""]
        lines += [f"- {name}: not installed ({needs})" for name, needs in run.absent.items()]
        lines += [f"- {name}: {why}" for name, why in run.failed.items()]
        lines.append("")
    return "\n".join(lines)


def _memory_table(run: Run) -> list[str]:
    if not run.peaks:
        return []
    lines = [
        "### Peak resident memory over all cases",
        "",
        _row(["", "MiB"]),
        _row(["---", "---:"]),
    ]
    by_size: Callable[[tuple[str, int]], int] = lambda item: item[1]  # noqa: E731 - mypy cannot infer a lambda's type in place.
    lines += [
        _row([name, f"{peak / 1024 / 1024:.0f}"])
        for name, peak in sorted(run.peaks.items(), key=by_size)
    ]
    return [*lines, ""]
