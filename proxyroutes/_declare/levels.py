"""What routes inherit: the options of each level, the outermost first, put over one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import override

__all__ = ["DEFAULTS", "OF_SESSIONS", "UNSET", "find_lone", "merge"]


class _Unset:
    @override
    def __repr__(self) -> str:
        return "inherited"


UNSET: Any = _Unset()

# What a group's routes take from it as well as their own, instead of either one.
_JOINED = frozenset({"dependencies", "identity_headers", "tags"})
# One value at each level, and all of them count, the outermost first; an explicit None drops what is inherited.
_STACKED = frozenset(
    {
        "cookies",
        "query_rules",
        "request_filters",
        "request_headers",
        "response_filters",
        "response_headers",
    }
)
_SESSION_RULES = _STACKED - {"request_filters", "response_filters"}
# What a WebSocket route takes from its groups as it is.
OF_SESSIONS = (
    "timeouts",
    "host",
    "forwarding",
    "identity_headers",
    "location",
    "match",
    "on_error",
    "rate_limit",
    *sorted(_SESSION_RULES),
)
DEFAULTS: Mapping[str, Any] = {
    "cookies": (),
    "dependencies": (),
    "forwarding": None,
    "hedge": None,
    "host": "destination",
    "identity_headers": (),
    "include_in_schema": True,
    "limits": None,
    "location": "rewrite",
    "match": None,
    "max_body_bytes": None,
    "mirror": None,
    "on_error": None,
    "query_rules": (),
    "rate_limit": None,
    "request_filters": (),
    "request_headers": (),
    "response_filters": (),
    "response_headers": (),
    "responses": None,
    "retry": None,
    "server_timing": False,
    "tags": (),
    "timeouts": None,
    "upstream": UNSET,
}


def find_lone(name: str, value: Any) -> str | None:
    """What is wrong with a value where a list is meant, or None."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return f"{name}: a list is meant, not one value: write [{value!r}]"
    return None


def merge(
    levels: Sequence[Mapping[str, Any]], inherited: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is given over what is inherited, and what is wrong with it.

    Args:
        levels: What was given at each level, the outermost first.
        inherited: What they are put over.
    """
    merged = dict(inherited or {})
    problems: list[str] = []
    for name, value in ((name, value) for level in levels for name, value in level.items()):
        if value is UNSET:
            continue
        if name == "on_error":
            # The nearest one is asked first, and the others where it has no answer; None drops them.
            merged[name] = None if value is None else (value, merged.get(name))
        elif name in _STACKED:
            merged[name] = () if value is None else (*merged.get(name, ()), value)
        elif name not in _JOINED:
            merged[name] = value
        elif (problem := find_lone(name, value)) is not None:
            problems.append(problem)
        else:
            merged[name] = (*merged.get(name, ()), *value)
    return merged, tuple(problems)
