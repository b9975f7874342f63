"""Fetching an upstream's document through its pool, as any request goes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import GatewayError
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Attempt, Field, ForwardedHead, UpstreamResponse

__all__ = ["DocumentError", "fetch_document"]

_MOST_BYTES = 8 * 1024 * 1024
_SECONDS = 5.0
_FIELDS: list[Field] = [
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"proxyroutes (OpenAPI)"),
]


class DocumentError(Exception):
    """A document that cannot be used; the text says why."""


async def fetch_document(pool: UpstreamPool, path: str) -> dict[str, Any]:
    """Ask one destination of a pool after the other for its document.

    Args:
        pool: The pool.
        path: The document's path, behind the base path of a destination.

    Raises:
        DocumentError: If none gives a document of OpenAPI 3.
    """
    state = pool.state()
    head = ForwardedHead(b"GET", path.encode("ascii"), list(_FIELDS), None, None)
    tried: tuple[Any, ...] = ()
    reason = "nothing is available"
    while True:
        try:
            lease = state.lease(head, tried)
        except GatewayError:
            raise DocumentError(reason) from None
        tried = (*tried, lease.destination)
        try:
            async with asyncio.timeout(_SECONDS):
                response = await state.transport.send(
                    head, None, lease.destination, Timeouts(), Attempt()
                )
                try:
                    return _read(response.status, await _content(response))
                finally:
                    response.abort()
        except TimeoutError:
            reason = f"no document within {_SECONDS:g} s"
        except GatewayError as error:
            reason = f"{type(error).__name__}: {error.detail}"
        except DocumentError as error:
            reason = str(error)
        finally:
            lease.release()


async def _content(response: UpstreamResponse) -> bytes:
    content = b""
    while chunk := await response.read():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise DocumentError(f"it is longer than {_MOST_BYTES} bytes")
    return content


def _read(status: int, content: bytes) -> dict[str, Any]:
    if status != 200:
        raise DocumentError(f"status {status}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DocumentError("it is no JSON") from error
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not version.startswith("3."):
        raise DocumentError(f"it is no document of OpenAPI 3: openapi is {version!r}")
    if not isinstance(document.get("paths", {}), dict):
        raise DocumentError("its paths are no object")
    found: dict[str, Any] = document
    return found
