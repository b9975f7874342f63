"""Processes: started on one core, waited for, asked for their memory, and always stopped."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROXY_CORE, LOAD_CORE = 0, 1
OPEN_FILES = 65_536
# Read before anything is pinned: this process pins itself too.
_CORES = tuple(sorted(os.sched_getaffinity(0)))


def raise_open_files() -> int:
    """Raise the limit of open files as far as it goes; children inherit it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: int) -> set[int]:
    """The core to run on, or all where the machine has only one."""
    return {_CORES[core % len(_CORES)]}


class Server:
    """One process that listens."""

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        env: dict[str, str],
        folder: Path,
        core: int,
    ) -> None:
        self.name = name
        self.port = port
        self.log = folder / f"{name}.log"
        cores = pinned(core)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
                start_new_session=True,
            )

    def wait(self, seconds: float = 30.0) -> None:
        """Until it listens."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen: {self.log.read_text()[-800:]}")

    def peak_bytes(self) -> int:
        """Largest resident memory so far, of it and of what it started."""
        total = 0
        for pid in (self.process.pid, *_children(self.process.pid)):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                total += int(found[1]) * 1024 if found else 0
        return total

    def stop(self) -> None:
        """End the whole session of the process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 15)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_children(int(child))]
    return found


@contextlib.contextmanager
def running(servers: list[Server]) -> Iterator[None]:
    """Wait for them, and stop every one at the end."""
    try:
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.stop()
