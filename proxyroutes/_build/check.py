"""What is wrong with one declared route by itself: values, methods, hosts."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._serve.fields import has_bad_name
from proxyroutes._serve.guard import check_host, check_method
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes.exceptions import ClientRequestError, DeclarationError, StubError
from proxyroutes.settings import Forwarding, Timeouts

__all__ = [
    "Problems",
    "check_literal_host",
    "check_timeouts",
    "check_values",
    "explained",
    "host_of",
    "read_methods",
    "texts",
]


class Problems:
    """Mistakes, each with the place of its stub."""

    def __init__(self) -> None:
        self.found: list[DeclarationError] = []

    def add(self, error: DeclarationError, location: str) -> None:
        error.location = error.location or location
        self.found.append(error)

    def extend(self, errors: Iterable[DeclarationError], location: str) -> None:
        for error in errors:
            self.add(error, location)


def texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str))


def host_of(host: Any) -> bytes | None:
    if host == "destination":
        return None
    return b"" if host == "preserve" else str(host).encode("latin-1", "replace")


def check_values(spec: RouteSpec) -> list[DeclarationError]:
    """One-route mistakes that need no template."""
    found = [DeclarationError(text) for text in spec.problems]
    if spec.facts.is_generator:
        found.append(
            StubError(
                f"stub {spec.facts.name!r} is a generator: return a StreamingResponse instead of yielding"
            )
        )
    found.extend(
        DeclarationError(f"identity_headers: not a field name: {name!r}")
        for name in texts(spec.identity_headers)
        if has_bad_name(name.encode("latin-1", "replace"))
    )
    if spec.location not in {"rewrite", "keep"}:
        found.append(DeclarationError(f"location is 'rewrite' or 'keep', not {spec.location!r}"))
    limit: Any = spec.max_body_bytes
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        found.append(
            DeclarationError(
                f"max_body_bytes is a number of bytes from 0 up: {spec.max_body_bytes!r}"
            )
        )
    found.extend(check_timeouts(spec.timeouts))
    if spec.forwarding is not None and not isinstance(spec.forwarding, Forwarding):
        found.append(
            DeclarationError(f"forwarding is a Forwarding value, not {spec.forwarding!r}")
        )
    if spec.host not in {"destination", "preserve"}:
        found.extend(check_literal_host(spec.host))
    return found


def check_timeouts(timeouts: Any) -> list[DeclarationError]:
    if timeouts is None or isinstance(timeouts, Timeouts):
        return []
    return [
        DeclarationError(f"timeouts is a Timeouts value: write Timeouts(first_byte={timeouts!r})")
    ]


def check_literal_host(host: Any) -> list[DeclarationError]:
    close = difflib.get_close_matches(str(host), ("destination", "preserve"), n=1, cutoff=0.75)
    if close:
        return [DeclarationError(f"host={host!r}: did you mean {close[0]!r}?")]
    try:
        check_host(host.encode("ascii"))
    except (AttributeError, UnicodeEncodeError, ClientRequestError):
        return [
            DeclarationError(f"host is 'destination', 'preserve' or a literal host, not {host!r}")
        ]
    return []


def read_methods(spec: RouteSpec, problems: Problems) -> frozenset[str] | None:
    methods = spec.methods
    location = spec.facts.location
    if methods is None:
        return None
    if not isinstance(methods, tuple):
        problems.add(
            DeclarationError(f"methods: a list is meant, not one value: write [{methods!r}]"),
            location,
        )
        return None
    if not methods:
        problems.add(
            DeclarationError("methods is empty: leave it out to serve every method"), location
        )
    for method in methods:
        if not isinstance(method, str):
            problems.add(DeclarationError(f"a method is a string: {method!r}"), location)
        else:
            _check_method(method, problems, location)
    return frozenset(str(method) for method in methods)


_USUAL = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")


def _check_method(method: str, problems: Problems, location: str) -> None:
    try:
        check_method(method)
    except ClientRequestError as error:
        problems.add(DeclarationError(f"methods: {error.detail}: {method!r}"), location)
        return
    if method not in _USUAL and method.upper() in _USUAL:
        problems.add(
            DeclarationError(
                f"a method's case counts (RFC 9110 §9.1): write {method.upper()!r}, not {method!r}"
            ),
            location,
        )


@contextlib.contextmanager
def explained(spec: RouteSpec | WebSocketSpec) -> Iterator[None]:
    """Say at which stub something went wrong, and what FastAPI does not say of it."""
    try:
        yield
    except DeclarationError as error:
        error.location = error.location or spec.facts.location
        raise
    except Exception as error:
        name = spec.facts.name
        problem = f"FastAPI cannot take stub {name!r}: {error}"
        if ForwardedRequest.__name__ in str(error):
            problem = (
                f"a dependency of stub {name!r} has a bare ForwardedRequest, which FastAPI takes for a body: "
                "write Annotated[ForwardedRequest, Depends(proxy.forwarded_request)]"
            )
        elif "proxyroutes._build.forward.Forward" in str(error):
            problem = (
                f"a dependency of stub {name!r} has a Forward: only the stub itself may ask for it"
            )
        raise StubError(problem, location=spec.facts.location) from error
