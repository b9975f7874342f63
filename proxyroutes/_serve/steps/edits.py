"""Declared edits of field lines and of the query, compiled to bytes. Sans-I/O.

What a rule does not touch keeps its bytes, its order and its duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias
from urllib.parse import quote_from_bytes, quote_plus, unquote_to_bytes

from attrs import frozen

from proxyroutes._serve.fields import check_edit, has_bad_value
from proxyroutes._serve.guard import refuse
from proxyroutes._serve.match import Found
from proxyroutes.settings import HeaderRules, QueryRules, check_request_rules, split_value
from proxyroutes.typing import Endpoint, Field, Fields, ForwardedHead, Scope

__all__ = [
    "GATEWAY_FIELDS",
    "Captured",
    "CheckCaptures",
    "HeaderEdit",
    "Pieces",
    "QueryEdit",
    "RequestHeaderEdit",
    "RequestQueryEdit",
    "ResponseHeaderEdit",
    "captures_of",
    "compile_headers",
    "compile_query",
]

Pieces: TypeAlias = tuple[bytes | int, ...]
"""Text, and numbers of captures, to be joined."""

Captured: TypeAlias = Callable[[int], bytes]
"""Gives the text of a capture by its number."""

# Fields without which content cannot be read: no list of allowed names drops them.
_OF_CONTENT = frozenset({b"content-encoding", b"content-length", b"content-range"})
GATEWAY_FIELDS = frozenset(
    {
        b"client-cert",
        b"client-cert-chain",
        b"forwarded",
        b"via",
        b"x-forwarded-client-cert",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-real-ip",
    }
)
"""What of a forwarded request is the gateway's own: the client's were dropped before."""


@frozen(kw_only=True, eq=False)
class HeaderEdit:
    """Compiled ``HeaderRules``.

    Attributes:
        kept: The only names to keep, or None for all.
        gone: Names that are deleted, because they are removed or written anew.
        written: Lines that are written; their values are joined for each message.
        plain: The same where no value is filled in, or None.
    """

    kept: frozenset[bytes] | None
    gone: frozenset[bytes]
    written: tuple[tuple[bytes, Pieces], ...]
    plain: tuple[Field, ...] | None

    def apply(self, fields: Fields, captured: Captured) -> Fields:
        """The field lines with every rule applied."""
        kept, gone = self.kept, self.gone
        if kept is not None:
            fields = [one for one in fields if one[0] in kept]
        if gone:
            # Many applications read both spellings as one variable (CONFORMANCE S-06).
            fields = [
                one
                for one in fields
                if one[0] not in gone
                and (b"_" not in one[0] or one[0].replace(b"_", b"-") not in gone)
            ]
        if self.plain is not None:
            return [*fields, *self.plain]
        return [*fields, *((name, join(pieces, captured)) for name, pieces in self.written)]


def join(pieces: Pieces, captured: Captured) -> bytes:
    """Fill in what was captured."""
    return b"".join(
        [piece if isinstance(piece, bytes) else captured(piece) for piece in pieces]
    ).strip(b" \t")


def _pieces(text: str, names: Sequence[str], encode: Callable[[str], bytes]) -> Pieces:
    """Compile a value.

    Raises:
        ValueError: If it names a parameter that there is not.
    """
    pieces: list[bytes | int] = []
    for piece, is_name in split_value(text):
        if not is_name:
            pieces.append(encode(piece))
        elif piece in names:
            pieces.append(names.index(piece))
        else:
            known = ", ".join(f"<{name}>" for name in names) or "none"
            raise ValueError(
                f"{text!r} names the parameter <{piece}>, of which there are {known}; "
                f"write <<{piece}>> for the text itself"
            )
    return tuple(pieces)


def captures_of(edit: HeaderEdit) -> frozenset[int]:
    """Numbers of the captures that its values are filled in with."""
    return frozenset(
        piece for _, pieces in edit.written for piece in pieces if isinstance(piece, int)
    )


def compile_headers(
    rules: HeaderRules, names: Sequence[str], *, response: bool = False
) -> HeaderEdit:
    """Compile rules for field lines.

    Args:
        rules: What was declared.
        names: Names of the parameters that may be filled in.
        response: Whether they are a response's.

    Raises:
        ValueError: If they name a parameter that there is not, or a field that a request's rules cannot write.
    """
    if not response:
        check_request_rules(rules)
    written = tuple(
        (check_edit(name, "")[0], _pieces(value, names, _latin))
        for name, value in (*rules.set, *rules.add)
    )
    filled_in = any(isinstance(piece, int) for _, pieces in written for piece in pieces)
    plain = tuple(
        check_edit(name, _text(value, names)) for name, value in (*rules.set, *rules.add)
    )
    kept = None
    if rules.allow is not None:
        kept = frozenset(_lower(name) for name in rules.allow) | _OF_CONTENT
        if not response:
            kept |= GATEWAY_FIELDS
    return HeaderEdit(
        kept=kept,
        gone=frozenset(_lower(name) for name in (*rules.remove, *(name for name, _ in rules.set))),
        written=written,
        plain=None if filled_in else plain,
    )


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def _lower(name: str) -> bytes:
    return name.lower().encode("ascii")


def _text(value: str, names: Sequence[str]) -> str:
    """A value without what is filled in, to be checked."""
    return "".join(
        piece for piece, is_name in split_value(value) if not (is_name and piece in names)
    )


def captured_text(found: Found, number: int) -> bytes:
    """What was captured, as a field can carry it.

    Raises:
        ClientRequestError: If no field can: a control character, or one outside of latin-1.
    """
    raw = unquote_to_bytes(found.captured(found.plan.captures[number]))
    try:
        text = raw.decode("utf-8").encode("latin-1")
    except UnicodeError as error:
        raise refuse("a path parameter has a character that no field can carry") from error
    if has_bad_value(text):
        raise refuse("a path parameter has a control character")
    return text


@frozen(eq=False)
class RequestHeaderEdit:
    """Edits the fields of a request before any user code sees it."""

    edit: HeaderEdit

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Edit."""
        del scope
        head.fields = self.edit.apply(head.fields, lambda number: captured_text(found, number))


@frozen(eq=False)
class CheckCaptures:
    """Refuses a request whose captured text could not stand in a field of its response."""

    numbers: frozenset[int]

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Check."""
        del scope, head
        for number in self.numbers:
            captured_text(found, number)


@frozen(eq=False)
class ResponseHeaderEdit:
    """Edits the fields of a response."""

    edit: HeaderEdit

    def __call__(self, fields: Fields, found: Found | None, destination: Endpoint) -> Fields:
        """Edit."""
        del destination

        def captured(number: int) -> bytes:
            return b"" if found is None else captured_text(found, number)

        return self.edit.apply(fields, captured)


@frozen(kw_only=True, eq=False)
class QueryEdit:
    """Compiled ``QueryRules``; names are decoded."""

    kept: frozenset[bytes] | None
    removed: frozenset[bytes]
    set: Mapping[bytes, tuple[bytes, Pieces]]
    added: tuple[tuple[bytes, Pieces], ...]

    def apply(self, query: bytes, captured: Captured) -> bytes:
        """The query with every rule applied; what no rule names keeps its bytes."""
        pieces = query.split(b"&") if query else []
        result: list[bytes] = []
        written: set[bytes] = set()
        for piece in pieces:
            name = _decoded(piece)
            if self.kept is not None and name not in self.kept:
                continue
            if name in self.removed:
                continue
            if name not in self.set:
                result.append(piece)
            elif name not in written:
                # It takes the place of the first one; further ones are replaced with it.
                written.add(name)
                result.append(_parameter(self.set[name], captured))
        result.extend(
            _parameter(one, captured) for name, one in self.set.items() if name not in written
        )
        result.extend(_parameter(one, captured) for one in self.added)
        return b"&".join(result)


def _decoded(piece: bytes) -> bytes:
    return unquote_to_bytes(piece.partition(b"=")[0].replace(b"+", b" "))


def _parameter(one: tuple[bytes, Pieces], captured: Captured) -> bytes:
    name, pieces = one
    value = b"".join([piece if isinstance(piece, bytes) else captured(piece) for piece in pieces])
    return name + b"=" + value


def compile_query(rules: QueryRules, names: Sequence[str]) -> QueryEdit:
    """Compile rules for the query.

    Raises:
        ValueError: If they name a parameter of the path that there is not.
    """

    def compiled(name: str, value: str) -> tuple[bytes, Pieces]:
        return _quoted(name), _pieces(value, names, _quoted)

    return QueryEdit(
        kept=None
        if rules.allow is None
        else frozenset(name.encode("utf-8", "surrogateescape") for name in rules.allow),
        removed=frozenset(name.encode("utf-8", "surrogateescape") for name in rules.remove),
        set={
            name.encode("utf-8", "surrogateescape"): compiled(name, value)
            for name, value in rules.set
        },
        added=tuple(compiled(name, value) for name, value in rules.add),
    )


def _quoted(text: str) -> bytes:
    return quote_plus(text, errors="surrogateescape").encode("ascii")


def edit_query(edit: QueryEdit, head: ForwardedHead, captured: Captured) -> None:
    """Edit the query of a head."""
    path, _, query = head.target.partition(b"?")
    query = edit.apply(query, captured)
    head.target = path + b"?" + query if query else path


@frozen(eq=False)
class RequestQueryEdit:
    """Edits the query of a request before any user code sees it."""

    edit: QueryEdit

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Edit."""
        del scope
        captures = found.plan.captures

        def captured(number: int) -> bytes:
            raw = unquote_to_bytes(found.captured(captures[number]))
            return quote_from_bytes(raw, safe="").encode("ascii")

        edit_query(self.edit, head, captured)
