"""``Server-Timing``: where the time until the head of a response went (W3C Server Timing). Sans-I/O."""

from __future__ import annotations

from time import monotonic

from proxyroutes._serve.exchange import Exchange
from proxyroutes.typing import Fields

__all__ = ["add_server_timing", "measure"]

_NAME = b"server-timing"


def measure(exchange: Exchange) -> dict[str, float]:
    """Seconds until the head of the response was there, by what they were spent on.

    ``queue`` is until the attempt that was answered had a destination, earlier attempts included; ``connect`` until it
    had a connection; ``first-byte`` until the head came; ``gateway`` is all the rest, which is the gateway's own.
    """
    attempt = exchange.attempt
    leased = exchange.asked if attempt is None else attempt.began_at
    connected = exchange.connected or leased
    parts = {
        "queue": leased - exchange.asked,
        "connect": connected - leased,
        "first-byte": exchange.head - connected,
    }
    parts["gateway"] = monotonic() - exchange.started - sum(parts.values())
    return {name: max(0.0, seconds) for name, seconds in parts.items()}


def add_server_timing(exchange: Exchange, fields: Fields) -> Fields:
    """The field lines with the gateway's times behind those of the upstream."""
    values = [value for name, value in fields if name == _NAME and value]
    own = ", ".join(
        f"{name};dur={seconds * 1000:.3f}" for name, seconds in measure(exchange).items()
    )
    kept = [field for field in fields if field[0] != _NAME]
    return [*kept, (_NAME, b", ".join([*values, own.encode("ascii")]))]
