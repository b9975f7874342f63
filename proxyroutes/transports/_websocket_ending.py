"""How a session ends, and what may be said of it: values, and nothing that reads or writes."""

from __future__ import annotations

from typing import NamedTuple

from proxyroutes.exceptions import Side

__all__ = ["LOST", "NO_CODE", "Ending", "may_send_code", "size_of"]

NO_CODE = 1005
"""A Close frame without a code; never on the wire (RFC 6455 §7.4.1)."""
LOST = 1006
"""A connection that ended without a Close frame; never on the wire (RFC 6455 §7.4.1)."""


class Ending(NamedTuple):
    """How a session ends.

    Attributes:
        side: Who ended it.
        code: The Close frame's code; ``NO_CODE`` and ``LOST`` where there was none.
        reason: The Close frame's reason.
        faulty: Whether that side broke the protocol; the code is then what it was told.
    """

    side: Side
    code: int
    reason: str = ""
    faulty: bool = False


def size_of(message: str | bytes) -> int:
    """Bytes of a message on the wire: those of UTF-8 where it is text."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())


def may_send_code(code: int) -> bool:
    """Whether a Close frame may carry a code (RFC 6455 §7.4)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in {1004, NO_CODE, LOST})
