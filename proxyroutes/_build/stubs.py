"""The wrapper that FastAPI calls in a stub's place.

Its signature is the stub's, so that FastAPI solves and documents the stub's parameters; a bare ``ForwardedRequest`` or
``Forward`` is replaced by a dependency, because FastAPI would take it for a body. Per request it calls the stub, if the
stub says anything, and forwards if the stub did not answer by itself.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from proxyroutes._build.responses import GoneResponse, RelayResponse
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.stubs import find_function
from proxyroutes._serve.body import BodyRecorder, BufferedBody, check_length
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.fields import ReceivedFields
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.head import make_head
from proxyroutes._serve.http import ask, open_exchange, read_body, timeouts_of
from proxyroutes._serve.match import Found, path_parameters
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.websocket import SessionSide
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import StubError
from proxyroutes.typing import Body, ForwardedHead, Message, Receive, Scope

__all__ = [
    "CALL",
    "BodyTooLargeError",
    "Call",
    "forwarded_request",
    "make_endpoint",
    "read_parameters",
    "stub_receive",
]

CALL = "proxyroutes.call"
"""The key of a scope under which the running call, or the side of a session, is found."""


class BodyTooLargeError(HTTPException):
    """Carries a 413 through FastAPI's body reading, which would turn any other exception into a 400."""

    def __init__(self, limit: int) -> None:
        super().__init__(status_code=413, detail="Content too large")
        self.limit = limit


class Call:
    """One request in FastAPI's hands: what was matched and read, and what came of it."""

    __slots__ = (
        "exchange",
        "found",
        "head",
        "misread",
        "plan",
        "receive",
        "received",
        "recorder",
        "scope",
    )

    def __init__(
        self, plan: Plan, found: Found, scope: Scope, received: ReceivedFields, receive: Receive
    ) -> None:
        self.plan = plan
        self.found = found
        self.scope = scope
        self.received = received
        self.receive = receive
        self.recorder: BodyRecorder | None = None
        self.head: ForwardedHead | None = None
        self.exchange: Exchange | None = None
        self.misread: StubError | None = None

    def forwarded_head(self) -> ForwardedHead:
        """The head that is forwarded; made once, so that edits stay."""
        if self.head is None:
            self.head = make_head(self.scope, self.plan, self.found, self.received)
        return self.head

    def forwarded(self) -> ForwardedRequest:
        """The request as it will be forwarded."""
        client = self.scope.get("client")
        return ForwardedRequest(
            self.forwarded_head(),
            route=self.plan.name,
            client=tuple(client) if client else None,
            scheme=self.scope.get("scheme", "http"),
            path_params=path_parameters(self.found),
            received_host=(self.received.host or b"").decode("latin-1"),
        )

    async def choose_pool(self) -> UpstreamPool:
        """The pool of the route, or the one chosen for this request."""
        plan = self.plan
        if plan.choose is not None:
            return await plan.choose(self.forwarded())
        # A plan has one of the two.
        return cast("UpstreamPool", plan.pool)

    async def forward(self) -> Response:
        """Forward the request and give its response, body still to come."""
        plan = self.plan
        state = (await self.choose_pool()).state()
        exchange = self.exchange = open_exchange(
            plan, state, self.scope["method"], self.receive, scope=self.scope
        )
        exchange.attach()
        try:
            head = self.forwarded_head()
            body = await self._body(exchange)
            answer = await ask(
                exchange, plan, self.found, state, head, body, timeouts_of(plan, state)
            )
        except ClientLeft:
            exchange.status = 499
            exchange.end()
            return GoneResponse()
        return RelayResponse(answer, received=self.scope["method"], forwarded=head.method)

    async def _body(self, exchange: Exchange) -> Body | None:
        recorder = self.recorder
        if recorder is not None and recorder.touched:
            content = await recorder.content()
            exchange.request_bytes = len(content)
            exchange.may_watch = True
            return BufferedBody(content)
        return await read_body(exchange, self.plan, self.scope, self.received)


def stub_receive(call: Call) -> Receive:
    """The receive channel that user code gets.

    With ``max_body_bytes`` what is read is kept and forwarded; without, reading would steal from the upstream.
    """
    limit = call.plan.max_body_bytes
    check_length(call.received.content_length, limit)
    if limit is not None:
        call.recorder = BodyRecorder(call.receive, limit, BodyTooLargeError)
        return call.recorder
    name = call.plan.name

    async def unannounced() -> Message:
        call.misread = StubError(
            f"route {name!r} reads the body: say max_body_bytes=… at its decorator"
        )
        raise call.misread

    return unannounced


async def forwarded_request(connection: HTTPConnection) -> ForwardedRequest:
    """The dependency behind ``ForwardedRequest``.

    Raises:
        StubError: Outside of a route of proxyroutes.
    """
    call = connection.scope.get(CALL)
    if not isinstance(call, Call | SessionSide):
        raise StubError(
            "ForwardedRequest is only known in routes that were declared with proxyroutes"
        )
    return call.forwarded()


_PROVIDED: dict[Any, Callable[..., Any]] = {ForwardedRequest: forwarded_request}
_REQUEST, _RESPONSE = "proxyroutes_request", "proxyroutes_response"


def _annotations(
    stub: Callable[..., Any], spec: RouteSpec | WebSocketSpec
) -> dict[str, Any]:
    try:
        return typing.get_type_hints(find_function(stub), include_extras=True)
    except Exception as error:
        raise StubError(
            f"the annotations of stub {spec.facts.name!r} cannot be resolved: {error}",
            location=spec.facts.location,
        ) from error


def _parameter(
    parameter: inspect.Parameter,
    annotations: dict[str, Any],
    provided: dict[Any, Callable[..., Any]],
) -> inspect.Parameter:
    annotation = annotations.get(parameter.name, parameter.annotation)
    # By identity: what an annotation is annotated with need not be hashable.
    for known, provider in {**_PROVIDED, **provided}.items():
        if annotation is known:
            annotation = Annotated[annotation, Depends(provider)]
    return parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY)


def read_parameters(
    spec: RouteSpec | WebSocketSpec, provided: dict[Any, Callable[..., Any]] | None = None
) -> dict[str, inspect.Parameter]:
    """A stub's parameters as FastAPI is to see them.

    Args:
        spec: What was declared.
        provided: Further annotations that FastAPI must not see bare, with the dependency behind each.

    Raises:
        StubError: If its signature cannot be taken over.
    """
    annotations = _annotations(spec.stub, spec)
    parameters: dict[str, inspect.Parameter] = {}
    for parameter in inspect.signature(spec.stub).parameters.values():
        if parameter.kind in {
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        }:
            raise StubError(
                f"stub {spec.facts.name!r} has the parameter {parameter}: FastAPI solves named ones only",
                location=spec.facts.location,
            )
        parameters[parameter.name] = _parameter(parameter, annotations, provided or {})
    return parameters


def make_endpoint(spec: RouteSpec) -> Callable[..., Awaitable[Any]]:
    """Make the endpoint that stands for a stub.

    Raises:
        StubError: If its signature cannot be taken over.
    """
    stub = spec.stub
    parameters = read_parameters(spec)
    own = set(parameters)
    for name, annotation in ((_REQUEST, Request), (_RESPONSE, Response)):
        if not any(known.annotation is annotation for known in parameters.values()):
            parameters[name] = inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation
            )
    request_name = next(name for name, known in parameters.items() if known.annotation is Request)
    response_name = next(
        name for name, known in parameters.items() if known.annotation is Response
    )
    speaks, is_async = spec.facts.speaks, spec.facts.is_async

    async def endpoint(**values: Any) -> Any:
        request: Request = values[request_name]
        injected: Response = values[response_name]
        if speaks:
            arguments = {name: values[name] for name in own}
            if is_async:
                result = await stub(**arguments)
            else:
                result = await run_in_threadpool(stub, **arguments)
            if result is not None:
                return result
        call: Call = request.scope[CALL]
        response = await call.forward()
        # FastAPI adds these to a response that it makes itself, and to no other.
        response.raw_headers.extend(
            (name, value) for name, value in injected.raw_headers if name != b"content-length"
        )
        return response

    endpoint.__name__ = spec.facts.name
    endpoint.__qualname__ = spec.facts.name
    endpoint.__module__ = getattr(stub, "__module__", __name__)
    endpoint.__doc__ = inspect.getdoc(stub)
    endpoint.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return endpoint
