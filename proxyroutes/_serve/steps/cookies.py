"""The public path of an upstream's cookie. Sans-I/O."""

from __future__ import annotations

from proxyroutes._serve.head import public_prefix
from proxyroutes._serve.location import public_path
from proxyroutes._serve.match import Found
from proxyroutes.typing import Endpoint

__all__ = ["public_cookie_path"]


def public_cookie_path(path: bytes, found: Found | None, destination: Endpoint) -> bytes | None:
    """The public path of a cookie's, or None where it has none.

    A cookie's path stands for all that is below it. One that is above everything the route shows is therefore the public
    path of the whole route.
    """
    # RFC 6265 §5.2.4: a path without its slash counts as none, and the browser takes that of the request.
    if found is None or not path.startswith(b"/"):
        return None
    base = destination.base_path
    if base:
        if path == base or path.startswith(base + b"/"):
            path = path[len(base) :] or b"/"
        elif _covers(path, base + b"/"):
            path = b"/"
        else:
            return None
    plan = found.plan
    if plan.rewrite is not None and plan.inverse:
        first, start = plan.rewrite[0], plan.public[0]
        if _covers(path, first if isinstance(first, bytes) else b"/"):
            prefix = start if isinstance(start, bytes) else b"/"
            return _without_slash(public_prefix(found) + prefix, path)
    mapped = public_path(path, found)
    if mapped is None and not path.endswith(b"/"):
        mapped = public_path(path + b"/", found)
    return None if mapped is None else _without_slash(mapped, path)


def _without_slash(public: bytes, path: bytes) -> bytes:
    """With a slash at its end, a cookie's path would not be sent for the path without: only where it had one itself."""
    return public if path.endswith(b"/") and path != b"/" else public.rstrip(b"/") or b"/"


def _covers(path: bytes, other: bytes) -> bool:
    """Whether a cookie with this path is sent for all of another path (RFC 6265 §5.1.4)."""
    return path == other or (
        other.startswith(path) and (path.endswith(b"/") or other[len(path) :].startswith(b"/"))
    )
