"""What the steps of a plan are to whoever runs them; each kind is made and told of in a module of its own."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from proxyroutes._serve.exchange import Exchange
from proxyroutes.policies.mirrors import Mirror
from proxyroutes.policies.splits import WeightedSplit
from proxyroutes.typing import Body, Endpoint, Fields, ForwardedHead, Scope

if TYPE_CHECKING:
    from proxyroutes._state.pools import UpstreamPool

__all__ = ["Admission", "Copier", "Copy", "RequestEdit", "ResponseEdit", "Split"]


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


class Copy(Protocol):
    """A copy of one request."""

    @property
    def body(self) -> Body | None:
        """What the upstream reads instead of the request's content, so that it is kept."""
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
