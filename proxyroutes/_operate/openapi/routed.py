"""Which operations of an upstream's document a route leads to, and under which public path.

A path of the document is laid on what the route forwards: a literal of the one on a literal of the other, a parameter on
a capture. The captures then are put into the public template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from attrs import frozen

from proxyroutes._build.compile import Compiled
from proxyroutes._build.inclusions import Prefixed
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._declare.templates import Segment, Template, parse_rewrite, parse_template
from proxyroutes._operate.explain import make_scope
from proxyroutes._serve.plan import Plan
from proxyroutes._state.pools import UpstreamPool

__all__ = ["METHODS", "Operation", "Routed", "find_routed", "forwarded_segments", "operations_of"]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
_PARAMETER = re.compile(r"\{([^{}]+)\}")
_UUID = "00000000-0000-4000-8000-000000000000"


@frozen
class Operation:
    """One operation of an upstream's document.

    Attributes:
        path: The path that is forwarded for it, base path of the destination taken off.
        method: The method, in lower case.
        item: The document's path item.
    """

    path: str
    method: str
    item: Mapping[str, Any]

    @property
    def value(self) -> dict[str, Any]:
        """The operation itself."""
        found: dict[str, Any] = self.item[self.method]
        return found


@frozen
class Routed:
    """An operation that a route leads to.

    Attributes:
        operation: The upstream's.
        plan: The route.
        prefix: The prefixes of its inclusions, in FastAPI's spelling.
        path: The public path.
        own_path: The path under which the gateway documents the route itself.
    """

    operation: Operation
    plan: Plan
    prefix: str
    path: str
    own_path: str


def operations_of(document: Mapping[str, Any], pool: UpstreamPool) -> Iterator[Operation]:
    """Every operation of a document, by the path that is forwarded for it."""
    server = _server_path(document)
    base = pool.destinations[0].base_path
    for path, item in document.get("paths", {}).items():
        if not isinstance(item, dict) or not path.startswith("/"):
            continue
        whole = server + path
        if base and (whole == base or whole.startswith(base + "/")):
            whole = whole[len(base) :] or "/"
        for method in METHODS:
            if isinstance(item.get(method), dict):
                yield Operation(whole, method, item)


def _server_path(document: Mapping[str, Any]) -> str:
    servers = document.get("servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], dict):
        return ""
    url = servers[0].get("url")
    return urlsplit(url).path.rstrip("/") if isinstance(url, str) and "{" not in url else ""


def forwarded_segments(spec: RouteSpec, template: Template, prefix: str) -> tuple[Segment, ...]:
    """What a route forwards: its rewrite, or its whole public path."""
    if spec.rewrite is not None:
        return parse_rewrite(spec.rewrite, template).segments
    own: tuple[Segment, ...] = template.segments
    return (*parse_template(prefix).segments, *own) if prefix else own


def find_routed(
    compiled: Compiled,
    pool: UpstreamPool,
    operations: Sequence[Operation],
    prefixes: Mapping[Plan, Sequence[str]],
) -> Iterator[Routed]:
    """Every operation that a route of the pool leads to, under each prefix that the route was included with.

    One that an earlier route would take is left out: it is not served from here.
    """
    for spec, plan, template in compiled.routes:
        if plan.pool is not pool or not spec.include_in_schema:
            continue
        for prefix in prefixes.get(plan, ()):
            pattern = forwarded_segments(spec, template, prefix)
            for operation in operations:
                if plan.methods is not None and operation.method.upper() not in plan.methods:
                    continue
                captured = lay(pattern, operation.path)
                if captured is None:
                    continue
                own = _fill(template, captured)
                if _served_by(compiled, plan, operation, own):
                    own_path = prefix + template.openapi_path
                    yield Routed(operation, plan, prefix, prefix + own, own_path)


def lay(pattern: Sequence[Segment], path: str, *, loosely: bool = False) -> dict[str, str] | None:
    """Lay a path of a document on what a route forwards, and give what the captures take; None where it does not fit.

    Args:
        pattern: What the route forwards.
        path: The document's path.
        loosely: Whether a literal of the route may stand for a parameter of the document.
    """
    parts = path[1:].split("/")
    rest = next((number for number, one in enumerate(pattern) if one.is_rest), None)
    if rest is None:
        if len(parts) != len(pattern):
            return None
        pairs = list(zip(pattern, parts, strict=True))
    else:
        behind = len(pattern) - rest - 1
        if len(parts) < rest + behind:
            return None
        end = len(parts) - behind
        middle = "/".join(parts[rest:end])
        pairs = [
            *zip(pattern[:rest], parts[:rest], strict=True),
            (pattern[rest], middle),
            *zip(pattern[rest + 1 :], parts[end:], strict=True),
        ]
    captured: dict[str, str] = {}
    for segment, text in pairs:
        if not _fits(segment, text, loosely=loosely):
            return None
        if segment.name is not None and captured.setdefault(segment.name, text) != text:
            return None
    return captured


def _fits(segment: Segment, text: str, *, loosely: bool) -> bool:
    has_parameter = _PARAMETER.search(text) is not None
    if segment.name is None:
        return unquote_to_bytes(text) == segment.literal or (loosely and has_parameter)
    return segment.is_rest or has_parameter or segment.converter.takes(text)


def _fill(template: Template, captured: Mapping[str, str]) -> str:
    """The public path: captures that the rewrite has dropped stay parameters."""
    return "".join(
        "/"
        + (
            segment.raw.decode("ascii")
            if segment.name is None
            else captured.get(segment.name, "{" + segment.name + "}")
        )
        for segment in template.segments
    )


def _served_by(compiled: Compiled, plan: Plan, operation: Operation, path: str) -> bool:
    """Whether a request for it would be taken by this route; the engine itself is asked."""
    kinds = {
        one.get("name"): one.get("schema", {})
        for one in (*_listed(operation.item), *_listed(operation.value))
        if isinstance(one, dict) and one.get("in") == "path"
    }

    def sample(found: re.Match[str]) -> str:
        schema = kinds.get(found[1], {})
        if not isinstance(schema, dict) or schema.get("type") != "string":
            # A number is text too, where nothing is known of it.
            return "1"
        return _UUID if schema.get("format") == "uuid" else "x"

    scope = make_scope(operation.method.upper(), _PARAMETER.sub(sample, path), ())
    found = Prefixed("", compiled.index).locate(scope)
    return found is not None and found.full and found.plan is plan


def _listed(holder: Mapping[str, Any]) -> list[Any]:
    parameters = holder.get("parameters")
    return parameters if isinstance(parameters, list) else []
