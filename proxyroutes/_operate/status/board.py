"""What the status page shows of one proxy on one loop: routes, pools, destinations and why, traffic, events.

Everything is plain JSON. A snapshot is the whole of it; a tick is what a second has changed.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic, time
from typing import Any

from attrs import define, field, frozen

from proxyroutes._operate.status.traffic import SECONDS, WINDOW, Edge, Traffic
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.websocket import SessionPlan
from proxyroutes._state.destinations import DestinationStatus
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.settings import Destination

__all__ = ["Board", "Source"]

_EVENTS = 100
_MOST_NEW = 50
"""Exchanges in one tick; of more than that the last ones are shown."""
_MOST_POOLS = 256

Row = dict[str, Any]
"""What becomes one JSON object."""


@frozen(kw_only=True)
class Source:
    """Where a board looks.

    Attributes:
        title: What the page is called.
        routes: The compiled routes, HTTP and WebSocket.
        pools: The pools of the running loop: those that routes name, and those that were used.
        explain: What would be done with a request: method, URL, fields.
        traffic: What the observer has counted.
    """

    title: str
    routes: Callable[[], Iterable[Plan]]
    pools: Callable[[], Iterable[UpstreamPool]]
    explain: Callable[[str, str, list[tuple[str, str]]], Row]
    traffic: Traffic


@define(eq=False)
class Board:
    """What is shown, and what has changed since the last tick.

    Attributes:
        identity: Names this process and loop: a page that reconnects must know whether it meets the same one again.
        number: The number of the last tick.
    """

    source: Source
    identity: str = field(factory=lambda: secrets.token_hex(6))
    number: int = 0
    _began: float = field(factory=monotonic)
    _events: deque[Row] = field(factory=lambda: deque(maxlen=_EVENTS))
    _new_events: list[Row] = field(factory=list)
    _events_seen: int = 0
    _states: dict[tuple[str, str], tuple[str, float]] = field(factory=dict)
    _in_flight: deque[int] = field(factory=lambda: deque([0] * SECONDS, maxlen=SECONDS))
    _shown: dict[str, Row] = field(factory=dict)
    _shown_number: int = 0

    # Once a second.

    def look(self) -> None:
        """Take note of states that have changed, and of what is in flight."""
        self.number += 1
        in_flight = 0
        gone = set(self._states)
        for pool in self._pools():
            for status in _statuses(pool):
                in_flight += status.in_flight
                self._note(pool.name, status)
                gone.discard((pool.name, status.url))
        self._in_flight.append(in_flight)
        for key in gone:
            del self._states[key]

    def _note(self, pool: str, status: DestinationStatus) -> None:
        key, state = (pool, status.url), _state_of(status)
        before = self._states.get(key)
        if before is not None and before[0] == state:
            return
        now = time()
        self._states[key] = (state, now)
        if before is None:
            return
        self._events_seen += 1
        event: Row = {
            "number": self._events_seen,
            "time": round(now, 3),
            "pool": pool,
            "destination": status.url,
            "before": before[0],
            "state": state,
            "reason": status.reason,
        }
        self._events.appendleft(event)
        self._new_events.append(event)

    # For those who look.

    def snapshot(self) -> Row:
        """All that is known."""
        now = monotonic()
        traffic = self.source.traffic
        edges = traffic.edges(now)
        pools = self._pool_rows(edges)
        return {
            "identity": self.identity,
            "number": self.number,
            "title": self.source.title,
            "process": os.getpid(),
            "uptime_seconds": round(now - self._began, 1),
            "time": round(time(), 3),
            "window_seconds": WINDOW,
            "totals": {**traffic.totals(now), "in_flight": _in_flight(pools)},
            "history": {**traffic.history(now), "in_flight": list(self._in_flight)},
            "routes": list(self._route_rows(edges).values()),
            "pools": list(pools.values()),
            "edges": _edge_rows(edges),
            "recent": traffic.recent(),
            "events": list(self._events),
        }

    def tick(self) -> Row | None:
        """What has changed since the last call; None if the whole must be shown, because other rows have come up."""
        now = monotonic()
        traffic = self.source.traffic
        edges = traffic.edges(now)
        pools, routes = self._pool_rows(edges), self._route_rows(edges)
        rows = {
            **{f"route {name}": row for name, row in routes.items()},
            **{f"pool {name}": row for name, row in pools.items()},
        }
        shown, self._shown = self._shown, rows
        after, self._shown_number = self._shown_number, traffic.requests
        events, self._new_events = self._new_events, []
        if shown.keys() != rows.keys() or _places(shown) != _places(rows):
            return None
        history = traffic.history(now)
        return {
            "identity": self.identity,
            "number": self.number,
            "time": round(time(), 3),
            "uptime_seconds": round(now - self._began, 1),
            "totals": {**traffic.totals(now), "in_flight": _in_flight(pools)},
            "history": {
                **{name: values[-1] for name, values in history.items()},
                "in_flight": self._in_flight[-1],
            },
            "routes": [row for name, row in routes.items() if row != shown[f"route {name}"]],
            "pools": [row for name, row in pools.items() if row != shown[f"pool {name}"]],
            "edges": _edge_rows(edges),
            "recent": traffic.recent(after, _MOST_NEW),
            "events": list(reversed(events)),
        }

    def forget(self) -> None:
        """Nobody watches: the next tick is a whole snapshot."""
        self._shown = {}
        self._new_events.clear()

    # Rows.

    def _pools(self) -> list[UpstreamPool]:
        return list(self.source.pools())[:_MOST_POOLS]

    def _route_rows(self, edges: Mapping[Edge, tuple[float, float]]) -> dict[str, Row]:
        rates: dict[str, tuple[float, float]] = {}
        for (route, _, _), (requests, errors) in edges.items():
            before = rates.get(route, (0.0, 0.0))
            rates[route] = (before[0] + requests, before[1] + errors)
        rows: dict[str, Row] = {}
        for plan in self.source.routes():
            rows[f"{plan.name} {plan.order}"] = _route_row(plan, rates.pop(plan.name, (0.0, 0.0)))
        return rows

    def _pool_rows(self, edges: Mapping[Edge, tuple[float, float]]) -> dict[str, Row]:
        rates: dict[tuple[str | None, str | None], tuple[float, float]] = {}
        for (_, pool, destination), (requests, errors) in edges.items():
            key = (pool, destination)
            before = rates.get(key, (0.0, 0.0))
            rates[key] = (before[0] + requests, before[1] + errors)
        return {pool.name: self._pool_row(pool, rates) for pool in self._pools()}

    def _pool_row(
        self,
        pool: UpstreamPool,
        rates: Mapping[tuple[str | None, str | None], tuple[float, float]],
    ) -> Row:
        destinations: list[Row] = []
        in_flight = 0
        for status in _statuses(pool):
            origin = Destination(status.url).origin
            requests, errors = rates.get((pool.name, origin), (0.0, 0.0))
            in_flight += status.in_flight
            self._note(pool.name, status)
            destinations.append(
                {
                    "url": status.url,
                    "origin": origin,
                    "state": _state_of(status),
                    "reason": status.reason,
                    "since": round(self._states[pool.name, status.url][1], 3),
                    "available": status.available,
                    "healthy": status.healthy,
                    "latency": status.latency,
                    "in_flight": status.in_flight,
                    "requests": status.requests,
                    "ejections": status.ejections,
                    "failures": status.failures,
                    "draining": status.draining,
                    "weight": status.weight,
                    "effective_weight": status.effective_weight,
                    "first_byte": status.first_byte,
                    "circuit": status.circuit,
                    "requests_per_second": requests,
                    "errors_per_second": errors,
                }
            )
        total = [rate for (name, _), rate in rates.items() if name == pool.name]
        return {
            "name": pool.name,
            "balancing": type(pool.balancing).__name__,
            "in_flight": in_flight,
            "requests_per_second": sum(requests for requests, _ in total),
            "errors_per_second": sum(errors for _, errors in total),
            "destinations": destinations,
        }


def _route_row(plan: Plan, rates: tuple[float, float]) -> Row:
    return {
        "name": plan.name,
        "kind": "websocket" if isinstance(plan, SessionPlan) else "http",
        "template": plan.template,
        "methods": None if plan.methods is None else [*sorted(plan.methods)],
        "pool": None if plan.pool is None else plan.pool.name,
        "requests_per_second": rates[0],
        "errors_per_second": rates[1],
    }


def _edge_rows(edges: Mapping[Edge, tuple[float, float]]) -> list[Row]:
    return [
        {
            "route": route,
            "pool": pool,
            "destination": destination,
            "requests_per_second": requests,
            "errors_per_second": errors,
        }
        for (route, pool, destination), (requests, errors) in edges.items()
    ]


def _statuses(pool: UpstreamPool) -> tuple[DestinationStatus, ...]:
    """Every destination; to look does not start a pool."""
    if pool.entered():
        return pool.status()
    return tuple(
        DestinationStatus(
            url=one.url,
            available=True,
            healthy=None,
            reason="the pool has not started",
            latency=None,
            in_flight=0,
            requests=0,
        )
        for one in pool.destinations
    )


def _state_of(status: DestinationStatus) -> str:
    """One word for what the page shows in colours."""
    if status.draining:
        return "draining"
    if status.healthy is False:
        return "down"
    if status.ejected:
        return "ejected"
    if status.circuit in {"open", "half-open"}:
        return "circuit"
    if status.available:
        return "up" if status.healthy else "unchecked"
    return "standby"


def _in_flight(pools: Mapping[str, Row]) -> int:
    return sum(row["in_flight"] for row in pools.values())


def _places(rows: Mapping[str, Row]) -> list[Any]:
    return [
        [one["url"] for one in row["destinations"]]
        for row in rows.values()
        if "destinations" in row
    ]
