"""``match=`` becomes the condition of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxyroutes._build.check import Problems
from proxyroutes._serve.steps.conditions import Condition, is_visible
from proxyroutes.exceptions import DeclarationError
from proxyroutes.settings import Match

__all__ = ["covers", "read_condition"]


def read_condition(
    match: Any, actions: Mapping[bytes, int], problems: Problems, location: str
) -> Condition | None:
    """The condition of a route, or None where path and method decide alone.

    Args:
        match: What was given.
        actions: What the route does with received fields; what it deletes cannot decide.
        problems: Where mistakes are entered.
        location: The place of the stub.
    """
    if match is None or match == Match():
        return None
    if not isinstance(match, Match):
        problems.add(
            DeclarationError(f"match is a Match value, as Match(hosts=[...]), not {match!r}"),
            location,
        )
        return None
    headers = []
    for name, value in match.headers:
        raw_name = name.encode("ascii")
        if not is_visible(raw_name, actions):
            problems.add(
                DeclarationError(
                    f"match: {name!r} never decides: the gateway deletes it from what the client sent"
                ),
                location,
            )
        try:
            headers.append((raw_name, value.encode("latin-1")))
        except UnicodeEncodeError:
            problems.add(
                DeclarationError(f"match: not a field value: {value!r} of {name!r}"), location
            )
    return Condition(
        hosts=frozenset(one for one in match.hosts if one[0] != "*") if match.hosts else None,
        below=tuple(one[1:] for one in match.hosts if one[0] == "*"),
        headers=tuple(headers),
        query=match.query,
        when=match.when,
        actions=actions,
    )


def covers(earlier: Any, later: Any) -> bool:
    """Whether an earlier route's ``match`` surely holds wherever the later one's does."""
    if not isinstance(earlier, Match):
        return earlier is None
    return earlier.covers(later if isinstance(later, Match) else Match())
