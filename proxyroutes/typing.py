"""Aliases and protocols: what transports and policies are given, and what they give.

A transport or policy outside of this package needs this module, ``settings`` and ``exceptions``, and nothing else.
Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from attrs import define, frozen

from proxyroutes.exceptions import GatewayError, Stage
from proxyroutes.settings import TLS, Timeouts

__all__ = [
    "ASGIApp",
    "Affinity",
    "Attempt",
    "Balancer",
    "Balancing",
    "Body",
    "BoundAffinity",
    "BoundTransport",
    "Candidate",
    "Clock",
    "Endpoint",
    "ExchangeRecord",
    "Field",
    "Fields",
    "ForwardedHead",
    "HealthEvent",
    "JSONValue",
    "Measure",
    "Message",
    "RandomSource",
    "Receive",
    "ReceivedRequest",
    "ReceivedValues",
    "Scope",
    "Send",
    "Store",
    "Transport",
    "UpstreamResponse",
]

Field: TypeAlias = tuple[bytes, bytes]
"""One field line: name in lower case, value without surrounding white space."""

Fields: TypeAlias = list[Field]
"""Field lines in order, duplicates kept."""

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"


class ReceivedValues(Protocol):
    """Names with their values, to be read only. Of several values of one name, the first one is its value."""

    def get(self, name: str, /) -> str | None:
        """The first value, or None."""
        ...

    def get_all(self, name: str) -> list[str]:
        """Every value, in order."""
        ...

    def __getitem__(self, name: str, /) -> str: ...

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...


class ReceivedRequest(Protocol):
    """The request as it was received, for ``Match(when=...)``: to be read only, before a route is chosen.

    It has no content, and nothing in it is proven: it is what a client says. Forwarding fields, hop-by-hop fields and the
    route's ``identity_headers`` are not in it.
    """

    @property
    def method(self) -> str:
        """The method; GET for a WebSocket's handshake."""
        ...

    @property
    def path(self) -> str:
        """The raw, percent-encoded path."""
        ...

    @property
    def query_string(self) -> str:
        """The raw query without its question mark."""
        ...

    @property
    def query(self) -> ReceivedValues:
        """Parameters, decoded."""
        ...

    @property
    def headers(self) -> ReceivedValues:
        """Field lines; names without case."""
        ...

    @property
    def cookies(self) -> ReceivedValues:
        """Cookies by name."""
        ...

    @property
    def host(self) -> str:
        """The name in ``Host``, in lower case and without port; empty where there is none."""
        ...

    @property
    def scheme(self) -> str:
        """``http``, ``https``, ``ws`` or ``wss``."""
        ...

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the client, or None."""
        ...

    @property
    def path_params(self) -> dict[str, object]:
        """What the template captured, decoded."""
        ...


class Clock(Protocol):
    """Time that never goes back. The only source of it for state and policies."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        ...


class RandomSource(Protocol):
    """Randomness for balancing and jitter; ``random.Random`` is one."""

    def random(self) -> float:
        """A float from 0.0 up to, but not, 1.0."""
        ...

    def randrange(self, stop: int, /) -> int:
        """An integer from 0 up to, but not, ``stop``."""
        ...


@define(slots=True, eq=False)
class ForwardedHead:
    """The head of a request as it is forwarded, without what depends on the destination.

    Attributes:
        method: The method's token, case kept.
        target: Path and query in origin form, without a destination's base path.
        fields: Field lines without ``Host``, ``Content-Length`` and ``Transfer-Encoding``.
        host: The value of ``Host``, or None for the destination's authority.
        content_length: Bytes of the body; None where there is no body or its length is unknown.
        secure: Whether the client speaks TLS with the gateway.
        received: The field lines before rules have edited them, for affinity; None where nothing was edited.
    """

    method: bytes
    target: bytes
    fields: Fields
    host: bytes | None
    content_length: int | None
    secure: bool = False
    received: Fields | None = None


@frozen(kw_only=True)
class HealthEvent:
    """Something has changed for a destination of a pool.

    Attributes:
        kind: What: a check has come to a verdict (``"healthy"``, ``"unhealthy"``) or gives another weight (``"weight"``,
            as ``set_weight`` does); outlier detection takes it out or lets it in (``"ejected"``, ``"readmitted"``); it was
            ``"drained"``, ``"undrained"``, ``"added"`` or ``"removed"``.
        pool: The pool's name.
        destination: The destination's URL as it was declared.
        reason: Why, in words.
        healthy: The verdict of its check now; None where there is none, or no result yet.
        available: Whether a request may be sent to it now.
        at: Seconds on the monitor's clock.
        missed: Events before this one that the listener was too slow for.
    """

    kind: Literal[
        "healthy",
        "unhealthy",
        "weight",
        "ejected",
        "readmitted",
        "drained",
        "undrained",
        "added",
        "removed",
    ]
    pool: str
    destination: str
    reason: str
    healthy: bool | None
    available: bool
    at: float
    missed: int = 0


class Body(Protocol):
    """The request's content, read once by the transport after it has a connection."""

    @property
    def content_length(self) -> int | None:
        """Bytes, or None where the length is unknown (then it is sent chunked)."""
        ...

    async def read(self) -> bytes:
        """Give the next bytes; ``b""`` is the end. What it raises ends the attempt and is not the upstream's fault."""
        ...


class Endpoint(Protocol):
    """Where a transport connects to: one destination, with all that can be encoded beforehand."""

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        ...

    @property
    def host(self) -> str:
        """Host name or address, without brackets; empty for a Unix socket."""
        ...

    @property
    def port(self) -> int:
        """TCP port; 0 for a Unix socket."""
        ...

    @property
    def socket_path(self) -> str | None:
        """Path of a Unix socket, or None."""
        ...

    @property
    def authority(self) -> bytes:
        """The value of ``Host`` that names this destination."""
        ...

    @property
    def base_path(self) -> bytes:
        """What is put in front of each target; no slash at its end."""
        ...

    @property
    def origin(self) -> str:
        """Scheme, host and port, for logs and errors."""
        ...


class Attempt:
    """What one attempt has done so far: retry safety and time-outs are decided from these facts.

    A transport sets them as they become true. They are plain attributes because each is written on every request.

    Attributes:
        stage: What is being waited for. ``CONNECT`` first.
        progress: Raised by one whenever the stage changes or bytes pass.
        connected: A connection is there.
        sent: The first byte was handed to the operating system: the upstream may have seen it.
        body_consumed: A byte of the client's content was read and is gone.
        reused: The connection had served an exchange before.
        route: The route's name; the gateway enters it.
        number: Which attempt of its exchange it is, from 1; the gateway enters it.
        destination: The origin that is asked; the gateway enters it.
        began_at: Seconds on the monotonic clock when it began; the gateway enters it.
        connected_at: Seconds on the monotonic clock when a connection was there, or 0.0.
        failure: Why it failed, or None; the gateway enters it.
        failed_at: Seconds on the monotonic clock when it failed, or 0.0.
        may_repeat: Whether the transport may send the request once more where a reused connection has died before it
            answered. Set by the gateway: one repetition for one exchange.
        repeated: The transport has done so.
    """

    # Class attributes are what an attempt begins with.
    stage = Stage.CONNECT
    progress = 0
    connected = False
    sent = False
    body_consumed = False
    reused = False
    route = destination = ""
    number = 0
    began_at = connected_at = failed_at = 0.0
    failure: Exception | None = None
    may_repeat = True
    repeated = False

    def enter(self, stage: Stage) -> None:
        """Begin a stage."""
        self.stage = stage
        self.progress += 1


class ExchangeRecord:
    """The facts of one exchange or session, as observers get them at its end.

    Times are seconds on the monotonic clock, 0.0 where they have not come; durations are seconds, None where they have
    no meaning.

    Attributes:
        route: The route's name.
        method: The request's method.
        scope: The received request, or None where there was none to keep.
        pool: The pool's name, or None before one was chosen.
        destination: The last destination's origin, or None.
        status: The status that the client was answered with; 499 where it had left; None before.
        error: Why it failed, or None.
        whole: Whether the answer was handed over to its last byte.
        attempts: Number of attempts.
        attempt: The last attempt, or None.
        earlier: The attempts before it, first one first.
        started: When it began.
        connected: When the last attempt had a connection.
        head: When the head of the response was there.
        relayed: When the relay of the response began.
        ended: When it ended.
        queued: Seconds for which it waited for a place in its pool.
        request_bytes: Bytes of content received.
        response_bytes: Bytes of content relayed.
    """

    # Plain attributes, because most of them are written on every request; what follows from them is worked out when asked.
    # Class attributes are what an exchange begins with: most of it is never written for one that is fast and goes well.
    route = method = ""
    scope: Scope | None = None
    pool: str | None = None
    destination: str | None = None
    status: int | None = None
    error: GatewayError | None = None
    whole = False
    attempts = 0
    attempt: Attempt | None = None
    earlier: tuple[Attempt, ...] = ()
    started = connected = head = relayed = ended = queued = 0.0
    request_bytes = response_bytes = 0

    @property
    def tries(self) -> tuple[Attempt, ...]:
        """Every attempt, first one first."""
        if not self.earlier or self.attempt is None:
            return self.earlier if self.attempt is None else (self.attempt,)
        # Of two that were under way at a time, the one that counts may be the first.
        return tuple(sorted((*self.earlier, self.attempt), key=lambda one: one.number))

    @property
    def cause(self) -> str | None:
        """Why it did not end well, in one word of few; None where it did.

        The word is the ``slug`` of the error (``upstream-timeout``, ``no-destination`` and so on), ``client-left``, or
        ``abandoned`` where nobody waited for the end: the server was stopped, or a stub gave the response up.
        """
        if self.error is not None:
            return self.error.slug
        if self.whole:
            return None
        return "client-left" if self.status == 499 else "abandoned"

    @property
    def connect_seconds(self) -> float | None:
        """How long the last attempt took to have a connection; next to nothing where it had one already."""
        attempt = self.attempt
        if attempt is None or not attempt.connected_at:
            return None
        seconds = attempt.connected_at - attempt.began_at
        if seconds > 0.0:
            return seconds
        return 0.0

    @property
    def first_byte_seconds(self) -> float | None:
        """From the last attempt's connection to the head of its response; the request's content is sent within it."""
        attempt = self.attempt
        if attempt is None or not attempt.connected_at or not self.head:
            return None
        seconds = self.head - attempt.connected_at
        if seconds > 0.0:
            return seconds
        return 0.0

    @property
    def total_seconds(self) -> float:
        """From its beginning to its end."""
        seconds = self.ended - self.started
        if seconds > 0.0:
            return seconds
        return 0.0

    @property
    def overhead_seconds(self) -> float:
        """What the gateway itself has added before the first byte of the answer.

        The time before the first attempt, without the wait for a place, and the time between the response's head and
        its relay; a stub's own work is in it. All of it where nothing was asked of an upstream.
        """
        first = self.earlier[0] if self.earlier else self.attempt
        if first is None:
            return max(0.0, self.total_seconds - self.queued)
        seconds = 0.0
        before = first.began_at - self.started - self.queued
        if before > 0.0:
            seconds += before
        head, relayed = self.head, self.relayed
        if head and relayed > head:
            seconds += relayed - head
        return seconds


class UpstreamResponse(Protocol):
    """A response whose head has come. Whoever holds it reads it to its end or aborts it."""

    @property
    def status(self) -> int:
        """A final status: 200 to 599 (RFC 9110 §15)."""
        ...

    @property
    def reason(self) -> bytes:
        """The reason phrase, for information only."""
        ...

    @property
    def fields(self) -> Fields:
        """Field lines as they came, names in lower case."""
        ...

    @property
    def trailers(self) -> Fields:
        """Trailer fields, once the body has ended."""
        ...

    @property
    def strict(self) -> bool:
        """Whether its parser has refused bad names, values and statuses, so that nobody need look again."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the whole body is here: ``take()`` then gives all that is left of it."""
        ...

    def take(self) -> bytes:
        """What of the body is here already, without waiting."""
        ...

    async def read(self) -> bytes:
        """The next bytes of the body; ``b""`` is its end.

        Raises:
            UpstreamProtocolError: If the body is cut off or malformed.
        """
        ...

    def abort(self) -> None:
        """Let go at once: the connection is closed unless the body was read to its end. May be called twice."""
        ...


class BoundTransport(Protocol):
    """A transport for one pool on one event loop."""

    async def send(
        self,
        head: ForwardedHead,
        body: Body | None,
        destination: Endpoint,
        timeouts: Timeouts,
        attempt: Attempt,
    ) -> UpstreamResponse:
        """Send one request and wait for the head of its final response.

        Cancelling it closes what it had opened. A connection is never used again unless the request was sent whole and
        the response was read whole.

        Args:
            head: What is sent.
            body: Its content, or None for none. Not read before there is a connection.
            destination: Where it is sent.
            timeouts: For transports that keep time themselves; the gateway watches ``attempt`` in any case.
            attempt: The facts that the transport records.

        Raises:
            UpstreamConnectError: If there is no connection: nothing was sent.
            UpstreamTimeoutError: If the transport's own time-out passed.
            UpstreamProtocolError: If what came is not a response.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class Transport(Protocol):
    """A recipe for a transport: shareable between pools, bound to one of them at start."""

    def bind(self, *, clock: Clock, tls: TLS | None) -> BoundTransport:
        """Make the transport of one pool on the running event loop."""
        ...


class Candidate(Protocol):
    """What balancing sees of a destination."""

    @property
    def weight(self) -> float:
        """Its share as it is now, relative to the others', slow start included; always above 0.

        Within one sequence of candidates it never changes: whenever a weight does, a new sequence is made.
        """
        ...

    @property
    def factor(self) -> float:
        """What slow start leaves of its weight: 1.0 where it has not just come or come back."""
        ...

    @property
    def in_flight(self) -> int:
        """Exchanges and sessions that hold a lease on it."""
        ...

    @property
    def latency(self) -> float | None:
        """Seconds until its first byte, as far as is known; None where nothing is.

        What its exchanges took, where the balancer has that measured; else what its last successful probe took.
        """
        ...

    @property
    def identity(self) -> bytes:
        """Its origin and base path: the same in every process."""
        ...


class Measure(Protocol):
    """What is seen of the time that one destination takes to answer."""

    def observe(self, seconds: float) -> None:
        """Enter the time from the choice to the first byte of a response."""
        ...

    def fail(self, seconds: float) -> None:
        """Enter the time after which an exchange failed."""
        ...

    def estimate(self, probed: float | None) -> float | None:
        """Seconds that an exchange will take, or None; the last successful probe took ``probed``."""
        ...


class Balancer(Protocol):
    """Balancing for one pool.

    One whose choice depends on the choices before may have a method ``peek`` besides, which takes the same and chooses
    without changing anything; ``UpstreamPool.peek`` calls it, and ``pick`` where there is none. One that goes by how
    fast destinations answer may have a method ``measure`` besides, which makes the ``Measure`` of one destination.
    """

    def pick(self, candidates: Sequence[Candidate], head: ForwardedHead, /) -> Candidate:
        """Choose one of at least two candidates. Never blocks, never changes ``candidates``."""
        ...


class BoundAffinity(Protocol):
    """Affinity for one pool."""

    @property
    def rejects(self) -> bool:
        """Whether a request whose destination is not available is answered 503, instead of asking another one."""
        ...

    def find(self, members: Sequence[Candidate], head: ForwardedHead, /) -> Candidate | None:
        """The destination that a request belongs to, of all that the pool has, available or not; None for any."""
        ...

    def find_another(
        self, available: Sequence[Candidate], head: ForwardedHead, /
    ) -> Candidate | None:
        """Who of those that are available takes the place of one that is lost; None for whom the balancing chooses."""
        ...

    def fields(self, chosen: Candidate, head: ForwardedHead, /) -> Fields:
        """Fields for the response that begins an affinity with this destination."""
        ...


class Affinity(Protocol):
    """A recipe for affinity."""

    def bind(self, *, pool: str, clock: Clock, random: RandomSource) -> BoundAffinity:
        """Make the affinity of one pool, whose name is given."""
        ...


class Balancing(Protocol):
    """A recipe for balancing."""

    def bind(self, *, clock: Clock, random: RandomSource) -> Balancer:
        """Make the balancer of one pool."""
        ...


class Store(Protocol):
    """Where rate limits keep one number for each key: memory, or a service that a fleet of gateways shares.

    Its time is the store's own, so that a fleet has one clock.
    """

    async def read(self, key: bytes, /) -> tuple[float | None, float]:
        """Give the number under a key, or None, and the seconds on the store's clock."""
        ...

    async def swap(self, key: bytes, old: float | None, new: float, seconds: float, /) -> bool:
        """Keep a number under a key for so many seconds, if what is there is still the old one; say whether."""
        ...


ByteStream: TypeAlias = AsyncIterator[bytes]
