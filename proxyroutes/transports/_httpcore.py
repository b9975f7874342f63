"""What httpcore's pool must not take back."""

from __future__ import annotations

from typing import Any

from proxyroutes.transports._auth import challenges_connection

__all__ = ["spoil_unless_clean"]


def spoil_unless_clean(response: Any) -> None:
    """Have a connection closed that has more bytes than its response, or that a client may be authenticated on.

    httpcore would give it back to its pool as it is, and the next request would get those bytes for its response
    (CONFORMANCE F-01), or that client's rights. Its parser stands behind attributes that are not public: where they are
    called otherwise, there is nothing to look at, and the contract tests fail.
    """
    stream = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection"):
        stream = getattr(stream, name, stream)
    parser = getattr(stream, "_h11_state", None)
    if parser is not None and (
        parser.trailing_data[0]
        or challenges_connection(response.status_code, response.headers.raw)
    ):
        # A connection whose request failed is never used again.
        parser.send_failed()
