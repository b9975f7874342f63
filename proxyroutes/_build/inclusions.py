"""One inclusion of a gateway's router: which of its routes may be served the short way, and how they are found.

Used by the router, which is asked by FastAPI, and by the lane, which is asked before it. Nothing is served here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from proxyroutes._build.dependencies import Dependencies
from proxyroutes._build.proof import is_silent, plans_of, prove
from proxyroutes._declare.templates import Segment, parse_template
from proxyroutes._serve.match import (
    Found,
    RouteIndex,
    raw_path_of,
    route_start,
    split_path,
)
from proxyroutes._serve.plan import Plan
from proxyroutes.exceptions import PathTemplateError
from proxyroutes.typing import Scope

__all__ = ["Inclusion", "inclusions_of", "match_prefix"]


class Inclusion:
    """One inclusion as it was at one version of its router.

    Attributes:
        included: FastAPI's record of it; kept, so that its identity cannot pass to another one.
        version: Number of the router's routes.
        proof: The plans that may be served the short way; see ``proof``.
        contexts: FastAPI's effective contexts of the plans that are found by the index.
        dependencies: The dependencies of those whose stub is silent, where all of them are known.
    """

    __slots__ = (
        "_index",
        "_segments",
        "contexts",
        "dependencies",
        "included",
        "proof",
        "version",
    )

    def __init__(
        self, included: Any, version: int, prefix: str, index: RouteIndex, *, known: bool
    ) -> None:
        self.included = included
        self.version = version
        self.proof: frozenset[Plan] = frozenset()
        self.contexts: Mapping[Plan, Any] = {}
        if known:
            contexts = list(included.effective_route_contexts())
            self.proof = prove(contexts)
            self.contexts = plans_of(contexts)
        self._index = index
        self._segments: Sequence[Segment] = ()
        if prefix:
            try:
                self._segments = parse_template(prefix).segments
            except PathTemplateError:
                # A prefix that only Starlette's expressions can match.
                self.proof, self.contexts = frozenset(), {}
        self.dependencies = _read_dependencies(self.contexts)

    def locate(self, scope: Scope) -> Found | None:
        """Match a request."""
        raw_path = raw_path_of(scope)
        if not raw_path.startswith(b"/"):
            return None
        parts = split_path(raw_path)
        root_path = scope.get("root_path")
        start = route_start(parts, root_path) if root_path else 0
        segments = self._segments
        if segments:
            if match_prefix(parts, start, segments) is None:
                return None
            start += len(segments)
        return self._index.match(parts, start, scope["method"], scope)

    def parameters(self, found: Found) -> dict[str, object]:
        """What the prefix captured of a path that it fits."""
        segments = self._segments
        if not segments:
            return {}
        return match_prefix(found.parts, found.start - len(segments), segments) or {}


def _read_dependencies(contexts: Mapping[Plan, Any]) -> Mapping[Plan, Dependencies]:
    read = {
        plan: Dependencies.read(context)
        for plan, context in contexts.items()
        if is_silent(plan, context)
    }
    return {plan: known for plan, known in read.items() if known is not None}


def inclusions_of(router: Any, routes: Sequence[Any]) -> Iterator[Any]:
    """FastAPI's records of every inclusion of a router among these routes, through routers in between too."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is router:
            yield route
        elif inner is not None and hasattr(route, "effective_candidates"):
            # What FastAPI asks: the inclusions of an inclusion have the dependencies of both.
            yield from inclusions_of(router, route.effective_candidates())


def match_prefix(
    parts: Sequence[bytes], start: int, segments: Sequence[Segment]
) -> dict[str, object] | None:
    """Match the prefix of an inclusion and give its parameters; None where it does not fit."""
    if len(parts) < start + len(segments):
        return None
    parameters: dict[str, object] = {}
    for position, segment in enumerate(segments, start):
        text = unquote_to_bytes(parts[position])
        if segment.name is None:
            if text != segment.literal:
                return None
            continue
        decoded = text.decode("utf-8", "replace")
        if not segment.converter.takes(decoded):
            return None
        parameters[segment.name] = segment.converter.convert(decoded)
    return parameters
