"""An upstream in the test's own process that keeps what was forwarded to it, and answers as it is told."""

from __future__ import annotations

import json as json_module
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from attrs import define, frozen
from typing_extensions import override

from proxyroutes.typing import ASGIApp, JSONValue, Message, Receive, Scope, Send

__all__ = ["RecordedRequest", "RecordingUpstream"]

_SHOWN_BYTES = 200
"""Of a body in the message of a failed assertion."""

FieldPairs = Mapping[str, str] | Iterable[tuple[str, str]]
Content = bytes | str | Iterable[bytes] | AsyncIterable[bytes]


class _Unset:
    """Stands for a value that was not given, where None is one."""


_UNSET = _Unset()


@define(eq=False)
class RecordedRequest:
    """One request as an upstream received it.

    Attributes:
        method: The method.
        target: Path and query as they were sent, nothing decoded.
        headers: Field lines in order, names in lower case, duplicates kept.
        body: The content that has come so far.
        complete: Whether the content has come to its end.
        disconnected: Whether the gateway cut the exchange.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    complete: bool = False
    disconnected: bool = False

    @property
    def path(self) -> str:
        """The path, decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """The query as it was sent, without its question mark."""
        return self.target.partition("?")[2]

    def all(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        return [value for known, value in self.headers if known == name.lower()]

    def get(self, name: str) -> str | None:
        """The first value of a field, or None where it was not sent."""
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        """The content, read as JSON.

        Raises:
            ValueError: If it is none.
        """
        return json_module.loads(self.body)

    @override
    def __str__(self) -> str:
        lines = [f"{self.method} {self.target}"]
        lines += [f"  {name}: {value}" for name, value in self.headers]
        if self.body:
            more = "…" if len(self.body) > _SHOWN_BYTES else ""
            lines.append(f"  {self.body[:_SHOWN_BYTES]!r}{more}")
        return "\n".join(lines)


@frozen(kw_only=True)
class _Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    content: Content


class RecordingUpstream:
    """An ASGI application that answers as it is told and keeps each request.

    Give it to a route as ``upstream=``, or put it behind the pools of a gateway that is declared already with
    ``replaced_transport``. Both sides are streamed, without sockets.

    ```python
    upstream = RecordingUpstream()
    upstream.answer(json={"name": "ann"})
    ...
    upstream.assert_forwarded("GET", "/users/ann", headers={"x-user": "ann"}, absent=["cookie"])
    ```

    Args:
        app: An ASGI application that answers instead; what it reads is kept too.

    Attributes:
        requests: What was forwarded, in order; each is there as soon as its head has come.
    """

    def __init__(self, app: ASGIApp | None = None) -> None:
        self.requests: list[RecordedRequest] = []
        self._app = app
        self._always = _Answer(status=200, headers=(), content=b"")
        self._next: deque[_Answer] = deque()

    def answer(
        self,
        status: int = 200,
        *,
        headers: FieldPairs = (),
        body: Content = b"",
        json: JSONValue | _Unset = _UNSET,
        once: bool = False,
    ) -> None:
        """Say how requests are answered from now on.

        Args:
            status: The status.
            headers: Field lines of the response.
            body: The content: bytes, text, or an iterable of bytes, sync or async, that is sent piece by piece. An
                iterator is used up by the first request.
            json: The content as a value, instead of ``body``.
            once: Whether this is the answer to one request only. Those that are said once are given first, in order.
        """
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in pairs]
        if not isinstance(json, _Unset):
            body = json_module.dumps(json).encode("utf-8")
            if all(name != b"content-type" for name, _ in fields):
                fields.append((b"content-type", b"application/json"))
        answer = _Answer(status=status, headers=tuple(fields), content=body)
        if once:
            self._next.append(answer)
        else:
            self._always = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            raise NotImplementedError(f"{scope['type']!r} is not recorded")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _record(scope)
        self.requests.append(request)

        async def recorded() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                request.disconnected = True
            else:
                request.body += message.get("body", b"")
                request.complete = not message.get("more_body", False)
            return message

        if self._app is not None:
            await self._app(scope, recorded, send)
            return
        while not (request.complete or request.disconnected):
            await recorded()
        if not request.disconnected:
            await _send(self._next.popleft() if self._next else self._always, send)

    # Assertions.

    def assert_forwarded(
        self,
        method: str | None = None,
        target: str | None = None,
        *,
        headers: FieldPairs = (),
        absent: Iterable[str] = (),
        body: bytes | str | None = None,
        json: JSONValue | _Unset = _UNSET,
        times: int = 1,
    ) -> RecordedRequest:
        """Assert that a request was forwarded, as many times as it should be.

        Args:
            method: The method, or None for any.
            target: Path and query as they were sent, or None for any.
            headers: Fields that it had; of a name that it had more than once, one value suffices.
            absent: Names of fields that it had not.
            body: The content, or None for any.
            json: The content as a value.
            times: How many requests were like that, at least 1.

        Returns:
            The last of them.

        Raises:
            AssertionError: If another number of requests was; the message shows each request and where it differs.
        """
        pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
        absent = tuple(absent)
        found, lines = None, []
        count = 0
        for request in self.requests:
            differences = [
                *_differences_of_line(request, method, target),
                *_differences_of_fields(request, pairs, absent),
                *_differences_of_content(request, body, json),
            ]
            lines += [str(request), *(f"  ! {text}" for text in differences)]
            if not differences:
                found = request
                count += 1
        if found is None or count != times:
            seen = "\n".join(lines) or "nothing was forwarded"
            raise AssertionError(f"{count} requests are like that, not {times}:\n{seen}")
        return found

    def assert_nothing_forwarded(self) -> None:
        """Assert that no request came.

        Raises:
            AssertionError: If one did; the message shows them.
        """
        if self.requests:
            raise AssertionError("\n".join(["forwarded:", *map(str, self.requests)]))


def _record(scope: Scope) -> RecordedRequest:
    raw_path = scope.get("raw_path") or scope["path"].encode("utf-8")
    query = scope.get("query_string", b"")
    target = raw_path + b"?" + query if query else raw_path
    return RecordedRequest(
        method=scope["method"],
        target=target.decode("latin-1"),
        headers=tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in scope["headers"]
        ),
    )


def _differences_of_line(
    request: RecordedRequest, method: str | None, target: str | None
) -> Iterable[str]:
    if method is not None and request.method != method:
        yield f"the method is not {method!r}"
    if target is not None and request.target != target:
        yield f"the target is not {target!r}"


def _differences_of_fields(
    request: RecordedRequest, pairs: tuple[tuple[str, str], ...], absent: tuple[str, ...]
) -> Iterable[str]:
    for name, value in pairs:
        if value not in request.all(name):
            yield f"{name.lower()} is not {value!r}"
    for name in absent:
        if request.all(name):
            yield f"{name.lower()} was sent"


def _differences_of_content(
    request: RecordedRequest, body: bytes | str | None, json: JSONValue | _Unset
) -> Iterable[str]:
    expected = body.encode("utf-8") if isinstance(body, str) else body
    if expected is not None and request.body != expected:
        yield f"the body is not {expected[:_SHOWN_BYTES]!r}"
    if not isinstance(json, _Unset):
        try:
            same = request.json() == json
        except ValueError:
            same = False
        if not same:
            yield f"the body is not the JSON of {json!r}"


async def _send(answer: _Answer, send: Send) -> None:
    content = answer.content.encode("utf-8") if isinstance(answer.content, str) else answer.content
    headers = list(answer.headers)
    if isinstance(content, bytes) and all(name != b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(content, bytes):
        await send({"type": "http.response.body", "body": content})
        return
    async for piece in _pieces(content):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _pieces(content: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
    else:
        for piece in content:
            yield piece


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
