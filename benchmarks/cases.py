"""What is measured: each case says who takes part, what is asked, and how often."""

from __future__ import annotations

from attrs import frozen

from benchmarks.load import MIB

LARGE = 64 * MIB
PROXIES = frozenset({"ours", "peer", "big"})
EVERYBODY = PROXIES | {"self"}
COSTS = frozenset(
    {
        "proxyroutes router",
        "proxyroutes router, one dependency",
        "proxyroutes router, metrics",
        "proxyroutes router, access log",
        "FastAPI alone",
        "FastAPI alone, one dependency",
    }
)


@frozen(kw_only=True)
class Case:
    """One table.

    Attributes:
        name: For ``--cases`` and the floors.
        title: The table's title.
        groups: Which groups of subjects take part.
        only: Names of those who do, where it is not all of the groups.
        kind: ``requests``, ``download``, ``upload`` or ``messages``.
        path: What is asked for.
        connections: Connections at a time.
        routes: Routes of the proxy.
        destinations: Destinations of the pool.
        size: Bytes of a message.
        beside: What the gateway's own forms are measured with besides, in the same rounds: their rows have its title. What a
            thousand routes cost is seen beside one, and not beside what the machine did ten minutes before.
        rounds: How many are measured for each one of the run: most floors stand on few of the cases, and those on a few
            per cent.
    """

    name: str
    title: str
    groups: frozenset[str] = PROXIES
    only: frozenset[str] | None = None
    kind: str = "requests"
    path: str = "/json"
    connections: int = 64
    routes: int = 1
    destinations: int = 1
    size: int = 0
    beside: Case | None = None
    rounds: int = 1

    def takes(self, name: str, group: str) -> bool:
        """Whether a subject takes part."""
        return group in self.groups and (self.only is None or name in self.only)


BESIDE = frozenset({"proxyroutes app", "proxyroutes router"})
"""Who is measured with ``Case.beside``, where everybody takes part."""
_LANES = frozenset({"proxyroutes app", "proxyroutes middleware", "proxyroutes router"})
_SPREAD = frozenset({"proxyroutes app", "nginx"})
_ONE_ROUTE = Case(name="", title="1 route")
_ONE_DESTINATION = Case(name="", title="1 destination")
_FEWER = Case(name="", title="64 connections")
_SESSIONS = frozenset(
    {
        "proxyroutes app",
        "proxyroutes router",
        "proxyroutes router, uvicorn's protocol",
        "fastapi-reverse-proxy",
        "nginx",
    }
)


CASES = (
    Case(name="json-64", title="58 bytes of JSON, 64 connections", groups=EVERYBODY, rounds=3),
    Case(
        name="costs",
        title="What a dependency, metrics and an access log cost, 64 connections",
        groups=frozenset({"ours", "cost", "self"}),
        only=COSTS,
        rounds=3,
    ),
    Case(name="json-1", title="58 bytes of JSON, 1 connection", connections=1),
    Case(
        name="json-256",
        title="58 bytes of JSON, 256 connections",
        connections=256,
        beside=_FEWER,
        rounds=2,
    ),
    Case(name="body-64k", title="64 KiB, 64 connections", path="/64k"),
    Case(name="download", title="One download of 64 MiB", kind="download", path="/large"),
    Case(name="upload", title="One upload of 64 MiB", kind="upload", path="/upload"),
    Case(name="routes-100", title="100 routes", only=_LANES, routes=100, beside=_ONE_ROUTE),
    Case(name="routes-1000", title="1,000 routes", only=_LANES, routes=1000, beside=_ONE_ROUTE),
    Case(
        name="destinations-100",
        title="100 destinations",
        only=_SPREAD,
        destinations=100,
        beside=_ONE_DESTINATION,
    ),
    Case(
        name="destinations-1000",
        title="1,000 destinations",
        only=_SPREAD,
        destinations=1000,
        beside=_ONE_DESTINATION,
        rounds=2,
    ),
    Case(
        name="messages-128",
        title="WebSocket messages of 128 bytes, 64 connections",
        groups=PROXIES | {"session"},
        only=_SESSIONS,
        kind="messages",
        path="/ws",
        size=128,
    ),
    Case(
        name="messages-64k",
        title="WebSocket messages of 64 KiB, 16 connections",
        groups=PROXIES | {"session"},
        only=_SESSIONS,
        kind="messages",
        path="/ws",
        connections=16,
        size=65_536,
        rounds=3,
    ),
)
