"""``proxy.forward``: one request forwarded from an ordinary endpoint, with every part of it open to the caller."""

from __future__ import annotations

from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from proxyroutes._build.defaults import Defaults
from proxyroutes._build.overrides import Overrides
from proxyroutes._build.responses import GoneResponse, RelayResponse, answer_by_default
from proxyroutes._build.transforms import forwarding_edits, make_hop
from proxyroutes._serve.body import BufferedBody, IteratedBody
from proxyroutes._serve.exchange import ClientLeft, Exchange
from proxyroutes._serve.fields import FIELD_ACTIONS, ReceivedFields
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.http import ask, fail, open_exchange, read_body, timeouts_of
from proxyroutes._serve.match import Found, raw_path_of, split_path
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.answering import received_view
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.steps.protocols import Steps
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import GatewayError
from proxyroutes.settings import Destination, Timeouts
from proxyroutes.typing import Body, Scope

__all__ = ["UrlPools", "forward", "imperative_plan", "imperative_view"]

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
        last_on_error=defaults.on_error,
        steps=Steps(request_edits=edits) if edits else None,
    )


def imperative_view(plan: Plan, scope: Scope) -> ForwardedRequest:
    """A request that no declared route describes, as the application is shown it."""
    return received_view(Found(plan, split_path(raw_path_of(scope)), 0), scope)


async def forward(
    plan: Plan,
    request: Request,
    pool: UpstreamPool,
    *,
    base_path: bytes,
    overrides: Overrides,
    timeouts: Timeouts | None,
) -> Response:
    """Forward a request and give its response, body still to come; see ``Proxy.forward``."""
    scope = request.scope
    exchange: Exchange | None = None
    try:
        found = Found(plan, split_path(raw_path_of(scope)), 0)
        received = read_request(scope, plan, found)
        head = make_head(scope, plan, found, received)
        own = overrides.write(head, base_path)
        state = pool.state()
        exchange = open_exchange(
            plan, state, head.method.decode("ascii"), request.receive, timeouts, scope
        )
        exchange.attach()
        content: Body | None
        if own is None:
            content = await _received_body(exchange, plan, request, received)
        elif isinstance(own, bytes):
            exchange.may_watch = True
            content = BufferedBody(own)
        else:
            content = IteratedBody(exchange, aiter(own))
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
            answer_by_default(scope, plan, pool)
            if exchange is not None:
                fail(exchange, error)
        if exchange is not None:
            exchange.end()
        raise
    return RelayResponse(
        answer, received=scope["method"], forwarded=head.method, found=found, pool=pool
    )


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
