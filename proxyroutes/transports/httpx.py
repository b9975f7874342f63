"""Any httpx or httpx2 client or transport: HTTP/2, proxies, custom auth, and what respx mocks.

Limits that come from the wire code below it (httpcore): the whole request is sent before the response is read, interim
responses and trailers are dropped, and bytes after the end of a response are not noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple, Self, cast

import httpx
from attrs import field, frozen

from proxyroutes.exceptions import (
    GatewayError,
    PolicyError,
    Side,
    Stage,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from proxyroutes.settings import TLS, Timeouts
from proxyroutes.transports._head import check_head, compose_fields
from proxyroutes.transports._httpcore import spoil_unless_clean
from proxyroutes.transports._tls import make_ssl_context
from proxyroutes.typing import (
    Attempt,
    Body,
    BoundTransport,
    Clock,
    Endpoint,
    Fields,
    ForwardedHead,
    UpstreamResponse,
)

__all__ = ["HttpxTransport"]

# Below the 60 seconds after which many servers close an idle connection. None elsewhere: httpcore counts busy
# connections as idle ones, so that a limit closes connections that are in use again.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=55.0)


class _Fault(NamedTuple):
    """What an exception of httpx says about an attempt."""

    error: type[GatewayError]
    connecting: bool = False
    side: Side = Side.UPSTREAM


# By class name, because the types of httpx and httpx2 do not mix; an exception has the row of its nearest base.
_FAULTS: Mapping[str, _Fault] = {
    "ConnectTimeout": _Fault(UpstreamTimeoutError, connecting=True),
    "PoolTimeout": _Fault(UpstreamTimeoutError, connecting=True, side=Side.GATEWAY),
    "TimeoutException": _Fault(UpstreamTimeoutError),
    "ConnectError": _Fault(UpstreamConnectError, connecting=True),
    "ProxyError": _Fault(UpstreamConnectError, connecting=True),
    "UnsupportedProtocol": _Fault(UpstreamConnectError, connecting=True, side=Side.GATEWAY),
    "InvalidURL": _Fault(UpstreamConnectError, connecting=True, side=Side.GATEWAY),
    "LocalProtocolError": _Fault(UpstreamProtocolError, side=Side.GATEWAY),
    "StreamError": _Fault(UpstreamProtocolError, side=Side.GATEWAY),
    "HTTPError": _Fault(UpstreamProtocolError),
    # What httpcore lets through, such as ssl.SSLError, and what transports of others raise.
    "ConnectionRefusedError": _Fault(UpstreamConnectError, connecting=True),
    "gaierror": _Fault(UpstreamConnectError, connecting=True),
    "TimeoutError": _Fault(UpstreamTimeoutError),
    "OSError": _Fault(UpstreamProtocolError),
}


@frozen(kw_only=True)
class HttpxTransport:
    """Forward through httpx or httpx2.

    Of a client's settings, its transports, mounts, proxies, auth and event hooks count. What would change the forwarded
    message does not: default fields, cookies, parameters, base URL and redirects. The client's auth is the one it has
    when the pool starts.

    Attributes:
        client_or_transport: An ``AsyncClient`` or an asynchronous transport of either library. A transport is closed
            with the pool, so give each pool its own; a client stays yours to close. None: an own HTTP/1.1 transport
            without a limit of connections.
        trust_env: Whether ``HTTP_PROXY`` and its kin are obeyed. A client or transport that is given decides that for
            itself.

    Raises:
        TypeError: If it is no asynchronous client or transport.
        ValueError: If ``trust_env`` is asked of something that was given.
    """

    client_or_transport: object | None = field(default=None, kw_only=False, repr=False)
    trust_env: bool = False

    def __attrs_post_init__(self) -> None:
        given = self.client_or_transport
        if given is None:
            return
        if not _is_transport(given) and not _is_client(given):
            raise TypeError(f"an asynchronous httpx client or transport is meant: {given!r}")
        if self.trust_env:
            raise ValueError("trust_env is not for a given client or transport: set it there")

    def bind(self, *, clock: Clock, tls: TLS | None) -> BoundTransport:  # noqa: ARG002 - the protocol's
        """Make the transport of one pool on the running event loop.

        Args:
            clock: Not needed: httpx keeps time by itself.
            tls: How TLS is spoken. A given client or transport has its own, only ``server_name`` reaches it.

        Raises:
            PolicyError: If there are TLS settings that the given client or transport would not obey.
        """
        server_name = None if tls is None else tls.server_name
        given = self.client_or_transport
        if given is None:
            context = make_ssl_context(tls)
            return _BoundHttpx(
                _own_sender(context, trust_env=self.trust_env), context, server_name
            )
        if tls is not None and (tls != TLS(server_name=server_name) or tls.context is not None):
            raise PolicyError(
                "a client or transport given to HttpxTransport has its own TLS settings: "
                "set them there, of TLS() only server_name reaches it"
            )
        return _BoundHttpx(_given_sender(given), None, server_name)


def _is_transport(given: object) -> bool:
    return hasattr(given, "handle_async_request")


def _is_client(given: object) -> bool:
    return hasattr(given, "build_request") and asyncio.iscoroutinefunction(
        getattr(given, "send", None)
    )


def _find_module(given: object) -> ModuleType:
    """Find the library that an object came from."""
    for base in type(given).__mro__:
        root = base.__module__.partition(".")[0]
        if root in {"httpx", "httpx2"}:
            return importlib.import_module(root)
    return httpx


class _Sender:
    """One client or transport, and the library that it came from.

    Attributes:
        closes: Whether it is closed with the pool.
        traces: Whether it is known to tell when there is a connection.
    """

    __slots__ = ("closes", "module", "sender", "traces")

    def __init__(self, sender: Any, *, closes: bool) -> None:
        self.module = _find_module(sender)
        self.sender = sender
        self.closes = closes
        self.traces = isinstance(sender, self.module.AsyncHTTPTransport)

    async def send(self, request: Any) -> Any:
        if _is_transport(self.sender):
            return await self.sender.handle_async_request(request)
        return await self.sender.send(request, stream=True, follow_redirects=False)


def _own_sender(
    context: ssl.SSLContext, *, trust_env: bool = False, socket_path: str | None = None
) -> _Sender:
    if trust_env:
        client = httpx.AsyncClient(verify=context, limits=_LIMITS, trust_env=True)
        return _Sender(_without_cookies(client), closes=True)
    transport = httpx.AsyncHTTPTransport(
        verify=context, trust_env=False, limits=_LIMITS, uds=socket_path
    )
    return _Sender(transport, closes=True)


def _given_sender(given: object) -> _Sender:
    if _is_transport(given):
        return _Sender(given, closes=True)
    return _Sender(_without_cookies(given), closes=False)


def _without_cookies(client: Any) -> Any:
    """Copy a client: the same transports and auth, but a jar that neither takes nor gives a cookie.

    A client keeps what one user was sent in ``Set-Cookie``. The given client's own jar is left alone.
    """
    clone = copy.copy(client)
    clone.cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return clone


@cache
def _url_type(module: ModuleType) -> Any:
    """Make the library's URL type with a request target that goes out byte for byte.

    ``extensions={"target": …}`` does so too, but httpcore also puts it into the request to a proxy, where it stands
    instead of the absolute URL or the authority, and digest auth signs the path of the URL.
    """

    def raw_path(self: Any) -> bytes:
        target: bytes = self.target
        return target

    return type("VerbatimURL", (module.URL,), {"raw_path": property(raw_path)})


@cache
def _stream_type(module: ModuleType) -> Any:
    """Make the type of request bodies: the library asks for its own base class."""
    parents = (_RequestStream, module.AsyncByteStream)
    return type("RequestStream", parents, {"consumed": module.StreamConsumed})


class _RequestStream:
    """The request's body as httpx takes it. Not a generator: those are left suspended where a write fails."""

    consumed: type[Exception]

    def __init__(self, body: Body, attempt: Attempt) -> None:
        self.body = body
        self.attempt = attempt
        self.error: Exception | None = None
        self.started = False

    def __aiter__(self) -> Self:
        # A client's auth may send a request twice. Half a body must not look like a whole one.
        if self.started:
            raise self.consumed
        self.started = True
        return self

    async def __anext__(self) -> bytes:
        attempt = self.attempt
        if not attempt.body_consumed:
            attempt.body_consumed = True
            attempt.enter(Stage.REQUEST_BODY)
        try:
            chunk = await self.body.read()
        except Exception as error:
            self.error = error
            raise
        if not chunk:
            attempt.enter(Stage.RESPONSE_HEAD)
            raise StopAsyncIteration
        attempt.progress += 1
        return chunk


class _Trace:
    """What httpcore tells of a request, written down in the attempt."""

    __slots__ = ("attempt", "connecting", "method")

    def __init__(self, attempt: Attempt, method: bytes) -> None:
        self.attempt = attempt
        self.method = method
        self.connecting = False

    async def __call__(self, event: str, details: Mapping[str, Any]) -> None:
        kind, _, name = event.partition(".")
        attempt = self.attempt
        if kind in {"connection", "socks"}:
            self.connecting = True
        # CONNECT, which opens a tunnel through a proxy, is told of too.
        elif name == "send_request_headers.started" and details["request"].method == self.method:
            attempt.connected = True
            attempt.connected_at = monotonic()
            attempt.reused = not self.connecting
            # Before the write: one that fails may have sent a part.
            attempt.sent = True
            attempt.enter(Stage.REQUEST_BODY)
        elif name == "receive_response_headers.started" and attempt.stage is Stage.REQUEST_BODY:
            attempt.enter(Stage.RESPONSE_HEAD)


def _classify(error: Exception, attempt: Attempt, destination: Endpoint) -> GatewayError | None:
    """Say in our words what went wrong; None where the exception is not about the exchange."""
    names = (base.__name__ for base in type(error).__mro__)
    fault = next((_FAULTS[name] for name in names if name in _FAULTS), None)
    if fault is None:
        return None
    kind, stage = fault.error, attempt.stage
    if fault.connecting and not attempt.sent:
        stage = Stage.CONNECT
    else:
        # A transport that does not tell may have sent it, and a client's auth may have sent it once before.
        attempt.sent = True
        stage = Stage.RESPONSE_HEAD if stage is Stage.CONNECT else stage
        kind = UpstreamProtocolError if kind is UpstreamConnectError else kind
    return kind(
        str(error) or type(error).__name__,
        stage=stage,
        side=fault.side,
        sent=attempt.sent,
        destination=destination.origin,
    )


class _HttpxResponse:
    """A response of httpx as the gateway takes it: raw bytes."""

    __slots__ = (
        "_attempt",
        "_chunks",
        "_destination",
        "_ended",
        "_interrupted",
        "_owner",
        "_reader",
        "_released",
        "_response",
        "fields",
        "reason",
        "status",
    )

    complete = False
    strict = False

    def __init__(
        self, response: Any, attempt: Attempt, destination: Endpoint, owner: _BoundHttpx
    ) -> None:
        self.status: int = response.status_code
        self.reason: bytes = response.extensions.get("reason_phrase", b"")
        self.fields: Fields = [(name.lower(), value) for name, value in response.headers.raw]
        self._response = response
        self._chunks: AsyncIterator[bytes] = aiter(response.stream)
        self._attempt = attempt
        self._destination = destination
        self._owner = owner
        self._reader: asyncio.Task[None] | None = None
        self._ended = False
        self._released = False
        self._interrupted = False

    @property
    def trailers(self) -> Fields:
        """None: httpx drops them."""
        return []

    def take(self) -> bytes:
        """Nothing: httpx does not show what it has."""
        return b""

    async def read(self) -> bytes:
        """Give the next bytes of the body; ``b""`` is its end."""
        if self._ended:
            return b""
        if self._released:
            raise self._describe_release()
        task = cast("asyncio.Task[None]", asyncio.current_task())
        cancelling = task.cancelling()
        self._reader = task
        try:
            async for chunk in self._chunks:
                if chunk:
                    self._attempt.progress += 1
                    return chunk
            spoil_unless_clean(self._response)
            await self._response.aclose()
        except BaseException as error:
            if self._interrupted and task.uncancel() <= cancelling:
                raise self._describe_release() from error
            # A generator that has failed or was cancelled looks as if it had come to its end.
            self._reader = None
            self.abort()
            failure = None
            if isinstance(error, Exception):
                failure = _classify(error, self._attempt, self._destination)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._reader = None
        self._ended = True
        return b""

    def abort(self) -> None:
        """Close the connection, unless the body was read to its end."""
        if self._ended or self._released:
            return
        self._released = True
        self._owner.release(self._response, self._chunks)
        if self._reader is not None:
            # Over HTTP/2 a read goes on when its stream is closed: it waits for the connection.
            self._interrupted = True
            self._reader.cancel()

    def _describe_release(self) -> GatewayError:
        return UpstreamProtocolError(
            "the response was let go before its end",
            stage=Stage.RESPONSE_BODY,
            side=Side.GATEWAY,
            sent=True,
            destination=self._destination.origin,
        )


class _BoundHttpx:
    """httpx for one pool.

    Attributes:
        _context: TLS of own transports, or None where a client or transport was given.
    """

    def __init__(
        self, sender: _Sender, context: ssl.SSLContext | None, server_name: str | None
    ) -> None:
        self._sender = sender
        self._context = context
        self._server_name = server_name
        self._unix_senders: dict[str, _Sender] = {}
        self._loop = asyncio.get_running_loop()
        self._closing: set[asyncio.Task[None]] = set()

    async def send(
        self,
        head: ForwardedHead,
        body: Body | None,
        destination: Endpoint,
        timeouts: Timeouts,
        attempt: Attempt,
    ) -> UpstreamResponse:
        sender = self._find_sender(destination)
        if not sender.traces:
            # Nobody tells when there is a connection: the time for the response counts, and httpx's own for connecting.
            attempt.enter(Stage.RESPONSE_HEAD)
        stream = None if body is None else _stream_type(sender.module)(body, attempt)
        try:
            request = self._compose(sender.module, head, body, destination)
            request.stream = sender.module.ByteStream(b"") if stream is None else stream
            request.extensions = self._make_extensions(timeouts, attempt, head.method)
            response = await sender.send(request)
        except Exception as error:
            if stream is not None and stream.error is not None:
                raise stream.error  # noqa: B904 - the client's body failed, and that as it was raised
            failure = _classify(error, attempt, destination)
            if failure is None:
                raise
            raise failure from error
        attempt.connected = attempt.sent = True
        received = _HttpxResponse(response, attempt, destination, self)
        try:
            check_head(received.status, received.fields, response.http_version)
        except UpstreamProtocolError as error:
            received.abort()
            error.at(destination=destination.origin, sent=True)
            raise
        attempt.enter(Stage.RESPONSE_BODY)
        return received

    def _find_sender(self, destination: Endpoint) -> _Sender:
        path = destination.socket_path
        if path is None:
            return self._sender
        if self._context is None:
            raise UpstreamConnectError(
                "a given httpx client or transport does not open the sockets of http+unix destinations",
                side=Side.GATEWAY,
                destination=destination.origin,
            )
        sender = self._unix_senders.get(path)
        if sender is None:
            sender = self._unix_senders[path] = _own_sender(self._context, socket_path=path)
        return sender

    def _compose(
        self, module: ModuleType, head: ForwardedHead, body: Body | None, destination: Endpoint
    ) -> Any:
        target = destination.base_path + head.target
        url = _url_type(module)(
            scheme="https" if destination.secure else "http",
            host=destination.host or "localhost",
            port=destination.port or None,
            raw_path=target,
        )
        url.target = target
        method = head.method.decode("latin-1")
        # With `stream` httpx adds no field of its own.
        request = module.Request(
            method,
            url,
            headers=compose_fields(head, body, destination),
            stream=module.ByteStream(b""),
        )
        # It makes both over: the method in upper case, the URL of its own type.
        request.method = method
        request.url = url
        return request

    def _make_extensions(
        self, timeouts: Timeouts, attempt: Attempt, method: bytes
    ) -> dict[str, Any]:
        extensions: dict[str, Any] = {
            "timeout": {
                "connect": timeouts.connect,
                "pool": timeouts.connect,
                "read": None,
                "write": None,
            },
            "trace": _Trace(attempt, method),
        }
        if self._server_name is not None:
            extensions["sni_hostname"] = self._server_name
        return extensions

    def release(self, response: Any, chunks: AsyncIterator[bytes]) -> None:
        """Close a response beside the request."""
        if self._loop.is_closed():
            return
        task = self._loop.create_task(_close(response, chunks), name="proxyroutes: close response")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        while self._closing:
            await asyncio.wait(self._closing)
        for sender in (self._sender, *self._unix_senders.values()):
            if sender.closes:
                await sender.sender.aclose()


async def _close(response: Any, chunks: Any) -> None:
    with contextlib.suppress(Exception):
        await response.aclose()
    # What a generator had opened ends here and not when it is collected; one that is being read has an end of its own.
    with contextlib.suppress(Exception):
        await chunks.aclose()
