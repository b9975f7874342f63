"""The access log: one record of ``logging`` for each ended exchange, its fields as attributes.

Nothing is configured here: handlers, levels and formats are the application's. Every attribute is a string, a number,
None or a dictionary of strings, so that a record can be queued, pickled or written as JSON. What a client sent is
escaped: it cannot end a line or move a terminal's cursor.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote_plus

from proxyroutes._serve.match import raw_path_of
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes.settings import AccessLog
from proxyroutes.typing import ExchangeRecord, Scope

__all__ = ["REDACTED", "AccessLogger"]

REDACTED = "[redacted]"
"""Stands in the place of what is never logged."""

_logger = logging.getLogger("proxyroutes.access")

# Some upstreams take a semicolon for a separator, too.
_PARAMETER = re.compile(r"([^&;=]+)=([^&;]*)")
_MAX_PATH = 2048
_MAX_VALUE = 512
_FORMAT = '%s "%s %s HTTP/%s" %s %d %.2fms route=%s destination=%s cause=%s'


class AccessLogger:
    """The observer: logs each ended exchange and session.

    Args:
        recipe: What is logged of it.
    """

    def __init__(self, recipe: AccessLog) -> None:
        self._query = recipe.query
        self._secret_parameters = recipe.secret_parameters
        self._headers = {
            name.encode("latin-1"): (name, name in recipe.secret_headers)
            for name in recipe.request_headers
        }

    def __call__(self, record: ExchangeRecord) -> None:
        """Log one."""
        if not _logger.isEnabledFor(logging.INFO):
            return
        fields = self.fields(record)
        path, query = fields["path"], fields["query"]
        arguments = (
            fields["client"] or "-",
            fields["method"],
            # A quotation mark would end what is quoted in the line.
            (f"{path}?{query}" if query else path).replace('"', "%22"),
            fields["http_version"] or "-",
            "-" if record.status is None else record.status,
            record.response_bytes,
            fields["total_seconds"] * 1000.0,
            fields["route"],
            fields["destination"] or "-",
            fields["cause"] or "-",
        )
        # Made here and not by `info()`, which looks for a caller that says nothing in every line.
        line = logging.getLogRecordFactory()(
            _logger.name, logging.INFO, __file__, 0, _FORMAT, arguments, None, "access"
        )
        line.__dict__.update(fields)
        _logger.handle(line)

    def fields(self, record: ExchangeRecord) -> dict[str, Any]:
        """What is logged of an exchange, by name."""
        scope = record.scope
        fields: dict[str, Any] = {
            "client": None,
            "method": _printable(record.method.encode("utf-8", "replace")),
            "path": "",
            "query": "",
            "http_version": None,
            "host": None,
            "request_headers": {},
            "route": record.route,
            "pool": record.pool,
            "destination": record.destination,
            "status": record.status,
            "cause": record.cause,
            "attempts": record.attempts,
            "request_bytes": record.request_bytes,
            "response_bytes": record.response_bytes,
            "total_seconds": record.total_seconds,
            "queue_seconds": record.queued,
            "connect_seconds": record.connect_seconds,
            "first_byte_seconds": record.first_byte_seconds,
            "overhead_seconds": record.overhead_seconds,
        }
        if scope is not None:
            self._read_scope(scope, fields)
        if isinstance(record, SessionRecord) and record.ending is not None:
            fields["session_side"] = record.ending.side.value
            fields["session_code"] = record.ending.code
            fields["request_messages"] = record.request_messages
            fields["response_messages"] = record.response_messages
        return fields

    def _read_scope(self, scope: Scope, fields: dict[str, Any]) -> None:
        client = scope.get("client")
        # A server that trusts X-Forwarded-For gives whatever text stands there.
        fields["client"] = _one_word(str(client[0])) if client else None
        fields["http_version"] = scope.get("http_version")
        fields["path"] = _printable(raw_path_of(scope)[:_MAX_PATH])
        query = scope.get("query_string")
        if query and self._query:
            fields["query"] = self._redact(_printable(query[:_MAX_PATH]))
        wanted = self._headers
        headers: dict[str, str] = fields["request_headers"]
        for name, value in scope["headers"]:
            if name == b"host":
                fields["host"] = _printable(value[:_MAX_VALUE])
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
    shown = _printable(text.encode("utf-8", "replace")[:_MAX_VALUE])
    return shown.replace(" ", "%20").replace('"', "%22")


def _printable(raw: bytes) -> str:
    """Text in one line of ASCII, whatever the bytes are."""
    text = raw.decode("latin-1")
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")
