"""What the integration tests share: a client of raw bytes, and a gateway that is watched."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from attrs import define, field
from fastapi import Depends, FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes._serve.exchange import Exchange
from proxyroutes.policies import RoundRobin
from proxyroutes.testing import RunningGateway, run_gateway
from proxyroutes.transports import Http1Transport
from proxyroutes.typing import Fields, Transport

PROTOCOLS = ["h11", "httptools", pytest.param("proxyroutes.server:HttpProtocol", id="ours")]
"""The server's protocols where it matters who writes to the client, and when."""

DEADLINE = 10.0
"""Seconds after which a test gives up on what it waits for."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

one_transport = pytest.mark.parametrize(
    "transport", [pytest.param(Http1Transport, id="http1")], indirect=True, scope="session"
)
"""For tests of what does not depend on the transport."""


@contextlib.contextmanager
def refusing_destination() -> Iterator[str]:
    """The URL of a port that refuses connections, and that nobody else gets."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def silent_destination() -> Iterator[str]:
    """The URL of a port that never answers who wants to connect: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def eventually(claim: Callable[[], Any], *, seconds: float = DEADLINE) -> None:
    """Wait until a claim is true."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.002)


@define
class Reply:
    """A response as it came over the wire.

    Attributes:
        status: The status.
        fields: Field lines in order, names in lower case.
        body: The content.
        complete: Whether it came to the end that its head promised.
    """

    status: int
    fields: Fields
    body: bytes = b""
    complete: bool = True

    def all(self, name: str) -> list[bytes]:
        """Every value of a field."""
        return [value for known, value in self.fields if known == name.encode()]

    def get(self, name: str) -> bytes | None:
        """The first value of a field."""
        return next(iter(self.all(name)), None)


@define(eq=False)
class RawClient:
    """A client that sends exactly the bytes it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, port: int) -> "RawClient":
        """Connect to a gateway."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    async def send(self, sent: bytes) -> None:
        """Send bytes."""
        self.writer.write(sent)
        await self.writer.drain()

    async def read_head(self) -> Reply:
        """Read the head of the next response, whatever its status."""
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head[:-4].split(b"\r\n")
        fields = [
            (name.lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in lines)
        ]
        return Reply(int(status_line.split(b" ")[1]), fields)

    async def read_reply(self, method: str = "GET") -> Reply:
        """Read the next response and its content."""
        reply = await self.read_head()
        if method == "HEAD" or reply.status in {204, 304} or reply.status < 200:
            return reply
        try:
            async with asyncio.timeout(DEADLINE):
                await self._read_content(reply)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            reply.body += getattr(error, "partial", b"")
            reply.complete = False
        return reply

    async def _read_content(self, reply: Reply) -> None:
        if reply.get("transfer-encoding") == b"chunked":
            while chunk := await self.read_chunk():
                reply.body += chunk
        elif (length := reply.get("content-length")) is not None:
            reply.body = await self.reader.readexactly(int(length))
        else:
            reply.body = await self.reader.read(-1)

    async def read_chunk(self) -> bytes:
        """Read one chunk of a chunked body; ``b""`` is the last."""
        async with asyncio.timeout(DEADLINE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def read_rest(self) -> bytes:
        """Read whatever comes until the gateway closes."""
        received = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                while part := await self.reader.read(65_536):
                    received += part
        return received

    async def ask(self, sent: bytes, method: str = "GET") -> Reply:
        """Send bytes and read the response."""
        await self.send(sent)
        return await self.read_reply(method)

    def leave(self) -> None:
        """Go away with a reset, as a client that was killed does not; the gateway sees it at once."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@define(eq=False)
class Gateway:
    """A running gateway with what it is made of.

    Attributes:
        running: The server.
        pool: The pool behind its route.
        records: Records of ended exchanges, in the order in which they ended.
    """

    running: RunningGateway
    pool: UpstreamPool
    proxy: Proxy
    records: list[Exchange]
    clients: list[RawClient] = field(factory=list)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.running.port

    @property
    def authority(self) -> bytes:
        """Its address as a client names it."""
        return f"127.0.0.1:{self.port}".encode()

    async def connect(self) -> RawClient:
        """Make a client; it is closed with the gateway."""
        client = await RawClient.connect(self.port)
        self.clients.append(client)
        return client

    async def ask(self, sent: bytes, method: str = "GET") -> Reply:
        """Send bytes over a new connection and read the response."""
        return await (await self.connect()).ask(sent, method)

    async def get(self, target: str = "/", *lines: str, method: str = "GET") -> Reply:
        """Send a request without content over a new connection and read the response."""
        return await self.ask(make_request(target, *lines, method=method), method)

    async def wait_for_record(self, count: int = 1) -> Exchange:
        """Wait until so many exchanges have ended, and give the last one's record."""
        await eventually(lambda: len(self.records) >= count)
        return self.records[-1]

    def is_idle(self) -> bool:
        """Whether no lease is out and no exchange is swept."""
        state = self.pool.state()
        return (
            not state.in_flight
            and not any(one.in_flight for one in state.destinations)
            and not len(state.sweeper)
        )


def make_request(target: str = "/", *lines: str, method: str = "GET", body: str = "") -> bytes:
    """Make a request; the lines are its fields beside ``Host``."""
    head = [f"{method} {target} HTTP/1.1", "Host: gateway.test", *lines]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode("latin-1")


def forwarded_fields(received: bytes) -> Fields:
    """The field lines of the request that an origin has got, names in lower case."""
    lines = bytes(received).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [
        (name.lower(), value.strip())
        for name, _, value in (line.partition(b":") for line in lines)
    ]


def values_of(received: bytes, name: str) -> list[bytes]:
    """Every value of a field in the request that an origin has got."""
    return [value for known, value in forwarded_fields(received) if known == name.encode()]


def target_of(received: bytes) -> bytes:
    """The request target that an origin has got."""
    return bytes(received).split(b" ")[1]


def depend_on_nothing() -> None:
    """A dependency that lets everything pass; FastAPI runs it, in a thread."""


async def let_pass() -> None:
    """One that is run from what FastAPI has read of it."""


@contextlib.asynccontextmanager
async def open_gateway(
    *upstreams: str,
    transport: Transport,
    http: str = "httptools",
    lane: str = "router",
    path: str = "/<path>",
    prefix: str = "",
    proxy: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    **route: Any,
) -> AsyncIterator[Gateway]:
    """Serve one route over one pool.

    Args:
        upstreams: URLs of the destinations.
        transport: How they are spoken with.
        http: The server's parser.
        lane: ``router`` for the short way through a router, ``guarded`` for the one behind a known dependency, ``fastapi`` for
            the full one, ``app`` for no FastAPI.
        path: The route's template.
        prefix: Prefix of the inclusion.
        proxy: Keywords of the proxy.
        pool: Keywords of the pool.
        server: Settings of uvicorn.
        **route: Keywords of the route.
    """
    records: list[Exchange] = []
    upstream = UpstreamPool(
        "pool", upstreams, transport=transport, balancing=RoundRobin(), **(pool or {})
    )
    gateway_proxy = Proxy(**{"on_exchange": records.append, **(proxy or {})})

    if lane == "fastapi":
        # A route with a dependency is never served the short way.
        route["dependencies"] = [Depends(depend_on_nothing)]
    elif lane == "guarded":
        route["dependencies"] = [Depends(let_pass)]

    @gateway_proxy.route(path, upstream=upstream, **route)
    async def forwarded() -> None:
        """Forward everything."""

    if lane == "app":
        app = gateway_proxy.build_app()
    else:
        app = FastAPI(openapi_url=None)
        app.include_router(gateway_proxy.build_router(), prefix=prefix)
    async with run_gateway(app, http=http, **(server or {})) as running:
        gateway = Gateway(running, upstream, gateway_proxy, records)
        try:
            yield gateway
            for client in gateway.clients:
                await client.close()
            await eventually(gateway.is_idle)
            # The server looks at its connections ten times a second only.
            await eventually(lambda: not running.server.server_state.connections)
        finally:
            for client in gateway.clients:
                client.leave()
