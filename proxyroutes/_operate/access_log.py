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
from collections.abc import Callable
from contextvars import Context
from functools import lru_cache
from time import time
from typing import Any
from urllib.parse import unquote_plus

from attrs import define
from typing_extensions import override

from proxyroutes._serve.guard import USUAL_METHODS
from proxyroutes._serve.match import raw_path_of
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes._state.loops import LoopStates
from proxyroutes.settings import AccessLog
from proxyroutes.typing import ExchangeRecord, Scope

__all__ = ["REDACTED", "AccessLogger"]

REDACTED = "[redacted]"
"""Stands in the place of what is never logged."""

_logger = logging.getLogger("proxyroutes.access")
_serve_logger = logging.getLogger("proxyroutes.serve")

# Some upstreams take a semicolon for a separator, too.
_PARAMETER = re.compile(r"([^&;=]+)=([^&;]*)")
_MAX_PATH = 2048
_MAX_VALUE = 512
_MOST_KEPT = 64
_FORMAT = '%s "%s %s HTTP/%s" %s %d %.2fms route=%s destination=%s cause=%s'
# Every attribute that is an exchange's, in the order in which a formatter that writes all of them shows them.
_FIELDS: dict[str, Any] = {
    "client": None,
    "method": "",
    "path": "",
    "query": "",
    "http_version": None,
    "host": None,
    "request_headers": None,
    "route": "",
    "pool": None,
    "destination": None,
    "status": None,
    "cause": None,
    "attempts": 0,
    "request_bytes": 0,
    "response_bytes": 0,
    "total_seconds": 0.0,
    "queue_seconds": 0.0,
    "connect_seconds": None,
    "first_byte_seconds": None,
    "overhead_seconds": 0.0,
}

# The attributes of a record.
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


class _Batch(list[tuple[float, ExchangeRecord]]):
    """Exchanges of one loop that wait to be logged, each with the time of its end.

    Attributes:
        timer: Has them logged.
    """

    __slots__ = ("timer",)
    timer: asyncio.TimerHandle


@define(eq=False)
class _Closer:
    """Has logged what waits on a loop before that is closed; what ends then does not wait."""

    flush: Callable[[asyncio.AbstractEventLoop], None]
    closed: weakref.WeakSet[asyncio.AbstractEventLoop]

    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed.add(loop)
        self.flush(loop)


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
        self._batches: dict[asyncio.AbstractEventLoop, _Batch] = {}
        self._closers: LoopStates[_Closer] = LoopStates()
        self._closed: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def __call__(self, record: ExchangeRecord) -> None:
        """Log one, or keep it until it is logged with others."""
        loop = _running_loop() if self._delay else None
        batch = None if loop is None else self._batches.get(loop) or self._begin(loop)
        if batch is None:
            if _logger.isEnabledFor(logging.INFO):
                self._log(record, time(), _blank())
            return
        batch.append((time(), record))
        if len(batch) >= _MOST_KEPT and loop is not None:
            self.flush(loop)

    def flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log what waits on a loop."""
        batch = self._batches.pop(loop, None)
        if batch is not None:
            batch.timer.cancel()
            if _logger.isEnabledFor(logging.INFO):
                # Not in the context of the exchange that happens to be the first, or the last.
                Context().run(self._log_all, batch)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> _Batch | None:
        """A new batch; None for a loop that is being closed, or a logger that is off."""
        if loop in self._closed or not _logger.isEnabledFor(logging.INFO):
            return None
        if self._closers.get(loop) is None:
            self._closers.open_lazily(loop, _Closer(self.flush, self._closed))
        batch = self._batches[loop] = _Batch()
        # One timer for many lines, and none while there are no lines.
        batch.timer = loop.call_later(self._delay, self.flush, loop)
        return batch

    def _log_all(self, batch: _Batch) -> None:
        blank = _blank()
        if "taskName" in blank:
            # It is no exchange's.
            blank["taskName"] = None
        for created, record in batch:
            try:
                self._log(record, created, blank.copy())
            except Exception:
                # An application's filter may raise anything: the other lines are not lost with it.
                _serve_logger.exception("an observer of exchanges failed")

    def _log(self, record: ExchangeRecord, created: float, line: _Line) -> None:
        """Log one, its fields written into what every line has."""
        self._fill(line, record)
        logged: logging.LogRecord
        if "msg" in line:
            logged = _Record.__new__(_Record)
            logged.__dict__ = line
        else:
            # Made here and not by `info()`, which looks for a caller that says nothing in every line.
            logged = logging.getLogRecordFactory()(
                _logger.name,
                logging.INFO,
                __file__,
                0,
                _FORMAT,
                line.pop("args"),
                None,
                "access",
            )
            logged.__dict__.update(line)
        # Of when it ended, and not of now.
        logged.relativeCreated += (created - logged.created) * 1000.0
        logged.msecs = created % 1.0 * 1000.0 // 1.0
        logged.created = created
        _logger.handle(logged)

    def _fill(self, line: _Line, record: ExchangeRecord) -> None:
        """Write what is logged of an exchange into a line."""
        method = record.method
        if method not in USUAL_METHODS:
            method = _printable(method.encode("utf-8", "replace"))
        line["method"] = method
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
        path = scope.get("raw_path")
        if path is None or b"?" in path:
            path = raw_path_of(scope)
        line["path"] = _printable(path[:_MAX_PATH])
        query = scope.get("query_string")
        if query and self._query:
            line["query"] = self._redact(_printable(query[:_MAX_PATH]))
        wanted = self._headers
        headers: dict[str, str] = line["request_headers"]
        for name, value in scope["headers"]:
            if name == b"host":
                line["host"] = _shown_host(value)
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


# Clients and hosts come again and again.
@lru_cache(1024)
def _shown_host(value: bytes) -> str:
    return _printable(value[:_MAX_VALUE])


@lru_cache(1024)
def _one_word(text: str) -> str:
    """Text that cannot be taken for more than one part of a line."""
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
    """What every line of now has alike; the fields alone where the application makes its records itself."""
    if logging.getLogRecordFactory() is not logging.LogRecord:
        return _FIELDS.copy()
    record = logging.LogRecord(
        _logger.name, logging.INFO, __file__, 0, _FORMAT, None, None, "access"
    )
    # A dictionary that has grown takes twice the memory of one that was made of so many, and so does each of its copies.
    return dict([*record.__dict__.items(), *_FIELDS.items()])
