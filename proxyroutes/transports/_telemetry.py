"""OpenTelemetry around a transport: one client span and one duration for each attempt, by the stable HTTP conventions.

Whether there is anything to tell is decided when a pool starts: where the application has set no provider, the transport
stays what it is and costs nothing. ``opentelemetry`` is looked for then, and not before.

Source:
    OpenTelemetry semantic conventions, HTTP client spans and metrics (stable); W3C Trace Context.
"""

from __future__ import annotations

import asyncio
import copy
import re
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from attrs import define, field

from proxyroutes.exceptions import GatewayError, Side
from proxyroutes.settings import AccessLog, Timeouts
from proxyroutes.typing import (
    Attempt,
    Body,
    BoundTransport,
    Endpoint,
    Fields,
    ForwardedHead,
    UpstreamResponse,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = ["Telemetry", "find_telemetry"]

# What the conventions call the boundaries of `http.client.request.duration`.
_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_METHODS = frozenset(
    {b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"QUERY"}
    | {b"TRACE"}
)
_CARRIED = frozenset({b"traceparent", b"tracestate", b"baggage"})
_SECRETS = AccessLog().secret_parameters
_PARAMETER = re.compile(r"([^&;=]+)=([^&;]*)")


def find_telemetry(pool: str) -> Telemetry | None:
    """What a pool reports with; None where the application has set no provider.

    Args:
        pool: The pool's name.
    """
    try:
        from opentelemetry import metrics, trace  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    tracer = meter = None
    if _is_set(trace.get_tracer_provider()):
        tracer = trace.get_tracer("proxyroutes")
    if _is_set(metrics.get_meter_provider()):
        meter = metrics.get_meter("proxyroutes")
    return None if tracer is None and meter is None else Telemetry(pool, tracer, meter)


def _is_set(provider: object) -> bool:
    """Whether it is an SDK's: the API's own stand-ins do nothing."""
    return not type(provider).__module__.startswith(
        ("opentelemetry.trace", "opentelemetry.metrics")
    )


class Telemetry:
    """What is reported of a pool's attempts."""

    def __init__(self, pool: str, tracer: Any, meter: Any) -> None:
        self.pool = pool
        self.tracer = tracer
        self.durations: Any = None
        self.active: Any = None
        if meter is not None:
            self.durations = meter.create_histogram(
                "http.client.request.duration",
                unit="s",
                description="Duration of HTTP client requests.",
                explicit_bucket_boundaries_advisory=_BOUNDARIES,
            )
            self.active = meter.create_up_down_counter(
                "http.client.active_requests",
                unit="{request}",
                description="Number of active HTTP requests.",
            )

    def wrap(self, transport: BoundTransport, *, to_the_end: bool = True) -> BoundTransport:
        """The same transport, reported on.

        Args:
            transport: It.
            to_the_end: Whether an attempt lasts until its response is let go of; else until its head is there.
        """
        return _TracedTransport(transport, self, to_the_end)

    def begin(self, head: ForwardedHead, destination: Endpoint, attempt: Attempt) -> _Story:
        """An attempt begins."""
        known = head.method in _METHODS
        attributes: dict[str, Any] = {
            "http.request.method": head.method.decode("ascii") if known else "_OTHER",
            "server.address": destination.host or destination.socket_path or "",
            "server.port": destination.port,
            "url.scheme": "https" if destination.secure else "http",
        }
        span = context = None
        if self.tracer is not None:
            span, context = self._begin_span(head, destination, attempt, attributes)
        if self.active is not None:
            self.active.add(1, attributes)
        return _Story(self, attempt, attributes, span, context)

    def _begin_span(
        self,
        head: ForwardedHead,
        destination: Endpoint,
        attempt: Attempt,
        attributes: dict[str, Any],
    ) -> tuple[Span, Context]:
        from opentelemetry import propagate, trace  # noqa: PLC0415 - an extra

        parent = None
        if not trace.get_current_span().get_span_context().is_valid:
            # Nobody has opened a span for the received request: the client's own is the parent.
            parent = propagate.extract(
                {
                    name.decode("ascii"): value.decode("latin-1")
                    for name, value in head.fields
                    if name in _CARRIED
                }
            )
        more: dict[str, Any] = {
            "url.full": _full_url(head, destination),
            "proxyroutes.pool": self.pool,
            "proxyroutes.route": attempt.route,
        }
        if attributes["http.request.method"] == "_OTHER":
            more["http.request.method_original"] = head.method.decode("latin-1")
        if attempt.number > 1:
            more["http.request.resend_count"] = attempt.number - 1
        name = attributes["http.request.method"]
        span = self.tracer.start_span(
            "HTTP" if name == "_OTHER" else name,
            context=parent,
            kind=trace.SpanKind.CLIENT,
            attributes={**attributes, **more},
        )
        return span, trace.set_span_in_context(span, parent)


def _full_url(head: ForwardedHead, destination: Endpoint) -> str:
    """What is asked for, without the values of parameters that are secret."""
    target = (destination.base_path + head.target).decode("latin-1")
    path, mark, query = target.partition("?")
    return f"{destination.origin}{path}{mark}{_PARAMETER.sub(_redact, query)}"


def _redact(found: re.Match[str]) -> str:
    secret = unquote_plus(found[1]).strip().lower() in _SECRETS
    return f"{found[1]}=REDACTED" if secret else found[0]


@define(eq=False)
class _Story:
    """One attempt as it is told; it ends once."""

    telemetry: Telemetry
    attempt: Attempt
    attributes: dict[str, Any]
    span: Span | None
    context: Context | None
    status: int | None = None
    _began: float = field(factory=monotonic)
    _ended: bool = False

    def carry(self, head: ForwardedHead) -> ForwardedHead:
        """The head with this attempt's context in place of the client's."""
        if self.context is None:
            return head
        from opentelemetry import propagate  # noqa: PLC0415 - an extra

        carried: dict[str, str] = {}
        propagate.inject(carried, self.context)
        own = [
            (name.lower().encode("ascii"), text.encode("latin-1"))
            for name, text in carried.items()
        ]
        gone = {name for name, _ in own}
        if b"traceparent" in gone:
            # What vendors say of a trace goes with the parent that it was said of.
            gone.add(b"tracestate")
        head = copy.copy(head)
        head.fields = [line for line in head.fields if line[0] not in gone] + own
        return head

    def end(self, error: BaseException | None = None) -> None:
        """It is over; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        telemetry = self.telemetry
        if telemetry.active is not None:
            telemetry.active.add(-1, self.attributes)
        outcome: dict[str, Any] = {}
        if self.status is not None:
            outcome["http.response.status_code"] = self.status
        kind = self._error_type(error)
        if kind is not None:
            outcome["error.type"] = kind
        if telemetry.durations is not None:
            telemetry.durations.record(monotonic() - self._began, {**self.attributes, **outcome})
        if self.span is not None:
            self._end_span(outcome, error)

    def _error_type(self, error: BaseException | None) -> str | None:
        if isinstance(error, asyncio.CancelledError):
            # Who cancels an attempt has entered why: a time-out is a failure, a client that has left is none.
            error = self.attempt.failure
        if isinstance(error, GatewayError):
            return None if error.side is Side.CLIENT else type(error).__name__
        return str(self.status) if self.status is not None and self.status >= 400 else None

    def _end_span(self, outcome: dict[str, Any], error: BaseException | None) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra

        span = self.span
        if span is None:
            return
        span.set_attributes(outcome)
        if "error.type" in outcome:
            described = str(error) if isinstance(error, GatewayError) else None
            span.set_status(Status(StatusCode.ERROR, described))
        span.end()


class _TracedTransport:
    """A transport whose attempts are told."""

    def __init__(self, transport: BoundTransport, telemetry: Telemetry, to_the_end: bool) -> None:
        self._transport = transport
        self._telemetry = telemetry
        self._to_the_end = to_the_end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def send(
        self,
        head: ForwardedHead,
        body: Body | None,
        destination: Endpoint,
        timeouts: Timeouts,
        attempt: Attempt,
    ) -> UpstreamResponse:
        """Send one request, and tell of it."""
        story = self._telemetry.begin(head, destination, attempt)
        try:
            head = story.carry(head)
            response = await self._transport.send(head, body, destination, timeouts, attempt)
        except BaseException as error:
            story.end(error)
            raise
        story.status = response.status
        if self._to_the_end:
            return _TracedResponse(response, story)
        story.end()
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


class _TracedResponse:
    """A response whose end is told: its last byte, its failure, or that it was let go of."""

    __slots__ = ("_response", "_story")

    def __init__(self, response: UpstreamResponse, story: _Story) -> None:
        self._response = response
        self._story = story

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def reason(self) -> bytes:
        return self._response.reason

    @property
    def fields(self) -> Fields:
        return self._response.fields

    @property
    def trailers(self) -> Fields:
        return self._response.trailers

    @property
    def strict(self) -> bool:
        return self._response.strict

    @property
    def complete(self) -> bool:
        return self._response.complete

    def take(self) -> bytes:
        return self._response.take()

    async def read(self) -> bytes:
        try:
            chunk = await self._response.read()
        except BaseException as error:
            self._story.end(error)
            raise
        if not chunk:
            self._story.end()
        return chunk

    def abort(self) -> None:
        self._story.end()
        self._response.abort()
