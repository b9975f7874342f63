"""Conditions: what besides path and method decides a route, asked by the one index of router, lane and application.

Sans-I/O. A condition sees what the client may say of its request and nothing that only a proxy may: forwarding fields,
hop-by-hop fields and identity fields are hidden from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import unquote_plus

from attrs import define
from typing_extensions import override

from proxyroutes._serve.fields import COOKIE, FIELD_ACTIONS, PASS
from proxyroutes._serve.guard import check_host
from proxyroutes._serve.match import Found, path_parameters
from proxyroutes.exceptions import ClientRequestError
from proxyroutes.typing import Field, Scope

__all__ = ["Condition", "Received", "Values", "host_name", "is_visible"]

_ASKED = "proxyroutes.asked"


def is_visible(name: bytes, actions: Mapping[bytes, int]) -> bool:
    """Whether a condition may see a received field of this name."""
    # As where fields are read: both spellings of a name are one to many applications (CONFORMANCE S-06).
    action = actions.get(name.replace(b"_", b"-") if b"_" in name else name, PASS)
    return action in {PASS, COOKIE}


def host_name(headers: Sequence[Field]) -> str:
    """The name in the one ``Host`` that a request has: in lower case, without port and last dot.

    Empty where there is none, or none that the guard would let pass.
    """
    values = [value for name, value in headers if name == b"host"]
    if len(values) != 1:
        return ""
    try:
        check_host(values[0])
    except ClientRequestError:
        return ""
    text = values[0].decode("ascii").lower()
    name = text.partition("]")[0] + "]" if text[0] == "[" else text.partition(":")[0]
    return name.removesuffix(".")


class Values(Mapping[str, str]):
    """Names and values that cannot be edited; of several values of one name, the first one is its value."""

    __slots__ = ("_cased", "_pairs")

    def __init__(self, pairs: Sequence[tuple[str, str]], *, cased: bool = True) -> None:
        self._pairs = pairs
        self._cased = cased

    def get_all(self, name: str) -> list[str]:
        """Every value, in order."""
        wanted = name if self._cased else name.lower()
        return [value for known, value in self._pairs if known == wanted]

    @override
    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return values[0]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    @override
    def __len__(self) -> int:
        return len(dict(self._pairs))

    @override
    def __repr__(self) -> str:
        return f"<Values {list(self._pairs)}>"


def _read_query(scope: Scope) -> list[tuple[str, str]]:
    text: str = scope.get("query_string", b"").decode("latin-1")
    pieces = [piece.partition("=") for piece in text.split("&") if piece]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pieces]


class Received:
    """The request as it was received, for ``Match(when=…)``; see ``proxyroutes.typing.ReceivedRequest``."""

    __slots__ = ("_actions", "_found", "_scope")

    def __init__(self, scope: Scope, found: Found, actions: Mapping[bytes, int]) -> None:
        self._scope = scope
        self._found = found
        self._actions = actions

    @override
    def __repr__(self) -> str:
        return f"<Received {self.method} {self.path}>"

    @property
    def method(self) -> str:
        """The method; GET for a WebSocket's handshake."""
        return str(self._scope.get("method", "GET"))

    @property
    def path(self) -> str:
        """The raw, percent-encoded path."""
        return self._found.raw_path.decode("latin-1")

    @property
    def query_string(self) -> str:
        """The raw query without its question mark."""
        return str(self._scope.get("query_string", b"").decode("latin-1"))

    @property
    def query(self) -> Values:
        """Parameters, decoded."""
        return Values(_read_query(self._scope))

    @property
    def headers(self) -> Values:
        """Field lines that the client may set; names without case."""
        pairs = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._scope["headers"]
            if is_visible(name, self._actions)
        ]
        return Values(pairs, cased=False)

    @property
    def cookies(self) -> Values:
        """Cookies by name, values as they came (RFC 6265 §4.2.1)."""
        lines = [value for name, value in self._scope["headers"] if name == b"cookie"]
        pieces = [
            piece.strip().partition("=")
            for piece in b"; ".join(lines).decode("latin-1").split(";")
        ]
        return Values([(name, value) for name, mark, value in pieces if mark])

    @property
    def host(self) -> str:
        """The name in ``Host``, in lower case and without port; empty where there is none."""
        return host_name(self._scope["headers"])

    @property
    def scheme(self) -> str:
        """``http``, ``https``, ``ws`` or ``wss``, as the client spoke it."""
        return str(self._scope.get("scheme", "http"))

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the client, or None."""
        client = self._scope.get("client")
        return (str(client[0]), int(client[1])) if client else None

    @property
    def path_params(self) -> dict[str, object]:
        """What the template captured, decoded."""
        return path_parameters(self._found)


@define(eq=False, slots=True)
class Condition:
    """One compiled ``Match``. Called with a route that fits the path, it says whether the route serves the request.

    Attributes:
        hosts: Names in lower case; None for any.
        below: What a name may end with instead, dot included.
        headers: Field lines that must be there.
        query: Parameters that must be there.
        when: The last word.
        actions: What the route does with received fields.
    """

    hosts: frozenset[str] | None
    below: tuple[str, ...]
    headers: tuple[Field, ...]
    query: tuple[tuple[str, str], ...]
    when: Callable[[Received], bool] | None
    actions: Mapping[bytes, int] = FIELD_ACTIONS

    def __call__(self, found: Found, scope: Scope) -> bool:
        """Whether all of it holds."""
        headers = scope["headers"]
        if self.hosts is not None:
            name = host_name(headers)
            if name not in self.hosts and not (self.below and name.endswith(self.below)):
                return False
        if self.headers and not self._has_lines(headers):
            return False
        if self.query:
            given = set(_read_query(scope))
            if not given.issuperset(self.query):
                return False
        return self.when is None or self._asked(found, scope, self.when)

    def _has_lines(self, headers: Sequence[Field]) -> bool:
        # Some servers give pairs that are lists.
        return {(name, value) for name, value in headers}.issuperset(self.headers)

    def _asked(self, found: Found, scope: Scope, when: Callable[[Received], bool]) -> bool:
        """Ask once for each request: lane, router and route all need the answer, and it must not change between them."""
        asked = scope.setdefault(_ASKED, {})
        key = (id(self), found.start, found.raw_path)
        if key not in asked:
            try:
                asked[key] = bool(when(Received(scope, found, self.actions)))
            except Exception as error:
                # Whatever it is, an HTTPException too: every lane must come to the same answer.
                raise RuntimeError(
                    f"the predicate of route {found.plan.name!r} has failed"
                ) from error
        return bool(asked[key])
