"""Handlers of failures as they are declared: at a pool, a route, a group or a proxy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from proxyroutes.exceptions import GatewayError

__all__ = ["OnError", "read_on_error"]


@frozen(eq=False)
class OnError:
    """One handler.

    Attributes:
        kind: The errors that it is asked about.
        handle: Given the error and the request, it gives the answer or None; may be asynchronous.
    """

    kind: type[GatewayError]
    handle: Callable[[Any, Any], Any]


def read_on_error(value: Any) -> tuple[OnError, ...]:
    """Read what was given as ``on_error``: a function, functions by class of error, or a list of both.

    Raises:
        TypeError: If it is something else.
    """
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple([one for item in value for one in read_on_error(item)])
    if isinstance(value, Mapping):
        return tuple([_handler(kind, handle) for kind, handle in value.items()])
    return (_handler(GatewayError, value),)


def _handler(kind: Any, handle: Any) -> OnError:
    if not isinstance(kind, type) or not issubclass(kind, GatewayError):
        raise TypeError(f"on_error is for a GatewayError or one of its subclasses, not {kind!r}")
    if not callable(handle):
        raise TypeError(
            f"on_error is a function of the error and the request, or functions by class: {handle!r}"
        )
    try:
        inspect.signature(handle).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"a handler of errors takes the error and the request, in this order: {handle!r}: {error}"
        ) from error
    except ValueError:
        # A builtin that does not show its signature.
        pass
    return OnError(kind, handle)
