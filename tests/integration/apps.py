"""Whole applications on real sockets: an origin that says what it got, and a client of an app behind a real server."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import h11
from attrs import define, field

from proxyroutes.testing import ScriptedOrigin, run_gateway
from proxyroutes.typing import ASGIApp
from tests.integration.support import RawClient, Reply, make_request


async def echo(reader, writer) -> None:
    """Answer every request with what it was, as JSON."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**17)
    while True:
        head, content = None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.ConnectionClosed):
                return
            elif isinstance(event, h11.Request):
                head = event
            else:
                content += event.data
        body = describe(head, content)
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-origin", b"echo"),
        ]
        writer.write(connection.send(h11.Response(status_code=200, headers=fields)))
        if head.method != b"HEAD":
            writer.write(connection.send(h11.Data(data=body)))
        writer.write(connection.send(h11.EndOfMessage()))
        await writer.drain()
        if connection.our_state is h11.MUST_CLOSE:
            return
        connection.start_next_cycle()


def describe(head, content) -> bytes:
    """What a request was."""
    seen = {
        "method": head.method.decode(),
        "target": head.target.decode(),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in head.headers],
        "body": content.decode("latin-1"),
    }
    return json.dumps(seen).encode()


@define
class Seen:
    """A reply of a gateway in front of ``echo``.

    Attributes:
        reply: What the client got.
        method: The method that the origin got.
        target: The request target that the origin got.
        headers: Field lines that the origin got.
        body: The content that the origin got.
    """

    reply: Reply
    method: str
    target: str
    headers: list[list[str]]
    body: str

    def all(self, name: str) -> list[str]:
        """Every value of a field that the origin got."""
        return [value for known, value in self.headers if known == name]

    def get(self, name: str) -> str | None:
        """The first value of a field that the origin got."""
        return next(iter(self.all(name)), None)


@define(eq=False)
class Served:
    """An application behind a real server.

    Attributes:
        port: Where it listens.
    """

    port: int
    _clients: list[RawClient] = field(factory=list)

    async def connect(self) -> RawClient:
        """Open a connection; it is closed with the server."""
        client = await RawClient.connect(self.port)
        self._clients.append(client)
        return client

    async def ask(
        self, target: str = "/", *lines: str, method: str = "GET", body: str | None = None
    ) -> Reply:
        """Send one request over a connection of its own and read the response."""
        if body is not None:
            lines = (*lines, f"Content-Length: {len(body)}")
        client = await self.connect()
        return await client.ask(
            make_request(target, *lines, method=method, body=body or ""), method
        )

    async def see(
        self, target: str = "/", *lines: str, method: str = "GET", body: str | None = None
    ) -> Seen:
        """The same, for what ends at ``echo``."""
        reply = await self.ask(target, *lines, method=method, body=body)

        assert 200 == reply.status, reply
        return Seen(reply, **json.loads(reply.body))

    async def status(
        self, target: str = "/", *lines: str, method: str = "GET", body: str | None = None
    ) -> int:
        """The same, for the status alone."""
        return (await self.ask(target, *lines, method=method, body=body)).status


@contextlib.asynccontextmanager
async def serve_app(app: ASGIApp, **options: Any) -> AsyncIterator[Served]:
    """Serve an application."""
    async with run_gateway(app, **options) as running:
        served = Served(running.port)
        try:
            yield served
        finally:
            for client in served._clients:
                await client.close()


def echo_origin() -> ScriptedOrigin:
    """An origin that answers every request with what it was."""
    return ScriptedOrigin(echo)
