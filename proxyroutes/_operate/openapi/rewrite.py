"""What an operation needs to stand in another document: components under names of their own, in OpenAPI 3.1's words."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Components", "combine_security"]

_REFERENCE = "#/components/"
# What stands there is content and not description.
_PLAIN = frozenset({"const", "default", "enum", "example"})
_BOUNDS = (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum"))


class Components:
    """The components of one upstream's document that are needed, under names of their own.

    Args:
        document: The upstream's document.
        prefix: What is put in front of each name, with an underscore between them.
    """

    def __init__(self, document: Mapping[str, Any], prefix: str) -> None:
        found = document.get("components")
        self._all: Mapping[str, Any] = found if isinstance(found, dict) else {}
        self._prefix = prefix
        self._old = str(document.get("openapi", "")).startswith("3.0")
        self.needed: dict[str, dict[str, Any]] = {}

    def rename(self, name: str) -> str:
        """A name of theirs as ours."""
        return f"{self._prefix}_{name}"

    def adopt(self, value: Any) -> Any:
        """A copy of a part of the document, whose references lead to components of ours; those are taken over."""
        return self._convert(copy.deepcopy(value))

    def adopt_security(self, requirements: Any) -> list[dict[str, list[str]]] | None:
        """Requirements with the names of schemes that are taken over; None where there are none."""
        if not isinstance(requirements, list):
            return None
        adopted = []
        for requirement in requirements:
            renamed = {}
            for name, scopes in requirement.items():
                self._take("securitySchemes", name)
                renamed[self.rename(name)] = list(scopes)
            adopted.append(renamed)
        return adopted

    def _convert(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._convert(one) for one in value]
        if not isinstance(value, dict):
            return value
        converted = {
            key: one if key in _PLAIN else self._convert(one) for key, one in value.items()
        }
        reference = converted.get("$ref")
        if isinstance(reference, str):
            converted["$ref"] = self._lead(reference)
        discriminator = converted.get("discriminator")
        if isinstance(discriminator, dict) and isinstance(discriminator.get("mapping"), dict):
            discriminator["mapping"] = {
                key: self._lead(one if "/" in one else f"{_REFERENCE}schemas/{one}")
                for key, one in discriminator["mapping"].items()
            }
        return _modernise(converted) if self._old else converted

    def _lead(self, reference: str) -> str:
        if not reference.startswith(_REFERENCE):
            raise ValueError(f"a reference that is none to a component: {reference!r}")
        kind, _, rest = reference.removeprefix(_REFERENCE).partition("/")
        name, slash, within = rest.partition("/")
        self._take(kind, name)
        return f"{_REFERENCE}{kind}/{self.rename(name)}{slash}{within}"

    def _take(self, kind: str, name: str) -> None:
        taken = self.needed.setdefault(kind, {})
        own = self.rename(name)
        if own not in taken:
            # First the place, then the content: components may lead to themselves.
            taken[own] = {}
            taken[own] = self.adopt(self._all[kind][name])


def _modernise(schema: dict[str, Any]) -> dict[str, Any]:
    """The words of OpenAPI 3.0 that 3.1 has no longer."""
    if schema.get("nullable") is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("nullable"), bool):
        del schema["nullable"]
    for flag, bound in _BOUNDS:
        if isinstance(schema.get(flag), bool) and schema.pop(flag) and bound in schema:
            schema[flag] = schema.pop(bound)
    return schema


def combine_security(
    own: Iterable[Mapping[str, Any]] | None, theirs: Iterable[Mapping[str, Any]] | None
) -> list[dict[str, Any]] | None:
    """What satisfies the gateway and the upstream: each alternative of the one with each of the other."""
    ours, others = list(own or ()), list(theirs or ())
    if not ours or not others:
        return [dict(one) for one in ours or others] or None
    return [{**one, **other} for one in ours for other in others]
