"""What the caller of ``forward`` and ``relay`` writes over a request: its target, its fields, its content."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from attrs import define

from proxyroutes._serve.guard import check_host, check_method, check_target
from proxyroutes._serve.steps.forwarded import edit_field, refuse_edit, same_field
from proxyroutes._state.transforms import GATEWAY_FIELDS
from proxyroutes.exceptions import ClientRequestError
from proxyroutes.typing import Fields, ForwardedHead

__all__ = ["FieldValues", "Overrides"]

FieldValues = Mapping[str, str] | Iterable[tuple[str, str]]


@define(kw_only=True)
class Overrides:
    """What is written over one request, as ``Proxy.forward`` describes it; ``relay`` gives a part of it.

    Attributes:
        path: Path, and query if it has one.
        method: Method.
        headers: Fields instead of the client's.
        extra_headers: Fields that replace the client's of the same names.
        body: Content.
        forward_query: Whether the request's query is forwarded.
    """

    path: str | None
    method: str | None = None
    headers: FieldValues | None
    extra_headers: FieldValues | None
    body: Any = None
    forward_query: bool

    def write(self, head: ForwardedHead, base_path: bytes) -> bytes | AsyncIterable[bytes] | None:
        """Write them, with the path behind the base path, and give the content if there is one among them.

        Raises:
            EditError: If a part of it cannot be forwarded.
        """
        own = None if self.body is None else _own_content(self.body, head)
        self._write_target(head, base_path)
        _edit_fields(head, self.headers, self.extra_headers)
        if own is None:
            return None
        content, media_type = own
        if media_type is not None and not any(name == b"content-type" for name, _ in head.fields):
            head.fields.append((b"content-type", media_type))
        return content

    def _write_target(self, head: ForwardedHead, base_path: bytes) -> None:
        path, method = self.path, self.method
        raw_path, _, query = head.target.partition(b"?")
        if not self.forward_query:
            query = b""
        if path is not None:
            own_path, _, own_query = path.partition("?")
            if not own_path.startswith("/"):
                own_path = "/" + own_path
            raw_path = quote(own_path, safe="/%!$&'()*+,;=:@~").encode("ascii")
            if own_query:
                own = quote(own_query, safe="/%!$&'()*+,;=:@~?[]{}|\\^`\"<>").encode("ascii")
                query = own + b"&" + query if query else own
        try:
            check_target(raw_path, query)
            if method is not None:
                check_method(method)
                head.method = method.encode("ascii")
        except ClientRequestError as error:
            raise refuse_edit(
                f"cannot be forwarded: {error.detail}: path={path!r} method={method!r}"
            ) from error
        head.target = base_path + raw_path + (b"?" + query if query else b"")


def _pairs(values: FieldValues) -> list[tuple[str, str]]:
    return list(values.items()) if isinstance(values, Mapping) else list(values)


def _edit_fields(
    head: ForwardedHead, headers: FieldValues | None, extra: FieldValues | None
) -> None:
    """Write fields instead of, and beside, the client's.

    Raises:
        EditError: If one cannot be sent.
    """
    if headers is not None:
        head.fields = _written(head, headers) + [
            field for field in head.fields if field[0] in GATEWAY_FIELDS
        ]
    if extra is not None:
        added = _written(head, extra)
        names = {name for name, _ in added}
        # A client's own line of the same name would stand in front of the application's and be believed first.
        kept = [
            field
            for field in head.fields
            if field[0] not in names
            and not (b"_" in field[0] and any(same_field(name, field[0]) for name in names))
        ]
        head.fields = kept + added


def _written(head: ForwardedHead, values: FieldValues) -> Fields:
    fields: Fields = []
    for name, value in _pairs(values):
        field = edit_field(name, value)
        if field[0] == b"host":
            try:
                check_host(field[1])
            except ClientRequestError as error:
                raise refuse_edit(f"not a host and a port: {value!r}") from error
            head.host = field[1]
        else:
            fields.append(field)
    return fields


def _own_content(
    body: Any, head: ForwardedHead
) -> tuple[bytes | AsyncIterable[bytes], bytes | None]:
    """Content that the caller gives, and its media type where no field tells it.

    It is bytes, text, an asynchronous iterable of bytes, or anything that JSON can hold. What the client said of its own
    content goes.
    """
    if isinstance(body, AsyncIterable):
        return body, None
    # Its framing is ours already; these describe bytes that are not sent (RFC 9110 §8.4, RFC 9530).
    gone = {b"content-encoding", b"digest", b"content-digest"}
    media_type: bytes | None = None
    if isinstance(body, bytes | bytearray | memoryview):
        content = bytes(body)
    elif isinstance(body, str):
        content, media_type = body.encode(), b"text/plain; charset=utf-8"
    else:
        content = json.dumps(
            body, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
        media_type = b"application/json"
        gone.add(b"content-type")
    head.fields = [field for field in head.fields if field[0] not in gone]
    return content, media_type
