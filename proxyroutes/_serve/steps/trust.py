"""What a trusted peer says of the hops before it, kept and continued; and the client's certificate.

Only the address that the server gives for its peer decides on trust, never a field. Sans-I/O.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import re
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

from typing_extensions import override

from proxyroutes._serve.fields import has_bad_value
from proxyroutes._serve.forwarding import Hop, spell_address
from proxyroutes._serve.match import Found
from proxyroutes.settings import UNIX, Forwarding
from proxyroutes.typing import Field, Fields, ForwardedHead, Scope

__all__ = ["ClientCertificate", "JoinPrefix", "TrustingHop"]

_logger = logging.getLogger("proxyroutes.serve")

# What is kept of a trusted peer, beside the lists that are continued. X-Original-URL and its like are not: some servers
# take another resource's name from them.
_KEPT = (
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-forwarded-server",
    b"x-real-ip",
)
_PREFIX = b"x-forwarded-prefix"
_FOR = re.compile(rb'(?:^|[;,\s])for=("(?:[^"\\]|\\.)*"|[^;,\s"]+)', re.IGNORECASE)
_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*):\d+")


class Trust:
    """Which peers are believed."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, forwarding: Forwarding) -> None:
        self._unix = UNIX in forwarding.trusted
        self._networks = [ipaddress.ip_network(one) for one in forwarding.trusted if one != UNIX]

    def holds(self, scope: Scope) -> bool:
        """Whether the peer of a connection is one of them."""
        client = scope.get("client")
        if not client or not client[0]:
            return self._unix
        if not client[1]:
            # No peer has port 0: the server has read the address from a field itself, and it is not the peer's.
            return False
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


class TrustingHop(Hop):
    """This gateway as a hop behind others that it trusts."""

    __slots__ = ("_trust",)

    def __init__(self, forwarding: Forwarding, via: bytes) -> None:
        super().__init__(forwarding, via)
        self._trust = Trust(forwarding)

    @override
    def fields(self, scope: Scope, host: bytes, earlier: Sequence[bytes]) -> tuple[Field, ...]:
        """The fields of this hop, behind what a trusted peer says of the ones before."""
        own = super().fields(scope, host, earlier)
        if not self._trust.holds(scope):
            return own
        forwarding = self._forwarding
        received: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            received.setdefault(name, []).append(value)
        ours = dict(own)
        fields: Fields = [(b"via", ours[b"via"])]
        addresses = _addresses(received)
        client = scope.get("client")
        if forwarding.x_forwarded:
            fields.extend(_continued(received, ours, addresses, client[0] if client else None))
        if forwarding.forwarded:
            hops = received.get(b"forwarded") or [_converted(received, addresses)]
            # RFC 7239 §4: each hop adds its own element to the list.
            fields.append((b"forwarded", b", ".join([*filter(None, hops), ours[b"forwarded"]])))
        return tuple(fields)


def _continued(
    received: dict[bytes, list[bytes]],
    ours: dict[bytes, bytes],
    addresses: list[bytes],
    address: str | None,
) -> Fields:
    fields: Fields = []
    own = ours.get(b"x-forwarded-for")
    # One that stands there already was read from there by the server: it is not said twice (CONFORMANCE S-25).
    if own is not None and not (addresses and addresses[-1] == (address or "").encode()):
        addresses = [*addresses, own]
    if addresses:
        fields.append((b"x-forwarded-for", b", ".join(addresses)))
    for name in _KEPT:
        values = received.get(name)
        if values:
            fields.append((name, b", ".join(values)))
        elif name in ours:
            fields.append((name, ours[name]))
    return fields


def _addresses(received: dict[bytes, list[bytes]]) -> list[bytes]:
    """The addresses that a peer lists, in one spelling or the other."""
    listed = received.get(b"x-forwarded-for")
    if listed:
        return [
            one for one in (part.strip(b" \t") for part in b",".join(listed).split(b",")) if one
        ]
    found = _FOR.findall(b",".join(received.get(b"forwarded", ())))
    return [_without_port(one) for one in found]


def _without_port(raw: bytes) -> bytes:
    """An address without quotes, brackets and port; ``unknown`` where it is none."""
    text = re.sub(rb"\\(.)", rb"\1", raw.strip(b'"')).decode("latin-1")
    split = _PORT.fullmatch(text)
    if split is not None:
        text = split[1] or split[2] or ""
    try:
        return str(ipaddress.ip_address(text)).encode()
    except ValueError:
        return b"unknown"


def _converted(received: dict[bytes, list[bytes]], addresses: list[bytes]) -> bytes:
    """``Forwarded`` of a peer that only says ``X-Forwarded-For`` (RFC 7239 §7.4)."""
    elements = [b"for=" + spell_address(_without_port(one).decode()) for one in addresses]
    for name, parameter in ((b"x-forwarded-host", b"host"), (b"x-forwarded-proto", b"proto")):
        values = received.get(name)
        if elements and values and not values[0].translate(None, _PLAIN):
            # The first element is the client's: what it asked for, and how.
            elements[0] += b";" + parameter + b'="' + values[0] + b'"'
    return b", ".join(elements)


_PLAIN = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:[]-_"


class JoinPrefix:
    """Puts the prefix that this gateway has stripped behind the one that a trusted peer has."""

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Join."""
        del scope, found
        prefixes = [value for name, value in head.fields if name == _PREFIX]
        if prefixes:
            prefix = b"".join([value.rstrip(b"/") for value in prefixes])
            head.fields = [field for field in head.fields if field[0] != _PREFIX]
            if prefix.startswith(b"/") and not prefix.startswith(b"//"):
                head.fields.append((_PREFIX, prefix))


class ClientCertificate:
    """Tells the upstream which certificate the client has shown.

    Args:
        forwarding: How, and whose word is taken instead.
    """

    def __init__(self, forwarding: Forwarding) -> None:
        # Without trusted peers nobody's word is taken.
        self._trust = Trust(forwarding)
        self._kind: Literal["rfc9440", "xfcc"] = (
            "xfcc" if forwarding.client_cert == "xfcc" else "rfc9440"
        )

    def __call__(self, scope: Scope, found: Found, head: ForwardedHead) -> None:
        """Add the fields, if there is a certificate."""
        del found
        names = (
            (b"client-cert", b"client-cert-chain")
            if self._kind == "rfc9440"
            else (b"x-forwarded-client-cert",)
        )
        if self._trust.holds(scope):
            # The certificate of this connection would be the peer's own.
            head.fields.extend(field for field in scope["headers"] if field[0] in names)
            return
        tls: Any = (scope.get("extensions") or {}).get("tls") or {}
        chain = tuple(tls.get("client_cert_chain") or ())
        if not chain or tls.get("client_cert_error"):
            return
        try:
            head.fields.extend(_certificate(self._kind, chain, tls.get("client_cert_name")))
        except (AttributeError, TypeError, ValueError) as error:
            _logger.warning("a client's certificate cannot be read: %r", error)


@lru_cache(maxsize=256)
def _certificate(kind: str, chain: tuple[str, ...], name: str | None) -> tuple[Field, ...]:
    """The fields of a chain of PEM texts, the client's own certificate first.

    Raises:
        ValueError: If one is no certificate.
    """
    raw = [ssl.PEM_cert_to_DER_cert(pem.strip()) for pem in chain]
    if kind == "rfc9440":
        encoded = [b":" + base64.b64encode(one) + b":" for one in raw]
        fields = [(b"client-cert", encoded[0])]
        if len(encoded) > 1:
            fields.append((b"client-cert-chain", b", ".join(encoded[1:])))
        return tuple(fields)
    parts = [
        b"Hash=" + hashlib.sha256(raw[0]).hexdigest().encode(),
        b'Cert="' + quote(ssl.DER_cert_to_PEM_cert(raw[0]), safe="").encode() + b'"',
    ]
    subject = (name or "").replace("\\", "\\\\").replace('"', '\\"')
    if subject and subject.isascii() and not has_bad_value(subject.encode()):
        parts.append(b'Subject="' + subject.encode() + b'"')
    return ((b"x-forwarded-client-cert", b";".join(parts)),)
