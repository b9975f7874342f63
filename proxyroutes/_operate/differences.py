"""``diff``: what has changed from one route table to another, in the words of the table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from attrs import frozen

__all__ = ["Difference", "compare", "read_rows"]

Row = Mapping[str, str]


@frozen
class Difference:
    """One route that has come, gone, changed or moved.

    Attributes:
        sign: ``+``, ``-``, ``~`` or ``>``.
        text: Which, and how.
    """

    sign: str
    text: str

    def to_text(self) -> str:
        """One line."""
        return f"{self.sign} {self.text}"


def read_rows(path: Path) -> list[Row]:
    """Rows that ``proxyroutes routes --json`` has written.

    Raises:
        ValueError: If the file holds something else.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"path", "stub", "methods"} <= row.keys() for row in rows
    ):
        raise ValueError("not what 'proxyroutes routes --json' writes")
    return rows


def compare(old: Iterable[Row], new: Iterable[Row]) -> Iterator[Difference]:
    """What has to be done to the old table to make it the new one; nothing where they are the same.

    A route is known by its path and its stub. The order counts, because the first route that fits is served.
    """
    before, after = dict(_by_key(old)), dict(_by_key(new))
    for key, row in before.items():
        if key not in after:
            yield Difference("-", _describe(row))
    for key, row in after.items():
        if key not in before:
            yield Difference("+", _describe(row))
            continue
        changes = _changes(before[key], row)
        if changes:
            yield Difference("~", f"{row['path']} ({row['stub']}): {', '.join(changes)}")
    yield from _moves(
        [key for key in before if key in after], [key for key in after if key in before]
    )


_Key = tuple[str, str, int]


def _by_key(rows: Iterable[Row]) -> Iterator[tuple[_Key, Row]]:
    """Rows by path and stub, numbered where several have the same."""
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        name = (row["path"], row["stub"])
        yield (*name, seen[name]), row
        seen[name] += 1


def _describe(row: Row) -> str:
    return f"{row['methods']} {row['path']} ({row['stub']}) -> {row.get('upstream') or '?'}"


def _changes(old: Row, new: Row) -> list[str]:
    names = dict.fromkeys((*old, *new))
    return [
        f"{name}: {old.get(name) or 'none'} -> {new.get(name) or 'none'}"
        for name in names
        if (old.get(name) or "") != (new.get(name) or "")
    ]


def _moves(old: list[_Key], new: list[_Key]) -> Iterator[Difference]:
    """Routes that stand elsewhere among those that both have."""
    left = list(old)
    for position, key in enumerate(new):
        if left[position] == key:
            continue
        left.remove(key)
        left.insert(position, key)
        following = left[position + 1]
        yield Difference(
            ">", f"{key[0]} ({key[1]}): now asked before {following[0]} ({following[1]})"
        )
