"""The gateway's part of the application's OpenAPI document.

The serving routes are not in it: one document-only route a method is, with an ``operation_id`` of its own, because one
route with several methods would give them all the same. A document-only route matches nothing.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match
from typing_extensions import override

from proxyroutes._build.check import explained
from proxyroutes._build.stubs import make_endpoint
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._declare.templates import Template
from proxyroutes._serve.plan import Plan
from proxyroutes.exceptions import DeclarationError
from proxyroutes.typing import Scope

__all__ = ["DocumentRoute", "document"]

_USUAL = ("GET", "POST", "PUT", "PATCH", "DELETE")
# OpenAPI 3.1 has a place for these methods and no others.
_DOCUMENTABLE = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})
_FAILURES: dict[int | str, dict[str, Any]] = {
    502: {"description": "The upstream could not be reached, or answered badly"},
    503: {"description": "No destination is available"},
    504: {"description": "The upstream did not answer in time"},
}
_KINDS: dict[str, Any] = {"int": int, "float": float, "uuid": UUID}
_PROBLEM = {
    "application/problem+json": {
        "schema": {
            "type": "object",
            "properties": {
                "type": {"type": "string", "format": "uri"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
            },
            "required": ["type", "title", "status"],
        }
    }
}


class DocumentRoute(APIRoute):
    """Stands in the document and serves nothing."""

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match nothing."""
        return Match.NONE, {}


class _OperationId:
    """``{stub}_{method}``; a further inclusion of the same route has its path appended."""

    def __init__(self, name: str, paths: dict[str, str]) -> None:
        self._name = name
        self._paths = paths

    def __call__(self, route: Any) -> str:
        # FastAPI asks for the route itself first, and then for each inclusion with its own path.
        path: str = route.path_format
        if isinstance(route, DocumentRoute):
            return self._name
        if path == self._paths.setdefault(self._name, path):
            return self._name
        return self._name + re.sub(r"\W+", "_", path).rstrip("_")


def document(
    router: APIRouter,
    routes: Sequence[tuple[RouteSpec, Plan, Template]],
    paths: dict[str, str],
) -> list[DeclarationError]:
    """Add the document-only routes of a proxy, and give what is wrong.

    Args:
        router: Where they go.
        routes: Each spec with its plan and template, in declared order.
        paths: The path that each operation was first documented under, shared by every router of the proxy.
    """
    problems: list[DeclarationError] = []
    taken: set[str] = set()
    shown = _choose([(spec, template) for spec, _, template in routes])
    for (spec, _, template), methods in zip(routes, shown, strict=True):
        if spec.include_in_schema:
            name = spec.facts.name
            numbered = (f"{name}_{number}" for number in itertools.count(2))
            stub_id = next(one for one in itertools.chain((name,), numbered) if one not in taken)
            taken.add(stub_id)
            try:
                with explained(spec):
                    _add(router, spec, template, stub_id, methods, paths)
            except DeclarationError as error:
                problems.append(error)
    return problems


def _choose(
    routes: Iterable[tuple[RouteSpec, Template]],
) -> list[tuple[str, ...]]:
    """The methods under which each route is documented, in the same order.

    A document has one operation for a path and method (OpenAPI 3.1 §4.8.9), whatever the parameters are called. Of
    several routes it is the one without ``match``, which serves whoever says nothing special; else the first one.
    """
    chosen: list[list[str]] = []
    owners: dict[tuple[str, str], tuple[int, bool]] = {}
    for number, (spec, template) in enumerate(routes):
        chosen.append([])
        if not spec.include_in_schema:
            continue
        path = re.sub(r"{\w+", "{", template.openapi_path)
        methods = sorted(spec.methods) if isinstance(spec.methods, tuple) else _USUAL
        for method in dict.fromkeys(methods):
            if method not in _DOCUMENTABLE:
                continue
            owner = owners.get((path, method))
            if owner is not None:
                if owner[1] or spec.match is not None:
                    continue
                chosen[owner[0]].remove(method)
            owners[path, method] = (number, spec.match is None)
            chosen[number].append(method)
    return [tuple(methods) for methods in chosen]


def _add(
    router: APIRouter,
    spec: RouteSpec,
    template: Template,
    stub_id: str,
    methods: Sequence[str],
    paths: dict[str, str],
) -> None:
    """Document one spec.

    Args:
        router: Where the document-only routes go.
        spec: What is documented.
        template: Its path.
        stub_id: The stub's name, made unique.
        methods: The methods under which it is documented; see ``_choose``.
        paths: The path that each operation was first documented under, shared by every router of the proxy.
    """
    kinds: dict[str, Any] = {
        segment.name: _KINDS.get(segment.converter.name, str)
        for segment in template.segments
        if segment.name is not None
    }
    for method in methods:
        endpoint = _document_endpoint(spec, kinds)
        router.add_api_route(
            template.starlette_path,
            endpoint,
            methods=[method],
            name=spec.name or spec.facts.name,
            summary=spec.summary,
            tags=list(spec.tags),
            dependencies=list(spec.dependencies),
            responses=_responses(spec),
            generate_unique_id_function=_OperationId(f"{stub_id}_{method.lower()}", paths),
            response_model=None,
            route_class_override=DocumentRoute,
        )


def _responses(spec: RouteSpec) -> dict[int | str, dict[str, Any]]:
    failures = {
        status: {**copy.deepcopy(response), "content": copy.deepcopy(_PROBLEM)}
        for status, response in _FAILURES.items()
    }
    return {**failures, **(spec.responses or {})}


def _document_endpoint(spec: RouteSpec, kinds: dict[str, Any]) -> Callable[..., Any]:
    """The stub's signature, and a path parameter for each capture that it does not name itself."""
    endpoint = make_endpoint(spec)
    signature = inspect.signature(endpoint)
    known = set(signature.parameters)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
        for name, kind in kinds.items()
        if name not in known
    ]
    endpoint.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]  # inspect reads it, and no type says so.
    return endpoint
