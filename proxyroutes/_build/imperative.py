"""``proxy.forward``: one request forwarded from an ordinary endpoint, with every part of it open to the caller."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from proxyroutes._build.defaults import Defaults
from proxyroutes._build.transforms import forwarding_edits, make_hop
from proxyroutes._build.responses import GoneResponse, RelayResponse, answer_by_default
from proxyroutes._serve.body import BufferedBody, IteratedBody
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.fields import FIELD_ACTIONS, ReceivedFields
from proxyroutes._serve.steps.edits import GATEWAY_FIELDS
from proxyroutes._serve.steps.forwarded import edit_field
from proxyroutes._serve.guard import check_host, check_method, check_target
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.http import ask, fail, open_exchange, read_body, timeouts_of
from proxyroutes._serve.match import Found, raw_path_of, split_path
from proxyroutes._serve.plan import Plan, Steps
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import ClientRequestError, GatewayError
from proxyroutes.settings import Destination, Timeouts
from proxyroutes.typing import Body, Fields, ForwardedHead

__all__ = ["FieldValues", "UrlPools", "edit_head", "forward", "imperative_plan"]

FieldValues = Mapping[str, str] | Iterable[tuple[str, str]]

_MAX_URL_POOLS = 1024


class UrlPools:
    """The pools behind upstreams that are given as URLs: one an origin, the last used ones kept."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._pools: OrderedDict[str, UpstreamPool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pools)

    def all(self) -> list[UpstreamPool]:
        """Every pool that is kept."""
        return list(self._pools.values())

    async def find(self, url: str) -> tuple[UpstreamPool, bytes]:
        """The pool of a URL's origin, and the URL's base path.

        Raises:
            ValueError: If the URL cannot be a destination.
        """
        destination = Destination(url)
        origin = destination.origin
        pool = self._pools.get(origin)
        if pool is None:
            # A socket's path is decoded in its origin.
            plain = (
                origin
                if destination.socket_path is None
                else f"http+unix://{urlsplit(url).netloc}"
            )
            pool = UpstreamPool(origin, [plain])
            pool.adopt(self._defaults.monitor)
            oldest = self._take_oldest()
            self._pools[origin] = pool
            if oldest is not None:
                await oldest.close()
        else:
            self._pools.move_to_end(origin)
        return pool, destination.base_path.encode("ascii")

    def _take_oldest(self) -> UpstreamPool | None:
        """Make room: give up the pool that was not used for the longest time and is not in use."""
        if len(self._pools) < _MAX_URL_POOLS:
            return None
        unused = (origin for origin, pool in self._pools.items() if not pool.in_use())
        oldest = next(unused, None)
        return None if oldest is None else self._pools.pop(oldest)

    async def close(self) -> None:
        """Close every pool on the running loop."""
        for pool in self._pools.values():
            await pool.close()


def imperative_plan(defaults: Defaults) -> Plan:
    """The plan of requests that no declared route describes."""
    edits = forwarding_edits(defaults.forwarding)
    return Plan(
        name="forward",
        order=0,
        template="",
        literals=(),
        captures=(),
        methods=None,
        monitor=defaults.monitor,
        pool=None,
        choose=None,
        rewrite=None,
        inverse=None,
        public=(),
        host=None,
        field_actions=FIELD_ACTIONS,
        hop=make_hop(defaults.forwarding, defaults.via),
        timeouts=defaults.timeouts,
        pool_timeouts=True,
        max_body_bytes=None,
        map_location=False,
        observers=defaults.observers,
        speaks=True,
        plain=False,
        steps=Steps(request_edits=edits) if edits else None,
    )


async def forward(
    plan: Plan,
    request: Request,
    pool: UpstreamPool,
    *,
    base_path: bytes,
    path: str | None,
    method: str | None,
    headers: FieldValues | None,
    extra_headers: FieldValues | None,
    body: Any,
    forward_query: bool,
    timeouts: Timeouts | None,
) -> Response:
    """Forward a request and give its response, body still to come; see ``Proxy.forward``."""
    scope = request.scope
    exchange: Exchange | None = None
    try:
        found = Found(plan, split_path(raw_path_of(scope)), 0)
        received = read_request(scope, plan, found)
        head = make_head(scope, plan, found, received)
        own = None if body is None else _own_content(body, head)
        _edit(head, base_path=base_path, path=path, method=method, forward_query=forward_query)
        _edit_fields(head, headers, extra_headers)
        if (
            own is not None
            and own[1] is not None
            and not any(name == b"content-type" for name, _ in head.fields)
        ):
            head.fields.append((b"content-type", own[1]))
        state = pool.state()
        exchange = open_exchange(
            plan, state, head.method.decode("ascii"), request.receive, timeouts, scope
        )
        exchange.attach()
        content: Body | None
        if own is None:
            content = await _received_body(exchange, plan, request, received)
        elif isinstance(own[0], bytes):
            exchange.may_watch = True
            content = BufferedBody(own[0])
        else:
            content = IteratedBody(exchange, aiter(own[0]))
        head.content_length = None if content is None else content.content_length
        answer = await ask(
            exchange, plan, None, state, head, content, timeouts or timeouts_of(plan, state)
        )
    except (ClientLeft, ClientDisconnect):
        if exchange is not None:
            exchange.status = 499
            exchange.end()
        return GoneResponse()
    except BaseException as error:
        if isinstance(error, GatewayError):
            answer_by_default(scope)
            if exchange is not None:
                fail(exchange, error)
        if exchange is not None:
            exchange.end()
        raise
    return RelayResponse(answer, received=scope["method"], forwarded=head.method)


def edit_head(
    head: ForwardedHead,
    *,
    base_path: bytes,
    path: str | None,
    headers: FieldValues | None,
    extra_headers: FieldValues | None,
    forward_query: bool,
) -> None:
    """Write what the caller of ``relay`` has given.

    Raises:
        ValueError: If a part of it cannot be forwarded.
    """
    _edit(head, base_path=base_path, path=path, method=None, forward_query=forward_query)
    _edit_fields(head, headers, extra_headers)


async def _received_body(
    exchange: Exchange, plan: Plan, request: Request, received: ReceivedFields
) -> Body | None:
    # What the endpoint has read already is gone from the channel; Starlette keeps it.
    known = getattr(request, "_body", None)
    if isinstance(known, bytes):
        exchange.may_watch = True
        return BufferedBody(known) if known or received.content_length is not None else None
    if getattr(request, "_stream_consumed", False):
        raise RuntimeError(
            "the endpoint has consumed the request's stream: give its content as body="
        )
    return await read_body(exchange, plan, request.scope, received)


def _edit(
    head: ForwardedHead,
    *,
    base_path: bytes,
    path: str | None,
    method: str | None,
    forward_query: bool,
) -> None:
    """Write the method and the target.

    Raises:
        ValueError: If one of them cannot be forwarded.
    """
    raw_path, _, query = head.target.partition(b"?")
    if path is not None:
        own_path, _, own_query = path.partition("?")
        if not own_path.startswith("/"):
            own_path = "/" + own_path
        raw_path = quote(own_path, safe="/%!$&'()*+,;=:@~").encode("ascii")
        if own_query:
            own = quote(own_query, safe="/%!$&'()*+,;=:@~?[]{}|\\^`\"<>").encode("ascii")
            query = own + b"&" + query if query and forward_query else own
        elif not forward_query:
            query = b""
    elif not forward_query:
        query = b""
    try:
        check_target(raw_path, query)
        if method is not None:
            check_method(method)
            head.method = method.encode("ascii")
    except ClientRequestError as error:
        raise ValueError(
            f"cannot be forwarded: {error.detail}: path={path!r} method={method!r}"
        ) from error
    head.target = base_path + raw_path + (b"?" + query if query else b"")


def _pairs(values: FieldValues) -> list[tuple[str, str]]:
    return list(values.items()) if isinstance(values, Mapping) else list(values)


def _edit_fields(
    head: ForwardedHead, headers: FieldValues | None, extra: FieldValues | None
) -> None:
    """Write fields instead of, and beside, the client's.

    Raises:
        ValueError: If one cannot be sent.
    """
    if headers is not None:
        head.fields = _written(head, headers) + [
            field for field in head.fields if field[0] in GATEWAY_FIELDS
        ]
    if extra is not None:
        added = _written(head, extra)
        names = {name for name, _ in added}
        # A client's own line of the same name would stand in front of the application's and be believed first.
        head.fields = [field for field in head.fields if field[0] not in names] + added


def _written(head: ForwardedHead, values: FieldValues) -> Fields:
    fields: Fields = []
    for name, value in _pairs(values):
        field = edit_field(name, value)
        if field[0] == b"host":
            try:
                check_host(field[1])
            except ClientRequestError as error:
                raise ValueError(f"not a host and a port: {value!r}") from error
            head.host = field[1]
        else:
            fields.append(field)
    return fields


def _own_content(
    body: Any, head: ForwardedHead
) -> tuple[bytes | AsyncIterable[bytes], bytes | None]:
    """Content that the caller gives, and its media type where no field tells it.

    It is bytes, text, an asynchronous iterable of bytes, or anything that JSON can hold. What the client said of its own
    content goes.
    """
    if isinstance(body, AsyncIterable):
        return body, None
    # Its framing is ours already; these describe bytes that are not sent (RFC 9110 §8.4, RFC 9530).
    gone = {b"content-encoding", b"digest", b"content-digest"}
    media_type: bytes | None = None
    if isinstance(body, bytes | bytearray | memoryview):
        content = bytes(body)
    elif isinstance(body, str):
        content, media_type = body.encode(), b"text/plain; charset=utf-8"
    else:
        content = json.dumps(
            body, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
        media_type = b"application/json"
        gone.add(b"content-type")
    head.fields = [field for field in head.fields if field[0] not in gone]
    return content, media_type
