"""Mapping the destination's own address in ``Location`` back to the public one.

What comes out is a reference relative to the root of the public address (RFC 9110 §10.2.2 allows one): no field that a
client sends takes part in it. Sans-I/O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from proxyroutes._serve.head import fill, public_prefix
from proxyroutes._serve.match import Found, split_path
from proxyroutes.typing import Endpoint

__all__ = ["map_location", "public_path"]

_REFERENCE = re.compile(rb"([^?#]*)(.*)", re.DOTALL)


def map_location(value: bytes, found: Found, destination: Endpoint) -> bytes:
    """Give the public address of a ``Location`` or ``Content-Location``, or the value as it is where it has none."""
    local = _below_origin(value, destination)
    if local is None:
        return value
    split = _REFERENCE.fullmatch(local)
    path, rest = (split.group(1), split.group(2)) if split is not None else (local, b"")
    base = destination.base_path
    if base:
        if path != base and not path.startswith(base + b"/"):
            return value
        path = path[len(base) :]
    mapped = public_path(path or b"/", found)
    if mapped is None:
        return value
    # RFC 3986 §4.2: a reference that begins with two slashes would name a host.
    return (b"/." if mapped.startswith(b"//") else b"") + mapped + rest


def _below_origin(value: bytes, destination: Endpoint) -> bytes | None:
    """Path, query and fragment of a reference to the destination, or None."""
    if value.startswith(b"/"):
        return None if value.startswith(b"//") else value
    scheme = b"https" if destination.secure else b"http"
    head, separator, tail = value.partition(b"://")
    if not separator or head.lower() != scheme:
        return None
    end = min((tail.find(char) for char in (b"/", b"?", b"#") if char in tail), default=len(tail))
    authority = tail[:end].lower()
    port = b":443" if destination.secure else b":80"
    own = destination.authority.lower()
    if authority != own and authority.removesuffix(port) != own:
        return None
    return tail[end:]


def public_path(path: bytes, found: Found) -> bytes | None:
    plan = found.plan
    if plan.rewrite is None:
        return b"".join([b"/" + part for part in found.parts[: found.hidden]]) + path
    if plan.inverse is None or not path.startswith(b"/"):
        return None
    values = _captures(split_path(path), plan.inverse, len(plan.captures))
    return None if values is None else public_prefix(found) + fill(plan.public, values)


def _captures(
    parts: Sequence[bytes], pattern: Sequence[bytes | int], count: int
) -> list[bytes] | None:
    """What the rewrite's captures were if the parts are its result; a last capture may be the rest."""
    values = [b""] * count
    for position, piece in enumerate(pattern):
        if position >= len(parts):
            return None
        if isinstance(piece, int):
            # The rest is marked by its complement, which is negative.
            if piece < 0:
                values[~piece] = b"/".join(parts[position:])
                return values
            if not parts[position]:
                return None
            values[piece] = parts[position]
        elif unquote_to_bytes(parts[position]) != piece:
            return None
    return values if len(parts) == len(pattern) else None
