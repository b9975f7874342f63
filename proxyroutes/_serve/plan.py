"""Plans: what a spec was compiled into. Frozen, and full of bytes that need no further work.

Nothing is decided here; ``_build`` fills a plan, ``_serve`` reads it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from proxyroutes._serve.exchange import Observer
from proxyroutes._serve.forwarding import Hop
from proxyroutes._serve.steps.protocols import Split, Steps
from proxyroutes._state.on_error import OnError
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Scope

if TYPE_CHECKING:
    from proxyroutes._state.monitor import HealthMonitor
    from proxyroutes._state.pools import UpstreamPool

__all__ = ["Capture", "Plan"]


@frozen
class Capture:
    """A parameter of a template and where it stands.

    Attributes:
        name: The parameter's name.
        position: Number of the segment, from 0.
        rest: Whether it takes the rest of the path.
        takes: Whether a decoded segment is of its kind; None where any that is not empty is.
        convert: Makes FastAPI's value of the decoded text.
    """

    name: str
    position: int
    rest: bool
    takes: Callable[[str], bool] | None = field(eq=False)
    convert: Callable[[str], Any] = field(eq=False)


@frozen(kw_only=True, eq=False)
class Plan:
    """One compiled HTTP route.

    Attributes:
        name: The route's name, for logs and records.
        order: Its place in declared order; the lower one wins.
        template: The path as it was declared.
        literals: Decoded literal segments, None where a capture stands.
        captures: The parameters.
        methods: Methods served, None for every one.
        monitor: Whose loop's clock and sweeper are used.
        pool: The pool; None where ``choose`` or ``split`` decides per request.
        choose: Chooses the pool from the ``ForwardedRequest``.
        split: Chooses it by shares, once the head is known.
        rewrite: Raw literals and numbers of captures, to be joined; None forwards the path as it came.
        inverse: The same as segments, to map a ``Location`` back; None where there is no inverse.
        public: Raw literals and numbers of captures of the template, for the same.
        host: ``Host`` to send; None is the destination's, ``b""`` the client's.
        field_actions: What is done with a received field, by name; see ``fields``.
        hop: What the upstream is told of the client's side.
        timeouts: Time-outs of route, group or proxy.
        pool_timeouts: Whether the pool's time-outs, where it has some, come before ``timeouts``.
        max_body_bytes: Bytes of content allowed, None for no limit.
        map_location: Whether ``Location`` is mapped back.
        observers: Called once with each ended exchange; the proxy's own list, which may still grow.
        speaks: Whether the stub must be called.
        plain: Whether the stub neither says nor asks anything.
        steps: What the route adds to the plain way, or None.
        on_error: Asked for the answer to a failure, the nearest first: those of route and groups.
        last_on_error: The same of the proxy; asked after those of the pool.
        condition: Says of a request that fits path and method whether the route serves it; None where it always does.
    """

    name: str
    order: int
    template: str
    literals: tuple[bytes | None, ...]
    captures: tuple[Capture, ...]
    methods: frozenset[str] | None
    monitor: HealthMonitor
    pool: UpstreamPool | None
    choose: Callable[[Any], Awaitable[UpstreamPool]] | None
    rewrite: tuple[bytes | int, ...] | None
    inverse: tuple[bytes | int, ...] | None
    public: tuple[bytes | int, ...]
    host: bytes | None
    field_actions: Mapping[bytes, int]
    hop: Hop
    timeouts: Timeouts
    pool_timeouts: bool
    max_body_bytes: int | None
    map_location: bool
    observers: Sequence[Observer]
    speaks: bool
    plain: bool
    steps: Steps | None = None
    on_error: tuple[OnError, ...] = ()
    last_on_error: Sequence[OnError] = ()
    split: Split | None = None
    condition: Callable[[Any, Scope], bool] | None = None
