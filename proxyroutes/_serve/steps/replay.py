"""What is kept so that a request can be sent again: its content, and the answer that it has got so far. Both are capped."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from proxyroutes.policies.retries import Retry
from proxyroutes.typing import Body, Fields, ForwardedHead, UpstreamResponse

__all__ = [
    "KeptResponse",
    "ReplayedBody",
    "Rewindable",
    "begin_again",
    "keep",
    "may_repeat",
    "replayed",
]


@runtime_checkable
class Rewindable(Protocol):
    """Content that is here whole."""

    def rewind(self) -> None:
        """Begin again."""
        ...


def may_repeat(retry: Retry, head: ForwardedHead) -> bool:
    """Whether sending a request twice does no harm: by its method, or because the client says so by a key.

    Source:
        RFC 9110 §9.2.2; draft-ietf-httpapi-idempotency-key-header.
    """
    if retry.attempts < 2:
        return False
    # A method's bytes may be anything that is a token, and tokens are ASCII.
    return head.method.decode("ascii") in retry.methods or any(
        name == b"idempotency-key" for name, _ in head.fields
    )


class ReplayedBody:
    """Content that is kept as it is read, up to a cap.

    An attempt reads it through a view of its own: one that was given up may still be reading while the next one begins,
    and what it gets then must not be missing from the next one's content.
    """

    __slots__ = ("_body", "_cap", "_chunks", "_lost", "_reading", "_resumable", "_size")

    def __init__(self, body: Body, cap: int) -> None:
        self._body = body
        self._cap = cap
        self._chunks: list[bytes] = []
        self._size = 0
        self._lost = False
        self._reading = False
        # A generator ends where a read of it is cancelled: what it would have given would look like all there is.
        self._resumable: bool = getattr(body, "resumable", False)

    @property
    def replayable(self) -> bool:
        """Whether it can be read again from its beginning to its end."""
        return not self._lost and (self._resumable or not self._reading)

    @property
    def content_length(self) -> int | None:
        """Bytes, or None where the length is unknown."""
        return self._body.content_length

    async def read_at(self, place: int) -> bytes:
        """The chunk at this place; ``b""`` is the end."""
        if place < len(self._chunks):
            return self._chunks[place]
        self._reading = True
        try:
            chunk = await self._body.read()
        except BaseException:
            self._lost = self._lost or not self._resumable
            raise
        finally:
            self._reading = False
        if not self._lost:
            self._size += len(chunk)
            if self._size > self._cap:
                self._lost = True
                self._chunks = []
            elif chunk:
                self._chunks.append(chunk)
        return chunk


class _View:
    """One attempt's reading of a replayed content."""

    __slots__ = ("_body", "_place", "content_length")

    def __init__(self, body: ReplayedBody) -> None:
        self._body = body
        self._place = 0
        self.content_length = body.content_length

    async def read(self) -> bytes:
        """The next bytes; ``b""`` is the end."""
        chunk = await self._body.read_at(self._place)
        self._place += 1
        return chunk


def replayed(body: Body, retry: Retry, head: ForwardedHead) -> Body | ReplayedBody:
    """Content that can be sent again if the request may be; what is too long for it is not kept at all."""
    if isinstance(body, Rewindable) or not may_repeat(retry, head):
        return body
    length = body.content_length
    if length is not None and length > retry.replay_bytes:
        return body
    return ReplayedBody(body, retry.replay_bytes)


def begin_again(body: Body | ReplayedBody | None) -> Body | None:
    """The content for one more attempt."""
    if isinstance(body, ReplayedBody):
        return _View(body)
    if isinstance(body, Rewindable):
        body.rewind()
    return body


class KeptResponse:
    """A response whose content, or the beginning of it, was read while it was not clear whether it is the last one."""

    strict: bool
    trailers: Fields

    def __init__(self, upstream: UpstreamResponse, content: bytes, *, whole: bool) -> None:
        self.status = upstream.status
        self.reason = upstream.reason
        self.fields = upstream.fields
        self.trailers = []
        self.strict = upstream.strict
        self.complete = whole
        self._content = content
        self._rest = None if whole else upstream

    def take(self) -> bytes:
        """What is kept."""
        content, self._content = self._content, b""
        return content

    async def read(self) -> bytes:
        """What is kept, then the rest."""
        if self._content:
            return self.take()
        return b"" if self._rest is None else await self._rest.read()

    def abort(self) -> None:
        """Let go of the rest."""
        if self._rest is not None:
            self._rest.abort()


async def keep(upstream: UpstreamResponse, cap: int) -> KeptResponse:
    """Read a response up to a cap; the connection of one that is whole is free for others.

    Raises:
        GatewayError: If it breaks before.
    """
    if upstream.complete:
        response = KeptResponse(upstream, upstream.take(), whole=True)
        upstream.abort()
        return response
    chunks: list[bytes] = []
    size = 0
    while chunk := await upstream.read():
        chunks.append(chunk)
        size += len(chunk)
        if size > cap:
            return KeptResponse(upstream, b"".join(chunks), whole=False)
    upstream.abort()
    return KeptResponse(upstream, b"".join(chunks), whole=True)
