"""Every exception of proxyroutes.

```text
ProxyRoutesError
├── DeclarationError            the developer's mistake; names the stub's file and line
│   ├── PathTemplateError
│   ├── StubError
│   │   └── EditError           also a ValueError: an edit that cannot be sent; names the line that made it
│   ├── DuplicateRouteError
│   └── PolicyError
├── BuildError                  also an ExceptionGroup of DeclarationErrors: all at once
└── GatewayError                one exchange failed; never raised bare
    ├── NoDestinationError      503  nothing available, or a limit was reached
    ├── UpstreamConnectError    502  nothing was sent: always safe to try elsewhere
    ├── UpstreamTimeoutError    504  ``stage`` says which time-out
    ├── UpstreamProtocolError   502  the upstream broke the protocol or the connection
    ├── FilterError             502  a filter of content failed
    ├── RateLimitError          429  a rate limit was reached
    ├── ClientRequestError      400  the received request cannot be forwarded (also 405, 408, 413, 414, 415, 417, 431, 508)
    └── RelayInterruptedError   -    the head was already sent: the connection is broken
```

No I/O and no imports from the rest of the package live here. A message is composed from attributes in ``__str__``; it
is for logs and never reaches a client.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "BuildError",
    "ClientRequestError",
    "DeclarationError",
    "DuplicateRouteError",
    "EditError",
    "FilterError",
    "GatewayError",
    "NoDestinationError",
    "PathTemplateError",
    "PolicyError",
    "ProxyRoutesError",
    "RateLimitError",
    "RelayInterruptedError",
    "Side",
    "Stage",
    "StubError",
    "UpstreamConnectError",
    "UpstreamProtocolError",
    "UpstreamTimeoutError",
]


class Stage(enum.Enum):
    """How far an exchange had come."""

    SELECT = "select"
    CONNECT = "connect"
    REQUEST_BODY = "request_body"
    RESPONSE_HEAD = "response_head"
    RESPONSE_BODY = "response_body"
    SESSION = "session"


class Side(enum.Enum):
    """Who caused a failure."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class ProxyRoutesError(Exception):
    """The root of every exception that proxyroutes raises."""


class DeclarationError(ProxyRoutesError):
    """A mistake in a declaration.

    Attributes:
        problem: What is wrong and what to write instead.
        location: ``file:line`` of the stub, or an empty string where there is none.
    """

    def __init__(self, problem: str, *, location: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.location = location

    @override
    def __str__(self) -> str:
        return f"{self.location}: {self.problem}" if self.location else self.problem


class PathTemplateError(DeclarationError):
    """A path template or a rewrite that cannot be read."""


class StubError(DeclarationError):
    """A stub that asks for something that its route does not give."""


class EditError(StubError, ValueError):
    """An edit of a message that cannot be sent: a line break in a value, a name that is none. Nothing was sent.

    Attributes:
        location: ``file:line`` of the edit.
    """


class DuplicateRouteError(DeclarationError):
    """A route that repeats an earlier one or can never be reached."""


class PolicyError(DeclarationError):
    """A pool or policy that contradicts itself."""


class BuildError(ProxyRoutesError, ExceptionGroup[DeclarationError]):
    """Every mistake found by one build, together.

    Attributes:
        exceptions: One ``DeclarationError`` for each mistake.
    """

    @override
    def derive(self, excs: Sequence[DeclarationError], /) -> BuildError:  # type: ignore[override]  # typeshed wants it generic.
        return BuildError(self.message, excs)

    @override
    def __str__(self) -> str:
        lines = [f"{self.message} ({len(self.exceptions)})"]
        lines.extend(f"  - {error}" for error in self.exceptions)
        return "\n".join(lines)


class GatewayError(ProxyRoutesError):
    """One exchange failed.

    Attributes:
        status_code: The status that the client is answered with.
        title: A short, fixed English phrase that may be shown to the client.
        slug: The last part of the problem type's URI (RFC 9457 §3.1.1); stable.
        stage: How far the exchange had come.
        side: Who caused the failure.
        sent: Whether the upstream may have seen any part of the request.
        destination: The destination's origin, or None before one was chosen.
        retry_after: Seconds for a ``Retry-After`` field, or None for none.
        recorded: Whether it is in the record of an exchange.
    """

    status_code: int = 502
    title: str = "Bad gateway"
    recorded: bool = False
    slug: ClassVar[str] = "gateway-error"
    default_stage: ClassVar[Stage] = Stage.SELECT
    default_side: ClassVar[Side] = Side.UPSTREAM

    def __init__(
        self,
        detail: str = "",
        *,
        stage: Stage | None = None,
        side: Side | None = None,
        sent: bool = False,
        destination: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        if type(self) is GatewayError:
            raise TypeError("GatewayError is never raised bare: raise one of its subclasses")
        super().__init__(detail)
        self.detail = detail
        self.stage = stage or self.default_stage
        self.side = side or self.default_side
        self.sent = sent
        self.destination = destination
        self.retry_after = retry_after

    def at(self, *, destination: str, sent: bool) -> Self:
        """Say where it happened, unless a transport has already said it."""
        self.destination = self.destination or destination
        self.sent = self.sent or sent
        return self

    @override
    def __str__(self) -> str:
        parts = [self.detail or self.title.lower(), f"stage={self.stage.value}"]
        parts.extend((f"side={self.side.value}", f"sent={self.sent}"))
        if self.destination is not None:
            parts.append(f"destination={self.destination}")
        return " ".join(parts)


class NoDestinationError(GatewayError):
    """No destination may be asked now (RFC 9110 §15.6.4)."""

    status_code = 503
    title = "No destination is available"
    slug = "no-destination"
    default_side = Side.GATEWAY


class RateLimitError(GatewayError):
    """A rate limit was reached (RFC 6585 §4); nothing was asked of an upstream.

    Attributes:
        fields: The ``RateLimit`` fields of the answer.
    """

    status_code = 429
    title = "Too many requests"
    slug = "rate-limit"
    default_side = Side.CLIENT

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after: float = 1.0,
        fields: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.fields = fields


class UpstreamConnectError(GatewayError):
    """No connection to the destination; nothing was sent (RFC 9110 §15.6.3)."""

    title = "The upstream could not be reached"
    slug = "upstream-connect"
    default_stage = Stage.CONNECT


class UpstreamTimeoutError(GatewayError):
    """The upstream took too long (RFC 9110 §15.6.5)."""

    status_code = 504
    title = "The upstream did not answer in time"
    slug = "upstream-timeout"
    default_stage = Stage.RESPONSE_HEAD


class UpstreamProtocolError(GatewayError):
    """The upstream answered with something that is not a valid response (RFC 9110 §15.6.3)."""

    title = "The upstream answered badly"
    slug = "upstream-protocol"
    default_stage = Stage.RESPONSE_HEAD


class FilterError(GatewayError):
    """A filter of content raised, or gave what cannot be sent on; neither the client nor the upstream is to blame."""

    title = "The content could not be filtered"
    slug = "filter"
    default_stage = Stage.RESPONSE_BODY
    default_side = Side.GATEWAY


class ClientRequestError(GatewayError):
    """The received request cannot be forwarded (RFC 9110 §15.5).

    Attributes:
        fields: Further response fields, such as ``Allow``.
    """

    status_code = 400
    title = "The request cannot be forwarded"
    slug = "client-request"
    default_side = Side.CLIENT

    def __init__(
        self,
        detail: str = "",
        *,
        status_code: int = 400,
        title: str | None = None,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        stage: Stage | None = None,
    ) -> None:
        super().__init__(detail, stage=stage)
        self.status_code = status_code
        self.title = title or type(self).title
        self.fields = fields


class RelayInterruptedError(GatewayError):
    """The exchange broke after the response head was sent: the client's connection is broken too.

    RFC 9112 §8: a message that ends early must not look complete.
    """

    title = "The response was cut off"
    slug = "relay-interrupted"
    default_stage = Stage.RESPONSE_BODY
