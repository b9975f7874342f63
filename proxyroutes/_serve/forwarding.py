"""What the upstream is told of the client's side: ``Via``, ``X-Forwarded-*`` and ``Forwarded`` of this hop.

The fields are the same for every request of one client to one host, so they are made once and kept for the next one.
Sans-I/O.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import quote_from_bytes

from proxyroutes._serve.guard import refuse
from proxyroutes.settings import Forwarding
from proxyroutes.typing import Field, Scope

__all__ = ["Hop", "spell_address"]

_VERSIONS = {"1.1": b"1.1 ", "1.0": b"1.0 ", "2": b"2 ", "2.0": b"2 ", "3": b"3 "}
_MAX_KNOWN = 1024


class Hop:
    """This gateway as one hop: its pseudonym, and what it says of the hop before."""

    __slots__ = ("_forwarding", "_known", "_via")

    def __init__(self, forwarding: Forwarding, via: bytes) -> None:
        self._forwarding = forwarding
        self._via = via
        self._known: dict[tuple[str | None, bytes, str, str], tuple[Field, ...]] = {}

    def fields(self, scope: Scope, host: bytes, earlier: Sequence[bytes]) -> tuple[Field, ...]:
        """The fields of this hop.

        Args:
            scope: The received request.
            host: Its ``Host``.
            earlier: Its values of ``Via``.

        Raises:
            ClientRequestError: If the request has passed this gateway before.
        """
        client = scope.get("client")
        # A Unix socket's client has no address (CONFORMANCE S-26).
        address = client[0] if client else None
        # A tuple, never a concatenation: no two requests share a key that they should not (CONFORMANCE S-20).
        key = (address, host, scope.get("scheme", "http"), scope.get("http_version", "1.1"))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = self._make(*key)
        if earlier:
            return ((b"via", self._via_after(earlier, known[0][1])), *known[1:])
        return known

    def _make(
        self, address: str | None, host: bytes, scheme: str, version: str
    ) -> tuple[Field, ...]:
        # RFC 9110 §7.6.3: the protocol version of the received message, then this gateway's pseudonym.
        fields: list[Field] = [(b"via", _VERSIONS.get(version, b"1.1 ") + self._via)]
        forwarding = self._forwarding
        if forwarding.mode == "off":
            return tuple(fields)
        raw_scheme = scheme.encode("ascii")
        if forwarding.x_forwarded:
            if address:
                fields.append((b"x-forwarded-for", _ascii(address)))
            if host:
                fields.append((b"x-forwarded-host", host))
            fields.append((b"x-forwarded-proto", raw_scheme))
        if forwarding.forwarded:
            fields.append((b"forwarded", _forwarded(address, host, raw_scheme)))
        return tuple(fields)

    def _via_after(self, earlier: Sequence[bytes], own: bytes) -> bytes:
        joined = b", ".join(earlier)
        for hop in joined.split(b","):
            words = hop.split()
            if len(words) > 1 and words[1] == self._via:
                raise refuse("the request has passed this gateway before", 508, "Loop detected")
        return joined + b", " + own

    @property
    def tells_prefix(self) -> bool:
        """Whether ``X-Forwarded-Prefix`` is set."""
        return self._forwarding.mode != "off" and self._forwarding.x_forwarded


def _forwarded(address: str | None, host: bytes, scheme: bytes) -> bytes:
    # RFC 7239 §4: values that are no token are quoted; §6: an IPv6 address is bracketed too.
    value = b"for=" + (spell_address(address) if address else b"unknown")
    if host:
        value += b';host="' + host + b'"'
    return value + b";proto=" + scheme


def spell_address(address: str) -> bytes:
    """An address as RFC 7239 §6 spells it; ``_hidden`` where it is none."""
    if not _is_address(address):
        return b"_hidden"
    if ":" in address:
        return b'"[' + _ascii(address) + b']"'
    return _ascii(address)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ascii(text: str) -> bytes:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe=":.%").encode()
