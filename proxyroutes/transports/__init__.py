"""Plug point: how one request reaches one destination.

A transport is a frozen recipe with ``bind``, and what that gives sends requests for one pool. The protocols are in
``proxyroutes.typing``.
"""

from proxyroutes.transports.asgi import ASGITransport
from proxyroutes.transports.http1 import Http1Transport
from proxyroutes.transports.httpx import HttpxTransport

__all__ = ["ASGITransport", "Http1Transport", "HttpxTransport"]
