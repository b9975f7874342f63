"""What the status page knows of traffic: one observer of exchanges, and what is worked out of it when somebody looks.

The observer counts into the running second and keeps the plain facts of the last exchanges: about a microsecond each,
and nothing of a request is kept alive.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic, time
from typing import Any

from attrs import define, field

from proxyroutes._serve.exchange import Exchange
from proxyroutes.typing import Attempt, JSONValue, Scope

__all__ = ["Edge", "Traffic"]

SECONDS = 60
"""How far back sparklines go."""
WINDOW = 10
"""Seconds over which rates and percentiles are taken."""
RECENT = 200
"""Exchanges of which the facts are kept."""

_MOST_EDGES = 1_024
"""Of one second: routes times destinations are few, but URLs as upstreams may be many."""
_MOST_PATH_BYTES = 256
_STEP = 1.12
# Upper bounds of durations in seconds, from 0.1 ms to two minutes; within a bucket percentiles are off by 6 % at most.
_BOUNDS = tuple([0.000_1 * _STEP**number for number in range(124)])

Edge = tuple[str, str | None, str | None]
"""Route, pool, destination."""


@define(eq=False)
class _Second:
    """The traffic of one second of the monotonic clock."""

    number: int
    requests: int = 0
    errors: int = 0
    sent_bytes: int = 0
    buckets: list[int] = field(factory=lambda: [0] * (len(_BOUNDS) + 1))
    edges: dict[Edge, list[int]] = field(factory=dict)

    def enter(self, edge: Edge) -> list[int]:
        """Begin to count for one more way through the gateway."""
        if len(self.edges) >= _MOST_EDGES:
            edge = (edge[0], None, None)
        return self.edges.setdefault(edge, [0, 0])


class Traffic:
    """Counts exchanges and sessions as they end.

    Attributes:
        requests: Everything that has ended since the beginning.
        errors: Those of them that the gateway or an upstream failed.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self._second = _Second(int(monotonic()))
        self._seconds: deque[_Second] = deque([self._second], maxlen=SECONDS + 2)
        self._recent: deque[tuple[Any, ...]] = deque(maxlen=RECENT)

    def observe(self, record: Exchange) -> None:
        """Count one that has ended."""
        ended = record.ended
        second = self._second
        number = int(ended)
        if number > second.number:
            second = self._second = _Second(number)
            self._seconds.append(second)
        edge = (record.route, record.pool, record.destination)
        counts = second.edges.get(edge) or second.enter(edge)
        counts[0] += 1
        second.requests += 1
        self.requests += 1
        status = record.status or 0
        # A client that has left, or that sent what cannot be served, is no failure of the service.
        if status >= 500 or (record.error is not None and status < 400):
            counts[1] += 1
            second.errors += 1
            self.errors += 1
        second.sent_bytes += record.response_bytes
        # To the response's head: a stream that lasts an hour was not slow.
        second.buckets[bisect_left(_BOUNDS, (record.head or ended) - record.started)] += 1
        self._recent.append(_facts(self.requests, record))

    # For those who look.

    def window(self, now: float, seconds: int = WINDOW) -> list[_Second]:
        """The last whole seconds."""
        first = int(now) - seconds
        return [one for one in self._seconds if first <= one.number < int(now)]

    def totals(self, now: float) -> dict[str, JSONValue]:
        """Counts since the beginning, and rates and percentiles of the window."""
        seconds = self.window(now)
        requests = sum(one.requests for one in seconds)
        errors = sum(one.errors for one in seconds)
        return {
            "requests": self.requests,
            "errors": self.errors,
            "requests_per_second": requests / WINDOW,
            "errors_per_second": errors / WINDOW,
            "error_ratio": errors / requests if requests else 0.0,
            "bytes_per_second": sum(one.sent_bytes for one in seconds) / WINDOW,
            **_percentiles(seconds),
        }

    def history(self, now: float) -> dict[str, list[JSONValue]]:
        """One value for each of the last whole seconds, oldest first."""
        known = {one.number: one for one in self._seconds}
        last = int(now)
        found = [known.get(number) for number in range(last - SECONDS, last)]
        percentiles = [_percentiles([] if one is None else [one]) for one in found]
        return {
            "requests": [0 if one is None else one.requests for one in found],
            "errors": [0 if one is None else one.errors for one in found],
            **{name: [one[name] for one in percentiles] for name in ("p50", "p95", "p99")},
        }

    def edges(self, now: float) -> dict[Edge, tuple[float, float]]:
        """Requests and errors a second of each way through the gateway, over the window."""
        found: dict[Edge, tuple[float, float]] = {}
        for second in self.window(now):
            for edge, (requests, errors) in second.edges.items():
                before = found.get(edge, (0.0, 0.0))
                found[edge] = (before[0] + requests / WINDOW, before[1] + errors / WINDOW)
        return found

    def recent(self, after: int = 0, most: int = RECENT) -> list[JSONValue]:
        """The last exchanges, newest first.

        Args:
            after: Only those that came after the one of this number.
            most: How many at the most.
        """
        offset = time() - monotonic()
        newest = [facts for facts in self._recent if facts[0] > after][-most:]
        return [_describe(facts, offset) for facts in reversed(newest)]


def _percentiles(seconds: Sequence[_Second]) -> dict[str, JSONValue]:
    """Seconds below which a share of all answers came; None where there was none."""
    total = sum(one.requests for one in seconds)
    if not total:
        return {"p50": None, "p95": None, "p99": None}
    buckets = [sum(counts) for counts in zip(*[one.buckets for one in seconds], strict=True)]
    found: dict[str, JSONValue] = {}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        passed = 0
        for bound, count in zip((*_BOUNDS, _BOUNDS[-1] * _STEP), buckets, strict=True):
            passed += count
            if passed >= share * total:
                # The middle of the bucket, as ratios go.
                found[name] = bound / _STEP**0.5
                break
    return found


# Facts of one exchange.


def _facts(number: int, record: Exchange) -> tuple[Any, ...]:
    """What is kept of an exchange: nothing that holds on to its request."""
    attempt = record.attempt
    return (
        number,
        record.route,
        record.method,
        _raw_path(record.scope),
        record.pool,
        record.destination,
        record.status,
        record.cause,
        record.started,
        record.ended,
        record.queued,
        record.head,
        0.0 if attempt is None else attempt.began_at,
        0.0 if attempt is None else attempt.connected_at,
        record.request_bytes,
        record.response_bytes,
        tuple(_attempt_facts(record.tries)) if record.earlier else (),
    )


def _raw_path(scope: Scope | None) -> bytes:
    """The path without its query, where passwords and tokens may stand."""
    if scope is None:
        return b""
    raw_path: bytes = scope.get("raw_path") or scope.get("path", "").encode("utf-8")
    return raw_path[:_MOST_PATH_BYTES]


def _attempt_facts(tries: Iterable[Attempt]) -> Iterator[tuple[str, float, float, str | None]]:
    for one in tries:
        failure = None if one.failure is None else type(one.failure).__name__
        yield one.destination, one.began_at, one.failed_at, failure


def _describe(facts: tuple[Any, ...], offset: float) -> JSONValue:
    (number, route, method, path, pool, destination, status, cause, started, ended, queued) = (
        facts[:11]
    )
    head, began, connected, received, sent, tries = facts[11:]
    return {
        "number": number,
        "time": round(ended + offset, 3),
        "route": route,
        "method": method,
        "path": path.decode("latin-1"),
        "pool": pool,
        "destination": destination,
        "status": status,
        "cause": cause,
        "seconds": ended - started,
        "request_bytes": received,
        "response_bytes": sent,
        "timeline": _timeline(started, ended, queued, began, connected, head),
        "attempts": [
            {
                "destination": origin,
                "failure": failure,
                "seconds": failed - began if failed else None,
            }
            for origin, began, failed, failure in tries
        ],
    }


def _timeline(
    started: float, ended: float, queued: float, began: float, connected: float, head: float
) -> list[JSONValue]:
    """Where the time went, stage by stage."""
    marks = (
        ("queue", started + queued),
        # Guard, fields, dependencies, and attempts before the last one.
        ("gateway", began),
        ("connect", connected),
        ("first byte", head),
    )
    spans: list[JSONValue] = []
    before = started
    for name, mark in marks:
        # One that never came leaves its time to the next that did.
        if mark > before:
            spans.append({"stage": name, "seconds": mark - before})
            before = mark
    if ended > before:
        spans.append({"stage": "relay" if head else "failed", "seconds": ended - before})
    return spans
