"""``on_error=`` of a route and its groups becomes the handlers that its plan asks."""

from __future__ import annotations

from typing import Any

from proxyroutes._build.check import Problems
from proxyroutes._state.on_error import OnError, read_on_error
from proxyroutes.exceptions import DeclarationError

__all__ = ["read_handlers"]


def read_handlers(declared: Any, problems: Problems, location: str) -> tuple[OnError, ...]:
    """The handlers of a route, the nearest first."""
    try:
        return read_on_error(declared)
    except TypeError as error:
        problems.add(DeclarationError(str(error)), location)
        return ()
