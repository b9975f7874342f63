"""Authentication that belongs to a connection instead of a request: NTLM, and Negotiate as many servers keep it.

Whoever sends the next request on such a connection is taken for the one who was authenticated (RFC 4559 §6 warns of it), so
that a connection which was challenged that way, or carried an answer to it, carries nothing else.
"""

from __future__ import annotations

from proxyroutes.typing import Fields

__all__ = ["authorizes_connection", "challenges_connection", "is_bound"]

_SCHEMES = (b"ntlm", b"negotiate")
_AUTHORIZATION = b"\r\nauthorization: "


def is_bound(value: bytes) -> bool:
    """Whether credentials or a challenge are those of a connection."""
    return value[:9].lower().startswith(_SCHEMES)


def authorizes_connection(head: bytes) -> bool:
    """Whether the head of a request as it is sent has credentials of a connection."""
    return any(is_bound(after) for after in head.split(_AUTHORIZATION)[1:])


def challenges_connection(status: int, fields: Fields) -> bool:
    """Whether a response asks for such credentials."""
    return status == 401 and any(
        name.lower() == b"www-authenticate" and is_bound(value) for name, value in fields
    )
