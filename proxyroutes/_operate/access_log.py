"""The access log: one record of ``logging`` for each ended exchange, its fields as attributes.

Nothing is configured here: handlers, levels and formats are the application's. Every attribute is a string, a number,
None or a dictionary of strings, so that a record can be queued, pickled or written as JSON. What a client sent is
escaped: it cannot end a line or move a terminal's cursor.
"""

from __future__ import annotations

import asyncio
import logging
import re
import weakref
from contextvars import Context
from time import time
from typing import Any
from urllib.parse import unquote_plus

from attrs import define, field
from typing_extensions import override

from proxyroutes._serve.match import raw_path_of
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes._state.loops import LoopStates
from proxyroutes.settings import AccessLog
from proxyroutes.typing import ExchangeRecord, Scope

__all__ = ["REDACTED", "AccessLogger"]

REDACTED = "[redacted]"
"""Stands in the place of what is never logged."""

_logger = logging.getLogger("proxyroutes.access")
_failures = logging.getLogger("proxyroutes.serve")

# Some upstreams take a semicolon for a separator, too.
_PARAMETER = re.compile(r"([^&;=]+)=([^&;]*)")
# Nothing to escape in it.
_WORD = re.compile(r"[!#-~]+")
_MAX_PATH = 2048
_MAX_VALUE = 512
_MOST_KEPT = 64
_FORMAT = '%s "%s %s HTTP/%s" %s %d %.2fms route=%s destination=%s cause=%s'
# Every attribute that is an exchange's, in the order in which a formatter that writes all of them shows them.
_FIELDS: dict[str, Any] = dict.fromkeys(
    (
        "client",
        "method",
        "path",
        "query",
        "http_version",
        "host",
        "request_headers",
        "route",
        "pool",
        "destination",
        "status",
        "cause",
        "attempts",
        "request_bytes",
        "response_bytes",
        "total_seconds",
        "queue_seconds",
        "connect_seconds",
        "first_byte_seconds",
        "overhead_seconds",
    )
)

# What a line is made of until it is handed over: the attributes of its record.
_Line = dict[str, Any]


class _Record(logging.LogRecord):
    """A record that is copied as fast as a dictionary: a ``QueueHandler`` copies every one. Pickled, it is a plain one."""

    def __copy__(self) -> _Record:
        copied = _Record.__new__(_Record)
        copied.__dict__ = self.__dict__.copy()
        return copied

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return logging.makeLogRecord, (self.__dict__,)


@define(eq=False)
class _Batch:
    """Lines of one loop that wait to be handed over.

    Attributes:
        blank: What they have alike.
        timer: Hands them over.
        lines: The lines, first one first.
    """

    blank: _Line
    timer: asyncio.TimerHandle
    lines: list[_Line] = field(factory=list)


_Batches = dict[asyncio.AbstractEventLoop, _Batch]


@define(eq=False)
class _Closer:
    """Hands over what waits on a loop before that is closed; what comes then does not wait."""

    batches: _Batches
    closed: weakref.WeakSet[asyncio.AbstractEventLoop]

    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed.add(loop)
        _hand_over(self.batches, loop)


class AccessLogger:
    """The observer: logs each ended exchange and session.

    Args:
        recipe: What is logged of it, and when.
    """

    def __init__(self, recipe: AccessLog) -> None:
        self._query = recipe.query
        self._secret_parameters = recipe.secret_parameters
        self._headers = {
            name.encode("latin-1"): (name, name in recipe.secret_headers)
            for name in recipe.request_headers
        }
        self._delay = recipe.delay
        self._batches: _Batches = {}
        self._closers: LoopStates[_Closer] = LoopStates()
        self._closed: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        # At the end of the process, too, for loops that were left as they were.
        weakref.finalize(self, _hand_over_all, self._batches)

    def __call__(self, record: ExchangeRecord) -> None:
        """Log one, or keep it until it is logged with others."""
        if not _logger.isEnabledFor(logging.INFO):
            return
        loop = _running_loop() if self._delay else None
        if loop is None or loop in self._closed:
            blank = _blank()
            line = blank.copy()
            self._fill(line, record)
            _log(line, blank)
            return
        batch = self._batches.get(loop)
        if batch is None:
            batch = self._begin(loop)
        line = batch.blank.copy()
        self._fill(line, record)
        batch.lines.append(line)
        if len(batch.lines) >= _MOST_KEPT:
            _hand_over(self._batches, loop)

    def flush(self) -> None:
        """Hand over what waits on the running loop."""
        _hand_over(self._batches, asyncio.get_running_loop())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> _Batch:
        if self._closers.get(loop) is None:
            self._closers.open_lazily(loop, _Closer(self._batches, self._closed))
        # One timer for many lines, and none while there are no lines.
        timer = loop.call_later(self._delay, _hand_over, self._batches, loop)
        batch = self._batches[loop] = _Batch(_blank(), timer)
        if "taskName" in batch.blank:
            # It would be the task of the first one.
            batch.blank["taskName"] = None
        return batch

    def _fill(self, line: _Line, record: ExchangeRecord) -> None:
        """Write what is logged of an exchange into a line, and when it was."""
        line["created"] = time()
        method = record.method
        if not (method.isascii() and method.isprintable()):
            method = _printable(method.encode("utf-8", "replace"))
        line["method"] = method
        line["client"] = line["http_version"] = line["host"] = None
        line["path"] = line["query"] = ""
        line["request_headers"] = {}
        scope = record.scope
        if scope is not None:
            self._read_scope(scope, line)
        line["route"] = route = record.route
        line["pool"] = record.pool
        line["destination"] = destination = record.destination
        line["status"] = status = record.status
        line["cause"] = cause = record.cause
        line["attempts"] = record.attempts
        line["request_bytes"] = record.request_bytes
        line["response_bytes"] = response_bytes = record.response_bytes
        line["total_seconds"] = seconds = record.total_seconds
        line["queue_seconds"] = record.queued
        line["connect_seconds"] = record.connect_seconds
        line["first_byte_seconds"] = record.first_byte_seconds
        line["overhead_seconds"] = record.overhead_seconds
        if isinstance(record, SessionRecord) and record.ending is not None:
            line["session_side"] = record.ending.side.value
            line["session_code"] = record.ending.code
            line["request_messages"] = record.request_messages
            line["response_messages"] = record.response_messages
        path, query = line["path"], line["query"]
        if query:
            path = f"{path}?{query}"
        line["args"] = (
            line["client"] or "-",
            method,
            # A quotation mark would end what is quoted in the line.
            path.replace('"', "%22"),
            line["http_version"] or "-",
            "-" if status is None else status,
            response_bytes,
            seconds * 1000.0,
            route,
            destination or "-",
            cause or "-",
        )

    def _read_scope(self, scope: Scope, line: _Line) -> None:
        client = scope.get("client")
        if client:
            # A server that trusts X-Forwarded-For gives whatever text stands there.
            line["client"] = _one_word(str(client[0]))
        line["http_version"] = scope.get("http_version")
        line["path"] = _printable(raw_path_of(scope)[:_MAX_PATH])
        query = scope.get("query_string")
        if query and self._query:
            line["query"] = self._redact(_printable(query[:_MAX_PATH]))
        wanted = self._headers
        headers: dict[str, str] = line["request_headers"]
        for name, value in scope["headers"]:
            if name == b"host":
                line["host"] = _printable(value[:_MAX_VALUE])
            if name in wanted:
                text, secret = wanted[name]
                shown = REDACTED if secret else self._shown(value)
                headers[text] = f"{headers[text]}, {shown}" if text in headers else shown

    def _redact(self, text: str) -> str:
        """A query without the values of parameters that are secret, however their names are spelt."""
        return _PARAMETER.sub(self._redact_parameter, text) if self._secret_parameters else text

    def _redact_parameter(self, found: re.Match[str]) -> str:
        name = found[1]
        plain = unquote_plus(name).strip().lower()
        return f"{name}={REDACTED}" if plain in self._secret_parameters else found[0]

    def _shown(self, value: bytes) -> str:
        """The value of a field; a link in it has a query, too."""
        address, mark, query = _printable(value[:_MAX_VALUE]).partition("?")
        if not mark:
            return address
        return f"{address}?{self._redact(query)}" if self._query else address


def _one_word(text: str) -> str:
    """Text that cannot be taken for more than one part of a line."""
    if len(text) <= _MAX_VALUE and _WORD.fullmatch(text):
        return text
    shown = _printable(text.encode("utf-8", "replace")[:_MAX_VALUE])
    return shown.replace(" ", "%20").replace('"', "%22")


def _printable(raw: bytes) -> str:
    """Text in one line of ASCII, whatever the bytes are."""
    text = raw.decode("latin-1")
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        # An exchange that nobody waited for may end with its loop.
        return None


def _blank() -> _Line:
    """What every line of now has alike; nothing where the application makes its records itself."""
    if logging.getLogRecordFactory() is not logging.LogRecord:
        return {}
    record = logging.LogRecord(
        _logger.name, logging.INFO, __file__, 0, _FORMAT, None, None, "access"
    )
    return record.__dict__ | _FIELDS


def _log(line: _Line, blank: _Line) -> None:
    """Hand one line over to ``logging``, with the time at which its exchange ended."""
    if blank:
        record: logging.LogRecord = _Record.__new__(_Record)
        record.__dict__ = line
        made, relative = blank["created"], blank["relativeCreated"]
    else:
        # Made here and not by `info()`, which looks for a caller that says nothing in every line.
        record = logging.getLogRecordFactory()(
            _logger.name, logging.INFO, __file__, 0, _FORMAT, (), None, "access"
        )
        made, relative = record.created, record.relativeCreated
        record.__dict__.update(line)
    created = line["created"]
    record.msecs = created % 1.0 * 1000.0 // 1.0
    record.relativeCreated = relative + (created - made) * 1000.0
    _logger.handle(record)


def _log_all(batch: _Batch) -> None:
    for line in batch.lines:
        try:
            _log(line, batch.blank)
        except Exception:
            # The others are not lost with it.
            _failures.exception("an access log line failed")


def _hand_over(batches: _Batches, loop: asyncio.AbstractEventLoop) -> None:
    """Log what waits on a loop."""
    batch = batches.pop(loop, None)
    if batch is not None:
        batch.timer.cancel()
        # Not in the context of the exchange that happens to be the last, or the first.
        Context().run(_log_all, batch)


def _hand_over_all(batches: _Batches) -> None:
    for loop in tuple(batches):
        _hand_over(batches, loop)
