"""One inclusion of a gateway's router: which of its routes may be served the short way, and how they are found.

Used by the router, which is asked by FastAPI, and by the lane, which is asked before it. Nothing is served here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from proxyroutes._build.proof import prove
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

__all__ = ["Inclusion", "match_prefix"]


class Inclusion:
    """One inclusion as it was at one version of its router.

    Attributes:
        included: FastAPI's record of it; kept, so that its identity cannot pass to another one.
        version: Number of the router's routes.
        proof: The plans that may be served the short way; see ``proof``.
    """

    __slots__ = ("_index", "_segments", "included", "proof", "version")

    def __init__(
        self, included: Any, version: int, prefix: str, index: RouteIndex, *, known: bool
    ) -> None:
        self.included = included
        self.version = version
        self.proof: frozenset[Plan] = frozenset()
        if known:
            self.proof = prove(included.effective_route_contexts())
        self._index = index
        self._segments: Sequence[Segment] = ()
        if prefix:
            try:
                self._segments = parse_template(prefix).segments
            except PathTemplateError:
                # A prefix that only Starlette's expressions can match.
                self.proof = frozenset()

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
