"""The request guard: what may be forwarded at all, whatever server stands in front (CONFORMANCE S-01 to S-17).

Sans-I/O: it takes the bytes of a request and raises ``ClientRequestError`` or does not. Nothing of a refused request is
sent anywhere. What it lets through is forwarded as it came.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from proxyroutes.exceptions import ClientRequestError

__all__ = [
    "EVERY_METHOD",
    "MAX_FIELDS",
    "MAX_FIELD_BYTES",
    "MAX_HOST_BYTES",
    "MAX_NAME_BYTES",
    "MAX_TARGET_BYTES",
    "USUAL_METHODS",
    "check_host",
    "check_method",
    "check_target",
    "refuse",
]

MAX_TARGET_BYTES = 16 * 1024
"""Longest request target; RFC 9112 §3 recommends 8,000 octets at least."""
MAX_FIELD_BYTES = 32 * 1024
"""Largest field section, names and values together."""
MAX_NAME_BYTES = 256
"""Longest field name."""
MAX_FIELDS = 100
"""Most field lines."""
MAX_HOST_BYTES = 261
"""Longest ``Host``: 255 octets of a name (RFC 1035 §2.3.4), a colon and five digits."""

# A path without escapes, parameters (;) and segments that begin with a dot needs no further look.
_PLAIN_PATH = re.compile(rb"(?:/(?:[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9_~!$&'()*+,=:@.-]*)?)+")
# A control or 8-bit byte, a raw backslash, `#`, an escape that is none, and %00 %0a %0d.
_BAD_PATH = re.compile(rb"[\x00-\x20\x7f-\xff\\#]|%(?![0-9A-Fa-f]{2})|%0[0aAdD]")
_BAD_QUERY = re.compile(rb"[\x00-\x20\x7f-\xff#]")
_PARTS = re.compile(rb"[/\\;]")
USUAL_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that need no look at their spelling."""
EVERY_METHOD = (b"allow", ", ".join(sorted(USUAL_METHODS)).encode("ascii"))
"""``Allow`` of a route that serves every method."""
_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# RFC 9110 §7.2: Host = uri-host [ ":" port ]; a host is never empty here.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)


def refuse(detail: str, status_code: int = 400, title: str | None = None) -> ClientRequestError:
    """Make the error of a request that cannot be forwarded."""
    return ClientRequestError(detail, status_code=status_code, title=title)


def check_method(method: str) -> None:
    """Refuse what is no method, and CONNECT and TRACE (RFC 9110 §9.3.6, §9.3.8)."""
    if method in USUAL_METHODS:
        return
    if method in {"CONNECT", "TRACE"}:
        # RFC 9110 §15.5.6: a 405 "MUST generate an Allow header field".
        raise ClientRequestError(
            f"{method} is not forwarded",
            status_code=405,
            title="Method not allowed",
            fields=(EVERY_METHOD,),
        )
    if not _METHOD.fullmatch(method):
        raise refuse("the method is not a token")


def check_target(raw_path: bytes, query: bytes) -> None:
    """Refuse a request target that two parties could read differently (DESIGN "Paths")."""
    if len(raw_path) + len(query) > MAX_TARGET_BYTES:
        raise refuse("the request target is too long", 414, "URI too long")
    if _PLAIN_PATH.fullmatch(raw_path) is None:
        _check_path(raw_path)
    if query and _BAD_QUERY.search(query) is not None:
        raise refuse("the query has a byte that a target cannot have")


def _check_path(raw_path: bytes) -> None:
    if not raw_path.startswith(b"/"):
        # RFC 9112 §3.2: only the origin form names a resource of this gateway.
        raise refuse("the request target is not in origin form")
    if _BAD_PATH.search(raw_path) is not None:
        raise refuse("the path has a byte or an escape that a target cannot have")
    for part in _PARTS.split(unquote_to_bytes(raw_path)):
        if part in {b".", b".."}:
            raise refuse("the path has a dot segment")


@lru_cache(maxsize=1024)
def check_host(host: bytes) -> None:
    """Refuse a ``Host`` that is not one host and an optional port (RFC 9112 §3.2)."""
    if len(host) > MAX_HOST_BYTES or _HOST.fullmatch(host) is None:
        raise refuse("Host is not a host and a port")
