"""The opening handshake with an upstream, as bytes: the request's head, and what of the answer is accepted.

Sans-I/O. llhttp reads the answer, so that a refusal is read as any response is; ``websockets`` decides whether a 101 is
one (RFC 6455 §4.1), and nothing but a 101 that it accepts opens a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httptools
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.headers import build_extension
from websockets.http11 import Response

from proxyroutes.exceptions import UpstreamProtocolError
from proxyroutes.transports._head import MAX_FIELDS, MAX_HEAD_BYTES
from proxyroutes.transports.http1 import encode_head
from proxyroutes.typing import Endpoint, Fields, ForwardedHead

__all__ = ["Handshake", "encode_handshake"]

MAX_REFUSAL_BYTES = 1024 * 1024
"""Content of a refusal that is relayed; more is a failure of the upstream."""
MAX_INFORMATIONAL = 16


def encode_handshake(
    head: ForwardedHead, engine: ClientProtocol, subprotocols: Sequence[str], destination: Endpoint
) -> bytes:
    """The bytes of a handshake's request; its own fields are made anew for this hop (RFC 6455 §4.1)."""
    fields: Fields = [
        *head.fields,
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-key", engine.key.encode("ascii")),
        (b"sec-websocket-version", b"13"),
    ]
    if subprotocols:
        # An empty list would make an empty field, which servers refuse.
        fields.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("ascii")))
    if engine.available_extensions:
        offer = build_extension(
            [(one.name, one.get_request_params()) for one in engine.available_extensions]
        )
        fields.append((b"sec-websocket-extensions", offer.encode("ascii")))
    own = ForwardedHead(b"GET", head.target, fields, head.host, None)
    return encode_head(own, None, destination)


class Handshake:
    """The answer to a handshake, while it comes.

    Attributes:
        status: The final status, 0 while there is none.
        fields: The field lines, names in lower case.
        body: Content of a refusal.
        complete: Whether all of it is here.
    """

    __slots__ = (
        "_engine",
        "_error",
        "_head_bytes",
        "_informational",
        "_parser",
        "_reason",
        "body",
        "complete",
        "fields",
        "status",
    )

    def __init__(self, engine: ClientProtocol) -> None:
        self._engine = engine
        self._parser: Any = httptools.HttpResponseParser(self)
        self._error: UpstreamProtocolError | None = None
        self._reason = b""
        self._head_bytes = 0
        self._informational = 0
        self.status = 0
        self.fields: Fields = []
        self.body = bytearray()
        self.complete = False

    def feed(self, received: bytes) -> bytes:
        """Read further bytes.

        Returns:
            What came behind a 101, in the same read.

        Raises:
            UpstreamProtocolError: If it is no answer that can be accepted.
        """
        surplus = b""
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserUpgrade as upgrade:
            surplus = received[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            raise self._error or UpstreamProtocolError(
                f"not a valid response: {error}", sent=True
            ) from error
        if self.status == 101:
            self._switch()
        elif not self.status:
            # llhttp itself has no limit for what a field may grow to.
            self._head_bytes += len(received)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise UpstreamProtocolError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        return surplus

    def end(self) -> bool:
        """The upstream has closed; whether a refusal is complete by that (RFC 9112 §6.3)."""
        framed = any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.fields)
        self.complete = self.complete or (self.status >= 200 and not framed)
        return self.complete

    def _switch(self) -> None:
        """Accept a 101, or not."""
        pairs = [(name.decode("ascii"), value.decode("latin-1")) for name, value in self.fields]
        response = Response(101, self._reason.decode("latin-1"), Headers(pairs))
        try:
            self._engine.process_response(response)
        except InvalidHandshake as error:
            raise UpstreamProtocolError(f"a 101 that is none: {error}", sent=True) from error
        self.complete = True

    # llhttp's side.

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; trailers of a refusal are of no use."""
        if self.status:
            return
        if len(self.fields) >= MAX_FIELDS:
            self._fail(f"more than {MAX_FIELDS} response fields")
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is there."""
        status: int = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                self._fail(f"more than {MAX_INFORMATIONAL} interim responses")
            self.fields = []
            self._reason = b""
            return
        if not 101 <= status <= 599:
            self._fail(f"status {status} is not a final status")
        if status == 101 and any(
            name in {b"content-length", b"transfer-encoding"} for name, _ in self.fields
        ):
            # RFC 9110 §8.6, RFC 9112 §6.1: a 1xx has neither.
            self._fail("a 101 with a length")
        if status == 101 and not self._upgrades():
            self._fail("a 101 without Upgrade: websocket and Connection: Upgrade")
        self.status = status

    def _upgrades(self) -> bool:
        named = {
            (name, word.strip().lower())
            for name, value in self.fields
            for word in value.split(b",")
        }
        return {(b"connection", b"upgrade"), (b"upgrade", b"websocket")} <= named

    def on_body(self, chunk: bytes) -> None:
        """Keep content of a refusal."""
        if len(self.body) + len(chunk) > MAX_REFUSAL_BYTES:
            self._fail(f"a refusal of more than {MAX_REFUSAL_BYTES} bytes")
        self.body += chunk

    def on_message_complete(self) -> None:
        """The refusal is whole."""
        self.complete = self.status >= 200

    def _fail(self, problem: str) -> None:
        self._error = UpstreamProtocolError(problem, sent=True)
        raise self._error
