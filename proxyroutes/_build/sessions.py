"""What a WebSocket route says of its sessions: checked, and read into the values of its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from proxyroutes._declare.specs import WebSocketSpec
from proxyroutes._serve.fields import DROP, field_actions
from proxyroutes.exceptions import DeclarationError, StubError
from proxyroutes.settings import Timeouts
from proxyroutes.transports.websocket import SessionSettings

__all__ = ["check_session", "read_origins", "read_settings", "session_field_actions"]

# Made anew for each hop (RFC 6455 §4.1).
_HANDSHAKE = ("accept", "extensions", "key", "protocol", "version")
_SECONDS = ("close_timeout", "ping_interval", "ping_timeout")


def session_field_actions(identity: Iterable[str]) -> Mapping[bytes, int]:
    """What is done with the fields of a received handshake."""
    own = {f"sec-websocket-{name}".encode(): DROP for name in _HANDSHAKE}
    return {**field_actions(identity), **own}


def check_session(spec: WebSocketSpec) -> list[DeclarationError]:
    """Mistakes of one WebSocket route that need no template."""
    found = [DeclarationError(text) for text in spec.problems]
    options = spec.options
    if spec.facts.is_generator:
        found.append(
            StubError(f"stub {spec.facts.name!r} is a generator: a session yields nothing")
        )
    origins = options["allowed_origins"]
    if origins is not None and not isinstance(origins, tuple):
        found.append(
            DeclarationError(
                f"allowed_origins: a list is meant, not one value: write [{origins!r}]"
            )
        )
    elif origins is not None:
        found.extend(
            DeclarationError(
                f"allowed_origins: scheme, host and port are meant, as in 'https://app.test': {origin!r}"
            )
            for origin in origins
            if not _is_origin(origin)
        )
    size = options["max_message_bytes"]
    if size is not None and (not isinstance(size, int) or size < 1):
        found.append(
            DeclarationError(
                f"max_message_bytes is a number of bytes from 1 up, or None: {size!r}"
            )
        )
    for name in _SECONDS:
        seconds: Any = options[name]
        if seconds is None and name == "ping_interval":
            continue
        if not isinstance(seconds, int | float) or not seconds > 0:
            found.append(DeclarationError(f"{name} is a number of seconds above 0: {seconds!r}"))
    return found


def _is_origin(origin: Any) -> bool:
    if not isinstance(origin, str) or not origin.isascii():
        return False
    if origin == "null":
        return True
    parts = urlsplit(origin)
    return bool(parts.scheme and parts.hostname) and origin.lower() == (
        f"{parts.scheme}://{parts.netloc.lower()}"
    )


def read_origins(spec: WebSocketSpec) -> frozenset[bytes] | None:
    """The allowed origins as they are compared: whole, in lower case (RFC 6454 §6.2)."""
    origins = spec.options["allowed_origins"]
    return None if origins is None else frozenset(one.lower().encode("ascii") for one in origins)


def read_settings(spec: WebSocketSpec) -> SessionSettings:
    """What the transport is told. Only the route's own time-outs end a session: those of HTTP are too short for one."""
    options = spec.options
    own = options["own_timeouts"]
    return SessionSettings(
        max_message_bytes=options["max_message_bytes"],
        ping_interval=options["ping_interval"],
        ping_timeout=options["ping_timeout"],
        close_timeout=options["close_timeout"],
        compression=bool(options["compression"]),
        idle=own.idle if isinstance(own, Timeouts) else None,
        total=own.total if isinstance(own, Timeouts) else None,
    )
