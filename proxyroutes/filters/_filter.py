"""Filters: a function of a stream, how the stream is cut for it, and for which contents it is meant."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, overload

from attrs import Factory, field, frozen

from proxyroutes.filters._framing import (
    EventFraming,
    Framing,
    LineFraming,
    RecordFraming,
    ServerSentEvent,
)
from proxyroutes.typing import JSONValue

__all__ = [
    "StreamFacts",
    "StreamFilter",
    "by_chunk",
    "by_event",
    "by_line",
    "by_record",
    "to_filters",
]

_EVENTS = ("text/event-stream",)
_RECORDS = ("application/jsonl", "application/ndjson", "application/x-ndjson")


@frozen(kw_only=True)
class StreamFacts:
    """What a filter may know of the message whose content it is given.

    Attributes:
        side: ``"request"`` or ``"response"``.
        route: The route's name.
        method: The request's method.
        status: The response's status; None in a request.
        headers: Field lines, names in lower case; of several of one name the first.
    """

    side: Literal["request", "response"]
    route: str
    method: str
    status: int | None
    headers: Mapping[str, str]


@frozen(kw_only=True)
class StreamFilter:
    """A filter as routes, groups and pools are given it.

    Attributes:
        function: Called once for each message with the stream, and with its ``StreamFacts`` if it takes two arguments;
            gives an asynchronous iterator of what is sent on.
        framing: How the stream is cut, with the largest piece in bytes; None for chunks as they come.
        media_types: The contents that it is meant for, without parameters and in lower case; None for every one.
    """

    function: Callable[..., AsyncIterator[Any]] = field(kw_only=False)
    framing: Callable[[], Framing[Any]] | None = field(default=None, eq=False, repr=False)
    media_types: frozenset[str] | None = None
    _wants_facts: bool = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: _takes_facts(self.function), takes_self=True),
    )

    def fits(self, media_type: str) -> bool:
        """Whether it is meant for a content of this type."""
        return self.media_types is None or media_type in self.media_types

    def open(
        self, chunks: AsyncIterator[bytes], facts: StreamFacts
    ) -> tuple[AsyncIterator[Any], ...]:
        """Begin to filter one stream.

        Returns:
            The stages of it, the last of which gives what is sent on. Each is closed by whoever opened them, the last first.
        """
        framing = None if self.framing is None else self.framing()
        frames = chunks if framing is None else _cut(chunks, framing)
        arguments = (frames, facts) if self._wants_facts else (frames,)
        filtered = self.function(*arguments)
        if not hasattr(filtered, "__anext__"):
            raise TypeError(
                f"a filter gives an asynchronous iterator: write {_name(self.function)!r} as an async generator"
            )
        if framing is None:
            return (filtered,)
        return (frames, filtered, _join(filtered, framing))


async def _cut(chunks: AsyncIterator[bytes], framing: Framing[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        for item in framing.feed(chunk):
            yield item
    for item in framing.finish():
        yield item


async def _join(filtered: AsyncIterator[Any], framing: Framing[Any]) -> AsyncIterator[bytes]:
    # One at a time: whether another one follows at once is the filter's to know.
    async for item in filtered:
        yield framing.join(item)


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _takes_facts(function: Any) -> bool:
    """Whether a filter's function takes facts beside its stream.

    Raises:
        TypeError: If it cannot be called with one argument or two.
    """
    if not callable(function):
        raise TypeError(f"a filter is an async generator function, not {function!r}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [one for one in parameters if one.kind in positional and one.default is one.empty]
    keywords = [
        one for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty
    ]
    if len(required) not in {1, 2} or keywords:
        raise TypeError(
            f"a filter takes the stream, and the facts of its message if it wants them: {_name(function)!r} does not"
        )
    return len(required) == 2


def to_filters(values: Iterable[Any]) -> tuple[StreamFilter, ...]:
    """Take a list of filters; a bare function is one of chunks.

    Raises:
        TypeError: If one of them is no filter, or one is given instead of a list.
    """
    if isinstance(values, StreamFilter | str) or not isinstance(values, Iterable):
        raise TypeError(f"a list of filters is meant, not one: write ({values!r},)")
    return tuple(
        value if isinstance(value, StreamFilter) else StreamFilter(value) for value in values
    )


def _to_media_types(values: Iterable[str] | None) -> frozenset[str] | None:
    if isinstance(values, str):
        raise TypeError(f"a list of media types is meant, not one: write [{values!r}]")
    return None if values is None else frozenset(value.lower() for value in values)


def _check_size(max_bytes: int) -> None:
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1: {max_bytes!r}")


ChunkFunction: TypeAlias = (
    Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
    | Callable[[AsyncIterator[bytes], StreamFacts], AsyncIterator[bytes]]
)
LineFunction: TypeAlias = (
    Callable[[AsyncIterator[str]], AsyncIterator[str]]
    | Callable[[AsyncIterator[str], StreamFacts], AsyncIterator[str]]
)
EventFunction: TypeAlias = (
    Callable[[AsyncIterator[ServerSentEvent]], AsyncIterator[ServerSentEvent]]
    | Callable[[AsyncIterator[ServerSentEvent], StreamFacts], AsyncIterator[ServerSentEvent]]
)
RecordFunction: TypeAlias = (
    Callable[[AsyncIterator[JSONValue]], AsyncIterator[JSONValue]]
    | Callable[[AsyncIterator[JSONValue], StreamFacts], AsyncIterator[JSONValue]]
)


@overload
def by_chunk(function: ChunkFunction, /) -> StreamFilter: ...
@overload
def by_chunk(
    *, media_types: Iterable[str] | None = None
) -> Callable[[ChunkFunction], StreamFilter]: ...
def by_chunk(
    function: ChunkFunction | None = None, /, *, media_types: Iterable[str] | None = None
) -> StreamFilter | Callable[[ChunkFunction], StreamFilter]:
    """Filter the bytes as they come, in pieces of any size.

    Args:
        function: An async generator function of the stream.
        media_types: The contents that it is meant for; None for every one.
    """
    types = _to_media_types(media_types)

    def decorate(function: ChunkFunction) -> StreamFilter:
        return StreamFilter(function, media_types=types)

    return decorate if function is None else decorate(function)


@overload
def by_line(function: LineFunction, /) -> StreamFilter: ...
@overload
def by_line(
    *, max_bytes: int = 65_536, media_types: Iterable[str] | None = None
) -> Callable[[LineFunction], StreamFilter]: ...
def by_line(
    function: LineFunction | None = None,
    /,
    *,
    max_bytes: int = 65_536,
    media_types: Iterable[str] | None = None,
) -> StreamFilter | Callable[[LineFunction], StreamFilter]:
    """Filter lines of text, each with its line end. Bytes that are no UTF-8 come out as they went in.

    Args:
        function: An async generator function of the lines.
        max_bytes: The longest line in bytes.
        media_types: The contents that it is meant for; None for every one.
    """
    _check_size(max_bytes)
    types = _to_media_types(media_types)

    def decorate(function: LineFunction) -> StreamFilter:
        return StreamFilter(function, framing=lambda: LineFraming(max_bytes), media_types=types)

    return decorate if function is None else decorate(function)


@overload
def by_event(function: EventFunction, /) -> StreamFilter: ...
@overload
def by_event(
    *, max_bytes: int = 1_048_576, media_types: Iterable[str] | None = _EVENTS
) -> Callable[[EventFunction], StreamFilter]: ...
def by_event(
    function: EventFunction | None = None,
    /,
    *,
    max_bytes: int = 1_048_576,
    media_types: Iterable[str] | None = _EVENTS,
) -> StreamFilter | Callable[[EventFunction], StreamFilter]:
    """Filter server-sent events. One that is sent on as it came keeps its bytes.

    Args:
        function: An async generator function of the events.
        max_bytes: The largest event in bytes.
        media_types: The contents that it is meant for: ``text/event-stream``. Others pass unfiltered.
    """
    _check_size(max_bytes)
    types = _to_media_types(media_types)

    def decorate(function: EventFunction) -> StreamFilter:
        return StreamFilter(function, framing=lambda: EventFraming(max_bytes), media_types=types)

    return decorate if function is None else decorate(function)


@overload
def by_record(function: RecordFunction, /) -> StreamFilter: ...
@overload
def by_record(
    *, max_bytes: int = 1_048_576, media_types: Iterable[str] | None = _RECORDS
) -> Callable[[RecordFunction], StreamFilter]: ...
def by_record(
    function: RecordFunction | None = None,
    /,
    *,
    max_bytes: int = 1_048_576,
    media_types: Iterable[str] | None = _RECORDS,
) -> StreamFilter | Callable[[RecordFunction], StreamFilter]:
    """Filter JSON values, one a line (NDJSON). Each is written anew, without white space.

    Args:
        function: An async generator function of the values.
        max_bytes: The largest record in bytes.
        media_types: The contents that it is meant for: ``application/x-ndjson``, ``application/ndjson`` and
            ``application/jsonl``. Others pass unfiltered.
    """
    _check_size(max_bytes)
    types = _to_media_types(media_types)

    def decorate(function: RecordFunction) -> StreamFilter:
        return StreamFilter(function, framing=lambda: RecordFraming(max_bytes), media_types=types)

    return decorate if function is None else decorate(function)
