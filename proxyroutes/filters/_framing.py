"""Where a stream is cut: lines, server-sent events, JSON records. Sans-I/O: bytes in, what is complete out.

What waits for its end is bounded by a cap, whatever comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from attrs import define, field

from proxyroutes.typing import JSONValue

__all__ = [
    "EventFraming",
    "Framing",
    "LineFraming",
    "RecordFraming",
    "ServerSentEvent",
    "StreamError",
]

ItemT_co = TypeVar("ItemT_co", covariant=True)


class StreamError(Exception):
    """Content that cannot be filtered: too large a piece, a record that is none, a coding that cannot be undone.

    Attributes:
        too_large: Whether a cap was passed.
        unsupported: Whether its coding is not known.
    """

    def __init__(self, detail: str, *, too_large: bool = False, unsupported: bool = False) -> None:
        super().__init__(detail)
        self.too_large = too_large
        self.unsupported = unsupported


def _too_large(what: str, limit: int) -> StreamError:
    return StreamError(f"{what} is larger than {limit} bytes", too_large=True)


class Framing(Protocol[ItemT_co]):
    """Cuts one stream, and puts what comes of it back into bytes."""

    def feed(self, chunk: bytes) -> Iterator[ItemT_co]:
        """Take the next bytes and give what is complete."""
        ...

    def finish(self) -> Iterator[ItemT_co]:
        """Give what the end of the stream completes."""
        ...

    def join(self, item: Any) -> bytes:
        """The bytes of an item."""
        ...


class _Lines(Generic[ItemT_co]):
    """Pieces that end with a line feed."""

    what = "a line"

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest: list[bytes] = []
        self._size = 0

    def _take(self, chunk: bytes) -> Iterator[bytes]:
        if b"\n" in chunk:
            chunk = b"".join((*self._rest, chunk))
            self._rest.clear()
            self._size = 0
            start = 0
            while end := chunk.find(b"\n", start) + 1:
                if end - start > self._max_bytes:
                    raise _too_large(self.what, self._max_bytes)
                yield chunk[start:end]
                start = end
            chunk = chunk[start:]
        if chunk:
            self._rest.append(chunk)
            self._size += len(chunk)
            if self._size > self._max_bytes:
                raise _too_large(self.what, self._max_bytes)

    def _last(self) -> Iterator[bytes]:
        if self._rest:
            yield b"".join(self._rest)
            self._rest.clear()


class LineFraming(_Lines[str]):
    """Lines as text, each with its end; bytes that are no UTF-8 come out as they went in."""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take the next bytes and give what is complete."""
        for line in self._take(chunk):
            yield line.decode("utf-8", "surrogateescape")

    def finish(self) -> Iterator[str]:
        """Give a last line that has no end."""
        for line in self._last():
            yield line.decode("utf-8", "surrogateescape")

    def join(self, item: Any) -> bytes:
        """The bytes of a text."""
        if not isinstance(item, str):
            raise TypeError(f"a filter of lines yields str, not {item!r}")
        return item.encode("utf-8", "surrogateescape")


class RecordFraming(_Lines[JSONValue]):
    """JSON values, one a line; empty lines are left out."""

    what = "a record"

    def feed(self, chunk: bytes) -> Iterator[JSONValue]:
        """Take the next bytes and give what is complete."""
        for line in self._take(chunk):
            yield from _record(line)

    def finish(self) -> Iterator[JSONValue]:
        """Give a last record whose line has no end."""
        for line in self._last():
            yield from _record(line)

    def join(self, item: Any) -> bytes:
        """The line of a record."""
        text = json.dumps(item, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "surrogatepass") + b"\n"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _record(line: bytes) -> Iterator[JSONValue]:
    if not line.strip(b" \t\r\n"):
        return
    try:
        yield json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StreamError("a line is not a JSON record") from error


# Two line ends; a CR before a LF is not one by itself.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(r"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@define
class ServerSentEvent:
    """One block of an event stream.

    One that is sent on as it came keeps its bytes.

    Attributes:
        data: The data, its lines joined with line feeds; None where the block has none.
        event: The event's name, or None.
        id: The event's id, or None.
        retry: Milliseconds until a client connects again, or None.
        comment: Comments, joined with line feeds, or None.

    Source:
        WHATWG HTML, "Server-sent events", parsing and interpreting an event stream.
    """

    data: str | None = None
    event: str | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    retry: int | None = field(default=None, kw_only=True)
    comment: str | None = field(default=None, kw_only=True)
    _raw: bytes = field(default=b"", init=False, repr=False, eq=False)
    _parsed: tuple[Any, ...] = field(default=(), init=False, repr=False, eq=False)

    @classmethod
    def parse(cls, raw: bytes) -> ServerSentEvent:
        """Read one block."""
        found = cls()
        data: list[str] = []
        comments: list[str] = []
        text = raw.removeprefix(_BOM).decode("utf-8", "surrogateescape")
        for line in _LINE_END.split(text):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif not name and line:
                comments.append(value)
            elif name in {"event", "id"} and "\0" not in value:
                setattr(found, name, value)
            elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 16:
                found.retry = int(value)
        found.data = "\n".join(data) if data else None
        found.comment = "\n".join(comments) if comments else None
        found._raw = raw
        found._parsed = found._values()
        return found

    def _values(self) -> tuple[Any, ...]:
        return (self.data, self.event, self.id, self.retry, self.comment)

    def __bytes__(self) -> bytes:
        """The block as it is sent.

        Raises:
            ValueError: If a value of one line has a line end or NUL.
        """
        if self._raw and self._parsed == self._values():
            return self._raw
        lines: list[str] = []
        if self.comment is not None:
            lines.extend(f": {line}" for line in _LINE_END.split(self.comment))
        for name, value in (("event", self.event), ("id", self.id), ("retry", self.retry)):
            if value is not None:
                text = str(value)
                if _LINE_END.search(text) is not None or "\0" in text:
                    raise ValueError(f"{name} of an event is one line: {text!r}")
                lines.append(f"{name}: {text}")
        if self.data is not None:
            lines.extend(f"data: {line}" for line in _LINE_END.split(self.data))
        return "\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


class EventFraming:
    """Events of ``text/event-stream``, each as soon as it is complete."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._scanned = 0

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Take the next bytes and give what is complete."""
        buffer = self._buffer
        buffer += chunk
        start = 0
        while True:
            # A line end in front of an event belongs to the one before, or to none.
            while start < len(buffer) and buffer[start] in b"\r\n":
                start += 1
            found = _EVENT_END.search(buffer, max(start, self._scanned))
            if found is None:
                break
            end = found.end()
            if end - start > self._max_bytes:
                raise _too_large("an event", self._max_bytes)
            raw = bytes(buffer[start:end])
            start = self._scanned = end
            yield ServerSentEvent.parse(raw)
        del buffer[:start]
        # Three bytes may be the first part of an end.
        self._scanned = max(0, len(buffer) - 3)
        if len(buffer) > self._max_bytes:
            raise _too_large("an event", self._max_bytes)

    def finish(self) -> Iterator[ServerSentEvent]:
        """Give a last block that has no end; a client would leave it out, a filter must not miss it."""
        if self._buffer:
            yield ServerSentEvent.parse(bytes(self._buffer))
            self._buffer.clear()

    def join(self, item: Any) -> bytes:
        """The bytes of an event."""
        if not isinstance(item, ServerSentEvent):
            raise TypeError(f"a filter of events yields ServerSentEvent, not {item!r}")
        return bytes(item)
