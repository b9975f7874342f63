"""What the tests of the request path share: a plan, a transport and a server that do what they are told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field

from proxyroutes import HealthMonitor, Proxy, UpstreamPool
from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.http import serve_http
from proxyroutes._serve.match import Found, split_path
from proxyroutes._state.sweeper import Sweeper
from proxyroutes.exceptions import Stage
from proxyroutes.policies import Retry, RoundRobin
from proxyroutes.settings import Destination, Timeouts
from proxyroutes.testing import ManualClock
from proxyroutes.typing import Fields, Message, RandomSource, Scope

GET = {"type": "http.request", "body": b"", "more_body": False}
LEFT = {"type": "http.disconnect"}


def piece(body: bytes, *, more: bool = True) -> Message:
    """A message of the request's content."""
    return {"type": "http.request", "body": body, "more_body": more}


class Server:
    """The two channels of a server: it gives what it was told to, then waits; it keeps what it was sent.

    An event among the messages is waited for, an exception is raised.
    """

    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)
        self.sent: list[Message] = []
        self.receiving = asyncio.Event()
        self.more = asyncio.Event()
        self.before_send: Callable[[Message], Any] | None = None

    async def receive(self) -> Message:
        """Give the next message."""
        self.receiving.set()
        while not self.messages:
            self.more.clear()
            await self.more.wait()
        message = self.messages.pop(0)
        if isinstance(message, asyncio.Event):
            await message.wait()
            return await self.receive()
        if isinstance(message, Exception):
            raise message
        return message

    def give(self, message: Message) -> None:
        """Give one more message."""
        self.messages.append(message)
        self.more.set()

    async def send(self, message: Message) -> None:
        """Keep a message."""
        if self.before_send is not None:
            await self.before_send(message)
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        """The status that was sent."""
        return next((one["status"] for one in self.sent if "status" in one), None)

    @property
    def body(self) -> bytes:
        """The content that was sent."""
        return b"".join(one.get("body", b"") for one in self.sent)

    @property
    def complete(self) -> bool:
        """Whether the response came to its end."""
        return bool(self.sent) and self.sent[-1].get("more_body", True) is False


class Response:
    """A response of a transport; an exception among its chunks is raised, an event waited for."""

    def __init__(
        self,
        status: int = 200,
        fields: Fields | None = None,
        *chunks: Any,
        complete: bool = False,
        strict: bool = False,
    ) -> None:
        self.status = status
        self.reason = b""
        self.fields = [] if fields is None else fields
        self.trailers: Fields = []
        self.chunks = list(chunks)
        self.complete = complete
        self.strict = strict
        self.aborted = 0
        self.reading = asyncio.Event()

    def take(self) -> bytes:
        """All that is left."""
        taken, self.chunks = b"".join(self.chunks), []
        return taken

    async def read(self) -> bytes:
        """The next chunk."""
        self.reading.set()
        chunk = self.chunks.pop(0) if self.chunks else b""
        if isinstance(chunk, asyncio.Event):
            await chunk.wait()
            return await self.read()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def abort(self) -> None:
        """Count."""
        self.aborted += 1


@define(eq=False)
class ScriptedTransport:
    """A transport whose attempts end as they are told: a response, an exception, or a function of the attempt.

    Attributes:
        outcomes: One for each attempt.
        heads: What was sent.
        bodies: The content that came with it.
        asked: Origins of the destinations, in the order in which they were asked.
    """

    outcomes: list[Any]
    heads: list[Any] = field(factory=list)
    bodies: list[Any] = field(factory=list)
    asked: list[str] = field(factory=list)
    waiting: asyncio.Event = field(factory=asyncio.Event)

    def bind(self, **_: Any) -> "ScriptedTransport":
        """It is its own binding."""
        return self

    async def send(self, head, body, destination, timeouts, attempt):
        """Play the next outcome."""
        self.heads.append(head)
        self.bodies.append(body)
        self.asked.append(destination.origin)
        outcome = self.outcomes.pop(0)
        if callable(outcome):
            self.waiting.set()
            outcome = await outcome(body, attempt)
        if isinstance(outcome, BaseException):
            raise outcome
        attempt.connected = attempt.sent = True
        attempt.enter(Stage.RESPONSE_BODY)
        return outcome

    async def aclose(self) -> None:
        """Nothing is open."""


@define(eq=False)
class Route:
    """One compiled route with its pool, clock and records.

    Attributes:
        proxy: The proxy.
        pool: The pool.
        transport: Its transport.
        clock: The clock of the pool and the sweeper.
        records: Records of ended exchanges.
    """

    proxy: Proxy
    pool: UpstreamPool
    transport: ScriptedTransport
    clock: ManualClock
    records: list[Exchange]

    @property
    def plan(self):
        """What it was compiled into."""
        return self.proxy.compiled().routes[0][1]

    @property
    def state(self):
        """The pool's state on this loop."""
        return self.pool.state()

    def found(self, scope: Scope) -> Found:
        """The match of a request."""
        found = self.proxy.compiled().index.match(
            split_path(scope["raw_path"]), 0, scope["method"], scope
        )
        assert found is not None
        return found


async def stub() -> None:
    """Say nothing."""


def make_route(
    *outcomes: Any,
    destinations: int | Sequence[Destination] = 1,
    pool_timeouts: Timeouts | None = None,
    path: str = "/<path>",
    pool_retry: Retry | None = None,
    rules: dict[str, Any] | None = None,
    random: RandomSource | None = None,
    **route: Any,
) -> Route:
    """Compile one route over destinations that do not exist.

    Args:
        outcomes: What each attempt comes to.
        destinations: How many there are, or which.
        pool_timeouts: The pool's time-outs.
        path: The template.
        pool_retry: The pool's retry; a wait before it would need the clock to be advanced.
        rules: Further keywords of the pool.
        random: Where waits come from.
        **route: Keywords of the route.
    """
    clock = ManualClock()
    records: list[Exchange] = []
    monitor = HealthMonitor(clock=clock, random=random)
    proxy = Proxy(monitor=monitor, on_exchange=records.append, via="here")
    transport = ScriptedTransport(list(outcomes))
    urls: Sequence[str | Destination] = (
        [f"http://up{number}.test" for number in range(1, destinations + 1)]
        if isinstance(destinations, int)
        else destinations
    )
    pool = UpstreamPool(
        "pool",
        urls,
        transport=transport,
        balancing=RoundRobin(),
        timeouts=pool_timeouts,
        retry=pool_retry,
        **(rules or {}),
    )
    proxy.route(path, upstream=pool, **route)(stub)
    return Route(proxy, pool, transport, clock, records)


def make_scope(
    method: str = "GET", target: bytes = b"/", *fields: tuple[bytes, bytes], **more: Any
) -> Scope:
    """A request as a server describes it."""
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": query,
        "headers": [(b"host", b"gateway.test"), *fields],
        "client": ("192.0.2.1", 5),
        **more,
    }


def make_exchange(
    server: Server | None = None,
    *observers: Any,
    timeouts: Timeouts | None = None,
    clock: ManualClock | None = None,
) -> Exchange:
    """An exchange with a sweeper that only a test's own calls of ``tick`` move."""
    sweeper = Sweeper(asyncio.get_running_loop(), clock or ManualClock())
    exchange = Exchange(
        "route", "GET", (server or Server()).receive, timeouts or Timeouts(), sweeper, observers
    )
    exchange.attach()
    return exchange


async def serve(route, scope=None, server=None):
    """Serve a request, and give the server's side of it."""
    server = server or Server()
    scope = scope or make_scope()
    await serve_http(route.plan, route.found(scope), scope, server.receive, server.send)
    return server


def assert_all_is_let_go(route):
    """No lease is out, nothing is swept, and there is one record."""
    state = route.state

    assert (0, [0] * len(state.destinations)) == (
        state.in_flight,
        [one.in_flight for one in state.destinations],
    )
    assert 0 == len(state.sweeper)
    assert 1 == len(route.records)


async def turns(count: int = 10) -> None:
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)
