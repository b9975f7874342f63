"""The Starlette side of an answer: a response object whose body is relayed, and how failures are answered in FastAPI."""

from __future__ import annotations

from typing import Any, cast

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.failures import problem, send_problem
from proxyroutes._serve.http import fail
from proxyroutes._serve.relay import Answer
from proxyroutes.exceptions import GatewayError, ProxyRoutesError, RelayInterruptedError
from proxyroutes.typing import Fields, Receive, Scope, Send

__all__ = [
    "GoneResponse",
    "RelayResponse",
    "answer_by_default",
    "has_handler",
    "is_ours",
    "problem_response",
]


def _raw_response(status: int, fields: Fields, body: bytes) -> Response:
    response = Response(status_code=status)
    response.body = body
    response.raw_headers = fields
    return response


def problem_response(error: GatewayError) -> Response:
    """The problem+json answer of an error."""
    return _raw_response(*problem(error))


async def _answer_problem(request: Request, error: Exception) -> Response:
    del request
    return problem_response(cast("GatewayError", error))


def _handlers(scope: Scope) -> dict[Any, Any]:
    # Starlette's ExceptionMiddleware leaves its handlers in the scope for the routes below it.
    found = scope.get("starlette.exception_handlers")
    return found[0] if found else {}


def is_ours(handler: object) -> bool:
    """Whether it is the handler that stands in where the application has none."""
    return handler is _answer_problem


def has_handler(scope: Scope, error: GatewayError) -> bool:
    """Whether the application has registered a handler of its own for this error."""
    handlers = _handlers(scope)
    # As Starlette looks it up: the narrowest class that has one.
    handler = next((handlers[cls] for cls in type(error).__mro__ if cls in handlers), None)
    return handler is not None and not is_ours(handler)


def answer_by_default(scope: Scope) -> None:
    """Have errors that an ordinary endpoint lets pass answered as problems, where the app has no handler for them."""
    handlers = _handlers(scope)
    if GatewayError not in handlers and ProxyRoutesError not in handlers:
        handlers[GatewayError] = _answer_problem


class GoneResponse(Response):
    """Stands for an answer to a client that has left: nothing is sent."""

    def __init__(self) -> None:
        super().__init__(status_code=499)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing; background tasks run, as after a relay that the client did not wait for."""
        if self.background is not None:
            await self.background()


class RelayResponse(Response):
    """An upstream's response on its way to the client.

    Status and fields may be edited until it is returned; the body stays a stream.

    Attributes:
        status_code: The status.
        headers: The fields, editable.

    Args:
        answer: The response.
        received: The method that the client asked with.
        forwarded: The method that the upstream was asked with.
    """

    def __init__(self, answer: Answer, *, received: str, forwarded: bytes) -> None:
        self._answer = answer
        self.status_code = answer.status
        self.background: BackgroundTask | None = None
        self.body = b""
        self.raw_headers = answer.fields
        if forwarded == b"HEAD" and received != "HEAD":
            # RFC 9110 §9.3.2: such a length is of content that is not there, and this client would wait for it.
            self.raw_headers = [field for field in answer.fields if field[0] != b"content-length"]

    @property
    def exchange(self) -> Exchange:
        """The record of its exchange."""
        return self._answer.exchange

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay the response, then run its background tasks."""
        answer = self._answer
        answer.status = self.status_code
        answer.fields = self.raw_headers
        exchange = answer.exchange
        # A middleware may run the response in another task than the endpoint.
        exchange.attach()
        try:
            await answer.relay(send)
        except RelayInterruptedError as error:
            fail(exchange, error)
            raise
        except GatewayError as error:
            fail(exchange, error)
            if has_handler(scope, error):
                raise
            await send_problem(error, send)
        except ClientLeft:
            exchange.status = 499
        finally:
            exchange.end()
        if self.background is not None:
            await self.background()

    def close(self) -> None:
        """Let go of the response without relaying it; a second call does nothing."""
        self._answer.close()
        self._answer.exchange.end()

    def __del__(self) -> None:
        # One that the application dropped: its connection and its lease must not be lost with it.
        if not self._answer.exchange.ended:
            self.close()
