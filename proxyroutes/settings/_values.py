"""Checks and conversions that several settings have alike."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["check_positive", "to_statuses", "to_texts"]


def check_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{name} must be greater than 0 seconds, or None for no limit: {value!r}")


def to_statuses(value: Iterable[int]) -> frozenset[int]:
    """Store an iterable of statuses as a set, and refuse a lone one."""
    if isinstance(value, int | str):
        raise TypeError(f"a list of statuses is meant, not one value: write [{value!r}]")
    return frozenset(value)


def to_texts(value: Iterable[str]) -> tuple[str, ...]:
    """Store an iterable of strings as a tuple, and refuse a lone string."""
    if isinstance(value, str):
        raise TypeError(f"a list of strings is meant, not one string: write [{value!r}]")
    return tuple(value)
