"""Filters of streams: what a message's content passes on its way, as chunks, lines, events or records.

A filter is made of an asynchronous generator function: it is given the stream and yields what is sent on. It is called
anew for each exchange, so that what it remembers is in its own local variables.
"""

from proxyroutes.filters._filter import (
    StreamFacts,
    StreamFilter,
    by_chunk,
    by_event,
    by_line,
    by_record,
)
from proxyroutes.filters._framing import ServerSentEvent, StreamError

__all__ = [
    "ServerSentEvent",
    "StreamError",
    "StreamFacts",
    "StreamFilter",
    "by_chunk",
    "by_event",
    "by_line",
    "by_record",
]
