"""What routes and pools do to a request before it is sent and to a response before it is relayed, put together.

Rules for fields come in the order proxy, group, route, pool; so do request filters. Response filters are passed the other
way round, as nested middleware is: the pool's first.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any

from attrs import evolve, frozen

from proxyroutes._serve.body import BufferedBody
from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.cookies import CookieEdit, compile_cookies
from proxyroutes._serve.steps.edits import (
    Captured,
    HeaderEdit,
    QueryEdit,
    compile_headers,
    compile_query,
    edit_query,
)
from proxyroutes._serve.steps.protocols import Steps
from proxyroutes._serve.steps.streams import (
    FilteredBody,
    FilteredResponse,
    RepeatableBody,
    Stream,
    refuse_content,
)
from proxyroutes._state.transforms import PoolTransforms, Transformed
from proxyroutes.exceptions import Stage, UpstreamProtocolError
from proxyroutes.filters import StreamError, StreamFacts, StreamFilter
from proxyroutes.filters._codings import known_codings, open_decoders
from proxyroutes.typing import Body, Endpoint, Fields, ForwardedHead, UpstreamResponse

__all__ = ["edit_for_pool", "edit_response", "filter_response_content", "outgoing"]

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
# A pool's values are text: nothing is looked up here.
_NO_CAPTURES: Captured = dict[int, bytes]().__getitem__


@frozen(kw_only=True, eq=False)
class _PoolEdits:
    """The rules of a pool, compiled."""

    query: QueryEdit | None
    request: HeaderEdit | None
    response: HeaderEdit | None
    cookies: CookieEdit | None


def _edits(state: Transformed) -> _PoolEdits | None:
    """The compiled rules of a pool, which is done once for each of its states."""
    rules = state.transforms
    if rules is None:
        return None
    if state.steps is None:
        state.steps = _PoolEdits(
            query=None if rules.query_rules is None else compile_query(rules.query_rules, ()),
            request=None
            if rules.request_headers is None
            else compile_headers(rules.request_headers, ()),
            response=None
            if rules.response_headers is None
            else compile_headers(rules.response_headers, (), response=True),
            cookies=None if rules.cookies is None else compile_cookies(rules.cookies),
        )
    edits: _PoolEdits = state.steps
    return edits


def edit_for_pool(state: Transformed, head: ForwardedHead) -> ForwardedHead:
    """A head as a pool's rules make it; the one that is given stays as it is, for another pool."""
    edits = _edits(state)
    head = evolve(head, fields=list(head.fields), received=head.received or head.fields)
    if edits is not None:
        if edits.query is not None:
            edit_query(edits.query, head, _NO_CAPTURES)
        if edits.request is not None:
            head.fields = edits.request.apply(head.fields, _NO_CAPTURES)
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
    make = partial(_open_body, exchange, head.fields, fitting, facts, plan.max_body_bytes)
    head.fields = [field for field in head.fields if field[0] not in _OF_BYTES]
    head.content_length = None
    if isinstance(body, BufferedBody):
        return head, RepeatableBody(body, make)
    return head, FilteredBody(body, make)


def _open_body(
    exchange: Exchange,
    fields: Fields,
    filters: tuple[StreamFilter, ...],
    facts: StreamFacts,
    limit: int | None,
    body: Body,
) -> Stream:
    try:
        decoders = open_decoders(_values(fields, b"content-encoding"))
    except StreamError as error:
        raise refuse_content(facts, error) from error
    return Stream(exchange, body.read, decoders, filters, facts, limit)


def edit_response(
    plan: Plan, found: Any, state: Transformed, destination: Endpoint, fields: Fields
) -> Fields:
    """The field lines of a response with the rules of its route and its pool applied."""
    if plan.steps is not None:
        for edit in plan.steps.response_edits:
            fields = edit(fields, found, destination)
    edits = _edits(state)
    if edits is not None:
        if edits.cookies is not None:
            fields = edits.cookies(fields, found, destination)
        if edits.response is not None:
            fields = edits.response.apply(fields, _NO_CAPTURES)
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
    if status == 304 or exchange.method == "HEAD":
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
    try:
        decoders = open_decoders(_values(fields, b"content-encoding"))
    except StreamError as error:
        raise refuse_content(facts, error) from error
    stream = Stream(exchange, upstream.read, decoders, fitting, facts)
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
