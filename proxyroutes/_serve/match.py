"""Matching raw paths, the same way in router, lane and app.

The raw path is split at ``/`` first; a literal is compared after one percent-decoding; a capture is the raw text. What
was matched is therefore what the upstream resolves (DESIGN "Paths"). Work grows with the number of segments of the
path, not with the number of routes: segments are edges of a tree, and every branch that fits is followed, because the
route that was declared first wins and not the one with the longest literal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote_from_bytes, unquote_to_bytes

from attrs import define, field

from proxyroutes._serve.plan import Capture, Plan
from proxyroutes.typing import Scope

__all__ = [
    "Found",
    "RouteIndex",
    "path_parameters",
    "raw_path_of",
    "redirect_location",
    "route_start",
    "split_path",
]


class Found:
    """A route that fits a path.

    Attributes:
        plan: The route.
        parts: Every raw segment of the path.
        start: Number of segments that belong to a mount or an inclusion's prefix.
        raw_path: The raw path.
        hidden: Number of leading segments that the server put in front and that the upstream does not see.
        full: Whether the request is served, rather than redirected or refused.
        redirect: Whether the path only lacks its last slash.
        method_allowed: Whether the route serves the method.
        methods: What is served on the path, where it is not this method (RFC 9110 §15.5.6).
    """

    # Class attributes are what a match begins with: most of it is never written for one that fits.
    full = True
    hidden = 0
    redirect = False
    method_allowed = True
    methods: frozenset[str] = frozenset()

    def __init__(self, plan: Plan, parts: Sequence[bytes], start: int) -> None:
        self.plan = plan
        # The raw path is put together again, so that what was matched is what is sent.
        self.raw_path = b"/" + b"/".join(parts)
        self.parts = parts
        self.start = start

    @property
    def allow(self) -> bytes:
        """The value of ``Allow`` for a method that is not served."""
        return ", ".join(sorted(self.methods)).encode("ascii")

    def captured(self, capture: Capture) -> bytes:
        """The raw text of a parameter."""
        position = self.start + capture.position
        if capture.rest:
            return b"/".join(self.parts[position:])
        return self.parts[position]


@define(eq=False)
class _Node:
    literals: dict[bytes, _Node] = field(factory=dict)
    parameters: list[tuple[Capture, _Node]] = field(factory=list)
    rests: list[Plan] = field(factory=list)
    ends: list[Plan] = field(factory=list)


class RouteIndex:
    """Every plan of one proxy as a tree of segments."""

    def __init__(self, plans: Iterable[Plan], *, redirect_slashes: bool = True) -> None:
        self.plans = tuple(plans)
        self._root = _Node()
        self._redirect_slashes = redirect_slashes
        self.conditional = any(plan.condition is not None for plan in self.plans)
        for plan in self.plans:
            self._insert(plan)

    def _insert(self, plan: Plan) -> None:
        node = self._root
        captures = {capture.position: capture for capture in plan.captures}
        for position, literal in enumerate(plan.literals):
            if literal is not None:
                node = node.literals.setdefault(literal, _Node())
                continue
            capture = captures[position]
            if capture.rest:
                node.rests.append(plan)
                return
            for known, child in node.parameters:
                if known.takes == capture.takes:
                    node = child
                    break
            else:
                child = _Node()
                node.parameters.append((capture, child))
                node = child
        node.ends.append(plan)

    def match(self, parts: Sequence[bytes], start: int, method: str, scope: Scope) -> Found | None:
        """Find the route for a path.

        A route whose condition does not hold is not there for this request.

        Args:
            parts: The raw path's segments, as ``split_path`` gives them.
            start: Number of the first one that is matched.
            method: The request's method.
            scope: The request, for routes that look at more of it.

        Returns:
            The first declared route that serves the method; else the first one that has the path, with what is wrong;
            else None.
        """
        plans = self._find(parts, start)
        for plan in plans:
            if plan.methods is None or method in plan.methods:
                found = Found(plan, parts, start)
                if plan.condition is None or plan.condition(found, scope):
                    return found
        if self.conditional:
            plans = [plan for plan in plans if _holds(plan, parts, start, scope)]
        if plans:
            partial = Found(plans[0], parts, start)
            partial.full = partial.method_allowed = False
            partial.methods = frozenset().union(*[plan.methods or () for plan in plans])
            return partial
        if self._redirect_slashes and parts[-1]:
            return self._match_with_slash(parts, start, method, scope)
        return None

    def _match_with_slash(
        self, parts: Sequence[bytes], start: int, method: str, scope: Scope
    ) -> Found | None:
        parts = (*parts, b"")
        for plan in self._find(parts, start):
            if (plan.methods is None or method in plan.methods) and _holds(
                plan, parts, start, scope
            ):
                found = Found(plan, parts, start)
                found.full = False
                found.redirect = True
                return found
        return None

    def _find(self, parts: Sequence[bytes], start: int) -> list[Plan]:
        """Every route that has the path, in declared order."""
        node = self._root
        found: list[Plan] = []
        for raw in parts[start:] if start else parts:
            if node.parameters:
                return self._find_branching(parts, start)
            if node.rests:
                found += node.rests
            following = node.literals.get(unquote_to_bytes(raw) if b"%" in raw else raw)
            if following is None:
                break
            node = following
        else:
            found += node.ends
        if len(found) > 1:
            found.sort(key=_order)
        return found

    def _find_branching(self, parts: Sequence[bytes], start: int) -> list[Plan]:
        """The same where parameters and literals compete: every branch that fits is followed."""
        nodes = [self._root]
        found: list[Plan] = []
        for position in range(start, len(parts)):
            raw = parts[position]
            text = unquote_to_bytes(raw) if b"%" in raw else raw
            following: list[_Node] = []
            for node in nodes:
                if node.rests:
                    found += node.rests
                child = node.literals.get(text)
                if child is not None:
                    following.append(child)
                if node.parameters and text:
                    decoded = text.decode("utf-8", "replace")
                    following += [
                        child
                        for capture, child in node.parameters
                        if capture.takes is None or capture.takes(decoded)
                    ]
            if not following:
                break
            nodes = following
        else:
            for node in nodes:
                found += node.ends
        if len(found) > 1:
            found.sort(key=_order)
        return found


def _holds(plan: Plan, parts: Sequence[bytes], start: int, scope: Scope) -> bool:
    return plan.condition is None or plan.condition(Found(plan, parts, start), scope)


def _order(plan: Plan) -> int:
    return plan.order


def split_path(raw_path: bytes) -> list[bytes]:
    """The segments of a raw path, the first slash left out."""
    return raw_path[1:].split(b"/")


def raw_path_of(scope: Scope) -> bytes:
    """The raw path of a request; servers may leave it out, then the decoded one is encoded again."""
    raw_path = scope.get("raw_path")
    if raw_path is None:
        return quote_from_bytes(
            scope["path"].encode("utf-8", "surrogateescape"), safe="/!$&'()*+,;=:@~"
        ).encode()
    if b"?" in raw_path:
        # Some servers and test clients leave the query on it.
        raw_path = raw_path.partition(b"?")[0]
    return bytes(raw_path)


def route_start(parts: Sequence[bytes], root_path: str) -> int:
    """Number of segments that belong to a mount, so that matching begins behind them.

    As in Starlette, a path that does not begin with ``root_path`` is matched whole.
    """
    mount = root_path.strip("/")
    if not mount:
        return 0
    segments = mount.encode("utf-8", "surrogateescape").split(b"/")
    count = len(segments)
    if len(parts) < count or [unquote_to_bytes(part) for part in parts[:count]] != segments:
        return 0
    return count


def path_parameters(found: Found) -> dict[str, object]:
    """FastAPI's path parameters: decoded once, and converted where the template says so."""
    parameters: dict[str, object] = {}
    for capture in found.plan.captures:
        text = unquote_to_bytes(found.captured(capture)).decode("utf-8", "replace")
        parameters[capture.name] = capture.convert(text)
    return parameters


def redirect_location(raw_path: bytes, query: bytes) -> bytes:
    """The relative reference to the same path with a slash at its end."""
    # RFC 3986 §4.2: a reference that begins with two slashes would name a host.
    location = (b"/." if raw_path.startswith(b"//") else b"") + raw_path + b"/"
    return location + b"?" + query if query else location
