"""The wrapper that FastAPI calls in a stub's place.

Its signature is the stub's, so that FastAPI solves and documents the stub's parameters; a bare ``ForwardedRequest`` or
``Forward`` is replaced by a dependency, because FastAPI would take it for a body. Per request it calls the stub, if the
stub says anything, and forwards if the stub did not answer by itself.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from proxyroutes._build.calls import CALL, Call
from proxyroutes._build.forward import Forward, provide_forward
from proxyroutes._build.responses import RelayResponse
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.stubs import find_function
from proxyroutes._serve.session import Session
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.websocket import SessionSide
from proxyroutes.exceptions import StubError

__all__ = ["forwarded_request", "make_endpoint", "read_parameters", "wraps"]


async def forwarded_request(connection: HTTPConnection) -> ForwardedRequest:
    """The dependency behind ``ForwardedRequest``.

    Raises:
        StubError: Outside of a route of proxyroutes.
    """
    call = connection.scope.get(CALL)
    if not isinstance(call, Call | SessionSide) or (isinstance(call, Call) and call.ended):
        raise StubError(
            "ForwardedRequest is only known in routes that were declared with proxyroutes"
        )
    return call.forwarded()


_PROVIDED: dict[Any, Callable[..., Any]] = {ForwardedRequest: forwarded_request}
_REQUEST, _RESPONSE = "proxyroutes_request", "proxyroutes_response"
_WRAPS = "proxyroutes_wraps"
_ELSEWHERE: dict[Any, str] = {Forward: "HTTP", Session: "WebSocket"}
"""What only stubs of one kind may ask for."""


def wraps(endpoint: Any) -> bool:
    """Whether the stub behind an endpoint may forward by itself."""
    return getattr(endpoint, _WRAPS, False)


def _annotations(stub: Callable[..., Any], spec: RouteSpec | WebSocketSpec) -> dict[str, Any]:
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
        taken = _parameter(parameter, annotations, provided or {})
        for known, kind in _ELSEWHERE.items():
            if taken.annotation is known:
                raise StubError(
                    f"stub {spec.facts.name!r} asks for a {known.__name__}, which only {kind} routes have",
                    location=spec.facts.location,
                )
        parameters[parameter.name] = taken
    return parameters


def make_endpoint(spec: RouteSpec) -> Callable[..., Awaitable[Any]]:
    """Make the endpoint that stands for a stub.

    Raises:
        StubError: If its signature cannot be taken over.
    """
    stub = spec.stub
    annotations = _annotations(stub, spec).values()
    asks = any(annotation is Forward for annotation in annotations)
    parameters = read_parameters(spec, {Forward: provide_forward})
    if asks and not spec.facts.is_async:
        raise StubError(
            f"stub {spec.facts.name!r} asks for a Forward, which is awaited: write async def",
            location=spec.facts.location,
        )
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
        response: Any = None
        if speaks:
            arguments = {name: values[name] for name in own}
            if is_async:
                response = await stub(**arguments)
            else:
                response = await run_in_threadpool(stub, **arguments)
            if response is not None and not isinstance(response, RelayResponse):
                return response
        if response is None:
            response = await _forward(request.scope[CALL])
        # FastAPI adds these to a response that it makes itself, and to no other.
        injected: Response = values[response_name]
        response.raw_headers.extend(
            (name, value) for name, value in injected.raw_headers if name != b"content-length"
        )
        return response

    endpoint.__name__ = spec.facts.name
    endpoint.__qualname__ = spec.facts.name
    endpoint.__module__ = getattr(stub, "__module__", __name__)
    endpoint.__doc__ = inspect.getdoc(stub)
    setattr(endpoint, _WRAPS, asks)
    endpoint.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # inspect reads it, and no type says so.
    return endpoint


async def _forward(call: Call) -> Response:
    """What a stub that returns nothing means.

    Raises:
        StubError: If it has asked the route's upstream by itself: it has surely forgotten to return the response.
    """
    if call.asked:
        raise StubError(
            f"the stub of route {call.plan.name!r} has forwarded the request and returned nothing: "
            "return the response, or another one"
        )
    return await call.forward()
