"""Declared edits as steps of a route: compiled rules, filled in with what the path has captured. Sans-I/O."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

from attrs import frozen

from proxyroutes._serve.fields import has_bad_value
from proxyroutes._serve.guard import refuse
from proxyroutes._serve.match import Found
from proxyroutes._serve.steps.cookies import public_cookie_path
from proxyroutes._state.transforms import Captured, CookieEdit, HeaderEdit, QueryEdit
from proxyroutes.typing import Endpoint, Fields, ForwardedHead, Scope

__all__ = [
    "CheckCaptures",
    "RequestHeaderEdit",
    "RequestQueryEdit",
    "ResponseCookieEdit",
    "ResponseHeaderEdit",
    "edit_query",
]


def captured_text(found: Found, number: int) -> bytes:
    """What was captured, as a field can carry it.

    Raises:
        ClientRequestError: If no field can: a control character, or one outside of latin-1.
    """
    raw = unquote_to_bytes(found.captured(found.plan.captures[number]))
    try:
        text = raw.decode("utf-8").encode("latin-1")
    except UnicodeError as error:
        raise refuse("a path parameter has a character that no field can carry") from error
    if has_bad_value(text):
        raise refuse("a path parameter has a control character")
    return text


@frozen(eq=False)
class RequestHeaderEdit:
    """Edits the fields of a request before any user code sees it."""

    edit: HeaderEdit

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Edit."""
        del scope
        head.fields = self.edit.apply(head.fields, lambda number: captured_text(found, number))


@frozen(eq=False)
class CheckCaptures:
    """Refuses a request whose captured text could not stand in a field of its response."""

    numbers: frozenset[int]

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Check."""
        del scope, head
        for number in self.numbers:
            captured_text(found, number)


@frozen(eq=False)
class ResponseHeaderEdit:
    """Edits the fields of a response."""

    edit: HeaderEdit

    def __call__(self, fields: Fields, found: Found, destination: Endpoint) -> Fields:
        """Edit."""
        del destination
        return self.edit.apply(fields, lambda number: captured_text(found, number))


@frozen(eq=False)
class ResponseCookieEdit:
    """Edits the upstream's cookies."""

    edit: CookieEdit

    def __call__(self, fields: Fields, found: Found | None, destination: Endpoint) -> Fields:
        """Edit."""
        return self.edit.apply(fields, lambda path: public_cookie_path(path, found, destination))


def edit_query(edit: QueryEdit, head: ForwardedHead, captured: Captured) -> None:
    """Edit the query of a head."""
    path, _, query = head.target.partition(b"?")
    query = edit.apply(query, captured)
    head.target = path + b"?" + query if query else path


@frozen(eq=False)
class RequestQueryEdit:
    """Edits the query of a request before any user code sees it."""

    edit: QueryEdit

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Edit."""
        del scope
        captures = found.plan.captures

        def captured(number: int) -> bytes:
            raw = unquote_to_bytes(found.captured(captures[number]))
            return quote_from_bytes(raw, safe="").encode("ascii")

        edit_query(self.edit, head, captured)
