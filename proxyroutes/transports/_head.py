"""What every transport does alike with the head of a message."""

from __future__ import annotations

from proxyroutes.exceptions import UpstreamProtocolError
from proxyroutes.transports._auth import is_bound
from proxyroutes.typing import Body, Endpoint, Fields, ForwardedHead

__all__ = ["MAX_FIELDS", "MAX_HEAD_BYTES", "check_head", "compose_fields"]

MAX_HEAD_BYTES = 65_536
"""Bytes of a response's field lines, each counted with its colon, space and line end."""

MAX_FIELDS = 200
"""Field lines of a response."""

_FIELD_OVERHEAD_BYTES = 4
_VERSIONS = frozenset({"HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def compose_fields(head: ForwardedHead, body: Body | None, destination: Endpoint) -> Fields:
    """Put ``Host`` in front of the forwarded fields and the framing behind them.

    RFC 9112 §6.3: a request with neither ``Content-Length`` nor ``Transfer-Encoding`` has no content, so that a
    request without a body gets neither.
    """
    fields = [(b"host", destination.authority if head.host is None else head.host)]
    fields.extend(head.fields)
    length = head.content_length
    if length is None and body is not None:
        length = body.content_length
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    elif body is not None:
        fields.append((b"transfer-encoding", b"chunked"))
    if any(name == b"authorization" and is_bound(value) for name, value in fields):
        fields.append((b"connection", b"close"))
    return fields


def check_head(status: int, fields: Fields, version: str = "HTTP/1.1") -> None:
    """Refuse the head of a response that is not final, too large, or of a version that nobody speaks.

    Raises:
        UpstreamProtocolError: If the head must not be relayed.

    Source:
        RFC 9110 §15 (status codes outside of the range), RFC 9110 §7.8 (101 that was not asked for).
    """
    if version not in _VERSIONS:
        # A parser of HTTP/1 may take any two digits for a version.
        raise UpstreamProtocolError(f"not a version of HTTP: {version!r}")
    if not 200 <= status <= 599:
        raise UpstreamProtocolError(f"status {status} is not a final status")
    framing = [name for name, _ in fields if name in _FRAMING]
    if len(framing) > 1:
        # RFC 9112 §6.3: which of them counts is a guess, and a guess is how messages are smuggled.
        raise UpstreamProtocolError("more than one of Content-Length and Transfer-Encoding")
    if len(fields) > MAX_FIELDS:
        raise UpstreamProtocolError(f"more than {MAX_FIELDS} response fields")
    size = sum(len(name) + len(value) + _FIELD_OVERHEAD_BYTES for name, value in fields)
    if size > MAX_HEAD_BYTES:
        raise UpstreamProtocolError(f"more than {MAX_HEAD_BYTES} bytes of response fields")
