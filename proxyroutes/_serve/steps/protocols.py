"""``Steps``, what a route adds to the plain way of a request, and what each kind of step has to be."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from proxyroutes._serve.exchange import Exchange
from proxyroutes._state.limits import RouteLimiters
from proxyroutes.filters import StreamFilter
from proxyroutes.policies.hedging import Hedge
from proxyroutes.policies.mirrors import Mirror
from proxyroutes.policies.retries import Retry
from proxyroutes.policies.splits import WeightedSplit
from proxyroutes.typing import Body, Endpoint, Fields, ForwardedHead, Scope

if TYPE_CHECKING:
    from proxyroutes._state.pools import UpstreamPool

__all__ = ["Admission", "Copier", "Copy", "RequestEdit", "ResponseEdit", "Split", "Steps"]


class RequestEdit(Protocol):
    """A declared edit of the head that is forwarded."""

    def __call__(self, scope: Scope, found: Any, head: ForwardedHead, /) -> None:
        """Edit the head.

        Args:
            scope: The received request.
            found: The ``Found`` of its match.
            head: What is forwarded.

        Raises:
            ClientRequestError: If the request cannot be forwarded.
        """
        ...


class Admission(Protocol):
    """Asked before anything is done for a request."""

    async def __call__(
        self, exchange: Exchange, plan: Any, found: Any, head: ForwardedHead, /
    ) -> None:
        """Let a request pass.

        Args:
            exchange: Its record, with the received request.
            plan: Its route.
            found: Its match.
            head: What is going to be sent.

        Raises:
            GatewayError: If it may not pass.
        """
        ...


class ResponseEdit(Protocol):
    """A declared edit of the field lines that are relayed."""

    def __call__(self, fields: Fields, found: Any, destination: Endpoint, /) -> Fields:
        """Give the edited field lines.

        Args:
            fields: As they are.
            found: The ``Found`` of the request's match, or None.
            destination: Who answered.
        """
        ...


class Copy(Protocol):
    """A copy of one request."""

    @property
    def body(self) -> Body | None:
        """What the upstream reads instead of the request's content, so that it is kept."""
        ...

    def give_up(self) -> None:
        """The request fails before it is sent."""
        ...

    async def follow(self, asking: Coroutine[Any, Any, Any], /) -> Any:
        """Wait for the request's own answer."""
        ...


class Copier(Protocol):
    """Makes copies of requests."""

    @property
    def recipe(self) -> Mirror[UpstreamPool]:
        """What was declared."""
        ...

    def copy(
        self, exchange: Exchange, plan: Any, head: ForwardedHead, body: Body | None, /
    ) -> Copy | None:
        """Begin a copy of a request, or none."""
        ...


class Split(Protocol):
    """Chooses a pool by shares."""

    @property
    def first(self) -> UpstreamPool:
        """One of its pools."""
        ...

    @property
    def quick(self) -> bool:
        """Whether no user code takes part."""
        ...

    @property
    def recipe(self) -> WeightedSplit[UpstreamPool]:
        """What was declared."""
        ...

    def __call__(
        self, plan: Any, found: Any, scope: Scope, head: ForwardedHead, /
    ) -> UpstreamPool:
        """The pool of a request."""
        ...

    def key(self, plan: Any, found: Any, scope: Scope, head: ForwardedHead, /) -> bytes | None:
        """What keeps a request at its pool; None where chance decides."""
        ...


@frozen(kw_only=True, eq=False)
class Steps:
    """What a route adds to the plain way of a request, in the order of that way. A plain route has none of it.

    Attributes:
        admissions: Asked before anything is done for a request; each may refuse it.
        request_edits: Edit the head that is forwarded, before any user code sees it.
        request_filters: Streams that the content passes on its way to the upstream.
        limits: How many of its exchanges there are at once, besides the pool's own limits.
        retry: When a further attempt is made, instead of the pool's own rule.
        hedge: When a second attempt is made beside the first one.
        mirror: Where a copy goes.
        response_edits: Edit status and fields of the response that is relayed.
        response_filters: Streams that the content passes on its way to the client.
        server_timing: Whether ``Server-Timing`` is added.
    """

    admissions: tuple[Admission, ...] = ()
    limits: RouteLimiters | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    request_edits: tuple[RequestEdit, ...] = ()
    request_filters: tuple[StreamFilter, ...] = ()
    mirror: Copier | None = None
    response_edits: tuple[ResponseEdit, ...] = ()
    response_filters: tuple[StreamFilter, ...] = ()
    server_timing: bool = False
