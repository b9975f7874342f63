"""Load: ``wrk`` for requests, plain sockets for one large transfer. Both run on the load core."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time

from attrs import frozen

from benchmarks.servers import LOAD_CORE, pinned

MIB = 1024 * 1024


@frozen
class Sample:
    """What one round came to: a rate (requests or MB a second) and the number of errors."""

    rate: float
    errors: int
    p99_ms: float | None = None


def find_wrk() -> str | None:
    return shutil.which("wrk")


_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def parse_wrk(text: str) -> Sample:
    """Read what ``wrk --latency`` prints.

    Raises:
        ValueError: If it has no rate.
    """
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if rate is None:
        raise ValueError(f"wrk gave no rate: {text!r}")
    errors = 0
    broken = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if broken is not None:
        errors += sum(int(number) for number in broken.groups())
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if refused is not None:
        errors += int(refused[1])
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text)
    return Sample(float(rate[1]), errors, float(slow[1]) * _UNITS[slow[2]] if slow else None)


def requests(wrk: str, url: str, connections: int, seconds: float) -> Sample:
    """As many requests as ``connections`` connections can make; wrk takes whole seconds only."""
    cores = pinned(LOAD_CORE)
    command = [
        wrk,
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "--timeout",
        "10s",
        url,
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return parse_wrk(done.stdout)


def _head_end(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            raise ConnectionError("closed before the head ended")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def download(port: int, path: str, size: int) -> Sample:
    """One large response, in MB (10^6) a second."""
    buffer = bytearray(MIB)
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        started = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        head, rest = _head_end(connection)
        if not head.startswith(b"HTTP/1.1 200"):
            return Sample(0.0, 1)
        received = len(rest)
        chunked = b"transfer-encoding: chunked" in head.lower()
        tail = rest[-8:]
        while received < size or (chunked and not tail.endswith(b"0\r\n\r\n")):
            count = connection.recv_into(buffer)
            if not count:
                break
            received += count
            if chunked:
                tail = (tail + bytes(buffer[max(0, count - 8) : count]))[-8:]
        seconds = time.perf_counter() - started
    return Sample(size / seconds / 1e6, 0 if received >= size else 1)


def upload(port: int, path: str, size: int) -> Sample:
    """One large request, in MB (10^6) a second until its answer is there."""
    piece = bytes(256 * 1024)
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        started = time.perf_counter()
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        for _ in range(size // len(piece)):
            connection.sendall(piece)
        head, _ = _head_end(connection)
        seconds = time.perf_counter() - started
    return Sample(size / seconds / 1e6, 0 if head.startswith(b"HTTP/1.1 200") else 1)
