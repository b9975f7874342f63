"""Keys of requests: what rate limits count by and splits stick to, read from the request as it is forwarded."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.forwarded import ForwardedRequest, forwarded_request
from proxyroutes.policies._keys import RequestKey, read_key
from proxyroutes.typing import Fields, ForwardedHead, Scope

__all__ = ["Key", "bind_key", "client_key", "request_key"]

Key: TypeAlias = "Callable[[Plan, Found, Scope, ForwardedHead], bytes | None]"
"""Reads the key of a request; None where it has none."""


def client_key(scope: Scope) -> bytes:
    """The address that a connection came from: of IPv6 the network, which one client has to itself; empty for none."""
    client = scope.get("client")
    address = str(client[0]) if client else ""
    if ":" not in address:
        return address.encode("utf-8", "surrogateescape")
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address.encode("utf-8", "surrogateescape")
    mapped = parsed.ipv4_mapped
    return parsed.packed[:8] if mapped is None else str(mapped).encode()


def bind_key(key: RequestKey) -> Key:
    """Make the function that reads a key."""
    spec = read_key(key)
    if not isinstance(spec, tuple):
        return _ask(spec)
    kind, name = spec
    if kind == "client":
        return _client
    if kind == "path":
        return _parameter(name)
    return _header(name.lower().encode()) if kind == "header" else _cookie(name.encode())


def request_key(key: RequestKey, request: ForwardedRequest) -> bytes | None:
    """The key of a request that the application already has in its hands."""
    spec = read_key(key)
    if not isinstance(spec, tuple):
        return _encode(spec(request))
    kind, name = spec
    if kind == "client":
        return client_key({"client": request.client})
    if kind == "path":
        value = request.path_params.get(name)
        return None if value is None else _encode(str(value))
    if kind == "header":
        return _encode(request.headers.get(name))
    return _cookie_in(_cookie_pattern(name.encode()), request.headers.raw)


def _encode(key: str | bytes | None) -> bytes | None:
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key


def _client(plan: Plan, found: Found, scope: Scope, head: ForwardedHead) -> bytes | None:
    del plan, found, head
    return client_key(scope)


def _ask(function: Callable[[Any], str | bytes | None]) -> Key:
    def find(plan: Plan, found: Found, scope: Scope, head: ForwardedHead) -> bytes | None:
        del plan
        return _encode(function(forwarded_request(scope, found, head)))

    return find


def _parameter(name: str) -> Key:
    def find(plan: Plan, found: Found, scope: Scope, head: ForwardedHead) -> bytes | None:
        del scope, head
        # A template has few parameters.
        for capture in plan.captures:
            if capture.name == name:
                # Decoded, or one could be spelled in many ways and counted as many.
                return unquote_to_bytes(found.captured(capture))
        return None

    return find


def _header(name: bytes) -> Key:
    def find(plan: Plan, found: Found, scope: Scope, head: ForwardedHead) -> bytes | None:
        del plan, found, scope
        return next((value for known, value in head.fields if known == name), None)

    return find


def _cookie(name: bytes) -> Key:
    pattern = _cookie_pattern(name)

    def find(plan: Plan, found: Found, scope: Scope, head: ForwardedHead) -> bytes | None:
        del plan, found, scope
        return _cookie_in(pattern, head.fields)

    return find


def _cookie_pattern(name: bytes) -> re.Pattern[bytes]:
    # RFC 6265 §4.2.1: pairs are separated by a semicolon and a space.
    return re.compile(rb"(?:^|;\s*)" + re.escape(name) + rb"=([^;]*)")


def _cookie_in(pattern: re.Pattern[bytes], fields: Fields) -> bytes | None:
    for known, value in fields:
        if known == b"cookie" and (match := pattern.search(value)) is not None:
            return match[1]
    return None
