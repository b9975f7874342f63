"""What a pool edits of every request that it is given and of every response that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from attrs import field, frozen

from proxyroutes.filters import StreamFilter
from proxyroutes.filters._filter import to_filters
from proxyroutes.settings import (
    CookieRules,
    HeaderRules,
    QueryRules,
    check_request_rules,
    split_value,
)

__all__ = ["PoolTransforms", "Transformed", "read_transforms"]


@frozen(kw_only=True)
class PoolTransforms:
    """The edits of one pool; they come after those of the route.

    Attributes:
        request_headers: Rules for the request's fields.
        response_headers: Rules for the response's fields.
        query_rules: Rules for the query.
        cookies: Rules for the upstream's cookies.
        request_filters: Filters of the request's content, the last ones before the upstream.
        response_filters: Filters of the response's content, the first ones behind the upstream.
    """

    request_headers: HeaderRules | None = None
    response_headers: HeaderRules | None = None
    query_rules: QueryRules | None = None
    cookies: CookieRules | None = None
    request_filters: tuple[StreamFilter, ...] = field(default=(), converter=to_filters)
    response_filters: tuple[StreamFilter, ...] = field(default=(), converter=to_filters)

    def __attrs_post_init__(self) -> None:
        for name, kind in (
            ("request_headers", HeaderRules),
            ("response_headers", HeaderRules),
            ("query_rules", QueryRules),
            ("cookies", CookieRules),
        ):
            rules = getattr(self, name)
            if rules is not None and not isinstance(rules, kind):
                raise TypeError(f"{name}: a {kind.__name__} is meant, not {rules!r}")
            if isinstance(rules, HeaderRules | QueryRules):
                _check_values(name, rules)
        if self.request_headers is not None:
            check_request_rules(self.request_headers)


class Transformed(Protocol):
    """A pool's state, as far as rules are concerned."""

    transforms: PoolTransforms | None
    """What the pool was given, or None: nothing is done then."""

    steps: Any
    """What the request path has compiled the rules to, or None before that."""


def _check_values(name: str, rules: HeaderRules | QueryRules) -> None:
    for _, value in (*rules.set, *rules.add):
        for piece, is_name in split_value(value):
            if is_name:
                raise ValueError(
                    f"{name}: a pool has no path parameters that {value!r} could be filled in with; "
                    f"write <<{piece}>> for the text itself"
                )


def read_transforms(
    name: str,
    *,
    request_filters: Sequence[Any] | None,
    response_filters: Sequence[Any] | None,
    **rules: Any,
) -> PoolTransforms | None:
    """The rules of a pool, or None where it has none.

    Raises:
        TypeError: If one is of another kind.
        ValueError: If one names a path parameter, or a field that rules cannot write.
    """
    if not any((request_filters, response_filters, *(one is not None for one in rules.values()))):
        return None
    try:
        return PoolTransforms(
            request_filters=request_filters or (),
            response_filters=response_filters or (),
            **rules,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"pool {name!r}: {error}") from error
