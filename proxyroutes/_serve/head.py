"""The forwarded head: from the received request's bytes to the ones that go out.

Sans-I/O. The guard and the field rules run here, once, before any user code sees the request.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import quote_from_bytes, unquote_to_bytes

from proxyroutes._serve.fields import ReceivedFields, read_fields
from proxyroutes._serve.guard import check_method, check_target, refuse
from proxyroutes._serve.match import Found, raw_path_of
from proxyroutes._serve.plan import Plan
from proxyroutes.typing import Field, Fields, ForwardedHead, Scope

__all__ = [
    "fill",
    "forwarded_target",
    "forwarding_fields",
    "make_head",
    "public_prefix",
    "read_request",
]

_VERSIONS = {"1.1": b"1.1 ", "1.0": b"1.0 ", "2": b"2 ", "2.0": b"2 ", "3": b"3 "}


def read_request(scope: Scope, plan: Plan) -> ReceivedFields:
    """Guard a request and read its fields.

    Raises:
        ClientRequestError: If it must not be forwarded.
    """
    check_method(scope["method"])
    check_target(raw_path_of(scope), scope.get("query_string", b""))
    return read_fields(scope["headers"], scope.get("http_version", "1.1"), plan.field_actions)


def make_head(scope: Scope, plan: Plan, found: Found, received: ReceivedFields) -> ForwardedHead:
    """Compose the head that is forwarded.

    Raises:
        ClientRequestError: If the request has passed this gateway before.
    """
    target = forwarded_target(scope, plan, found)
    query = scope.get("query_string", b"")
    if query:
        target += b"?" + query
    fields = received.fields
    fields += forwarding_fields(scope, plan, found, received)
    host = plan.host
    if host == b"":
        host = received.host or None
    method: str = scope["method"]
    return ForwardedHead(method.encode("ascii"), target, fields, host, received.content_length)


def forwarded_target(scope: Scope, plan: Plan, found: Found) -> bytes:
    """The path that is forwarded: the received one byte for byte, or the rewrite with raw captures."""
    rewrite = plan.rewrite
    if rewrite is None:
        server_root = _server_root(scope, found.parts)
        if server_root:
            return b"/" + b"/".join(found.parts[server_root:])
        return raw_path_of(scope)
    captures = plan.captures
    return b"".join(
        [
            piece if isinstance(piece, bytes) else found.captured(captures[piece])
            for piece in rewrite
        ]
    )


def _server_root(scope: Scope, parts: Sequence[bytes]) -> int:
    """Number of leading segments that a server put in front (``--root-path``) and that were not in the target.

    A mount inside of the application is part of the target; Starlette keeps the server's own root beside it.
    """
    root_path: str = scope.get("app_root_path", scope.get("root_path", ""))
    root = root_path.strip("/")
    if not root:
        return 0
    segments = root.encode("utf-8", "surrogateescape").split(b"/")
    if [unquote_to_bytes(part) for part in parts[: len(segments)]] != segments or len(
        parts
    ) <= len(segments):
        return 0
    return len(segments)


def public_prefix(found: Found) -> bytes:
    """What stands in front of the template in the public path: mounts and inclusions."""
    if not found.start:
        return b""
    return b"/" + b"/".join(found.parts[: found.start])


def fill(pieces: Sequence[bytes | int], values: Sequence[bytes]) -> bytes:
    """Put raw captures into the places of a template."""
    return b"".join([piece if isinstance(piece, bytes) else values[piece] for piece in pieces])


def forwarding_fields(scope: Scope, plan: Plan, found: Found, received: ReceivedFields) -> Fields:
    """``Via``, ``X-Forwarded-*`` and ``Forwarded`` for this hop."""
    fields: Fields = [(b"via", _via(scope, plan, received))]
    forwarding = plan.forwarding
    if forwarding.mode == "off":
        return fields
    scheme = scope.get("scheme", "http").encode("ascii")
    client = scope.get("client")
    # A Unix socket's client has no address (CONFORMANCE S-26).
    address = client[0] if client else None
    host = received.host or b""
    if forwarding.x_forwarded:
        if address:
            fields.append((b"x-forwarded-for", _ascii(address)))
        if host:
            fields.append((b"x-forwarded-host", host))
        fields.append((b"x-forwarded-proto", scheme))
        prefix = _stripped_prefix(scope, plan, found)
        if prefix:
            fields.append((b"x-forwarded-prefix", prefix))
    if forwarding.forwarded:
        fields.append(_forwarded(address, host, scheme))
    return fields


def _via(scope: Scope, plan: Plan, received: ReceivedFields) -> bytes:
    # RFC 9110 §7.6.3: the protocol version of the received message, then this gateway's pseudonym.
    own = _VERSIONS.get(scope.get("http_version", "1.1"), b"1.1 ") + plan.via
    if not received.via:
        return own
    earlier = b", ".join(received.via)
    for hop in earlier.split(b","):
        words = hop.split()
        if len(words) > 1 and words[1] == plan.via:
            raise refuse("the request has passed this gateway before", 508, "Loop detected")
    return earlier + b", " + own


def _stripped_prefix(scope: Scope, plan: Plan, found: Found) -> bytes:
    """What of the public path the upstream does not see."""
    if plan.rewrite is None:
        count = _server_root(scope, found.parts)
        return b"/" + b"/".join(found.parts[:count]) if count else b""
    public = b"/" + b"/".join(found.parts)
    kept = forwarded_target(scope, plan, found)
    if kept != b"/" and public.endswith(kept):
        return public[: -len(kept)]
    return public[:-1] if kept == b"/" and public.endswith(b"/") else b""


def _forwarded(address: str | None, host: bytes, scheme: bytes) -> Field:
    # RFC 7239 §4: values that are no token are quoted; §6: an IPv6 address is bracketed too.
    if not address:
        node = b"unknown"
    elif ":" in address:
        node = b'"[' + _ascii(address) + b']"'
    else:
        node = _ascii(address) if _is_address(address) else b"_hidden"
    value = b"for=" + node
    if host:
        value += b';host="' + host + b'"'
    return b"forwarded", value + b";proto=" + scheme


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ascii(text: str) -> bytes:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe=":.%").encode()
