"""A failure as a page, for clients that would rather have HTML than JSON. Sans-I/O."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

__all__ = ["make_page", "prefers_html"]

_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    '<h1>{title}</h1><p><a href="{kind}" rel="help noreferrer">What does this mean?</a></p></html>'
)


def make_page(title: str, kind: str) -> bytes:
    """The page of a failure.

    Args:
        title: Status and title.
        kind: The problem's type, which is the address of its explanation.
    """
    return _PAGE.format(title=html.escape(title), kind=html.escape(kind)).encode()


def prefers_html(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a client says that it would rather have HTML than JSON, as browsers do (RFC 9110 §12.5.1)."""
    accept = b",".join([value for name, value in headers if name == b"accept"])
    if b"text/html" not in accept.lower():
        return False
    weights = dict(_weights(accept.decode("latin-1").lower()))
    page = weights.get("text/html", 0.0)
    ranges = ("application/problem+json", "application/json", "application/*", "*/*")
    return page > next((weights[one] for one in ranges if one in weights), 0.0)


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            yield name, float(weight)
        except ValueError:
            yield name, 0.0
