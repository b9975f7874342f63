"""The forwarded head: from the received request's bytes to the ones that go out.

Sans-I/O. The guard and the field rules run here, once, before any user code sees the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from proxyroutes._serve.fields import ReceivedFields, read_fields
from proxyroutes._serve.guard import USUAL_METHODS, check_method, check_target
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.max_forwards import count_hop
from proxyroutes.typing import ForwardedHead, Scope

__all__ = ["fill", "forwarded_path", "make_head", "public_prefix", "read_request"]


def read_request(scope: Scope, plan: Plan, found: Found) -> ReceivedFields:
    """Guard a request and read its fields.

    Raises:
        ClientRequestError: If it must not be forwarded.
    """
    method = scope["method"]
    if method not in USUAL_METHODS:
        check_method(method)
    check_target(found.raw_path, scope.get("query_string", b""))
    received = read_fields(scope["headers"], scope.get("http_version", "1.1"), plan.field_actions)
    if method == "OPTIONS":
        count_hop(plan, received)
    return received


def make_head(scope: Scope, plan: Plan, found: Found, received: ReceivedFields) -> ForwardedHead:
    """Compose the head that is forwarded.

    Raises:
        ClientRequestError: If the request has passed this gateway before.
    """
    fields = received.fields
    fields.extend(plan.hop.fields(scope, received.host or b"", received.via))
    if plan.rewrite is None and not scope.get("root_path"):
        target = found.raw_path
    else:
        target = forwarded_path(scope, plan, found)
        prefix = _hidden_prefix(plan, found, target) if plan.hop.tells_prefix else b""
        if prefix and not prefix.startswith(b"//"):
            # A prefix that begins with two slashes would be a host in every link that is built with it.
            fields.append((b"x-forwarded-prefix", prefix))
    query = scope.get("query_string")
    if query:
        target += b"?" + query
    host = plan.host
    if host == b"":
        host = received.host or None
    head = ForwardedHead(
        scope["method"].encode("ascii"),
        target,
        fields,
        host,
        received.content_length,
        scope.get("scheme") == "https",
    )
    if plan.steps is not None and plan.steps.request_edits:
        head.received = list(fields)
        for edit in plan.steps.request_edits:
            edit(scope, found, head)
    return head


def forwarded_path(scope: Scope, plan: Plan, found: Found) -> bytes:
    """The path that is forwarded: the received one byte for byte, or the rewrite with raw captures."""
    if plan.rewrite is None:
        found.hidden = _server_root(scope, found.parts)
        return b"/" + b"/".join(found.parts[found.hidden :])
    captures = plan.captures
    return b"".join(
        [
            piece if isinstance(piece, bytes) else found.captured(captures[piece])
            for piece in plan.rewrite
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
    count = len(segments)
    if len(parts) <= count or [unquote_to_bytes(part) for part in parts[:count]] != segments:
        return 0
    return count


def _hidden_prefix(plan: Plan, found: Found, kept: bytes) -> bytes:
    """What stands in front of the public path and the upstream does not see."""
    if plan.rewrite is None:
        return b"/" + b"/".join(found.parts[: found.hidden]) if found.hidden else b""
    public = found.raw_path
    return public[: -len(kept)] if public.endswith(kept) else b""


def public_prefix(found: Found) -> bytes:
    """What stands in front of the template in the public path: mounts and inclusions."""
    if not found.start:
        return b""
    return b"/" + b"/".join(found.parts[: found.start])


def fill(pieces: Sequence[bytes | int], values: Sequence[bytes]) -> bytes:
    """Put raw captures into the places of a template."""
    return b"".join([piece if isinstance(piece, bytes) else values[piece] for piece in pieces])
