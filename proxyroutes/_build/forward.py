"""``Forward``: a stub wraps the exchange, like middleware around one route."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import evolve
from starlette.requests import ClientDisconnect, HTTPConnection
from typing_extensions import override

from proxyroutes._build.calls import CALL, Call
from proxyroutes._build.overrides import FieldValues, Overrides
from proxyroutes._build.responses import RelayResponse
from proxyroutes._serve.exchange import ClientLeft
from proxyroutes.exceptions import StubError
from proxyroutes.settings import Timeouts

__all__ = ["Forward", "provide_forward"]


class Forward:
    """Forwards the request when the stub says so: once, again elsewhere, several times at once, or not at all.

    A stub asks for it as ``forward: Forward`` and returns what it is answered with, or something else. Responses that it
    does not return are let go of: at once where nothing refers to them any more, at the latest when the request is over.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    @override
    def __repr__(self) -> str:
        return f"<Forward {self._call.plan.name!r}>"

    async def __call__(
        self,
        *,
        upstream: Any = None,
        method: str | None = None,
        path: str | None = None,
        headers: FieldValues | None = None,
        extra_headers: FieldValues | None = None,
        body: Any = None,
        forward_query: bool = True,
        timeouts: Timeouts | None = None,
    ) -> RelayResponse:
        """Forward the request, with the stub's edits of its ``ForwardedRequest``, and give the response.

        The client's content is streamed, which can be done once; with ``max_body_bytes`` it is kept and can be sent as
        often as wanted. Without, a further forward still has it where the one before did not come to read any of it, for
        instance because the upstream could not be reached.

        Args:
            upstream: A pool, a ``WeightedSplit``, or a URL with an optional base path, instead of the route's own
                upstream.
            method: Method instead of the request's.
            path: Path, and query if it has one, instead of the forwarded one; put behind the base path. ``Location`` is
                not mapped then.
            headers: Fields instead of the client's. The gateway's own are added to them.
            extra_headers: Fields that replace the client's of the same names.
            body: Content instead of the client's: bytes, str, an asynchronous iterable of bytes, or what JSON can hold.
            forward_query: Whether the request's query is forwarded.
            timeouts: Time-outs of this exchange; None takes those of the route or the pool.

        Returns:
            The response, its body still to come, with editable ``status_code`` and ``headers``.

        Raises:
            EditError: If an override cannot be sent; nothing was.
            StubError: If the client's content was streamed to an upstream already.
            GatewayError: If the exchange failed. Uncaught, it is answered as ever.
            starlette.requests.ClientDisconnect: If the client has left. Uncaught, nothing is answered.
        """
        call = self._call
        if call.ended:
            raise RuntimeError("the request is over: nothing is forwarded for it any more")
        try:
            pool, base_path = (
                (await call.choose_pool(), b"")
                if upstream is None
                else await call.find_pool(upstream, call.forwarded)
            )
            call.asked = call.asked or upstream is None
            given = call.forwarded_head()
            head = evolve(given, fields=[*given.fields], content_length=None)
            overrides = Overrides(
                path=path,
                method=method,
                headers=headers,
                extra_headers=extra_headers,
                body=body,
                forward_query=forward_query,
            )
            own = overrides.write(head, base_path)
            # The inverse of the route's rewrite is no way back from another path.
            plan = call.plan if path is None else evolve(call.plan, map_location=False)
            return await call.send(head, pool, own=own, plan=plan, timeouts=timeouts)
        except ClientLeft as error:
            if call.ended:
                # A task that nobody has waited for.
                raise asyncio.CancelledError from error
            raise ClientDisconnect from error


async def provide_forward(connection: HTTPConnection) -> Forward:
    """The dependency behind ``Forward``.

    Raises:
        StubError: Outside of a route of proxyroutes.
    """
    call = connection.scope.get(CALL)
    if not isinstance(call, Call):
        raise StubError("Forward is only known in HTTP routes that were declared with proxyroutes")
    return Forward(call)
