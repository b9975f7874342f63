"""Edits of messages, compiled to bytes: rules for field lines, queries and cookies; and what a pool has of them. Sans-I/O.

What a rule does not touch keeps its bytes, its order and its duplicates. Routes use the same edits, filled in with what
their paths have captured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote_plus, unquote_to_bytes

from attrs import frozen

from proxyroutes.filters import StreamFilter
from proxyroutes.filters._filter import to_filters
from proxyroutes.settings import CookieRules, HeaderRules, QueryRules
from proxyroutes.typing import Field, Fields

__all__ = [
    "GATEWAY_FIELDS",
    "NO_CAPTURES",
    "Captured",
    "CookieEdit",
    "HeaderEdit",
    "PoolTransforms",
    "QueryEdit",
    "Transformed",
    "captures_of",
    "compile_cookies",
    "compile_headers",
    "compile_query",
    "read_transforms",
]

Pieces: TypeAlias = tuple[bytes | int, ...]
"""Text, and numbers of captures, to be joined."""

Captured: TypeAlias = Callable[[int], bytes]
"""Gives the text of a capture by its number."""

# Fields without which content cannot be read: no list of allowed names drops them.
_OF_CONTENT = frozenset({b"content-encoding", b"content-length", b"content-range"})
GATEWAY_FIELDS = frozenset(
    b"client-cert client-cert-chain forwarded via x-forwarded-client-cert x-forwarded-for "
    b"x-forwarded-host x-forwarded-port x-forwarded-prefix x-forwarded-proto "
    b"x-forwarded-server x-real-ip".split()
)
"""What of a forwarded request is the gateway's own: the client's were dropped before."""

# What a value may be filled in with: <name> or {name}; doubled it is text.
_NAME = r"([A-Za-z_]\w*)"
_PARAMETER = re.compile(rf"<<{_NAME}>>|\{{\{{{_NAME}\}}\}}|<{_NAME}>|\{{{_NAME}\}}", re.ASCII)
_WHITE = b" \t"


def _pieces(text: str, names: Sequence[str], encode: Callable[[str], bytes]) -> Pieces:
    """Compile a value.

    Raises:
        ValueError: If it names a parameter that there is not.
    """
    pieces: list[bytes | int] = []
    end = 0
    for found in _PARAMETER.finditer(text):
        name = found[3] or found[4]
        literal = text[end : found.start()]
        end = found.end()
        if not name:
            pieces.append(encode(literal + found[0][1:-1]))
        elif name in names:
            pieces.extend((encode(literal), names.index(name)))
        else:
            known = ", ".join(f"<{known}>" for known in names) or "none here"
            raise ValueError(
                f"{text!r} names the path parameter <{name}>, of which there are {known}; "
                f"write <<{name}>> for the text itself"
            )
    pieces.append(encode(text[end:]))
    return tuple([piece for piece in pieces if piece != b""])


def _join(pieces: Pieces, captured: Captured) -> bytes:
    return b"".join([piece if isinstance(piece, bytes) else captured(piece) for piece in pieces])


# Field lines.


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
        return [
            *fields,
            *((name, _join(pieces, captured).strip(_WHITE)) for name, pieces in self.written),
        ]


def captures_of(edit: HeaderEdit) -> frozenset[int]:
    """Numbers of the captures that its values are filled in with."""
    return frozenset(
        piece for _, pieces in edit.written for piece in pieces if isinstance(piece, int)
    )


def _check_request_rules(rules: HeaderRules) -> None:
    written = {name.lower() for name, _ in (*rules.set, *rules.add)}
    written.update(name.lower() for name in rules.remove)
    if "host" in written.union(name.lower() for name in rules.allow or ()):
        raise ValueError("Host is chosen by host=, not by rules for fields")
    if "via" in written:
        raise ValueError("Via is the gateway's own: choose its name with Proxy(via=…)")


def compile_headers(
    rules: HeaderRules, names: Sequence[str] = (), *, response: bool = False
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
        _check_request_rules(rules)
    written = tuple(
        (_lower(name), _pieces(value, names, _latin)) for name, value in (*rules.set, *rules.add)
    )
    kept = None
    if rules.allow is not None:
        kept = frozenset(_lower(name) for name in rules.allow) | _OF_CONTENT
        if not response:
            kept |= GATEWAY_FIELDS
    edit = HeaderEdit(
        kept=kept,
        gone=frozenset(_lower(name) for name in (*rules.remove, *(name for name, _ in rules.set))),
        written=written,
        plain=None,
    )
    if captures_of(edit):
        return edit
    plain = tuple((name, _join(pieces, NO_CAPTURES).strip(_WHITE)) for name, pieces in written)
    return HeaderEdit(kept=edit.kept, gone=edit.gone, written=written, plain=plain)


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def _lower(name: str) -> bytes:
    return name.lower().encode("ascii")


# Queries.


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
            name = unquote_to_bytes(piece.partition(b"=")[0].replace(b"+", b" "))
            if (self.kept is not None and name not in self.kept) or name in self.removed:
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


def _parameter(one: tuple[bytes, Pieces], captured: Captured) -> bytes:
    return one[0] + b"=" + _join(one[1], captured)


def compile_query(rules: QueryRules, names: Sequence[str] = ()) -> QueryEdit:
    """Compile rules for the query.

    Raises:
        ValueError: If they name a parameter of the path that there is not.
    """

    def compiled(name: str, value: str) -> tuple[bytes, Pieces]:
        return _quoted(name), _pieces(value, names, _quoted)

    return QueryEdit(
        kept=None if rules.allow is None else frozenset(map(_utf8, rules.allow)),
        removed=frozenset(map(_utf8, rules.remove)),
        set={_utf8(name): compiled(name, value) for name, value in rules.set},
        added=tuple(compiled(name, value) for name, value in rules.add),
    )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quoted(text: str) -> bytes:
    return quote_plus(text, errors="surrogateescape").encode("ascii")


# Cookies.


@frozen(kw_only=True, eq=False)
class CookieEdit:
    """Compiled ``CookieRules``.

    Attributes:
        domain: What is written, ``b""`` deletes it, None leaves it.
        path: What is written, or None.
        maps_path: Whether a path that is there is mapped to the public address.
        secure: Whether it is written or deleted; None leaves it.
    """

    domain: bytes | None
    path: bytes | None
    maps_path: bool
    secure: bool | None

    def apply(self, fields: Fields, public: Callable[[bytes], bytes | None]) -> Fields:
        """The field lines with every ``Set-Cookie`` edited.

        Args:
            fields: The response's.
            public: Gives the public path of an upstream's, or None where it has none.
        """
        return [
            (name, self._edit(value, public)) if name == b"set-cookie" else (name, value)
            for name, value in fields
        ]

    def _edit(self, value: bytes, public: Callable[[bytes], bytes | None]) -> bytes:
        cookie, *attributes = value.split(b";")
        name = cookie.strip(_WHITE).lower()
        # RFC 6265bis §4.1.3: what a browser would refuse with another domain or path, or without Secure.
        host_bound = name.startswith(b"__host-")
        if not host_bound:
            if self.domain is not None:
                attributes = _write(attributes, b"Domain", self.domain)
            if self.path is not None:
                attributes = _write(attributes, b"Path", self.path)
            elif self.maps_path:
                attributes = [_map(one, public) for one in attributes]
        keeps_secure = host_bound or name.startswith(b"__secure-")
        if self.secure or (self.secure is False and not keeps_secure):
            attributes = [one for one in attributes if _attribute(one) != b"secure"]
        return b";".join([cookie, *attributes, *([b" Secure"] if self.secure else [])])


def _attribute(text: bytes) -> bytes:
    return text.partition(b"=")[0].strip(_WHITE).lower()


def _write(attributes: list[bytes], name: bytes, value: bytes) -> list[bytes]:
    kept = [one for one in attributes if _attribute(one) != name.lower()]
    return [*kept, b" " + name + b"=" + value] if value else kept


def _map(attribute: bytes, public: Callable[[bytes], bytes | None]) -> bytes:
    if _attribute(attribute) != b"path":
        return attribute
    mapped = public(attribute.partition(b"=")[2].strip(_WHITE))
    return attribute if mapped is None or b";" in mapped else b" Path=" + mapped


def compile_cookies(rules: CookieRules) -> CookieEdit:
    """Compile rules for cookies."""
    maps = rules.path == "rewrite"
    return CookieEdit(
        domain=None if rules.domain is None else rules.domain.encode("ascii"),
        path=None if maps or rules.path is None else rules.path.encode("ascii"),
        maps_path=maps,
        secure=rules.secure,
    )


# Pools.

NO_CAPTURES: Captured = dict[int, bytes]().__getitem__
"""What a pool's values are filled in with: they are text, and nothing is looked up here."""


@frozen(kw_only=True, eq=False)
class PoolTransforms:
    """The edits of one pool; they come after those of the route.

    Attributes:
        request: Edits the request's fields.
        query: Edits its query.
        response: Edits the response's fields.
        cookies: Edits the upstream's cookies.
        request_filters: Filters of the request's content, the last ones before the upstream.
        response_filters: Filters of the response's content, the first ones behind the upstream.
    """

    request: HeaderEdit | None = None
    query: QueryEdit | None = None
    response: HeaderEdit | None = None
    cookies: CookieEdit | None = None
    request_filters: tuple[StreamFilter, ...] = ()
    response_filters: tuple[StreamFilter, ...] = ()


class Transformed(Protocol):
    """A pool's state, as far as edits are concerned."""

    transforms: PoolTransforms | None
    """What it edits, or None: nothing is done then."""


def read_transforms(
    pool: str,
    *,
    request_headers: HeaderRules | None,
    response_headers: HeaderRules | None,
    query_rules: QueryRules | None,
    cookies: CookieRules | None,
    request_filters: Sequence[Any] | None,
    response_filters: Sequence[Any] | None,
) -> PoolTransforms | None:
    """What a pool edits, or None where it edits nothing.

    Raises:
        TypeError: If a rule is of another kind.
        ValueError: If one names a path parameter, or a field that rules cannot write.
    """
    given: dict[str, tuple[Any, type[Any], Callable[[Any], Any]]] = {
        "request_headers": (request_headers, HeaderRules, compile_headers),
        "response_headers": (response_headers, HeaderRules, _compile_response),
        "query_rules": (query_rules, QueryRules, compile_query),
        "cookies": (cookies, CookieRules, compile_cookies),
        "request_filters": (request_filters, object, to_filters),
        "response_filters": (response_filters, object, to_filters),
    }
    compiled: dict[str, Any] = {}
    for keyword, (value, kind, compile_value) in given.items():
        if value is None:
            continue
        if not isinstance(value, kind):
            raise TypeError(f"pool {pool!r}: {keyword}: a {kind.__name__} is meant, not {value!r}")
        try:
            compiled[_ATTRIBUTES.get(keyword, keyword)] = compile_value(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"pool {pool!r}: {keyword}: {error}") from error
    return PoolTransforms(**compiled) if any(compiled.values()) else None


_ATTRIBUTES = {
    "request_headers": "request",
    "response_headers": "response",
    "query_rules": "query",
}


def _compile_response(rules: HeaderRules) -> HeaderEdit:
    return compile_headers(rules, response=True)
