"""The Starlette side of an answer: a response object whose body is relayed, and how failures are answered in FastAPI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from email.message import Message
from typing import Any, cast

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from typing_extensions import override

from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.failures import problem
from proxyroutes._serve.http import fail
from proxyroutes._serve.match import Found, raw_path_of, split_path
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.relay import Answer
from proxyroutes._serve.steps.answering import answer_failure, choose_answer, handlers_of
from proxyroutes._serve.steps.reading import MOST_READ_BYTES, decode, read_chunks, too_long
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import (
    ClientRequestError,
    GatewayError,
    ProxyRoutesError,
    RelayInterruptedError,
)
from proxyroutes.typing import ASGIApp, Fields, Receive, Scope, Send

__all__ = [
    "GoneResponse",
    "RelayResponse",
    "answer_by_default",
    "failure_response",
    "has_handler",
    "is_ours",
]

_FAILED = "proxyroutes.failed"


def _raw_response(status: int, fields: Fields, body: bytes) -> Response:
    response = Response(status_code=status)
    response.body = body
    response.raw_headers = fields
    return response


class _AppResponse(Response):
    """An application that answers in a response's place."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def failure_response(
    error: GatewayError, found: Found | None, pool: UpstreamPool | None, scope: Scope
) -> Response:
    """The answer to a failure, as a response that an endpoint returns; the default one where nothing is found."""
    if found is None:
        return _raw_response(*problem(error, scope))
    answer = await choose_answer(error, handlers_of(found.plan, pool), found, scope)
    if isinstance(answer, tuple):
        return _raw_response(*answer)
    response = answer if isinstance(answer, Response) else _AppResponse(answer)
    if isinstance(error, ClientRequestError):
        # What is left of a refused request must not be read as the next one.
        response.headers["connection"] = "close"
    return response


async def _answer_problem(request: Request, error: Exception) -> Response:
    scope = request.scope
    plan, pool = scope.get(_FAILED, (None, None))
    found = None if plan is None else Found(plan, split_path(raw_path_of(scope)), 0)
    return await failure_response(cast("GatewayError", error), found, pool, scope)


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


def answer_by_default(scope: Scope, plan: Plan, pool: UpstreamPool) -> None:
    """Have errors that an ordinary endpoint lets pass answered by the proxy, where the app has no handler for them."""
    scope[_FAILED] = (plan, pool)
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
    """An upstream's response in the application's hands.

    Status and fields may be edited until it is returned. The body is a stream, and is relayed as one if nobody has read
    it before.

    Attributes:
        status_code: The status.
        headers: The fields, editable.

    Args:
        answer: The response.
        received: The method that the client asked with.
        forwarded: The method that the upstream was asked with.
        found: The route, and where it fits the path.
        pool: The pool that was asked.
    """

    def __init__(
        self, answer: Answer, *, received: str, forwarded: bytes, found: Found, pool: UpstreamPool
    ) -> None:
        self._answer = answer
        self._found = found
        self._pool = pool
        self._content: bytes | None = None
        self._streamed = False
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

    async def read(self, limit: int | None = MOST_READ_BYTES) -> bytes:
        """Read the body into memory, as it was received; it can be relayed all the same.

        Args:
            limit: Bytes that it may have. None is no limit.

        Raises:
            UpstreamProtocolError: If it has more than that, or is cut off.
            UpstreamTimeoutError: If it takes too long.
            RuntimeError: If it was streamed already.
            starlette.requests.ClientDisconnect: If the client has left.
        """
        if self._content is None:
            chunks: list[bytes] = []
            size = 0
            async with aclosing(self.aiter_bytes()) as stream:
                async for chunk in stream:
                    size += len(chunk)
                    if limit is not None and size > limit:
                        error = too_long(self._answer, limit)
                        fail(self._answer.exchange, error)
                        raise error
                    chunks.append(chunk)
            self._content = b"".join(chunks)
        return self._content

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """Give the body chunk by chunk, as it is received, instead of relaying it; can be done once.

        Raises:
            UpstreamProtocolError: If it is cut off.
            UpstreamTimeoutError: If it takes too long.
            RuntimeError: If it was streamed already, or let go of.
            starlette.requests.ClientDisconnect: If the client has left.
        """
        exchange = self._answer.exchange
        if self._streamed or exchange.ended:
            raise RuntimeError("the response was streamed already, or is let go of")
        self._streamed = True
        try:
            async with aclosing(read_chunks(self._answer)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except GatewayError as error:
            fail(exchange, error)
            raise
        except ClientLeft as error:
            exchange.status = 499
            raise ClientDisconnect from error
        finally:
            exchange.end()

    @property
    def content(self) -> bytes:
        """The body as it was received.

        Raises:
            RuntimeError: If it was not read.
        """
        if self._content is None:
            raise RuntimeError("the body is still a stream: await response.read() first")
        return self._content

    @property
    def text(self) -> str:
        """The body as text, its codings taken off.

        Raises:
            RuntimeError: If it was not read.
            ValueError: If it is in a coding that is not known here (gzip and deflate are, br and zstd with their libraries), or
                not in the one that it says.
        """
        message = Message()
        message["content-type"] = self.headers.get("content-type", "")
        try:
            return self._decoded().decode(message.get_content_charset("utf-8"), "replace")
        except LookupError:
            return self._decoded().decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as what its JSON says, its codings taken off.

        Raises:
            RuntimeError: If it was not read.
            ValueError: If it is no JSON, or in a coding that is not known here.
        """
        return json.loads(self._decoded())

    def _decoded(self) -> bytes:
        codings = [value for name, value in self._answer.fields if name == b"content-encoding"]
        limit = max(MOST_READ_BYTES, len(self.content))
        return decode(self.content, b",".join(codings), limit)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay the response, then run its background tasks."""
        if self._content is not None:
            await self._send_content(self._content, send)
        elif self._streamed:
            raise RuntimeError("the response was streamed already: there is nothing left to relay")
        else:
            await self._relay(scope, receive, send)
        if self.background is not None:
            await self.background()

    async def _send_content(self, content: bytes, send: Send) -> None:
        status, fields = self.status_code, self.raw_headers
        await send({"type": "http.response.start", "status": status, "headers": fields})
        # RFC 9110 §15.3.6: whatever the upstream sent after a 205 is not content.
        body = b"" if status == 205 else content
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await answer_failure(
                error, self._found.plan, self._found, self._pool, scope, receive, send
            )
        except ClientLeft:
            exchange.status = 499
        finally:
            exchange.end()

    def close(self) -> None:
        """Let go of the response without relaying it; a second call does nothing."""
        _close(self._answer)

    def __del__(self) -> None:
        # One that the application dropped: its connection and its lease must not be lost with it.
        exchange = self._answer.exchange
        if exchange.ended:
            return
        try:
            is_here = asyncio.get_running_loop() is exchange.loop
        except RuntimeError:
            is_here = False
        if is_here:
            self.close()
        elif not exchange.loop.is_closed():
            # The collector runs in any thread.
            exchange.loop.call_soon_threadsafe(_close, self._answer)


def _close(answer: Answer) -> None:
    exchange = answer.exchange
    answer.close()
    if not exchange.ended and isinstance(exchange.interruption, ClientLeft):
        exchange.status = 499
    exchange.end()
