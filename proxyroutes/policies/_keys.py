"""What tells requests apart: keys as policies spell them. Whoever serves requests reads them; see ``_serve/steps/keys``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["KeySpec", "RequestKey", "read_key"]

RequestKey: TypeAlias = "str | Callable[[Any], str | bytes | None]"
"""``"client"``, ``"header:name"``, ``"cookie:name"``, ``"path:name"`` or a function of the ``ForwardedRequest``."""

KeySpec: TypeAlias = "tuple[str, str] | Callable[[Any], str | bytes | None]"
"""Kind and name, or the function."""

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def read_key(key: Any) -> KeySpec:
    """Take a key for what it says.

    Raises:
        TypeError: If it is neither a text nor an ordinary function.
        ValueError: If it is another text.
    """
    if not isinstance(key, str):
        if not callable(key) or inspect.iscoroutinefunction(key):
            raise TypeError(f"key is a text or an ordinary function, not {key!r}")
        return key  # type: ignore[no-any-return]  # anything that can be called.
    kind, _, name = key.partition(":")
    if (kind == "client" and not name) or (
        kind in {"cookie", "header", "path"} and _NAME.fullmatch(name)
    ):
        return kind, name
    raise ValueError(
        "key is 'client', 'header:name', 'cookie:name', 'path:name' of a path parameter, "
        f"or a function of the request: {key!r}"
    )
