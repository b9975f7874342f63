"""The gateway's part of the application's OpenAPI document.

The serving routes are not in it: one document-only route a method is, with an ``operation_id`` of its own, because one
route with several methods would give them all the same. A document-only route matches nothing.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match
from typing_extensions import override

from proxyroutes._build.stubs import make_endpoint
from proxyroutes._declare.specs import RouteSpec
from proxyroutes._declare.templates import Template
from proxyroutes.typing import Scope

__all__ = ["DocumentRoute", "add_documents"]

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


def add_documents(
    router: APIRouter, spec: RouteSpec, template: Template, stub_id: str, paths: dict[str, str]
) -> None:
    """Document one spec: each method that it names, or the five usual ones.

    Args:
        router: Where the document-only routes go.
        spec: What is documented.
        template: Its path.
        stub_id: The stub's name, made unique.
        paths: The path that each operation was first documented under, shared by every router of the proxy.
    """
    methods: Sequence[str] = sorted(spec.methods) if isinstance(spec.methods, tuple) else _USUAL
    kinds: dict[str, Any] = {
        segment.name: _KINDS.get(segment.converter.name, str)
        for segment in template.segments
        if segment.name is not None
    }
    for method in methods:
        if method not in _DOCUMENTABLE:
            continue
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
    endpoint.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    return endpoint
