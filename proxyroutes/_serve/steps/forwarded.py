"""``ForwardedRequest``: the request as it will be forwarded, in the application's hands.

Hop-by-hop and forwarding fields are gone before anybody sees it. Every edit is checked where it is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from typing_extensions import override

from proxyroutes._serve.fields import check_edit
from proxyroutes._serve.guard import check_host, check_method, check_target
from proxyroutes._serve.match import Found, path_parameters
from proxyroutes.exceptions import ClientRequestError, EditError
from proxyroutes.typing import Field, Fields, ForwardedHead, Scope

__all__ = [
    "ForwardedQuery",
    "ForwardedRequest",
    "RequestFields",
    "edit_field",
    "forwarded_request",
    "refuse_edit",
    "same_field",
]

_PACKAGE = "proxyroutes."
_OURS = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


def refuse_edit(problem: str) -> EditError:
    """The error of an edit, with the line outside of this package that made it."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    location = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return EditError(problem, location=location)


def edit_field(name: str, value: str) -> Field:
    """Check and encode a request field that the application sets.

    Raises:
        EditError: If it is no field, or one that the gateway makes itself.
    """
    try:
        field = check_edit(name, value)
    except ValueError as error:
        raise refuse_edit(str(error)) from error
    if field[0] in _OURS:
        raise refuse_edit(f"{name!r} belongs to the connection and is made by the gateway")
    return field


def same_field(name: bytes, known: bytes) -> bool:
    """Whether a field that the client sent may be read as the one that the application sets.

    Many applications read ``X_User`` and ``X-User`` as one variable.
    """
    return known == name or (b"_" in known and known.replace(b"_", b"-") == name)


class RequestFields:
    """Field lines that may be edited: names without case, order and duplicates kept."""

    def __init__(self, head: ForwardedHead) -> None:
        self._head = head

    @property
    def raw(self) -> Fields:
        """Field lines as they go out, without ``Host`` and framing."""
        return self._head.fields

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value, or the default."""
        wanted = name.lower().encode("latin-1", "replace")
        if wanted == b"host":
            return self._head.host.decode("latin-1") if self._head.host is not None else default
        for known, value in self._head.fields:
            if known == wanted:
                return value.decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value, in order."""
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for known, value in self._head.fields if known == wanted]

    def set(self, name: str, value: str) -> None:
        """Write one field instead of what is there, which is deleted first, in either spelling of its name.

        Raises:
            EditError: If it is no field, or one that the gateway makes itself.
        """
        field = edit_field(name, value)
        if field[0] == b"host":
            self._head.host = _host(field[1])
            return
        fields = self._head.fields
        places = [place for place, known in enumerate(fields) if same_field(field[0], known[0])]
        if not places:
            fields.append(field)
            return
        fields[places[0]] = field
        for place in reversed(places[1:]):
            del fields[place]

    def add(self, name: str, value: str) -> None:
        """Append a field.

        Raises:
            EditError: If it is no field, or one that there is only one of or that the gateway makes itself.
        """
        field = edit_field(name, value)
        if field[0] == b"host":
            raise refuse_edit("there is only one Host: set it")
        self._head.fields.append(field)

    def remove(self, name: str) -> None:
        """Delete every field of this name, if there is one."""
        wanted = name.lower().encode("latin-1", "replace")
        self._head.fields[:] = [field for field in self._head.fields if field[0] != wanted]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self.remove(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw]
        )

    def __len__(self) -> int:
        return len(self._head.fields)


def _host(value: bytes) -> bytes:
    try:
        check_host(value)
    except ClientRequestError as error:
        raise refuse_edit(f"not a host and a port: {value!r}") from error
    return value


class ForwardedQuery:
    """The query: parameters in order, duplicates kept. It goes out byte for byte until it is edited."""

    def __init__(self, request: ForwardedRequest) -> None:
        self._request = request

    def _pieces(self) -> list[str]:
        text = self._request.query_string
        return text.split("&") if text else []

    def items(self) -> list[tuple[str, str]]:
        """Every parameter, decoded."""
        pairs = [piece.partition("=") for piece in self._pieces() if piece]
        return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value, or the default."""
        return next((value for known, value in self.items() if known == name), default)

    def get_all(self, name: str) -> list[str]:
        """Every value, in order."""
        return [value for known, value in self.items() if known == name]

    def add(self, name: str, value: str) -> None:
        """Append a parameter."""
        self._request.query_string = "&".join(
            [*self._pieces(), f"{quote_plus(name)}={quote_plus(value)}"]
        )

    def remove(self, name: str) -> None:
        """Delete every parameter of this name; the others keep their spelling."""
        self._request.query_string = "&".join(
            piece for piece in self._pieces() if unquote_plus(piece.partition("=")[0]) != name
        )

    def set(self, name: str, value: str) -> None:
        """Write one parameter instead of what is there."""
        self.remove(name)
        self.add(name, value)

    def __contains__(self, name: object) -> bool:
        return any(known == name for known, _ in self.items())

    def __len__(self) -> int:
        return len(self.items())


class ForwardedRequest:
    """The request as it will be forwarded.

    Attributes:
        headers: Field lines, editable.
        query: Parameters, editable.
        route: The route's name.
        client: Address and port of the client, or None.
        scheme: ``http`` or ``https``, as the client spoke it.
        path_params: What the template captured, decoded.
        received_host: The value of ``Host`` that the client sent.
    """

    def __init__(
        self,
        head: ForwardedHead,
        *,
        route: str = "",
        client: tuple[str, int] | None = None,
        scheme: str = "http",
        path_params: dict[str, Any] | None = None,
        received_host: str = "",
    ) -> None:
        self._head = head
        self.headers = RequestFields(head)
        self.query = ForwardedQuery(self)
        self.route = route
        self.client = client
        self.scheme = scheme
        self.path_params = path_params or {}
        self.received_host = received_host

    @override
    def __repr__(self) -> str:
        return f"<ForwardedRequest {self.method} {self._head.target.decode('latin-1')}>"

    @property
    def method(self) -> str:
        """The method; setting CONNECT, TRACE or what is no token raises ``EditError``."""
        return self._head.method.decode("ascii")

    @method.setter
    def method(self, value: str) -> None:
        try:
            check_method(value)
        except ClientRequestError as error:
            raise refuse_edit(f"not a method that can be forwarded: {value!r}") from error
        self._head.method = value.encode("ascii")

    @property
    def path(self) -> str:
        """The raw, percent-encoded path; setting one that could be read in two ways raises ``EditError``."""
        return self._head.target.partition(b"?")[0].decode("ascii")

    @path.setter
    def path(self, value: str) -> None:
        self._set_target(value, self.query_string)

    @property
    def query_string(self) -> str:
        """The raw query without its question mark."""
        return self._head.target.partition(b"?")[2].decode("ascii")

    @query_string.setter
    def query_string(self, value: str) -> None:
        self._set_target(self.path, value)

    def _set_target(self, path: str, query: str) -> None:
        try:
            raw_path, raw_query = path.encode("ascii"), query.encode("ascii")
            check_target(raw_path, raw_query)
        except (UnicodeEncodeError, ClientRequestError) as error:
            raise refuse_edit(f"not a target that can be forwarded: {path!r} {query!r}") from error
        if b"?" in raw_path:
            raise refuse_edit(
                f"a path has no question mark: set query_string, or write %3F: {path!r}"
            )
        self._head.target = raw_path + b"?" + raw_query if raw_query else raw_path


def forwarded_request(scope: Scope, found: Found, head: ForwardedHead) -> ForwardedRequest:
    """The request with this head as the application sees it."""
    client = scope.get("client")
    return ForwardedRequest(
        head,
        route=found.plan.name,
        client=tuple(client) if client else None,
        scheme=scope.get("scheme", "http"),
        path_params=path_parameters(found),
        received_host=next(
            (value for name, value in scope["headers"] if name == b"host"), b""
        ).decode("latin-1"),
    )
