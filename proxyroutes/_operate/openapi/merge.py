"""The gateway's document with the operations of its upstreams in it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from fastapi.routing import iter_route_contexts

from proxyroutes._build.compile import Compiled
from proxyroutes._build.routes import ProxyRoute
from proxyroutes._declare.templates import parse_template
from proxyroutes._operate.openapi.rewrite import Components, combine_security
from proxyroutes._operate.openapi.routed import Routed, find_routed, operations_of
from proxyroutes._serve.plan import Plan
from proxyroutes._state.pools import UpstreamPool

__all__ = ["Merged", "find_prefixes", "merge"]

_CONVERTER = re.compile(r"\{(\w+):\w+\}")
_PARAMETER = re.compile(r"\{([^{}]+)\}")
_FLOW_URLS = frozenset({"authorizationUrl", "refreshUrl", "tokenUrl"})


@frozen(kw_only=True)
class Merged:
    """One upstream's document that is to be merged.

    Attributes:
        pool: Whose it is.
        prefix: What is put in front of its names.
        document: The document.
    """

    pool: UpstreamPool
    prefix: str
    document: Mapping[str, Any]


def find_prefixes(app: Any) -> dict[Plan, list[str]]:
    """The prefixes of every inclusion of each route, in OpenAPI's spelling."""
    found: dict[Plan, list[str]] = {}
    for context in iter_route_contexts(getattr(app, "routes", ())):
        route = context.original_route
        if isinstance(route, ProxyRoute):
            own = parse_template(route.plan.template).starlette_path
            path = context.path or ""
            prefix = _CONVERTER.sub(r"{\1}", path.removesuffix(own))
            found.setdefault(route.plan, []).append(prefix)
    return found


def merge(
    own: Mapping[str, Any],
    compiled: Compiled,
    prefixes: Mapping[Plan, Sequence[str]],
    documents: Iterable[Merged],
) -> dict[str, Any]:
    """Merge documents into a copy of the gateway's.

    Args:
        own: The gateway's document.
        compiled: The gateway.
        prefixes: Where its routes are included.
        documents: The upstreams' documents.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: If a document is not what it should be.
    """
    merged = copy.deepcopy(dict(own))
    for document in documents:
        _Merger(merged, own, document).add(
            find_routed(
                compiled,
                document.pool,
                list(operations_of(document.document, document.pool)),
                prefixes,
            )
        )
    return merged


class _Merger:
    """Puts one upstream's operations into a document."""

    def __init__(self, merged: dict[str, Any], own: Mapping[str, Any], document: Merged) -> None:
        self._merged = merged
        self._own = own
        self._document = document
        self._components = Components(document.document, document.prefix)
        self._paths: dict[str, Any] = merged.setdefault("paths", {})
        self._shapes = {_shape(path): path for path in self._paths}
        self._tags: dict[str, dict[str, Any]] = {}
        self._ids: set[str | None] = set()

    def add(self, routed: Iterable[Routed]) -> None:
        """Add every operation, and take away what the gateway said of the same routes for want of better."""
        replaced = set()
        operations = []
        for one in routed:
            operations.append((one, self._make(one)))
            replaced.add((one.own_path, one.operation.method))
        for path, method in replaced:
            item = self._paths.get(path, {})
            item.pop(method, None)
            if not item and path in self._paths:
                del self._paths[path]
                self._shapes.pop(_shape(path), None)
        for one, operation in operations:
            self._place(one, operation)
        self._finish({one.operation.path: one.path for one, _ in operations})

    def _make(self, routed: Routed) -> dict[str, Any]:
        theirs, components = routed.operation.value, self._components
        operation: dict[str, Any] = components.adopt(
            {key: value for key, value in theirs.items() if key not in {"security", "servers"}}
        )
        generic = self._own.get("paths", {}).get(routed.own_path, {})
        own = generic.get(routed.operation.method, {})
        operation["parameters"] = self._parameters(routed, own)
        if not operation["parameters"]:
            del operation["parameters"]
        security = combine_security(
            own.get("security", self._own.get("security")),
            components.adopt_security(
                theirs.get("security", self._document.document.get("security"))
            ),
        )
        if security is not None:
            operation["security"] = security
        if "operationId" in operation:
            operation["operationId"] = components.rename(operation["operationId"])
        operation["tags"] = [*own.get("tags", ()), *self._rename_tags(theirs.get("tags"))]
        operation["responses"] = {**own.get("responses", {}), **operation.get("responses", {})}
        return operation

    def _parameters(self, routed: Routed, own: Mapping[str, Any]) -> list[Any]:
        """Theirs, what the gateway's own stub asks for, and what only the public path has."""
        found: dict[tuple[str, str], Any] = {}
        item, operation = routed.operation.item, routed.operation.value
        for parameter in (*item.get("parameters", ()), *operation.get("parameters", ())):
            adopted = self._components.adopt(parameter)
            shown = self._resolve(adopted)
            found[str(shown["name"]), str(shown["in"])] = adopted
        names = set(_PARAMETER.findall(routed.path))
        for parameter in own.get("parameters", ()):
            key = (parameter["name"], parameter["in"])
            if key[1] != "path" or key[0] in names:
                found.setdefault(key, copy.deepcopy(parameter))
        for name in _PARAMETER.findall(routed.path):
            found.setdefault(
                (name, "path"),
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}},
            )
        # A literal may stand in a place where they have a parameter.
        return [
            value for (name, place), value in found.items() if place != "path" or name in names
        ]

    def _resolve(self, parameter: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = parameter.get("$ref")
        if not isinstance(reference, str):
            return parameter
        found: Mapping[str, Any] = self._components.needed["parameters"][
            reference.rpartition("/")[2]
        ]
        return found

    def _rename_tags(self, tags: Any) -> list[str]:
        """Their tags under our prefix; what has none is found under the prefix itself."""
        if not isinstance(tags, list) or not tags:
            return [self._document.prefix]
        described = {
            one["name"]: one
            for one in self._document.document.get("tags", ())
            if isinstance(one, dict) and isinstance(one.get("name"), str)
        }
        names = []
        for tag in tags:
            name = f"{self._document.prefix}: {tag}"
            names.append(name)
            if tag in described:
                self._tags[name] = {**described[tag], "name": name}
        return names

    def _place(self, routed: Routed, operation: dict[str, Any]) -> None:
        """Put it under its path, or under one of the same shape that is there already."""
        path = self._shapes.setdefault(_shape(routed.path), routed.path)
        if path != routed.path:
            given = dict(
                zip(_PARAMETER.findall(routed.path), _PARAMETER.findall(path), strict=True)
            )
            operation["parameters"] = [
                {**self._resolve(one), "name": given.get(one["name"], one["name"])}
                if self._resolve(one).get("in") == "path"
                else one
                for one in operation.get("parameters", ())
            ]
        identity = operation.get("operationId")
        if identity is not None and identity in self._ids:
            # The same operation under another path: ids are unique in a document.
            operation["operationId"] = identity = identity + re.sub(r"\W+", "_", path).rstrip("_")
        self._ids.add(identity)
        self._paths.setdefault(path, {})[routed.operation.method] = operation

    def _finish(self, public: Mapping[str, str]) -> None:
        for scheme in self._components.needed.get("securitySchemes", {}).values():
            for flow in scheme.get("flows", {}).values():
                for key in _FLOW_URLS & set(flow):
                    # Relative to their document, which stands elsewhere.
                    flow[key] = public.get("/" + flow[key].lstrip("./"), flow[key])
        components = self._merged.setdefault("components", {})
        for kind, values in self._components.needed.items():
            components.setdefault(kind, {}).update(values)
        if not components:
            del self._merged["components"]
        if self._tags:
            self._merged["tags"] = [*self._merged.get("tags", ()), *self._tags.values()]


def _shape(path: str) -> str:
    """Paths that differ in the names of their parameters alone are one path."""
    return _PARAMETER.sub("{}", path)
