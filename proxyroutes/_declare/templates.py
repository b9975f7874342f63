"""Path templates: ``/users/<int:id>/<path>`` and FastAPI's ``/users/{id:int}/{path:path}``, and rewrites of them.

A template is a tuple of segments, because matching splits the raw path at ``/`` before anything is decoded (DESIGN
"Paths"). Text in, values out: whether two templates cover each other is decided here, matching a request is not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

from attrs import field, frozen

from proxyroutes.exceptions import PathTemplateError

__all__ = ["CONVERTERS", "Converter", "Segment", "Template", "parse_rewrite", "parse_template"]


@frozen(kw_only=True)
class Converter:
    """One kind of typed segment.

    Attributes:
        name: As it is written in a template.
        pattern: What the decoded segment must match whole; None takes any segment that is not empty.
        convert: Makes the value of FastAPI's parameter.
        within: Names of kinds that take every segment that this kind takes, itself included.
    """

    name: str
    pattern: re.Pattern[str] | None
    convert: Callable[[str], Any] = field(eq=False)
    within: frozenset[str]

    def takes(self, text: str) -> bool:
        """Whether a decoded segment is of this kind."""
        return bool(text) and (self.pattern is None or self.pattern.fullmatch(text) is not None)


_UUID = re.compile(
    r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
)

CONVERTERS: dict[str, Converter] = {
    converter.name: converter
    for converter in (
        Converter(name="str", pattern=None, convert=str, within=frozenset({"str"})),
        Converter(
            name="int",
            # Python refuses to convert longer numbers, with whatever limit it runs (at least 640 digits).
            pattern=re.compile("[0-9]{1,640}"),
            convert=int,
            within=frozenset({"int", "float", "str"}),
        ),
        Converter(
            name="float",
            pattern=re.compile(r"[0-9]+(?:\.[0-9]+)?"),
            convert=float,
            within=frozenset({"float", "str"}),
        ),
        Converter(name="uuid", pattern=_UUID, convert=UUID, within=frozenset({"uuid", "str"})),
        Converter(
            name="path",
            pattern=re.compile(".*", re.DOTALL),
            convert=str,
            within=frozenset({"path"}),
        ),
    )
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARAMETER = re.compile(r"<([^<>]*)>|\{([^{}]*)\}")
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")


@frozen
class Segment:
    """One segment of a template: a literal, or a parameter with a name.

    Attributes:
        literal: The decoded bytes that a segment must be; unused where there is a name.
        name: The parameter's name, or None.
        converter: The parameter's kind.
        raw: The literal as it goes out in a rewrite.
    """

    literal: bytes = b""
    name: str | None = None
    converter: Converter = CONVERTERS["str"]
    raw: bytes = b""

    @property
    def is_rest(self) -> bool:
        """Whether it takes the rest of the path."""
        return self.name is not None and self.converter.name == "path"

    def covers(self, other: Segment) -> bool:
        """Whether every segment that the other takes is taken by this one too."""
        if self.name is None:
            return other.name is None and self.literal == other.literal
        if other.name is None:
            return self.converter.takes(other.literal.decode("utf-8", "surrogateescape"))
        return self.converter.name in other.converter.within


@frozen
class Template:
    """A path template.

    Attributes:
        text: As it was written.
        segments: What stands between the slashes; the first slash is left out.
    """

    text: str
    segments: tuple[Segment, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(segment.name for segment in self.segments if segment.name is not None)

    @property
    def starlette_path(self) -> str:
        """The same template in FastAPI's spelling."""
        return "".join(f"/{_spell(segment)}" for segment in self.segments)

    @property
    def openapi_path(self) -> str:
        """The same template as OpenAPI spells it."""
        return "".join(
            "/" + (segment.raw.decode() if segment.name is None else f"{{{segment.name}}}")
            for segment in self.segments
        )

    def covers(self, other: Template) -> bool:
        """Whether every path that the other takes is taken by this one too."""
        mine, others = self.segments, other.segments
        for position, segment in enumerate(mine):
            if segment.is_rest:
                return len(others) > position
            if (
                position >= len(others)
                or others[position].is_rest
                or not segment.covers(others[position])
            ):
                return False
        return len(mine) == len(others)


def _spell(segment: Segment) -> str:
    if segment.name is None:
        # Starlette compares with the decoded path; this spelling is only read by FastAPI's parameters and documents.
        return (
            unquote_to_bytes(segment.raw)
            .decode("utf-8", "replace")
            .replace("{", "")
            .replace("}", "")
        )
    kind = segment.converter.name
    return f"{{{segment.name}}}" if kind == "str" else f"{{{segment.name}:{kind}}}"


def _read_parameter(angled: str | None, braced: str | None, template: str) -> Segment:
    if angled is not None:
        kind, separator, name = angled.partition(":")
        if not separator:
            kind, name = ("path" if angled == "path" else "str"), angled
    else:
        name, separator, kind = (braced or "").partition(":")
        kind = kind if separator else "str"
    if not _NAME.fullmatch(name):
        raise PathTemplateError(
            f"a parameter's name is a Python name, not {name!r}: path={template!r}"
        )
    converter = CONVERTERS.get(kind)
    if converter is None:
        close = difflib.get_close_matches(kind, CONVERTERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PathTemplateError(
            f"unknown converter {kind!r}{hint} (there are {', '.join(sorted(CONVERTERS))}): path={template!r}"
        )
    return Segment(name=name, converter=converter)


def _read_segment(text: str, template: str) -> Segment:
    found = _PARAMETER.fullmatch(text)
    if found is not None:
        return _read_parameter(found.group(1), found.group(2), template)
    if any(char in text for char in "<>{}"):
        raise PathTemplateError(
            f"a parameter is a whole segment between two slashes, not {text!r}: path={template!r}"
        )
    if not text.isascii():
        text = quote(text, safe="/%:@!$&'()*+,;=~")
    if not _LITERAL.fullmatch(text):
        raise PathTemplateError(
            f"percent-encode what a path cannot hold: {text!r} in path={template!r}"
        )
    literal = unquote_to_bytes(text)
    if literal in {b".", b".."} or b"/" in literal or b"\0" in literal:
        raise PathTemplateError(
            f"a literal segment is no dot segment and hides no slash: path={template!r}"
        )
    return Segment(literal=literal, raw=text.encode())


def _read_template(text: str) -> Template:
    if not isinstance(text, str):
        raise PathTemplateError(f"a path is a string: {text!r}")
    if not text.startswith("/"):
        raise PathTemplateError(f"a path starts with a slash: write '/{text}'")
    return Template(text, tuple(_read_segment(part, text) for part in text[1:].split("/")))


def parse_template(text: str) -> Template:
    """Read a path template.

    Raises:
        PathTemplateError: If it cannot be read; the message says what to write instead.
    """
    template = _read_template(text)
    for segment in template.segments[:-1]:
        if segment.is_rest:
            raise PathTemplateError(
                f"<{segment.name}> takes the rest of the path and must come last: path={text!r}; "
                f"for a single segment write <str:{segment.name}>"
            )
    repeated = {name for name in template.names if template.names.count(name) > 1}
    if repeated:
        raise PathTemplateError(f"parameter {min(repeated)!r} stands twice: path={text!r}")
    return template


def parse_rewrite(text: str, template: Template) -> Template:
    """Read a rewrite, whose parameters are filled in with what the template captured, wherever they stand.

    A parameter is of the template's kind; the rewrite need not say it again.

    Raises:
        PathTemplateError: If it cannot be read or uses a name that the path lacks.
    """
    try:
        rewrite = _read_template(text)
    except PathTemplateError as error:
        raise PathTemplateError(f"rewrite: {error.problem}") from error
    for name in rewrite.names:
        if name not in template.names:
            close = difflib.get_close_matches(name, template.names, n=1)
            hint = f"; did you mean <{close[0]}>?" if close else ""
            known = ", ".join(f"<{known}>" for known in template.names) or "none"
            raise PathTemplateError(
                f"rewrite={text!r} uses <{name}>, which path={template.text!r} does not have (it has {known}){hint}"
            )
    known_kinds = {
        segment.name: segment for segment in template.segments if segment.name is not None
    }
    segments = [known_kinds.get(segment.name or "", segment) for segment in rewrite.segments]
    return Template(text, tuple(segments))
