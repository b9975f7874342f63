"""Declared edits become steps: rules for fields, query and cookies, compiled against the route's template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import asdict

from proxyroutes._build.check import Problems
from proxyroutes._build.defaults import Defaults
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import Template
from proxyroutes._serve.forwarding import Hop
from proxyroutes._serve.steps.edits import (
    CheckCaptures,
    RequestHeaderEdit,
    RequestQueryEdit,
    ResponseCookieEdit,
    ResponseHeaderEdit,
)
from proxyroutes._serve.steps.protocols import RequestEdit
from proxyroutes._serve.steps.trust import ClientCertificate, JoinPrefix, TrustingHop
from proxyroutes._state.transforms import (
    captures_of,
    compile_cookies,
    compile_headers,
    compile_query,
)
from proxyroutes.exceptions import DeclarationError
from proxyroutes.filters import StreamFilter
from proxyroutes.filters._filter import to_filters
from proxyroutes.settings import CookieRules, Forwarding, HeaderRules, QueryRules

__all__ = [
    "forwarding_edits",
    "forwarding_of",
    "given_to",
    "make_hop",
    "read_edits",
    "read_filters",
    "read_timing",
]

EditT = TypeVar("EditT")


def given_to(spec: RouteSpec | WebSocketSpec) -> Mapping[str, Any]:
    """What a route of either kind was given, by keyword."""
    if isinstance(spec, WebSocketSpec):
        return spec.options
    return asdict(spec, recurse=False)


def forwarding_of(value: Any, defaults: Defaults) -> Forwarding:
    """What holds for a route: its own, or the proxy's."""
    return value if isinstance(value, Forwarding) else defaults.forwarding


def make_hop(forwarding: Forwarding, via: bytes) -> Hop:
    """This gateway as a hop, on one kind of routes."""
    return (TrustingHop if forwarding.mode == "append" else Hop)(forwarding, via)


def forwarding_edits(forwarding: Forwarding) -> tuple[RequestEdit, ...]:
    """What has to be edited for it, beside the fields of the hop."""
    edits: list[RequestEdit] = []
    if forwarding.mode == "append" and forwarding.x_forwarded:
        edits.append(JoinPrefix())
    if forwarding.client_cert != "off":
        edits.append(ClientCertificate(forwarding))
    return tuple(edits)


class _Reader:
    """Compiles the rules of one route; mistakes are entered, and leave a rule out."""

    def __init__(self, given: Mapping[str, Any], problems: Problems, location: str) -> None:
        self._given = given
        self._problems = problems
        self._location = location

    def read(self, name: str, kind: type[Any], compiled: Callable[[Any], EditT]) -> list[EditT]:
        edits: list[EditT] = []
        for rules in self._given.get(name, ()):
            if not isinstance(rules, kind):
                problem = f"{name}: a {kind.__name__} is meant, not {rules!r}"
            else:
                try:
                    edits.append(compiled(rules))
                except ValueError as error:
                    problem = f"{name}: {error}"
                else:
                    continue
            self._problems.add(DeclarationError(problem), self._location)
        return edits


def read_edits(
    given: Mapping[str, Any],
    template: Template,
    defaults: Defaults,
    problems: Problems,
    location: str,
) -> dict[str, Any]:
    """The edits of a route as entries of its ``Steps``; empty where it has none.

    Args:
        given: What it was given, by keyword.
        template: Its path, whose parameters may be filled in.
        defaults: What the proxy gives.
        problems: Where mistakes are entered.
        location: File and line of its stub.
    """
    names = template.names
    reader = _Reader(given, problems, location)
    queries = reader.read("query_rules", QueryRules, lambda rules: compile_query(rules, names))
    requests = reader.read(
        "request_headers", HeaderRules, lambda rules: compile_headers(rules, names)
    )
    cookies = reader.read("cookies", CookieRules, compile_cookies)
    responses = reader.read(
        "response_headers",
        HeaderRules,
        lambda rules: compile_headers(rules, names, response=True),
    )
    captures = frozenset().union(*(captures_of(edit) for edit in responses))
    request_edits = (
        *forwarding_edits(forwarding_of(given["forwarding"], defaults)),
        *((CheckCaptures(captures),) if captures else ()),
        *(RequestQueryEdit(edit) for edit in queries),
        *(RequestHeaderEdit(edit) for edit in requests),
    )
    response_edits = (
        *(ResponseCookieEdit(edit) for edit in cookies),
        *(ResponseHeaderEdit(edit) for edit in responses),
    )
    return {
        name: edits
        for name, edits in (("request_edits", request_edits), ("response_edits", response_edits))
        if edits
    }


def read_filters(
    given: Mapping[str, Any], problems: Problems, location: str
) -> dict[str, tuple[StreamFilter, ...]]:
    """The filters of a route as entries of its ``Steps``, those of the response turned round as nested middleware is.

    Args:
        given: What it was given, by keyword: one list for each level, the outermost first.
        problems: Where mistakes are entered.
        location: File and line of its stub.
    """
    found: dict[str, tuple[StreamFilter, ...]] = {}
    for name in ("request_filters", "response_filters"):
        levels: list[tuple[StreamFilter, ...]] = []
        for values in given.get(name, ()):
            try:
                levels.append(to_filters(values))
            except TypeError as error:
                problems.add(DeclarationError(f"{name}: {error}"), location)
        if name == "response_filters":
            levels.reverse()
        filters = tuple(one for level in levels for one in level)
        if filters:
            found[name] = filters
    return found


def read_timing(spec: RouteSpec, problems: Problems) -> dict[str, bool]:
    """Whether a route tells its times, as an entry of its ``Steps``."""
    if not isinstance(spec.server_timing, bool):
        problem = f"server_timing is True or False: {spec.server_timing!r}"
        problems.add(DeclarationError(problem), spec.facts.location)
    return {"server_timing": True} if spec.server_timing else {}
