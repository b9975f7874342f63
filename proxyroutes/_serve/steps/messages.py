"""What routes and pools do to a request before it is sent and to a response before it is relayed, put together.

Rules for fields come in the order proxy, group, route, pool; so do request filters. Response filters are passed the other
way round, as nested middleware is: the pool's first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol, cast

from attrs import evolve

from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.edits import ResponseCookieEdit, edit_query
from proxyroutes._serve.steps.protocols import Steps
from proxyroutes._serve.steps.streams import FilteredBody, FilteredResponse, Stream
from proxyroutes._serve.steps.timing import add_server_timing
from proxyroutes._state.lease import Lease
from proxyroutes._state.transforms import NO_CAPTURES, PoolTransforms, Transformed
from proxyroutes.exceptions import Stage, UpstreamProtocolError
from proxyroutes.filters import StreamFacts, StreamFilter
from proxyroutes.filters._codings import known_codings
from proxyroutes.typing import Body, Endpoint, Fields, ForwardedHead, UpstreamResponse

__all__ = ["begin", "edit_for_pool", "outgoing", "take_steps"]

# What is said of bytes that are not sent: their number, their hashes, their parts (RFC 9110 §8, RFC 9530).
_OF_BYTES = frozenset(
    {
        b"accept-ranges",
        b"content-digest",
        b"content-encoding",
        b"content-length",
        b"content-md5",
        b"digest",
        b"etag",
        b"repr-digest",
    }
)
_RANGES = frozenset({b"accept-encoding", b"if-range", b"range"})
_PLAIN = Steps()


def edit_for_pool(state: Transformed, head: ForwardedHead) -> ForwardedHead:
    """A head as a pool's rules make it; the one that is given stays as it is, for another pool."""
    edits = state.transforms
    head = evolve(head, fields=list(head.fields), received=head.received or head.fields)
    if edits is not None:
        if edits.query is not None:
            edit_query(edits.query, head, NO_CAPTURES)
        if edits.request is not None:
            head.fields = edits.request.apply(head.fields, NO_CAPTURES)
    return head


def outgoing(
    exchange: Exchange, plan: Plan, state: Transformed, head: ForwardedHead, body: Body | None
) -> tuple[ForwardedHead, Body | None]:
    """Head and content as they are sent to a pool.

    Raises:
        GatewayError: If the content cannot be filtered.
    """
    steps, rules = plan.steps or _PLAIN, state.transforms or _NO_RULES
    if steps.server_timing:
        exchange.asked = monotonic()
    exchange.bodiless = head.method == b"HEAD"
    head = edit_for_pool(state, head)
    if steps.response_filters or rules.response_filters:
        _ask_for_what_can_be_filtered(head)
    filters = (*steps.request_filters, *rules.request_filters)
    if not filters or body is None or body.content_length == 0:
        return head, body
    fitting = _fitting(filters, head.fields)
    if not fitting:
        return head, body
    facts = StreamFacts(
        side="request",
        route=plan.name,
        method=head.method.decode("ascii"),
        status=None,
        headers=_headers(head.fields),
    )
    codings = _values(head.fields, b"content-encoding")
    stream = Stream(exchange, body.read, codings, fitting, facts, plan.max_body_bytes)
    head.fields = [field for field in head.fields if field[0] not in _OF_BYTES]
    head.content_length = None
    return head, FilteredBody(stream)


class Prepared(Protocol):
    """An ``Answer`` that is being prepared."""

    exchange: Exchange
    upstream: UpstreamResponse
    fields: Fields
    filtered: FilteredResponse | None

    def give_up(self, error: BaseException, /) -> None:
        """Let go of it because of an error."""
        ...


def take_steps(
    answer: Prepared,
    plan: Plan,
    found: Any,
    lease: Lease,
    server_fields: frozenset[bytes],
    *,
    filtered: bool,
) -> None:
    """Have a response pass what its route and its pool do to it.

    Args:
        answer: The response, whose fields are filtered.
        plan: Its route.
        found: Its match, or None.
        lease: What it came by.
        server_fields: Which of ``Date`` and ``Server`` the server in front adds by itself.
        filtered: Whether it has a content that filters may be meant for.

    Raises:
        GatewayError: If its content cannot be filtered.
    """
    if filtered:
        content = filter_response_content(
            answer.exchange, plan, lease.lender, answer.upstream, answer.fields
        )
        if isinstance(content, FilteredResponse):
            answer.upstream = answer.filtered = content
            answer.fields = content.fields
        elif content is not None:
            answer.fields = content
    fields = edit_response(plan, found, lease.lender, lease.destination, answer.fields)
    # What the server in front adds by itself comes once (CONFORMANCE H-44).
    fields = [field for field in fields if field[0] not in server_fields]
    if filtered and plan.steps is not None and plan.steps.server_timing:
        fields = add_server_timing(answer.exchange, fields)
    answer.fields = fields


async def begin(answer: Prepared) -> None:
    """Filter what is here already of a content that is filtered.

    Raises:
        GatewayError: If it cannot be filtered: nothing was sent to the client.
        ClientLeft: If the client left.
    """
    content = cast("FilteredResponse", answer.filtered)
    exchange = answer.exchange
    try:
        exchange.enter()
        await content.begin()
    except BaseException as error:
        reason = exchange.settle() if isinstance(error, asyncio.CancelledError) else None
        answer.give_up(reason or error)
        if reason is not None:
            raise reason from error
        raise
    finally:
        exchange.leave()
    if content.complete:
        answer.fields.append((b"content-length", b"%d" % len(content.here)))


def edit_response(
    plan: Plan, found: Any, state: Transformed, destination: Endpoint, fields: Fields
) -> Fields:
    """The field lines of a response with the rules of its route and its pool applied."""
    if plan.steps is not None:
        for edit in plan.steps.response_edits:
            fields = edit(fields, found, destination)
    edits = state.transforms
    if edits is not None:
        if edits.cookies is not None:
            fields = ResponseCookieEdit(edits.cookies)(fields, found, destination)
        if edits.response is not None:
            fields = edits.response.apply(fields, NO_CAPTURES)
    return fields


def filter_response_content(
    exchange: Exchange,
    plan: Plan,
    state: Transformed,
    upstream: UpstreamResponse,
    fields: Fields,
) -> FilteredResponse | Fields | None:
    """A response whose content passes the filters of its pool and its route.

    Returns:
        The response with its field lines; the lines alone where it has no content; None where no filter is meant for it.

    Raises:
        GatewayError: If the content cannot be filtered.
    """
    steps = plan.steps or _PLAIN
    rules = state.transforms or _NO_RULES
    filters = (*rules.response_filters, *steps.response_filters)
    status = upstream.status
    if not filters or status in {204, 205}:
        return None
    fitting = _fitting(filters, fields)
    if not fitting:
        return None
    kept = [field for field in fields if field[0] not in _OF_BYTES]
    if status == 304 or exchange.bodiless:
        return kept
    if status == 206:
        raise UpstreamProtocolError(
            "a part of a content, which cannot be filtered, was not asked for",
            stage=Stage.RESPONSE_HEAD,
            sent=True,
        )
    facts = StreamFacts(
        side="response",
        route=plan.name,
        method=exchange.method,
        status=status,
        headers=_headers(fields),
    )
    codings = _values(fields, b"content-encoding")
    stream = Stream(exchange, upstream.read, codings, fitting, facts)
    return FilteredResponse(upstream, stream, kept)


def _ask_for_what_can_be_filtered(head: ForwardedHead) -> None:
    """Ask for whole contents, in codings that can be undone and that the client takes too.

    What no filter is meant for passes as it comes; so nothing is asked for that the client could not read.
    """
    known = known_codings()
    wanted = [
        piece.strip(b" \t")
        for value in _values(head.fields, b"accept-encoding")
        for piece in value.split(b",")
    ]
    codings = [one for one in wanted if one.partition(b";")[0].strip(b" \t").lower() in known]
    head.fields = [field for field in head.fields if field[0] not in _RANGES]
    head.fields.append((b"accept-encoding", b", ".join(codings) or b"identity"))


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for known, value in fields if known == name]


def _fitting(filters: Iterable[StreamFilter], fields: Fields) -> tuple[StreamFilter, ...]:
    values = _values(fields, b"content-type")
    media_type = values[0].partition(b";")[0].strip(b" \t").lower() if values else b""
    text = media_type.decode("latin-1")
    return tuple(one for one in filters if one.fits(text))


def _headers(fields: Fields) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers


_NO_RULES = PoolTransforms()
