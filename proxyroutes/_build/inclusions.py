"""One inclusion of a gateway's router: which of its routes may be served the short way, and how they are found.

Used by the router, which is asked by FastAPI, and by the lane, which is asked before it. Nothing is served here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

__all__ = ["Inclusion", "Prefixed", "match_prefix", "routers_of"]


class Prefixed:
    """Routes behind a prefix.

    Attributes:
        readable: Whether the prefix is one of our templates, and not one that only Starlette's expressions can match.
    """

    __slots__ = ("_index", "_segments", "readable")

    def __init__(self, prefix: str, index: RouteIndex) -> None:
        self._index = index
        self._segments: Sequence[Segment] = ()
        self.readable = True
        if prefix:
            try:
                self._segments = parse_template(prefix).segments
            except PathTemplateError:
                self.readable = False

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


class Inclusion(Prefixed):
    """One inclusion as it was at one version of its router's routes.

    Attributes:
        included: FastAPI's record of it; kept, so that its identity cannot pass to another one.
        proof: The plans that may be served the short way, each with its dependant; see ``proof``.
        contexts: FastAPI's effective contexts of the plans that are found by the index.
        guarded: Those whose stub is silent and whose dependencies are all known, with these.
    """

    __slots__ = (
        "_count",
        "_nested",
        "_router",
        "_routes",
        "_version",
        "contexts",
        "guarded",
        "included",
        "proof",
    )

    def __init__(
        self, included: Any, router: Any, prefix: str, index: RouteIndex, *, known: bool
    ) -> None:
        super().__init__(prefix, index)
        self.included = included
        self._routes = router.routes
        self._count = len(router.routes)
        # FastAPI counts changes nowhere else.
        watched = [(each, getattr(each, "_routes_version", None)) for each in routers_of(router)]
        (self._router, self._version), *self._nested = watched
        counted = all(version is not None for _, version in watched)
        known = known and self.readable and counted
        self.proof: Mapping[Plan, Any] = {}
        self.contexts: Mapping[Plan, Any] = {}
        if known:
            contexts = list(included.effective_route_contexts())
            self.proof = prove(contexts)
            self.contexts = plans_of(contexts)
        self.guarded: Mapping[Plan, Dependencies] = _read_guarded(self.contexts)

    def holds(self) -> bool:
        """Whether the router's routes are the same as then."""
        return (
            self._router._routes_version == self._version  # noqa: SLF001 - FastAPI has no public name for it.
            and len(self._routes) == self._count
            and (
                not self._nested
                or all(_holds(router, version) for router, version in self._nested)
            )
        )

    def proves(self, plan: Plan) -> bool:
        """Whether a plan may be served the short way."""
        dependant = self.proof.get(plan)
        return dependant is not None and not dependant.dependencies


def _read_guarded(contexts: Mapping[Plan, Any]) -> dict[Plan, Dependencies]:
    read = {
        plan: Dependencies.read(context)
        for plan, context in contexts.items()
        if is_silent(plan, context)
    }
    return {plan: known for plan, known in read.items() if known is not None}


def _holds(router: Any, version: Any) -> bool:
    return bool(router._routes_version == version)  # noqa: SLF001 - see above.


def routers_of(router: Any) -> list[Any]:
    """A router and every one that is included in it."""
    found = [router]
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found.extend(routers_of(inner))
    return found


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
