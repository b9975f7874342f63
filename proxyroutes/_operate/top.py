"""``top``: the status page's numbers as a table in a terminal, looked at again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import httpx

from proxyroutes._operate.routes_table import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["StatusError", "fetch_snapshot", "head_line", "render", "tables", "watch"]

_SECONDS = 5.0
_RECENT = 10
_COLOURS = {"up": "green", "unchecked": "cyan", "down": "red", "ejected": "red"}

Snapshot = Mapping[str, Any]


class StatusError(Exception):
    """There is no snapshot to be had; the text says why, and what to do."""


def fetch_snapshot(client: httpx.Client, url: str) -> Snapshot:
    """Ask the status router for all that it knows.

    Args:
        client: Sends the request.
        url: What ``proxy.status_router()`` is included under.

    Raises:
        StatusError: If it does not give it.
    """
    try:
        response = client.get(f"{url.rstrip('/')}/snapshot.json", timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StatusError(
            f"nothing answers at {url}: {str(error) or type(error).__name__}"
        ) from error
    status = response.status_code
    if status in {401, 403}:
        raise StatusError(
            f"{url} is guarded ({status}): send what lets you in, as -H 'Authorization: Bearer …'"
        )
    if status != httpx.codes.OK:
        raise StatusError(
            f"no status page at {url} ({status}): "
            "give the address that proxy.status_router() is included under"
        )
    try:
        snapshot = response.json()
    except ValueError as error:
        raise StatusError(f"what {url} answers is no snapshot of a gateway") from error
    if not isinstance(snapshot, dict) or "pools" not in snapshot:
        raise StatusError(f"what {url} answers is no snapshot of a gateway")
    return snapshot


def head_line(snapshot: Snapshot) -> str:
    """The totals in one line."""
    totals = snapshot.get("totals", {})
    parts = [
        f"{_rate(totals.get('requests_per_second'))} requests/s",
        f"{totals.get('in_flight', 0)} in flight",
        *(f"{name} {_milliseconds(totals.get(name))}" for name in ("p50", "p95", "p99")),
        f"{100 * (totals.get('error_ratio') or 0):.1f} % errors",
        f"{totals.get('requests', 0)} in all",
    ]
    return ", ".join(parts)


def tables(snapshot: Snapshot) -> dict[str, Table]:
    """Routes, destinations and the last exchanges, by title."""
    return {
        "routes": _table(
            ("route", "path", "pool", "req/s", "err/s"),
            [
                (
                    one.get("name"),
                    one.get("template"),
                    one.get("pool") or "-",
                    _rate(one.get("requests_per_second")),
                    _rate(one.get("errors_per_second")),
                )
                for one in _rows(snapshot, "routes")
            ],
        ),
        "destinations": _table(
            ("pool", "destination", "state", "in flight", "req/s", "err/s", "why"),
            [
                (
                    pool.get("name"),
                    one.get("url"),
                    one.get("state"),
                    one.get("in_flight"),
                    _rate(one.get("requests_per_second")),
                    _rate(one.get("errors_per_second")),
                    one.get("reason"),
                )
                for pool in _rows(snapshot, "pools")
                for one in _rows(pool, "destinations")
            ],
        ),
        "last exchanges": _table(
            ("status", "method", "path", "route", "destination", "took", "cause"),
            [
                (
                    one.get("status") or "-",
                    one.get("method"),
                    one.get("path"),
                    one.get("route"),
                    one.get("destination") or "-",
                    _milliseconds(one.get("seconds")),
                    one.get("cause"),
                )
                for one in list(_rows(snapshot, "recent"))[:_RECENT]
            ],
        ),
    }


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Table:
    return Table(header, tuple(tuple(map(_cell, row)) for row in rows))


def _cell(value: Any) -> str:
    """Text that cannot move a terminal's cursor, whatever a client has put into a path."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _rows(owner: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    return [one for one in owner.get(name) or () if isinstance(one, dict)]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def render(snapshot: Snapshot) -> RenderableType:
    """The snapshot for a terminal."""
    import rich.console  # noqa: PLC0415 - an extra
    import rich.table  # noqa: PLC0415 - an extra
    import rich.text  # noqa: PLC0415 - an extra

    parts: list[RenderableType] = [rich.text.Text(head_line(snapshot), style="bold")]
    for title, table in tables(snapshot).items():
        shown = rich.table.Table(title=title, title_justify="left", header_style="bold", box=None)
        for name in table.header:
            shown.add_column(name, overflow="fold")
        for row in table.rows:
            # A cell is never markup: a path may have brackets.
            shown.add_row(*(rich.text.Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
        parts.append(shown)
    return rich.console.Group(*parts)


def watch(
    look: Callable[[], Snapshot], interval: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show snapshots until the process is interrupted. One that cannot be had leaves the last one standing.

    Args:
        look: Gives a snapshot.
        interval: Seconds between two.
        sleep: Waits so long.

    Raises:
        StatusError: If there is none at the beginning.
    """
    import rich.console  # noqa: PLC0415 - an extra
    import rich.live  # noqa: PLC0415 - an extra
    import rich.text  # noqa: PLC0415 - an extra

    shown = render(look())
    with rich.live.Live(shown, auto_refresh=False) as live:
        while True:
            live.refresh()
            sleep(interval)
            try:
                shown = render(look())
                live.update(shown)
            except StatusError as error:
                live.update(rich.console.Group(rich.text.Text(str(error), style="red"), shown))
