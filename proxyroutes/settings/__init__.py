"""Frozen values that declarations are made of.

A value that contradicts itself raises here, where it is written. Nothing in this module knows of routes, pools, event
loops or FastAPI.
"""

from __future__ import annotations

import inspect
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from attrs import field, frozen
from attrs.converters import optional

from proxyroutes.settings._checks import (
    Check,
    FunctionCheck,
    HealthCheck,
    TCPCheck,
    to_health_check,
)
from proxyroutes.settings._values import check_positive, to_texts

if TYPE_CHECKING:
    import ssl

__all__ = [
    "TLS",
    "AccessLog",
    "Check",
    "CookieRules",
    "Destination",
    "Forwarding",
    "FunctionCheck",
    "HeaderRules",
    "HealthCheck",
    "Limits",
    "Match",
    "ProbeFunction",
    "QueryRules",
    "TCPCheck",
    "Timeouts",
]

_SCHEMES = {
    "http": "http",
    "https": "https",
    "ws": "http",
    "wss": "https",
    "http+unix": "http+unix",
}
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=-]+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110 §5.5: visible characters, space, tab and obs-text.
_NO_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_COOKIE_PATH = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")

MAX_WEIGHT = 1_000_000
"""Far more than shares need, and small enough for every sum of them."""

HOP_FIELDS: frozenset[str] = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
"""Fields of one connection, its framing among them: no rule can write or keep one."""
_HOST_PATTERN = re.compile(r"\[[0-9a-f:.]+\]|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_FIELD_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def _to_mapping(
    value: Mapping[str, str] | Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        raise TypeError(f"a mapping or a list of pairs is meant, not one string: {value!r}")
    return tuple(value.items()) if isinstance(value, Mapping) else tuple(value)


@frozen(kw_only=True)
class Timeouts:
    """Time allowed for the stages of one exchange.

    Attributes:
        connect: Seconds to open a connection, TLS included. None waits forever.
        first_byte: Seconds from the last byte of the request to the head of the response. None waits forever.
        idle: Seconds without a byte in either direction before the exchange is cut. None waits forever.
        total: Seconds for the whole exchange with all of its attempts and its last byte. None, the default, is no
            limit, because a stream may last for days.

    Raises:
        ValueError: If a duration is not greater than 0.

    Source:
        RFC 9110 §15.6.5 (504 Gateway Timeout).
    """

    connect: float | None = 5.0
    first_byte: float | None = 60.0
    idle: float | None = 60.0
    total: float | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("connect", "first_byte", "idle", "total"):
            check_positive(name, getattr(self, name))


@frozen(kw_only=True)
class Limits:
    """How much a pool or a route carries at once.

    An exchange has its place from before its first attempt until its last byte, a session until both sides are closed.

    Attributes:
        max_in_flight: Exchanges and sessions at once. None is no limit.
        max_queue: Exchanges and handshakes that may wait for a place; the next one is answered 503 at once. Of a pool, also
            those that may wait where each of its destinations is full by its own ``max_in_flight``.
        queue_timeout: Seconds to wait for a place before 503.
        queue: Who gets a place that is given back: ``"fifo"`` the one that has waited longest, ``"lifo"`` the one that
            came last. Under a load that lasts, the longest waiting are those whose clients have given up.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        RFC 9110 §15.6.4 (503 Service Unavailable), §10.2.3 (Retry-After).
    """

    max_in_flight: int | None = None
    max_queue: int = 256
    queue_timeout: float = 1.0
    queue: Literal["fifo", "lifo"] = "fifo"

    def __attrs_post_init__(self) -> None:
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1: {self.max_in_flight!r}")
        if self.max_queue < 0:
            raise ValueError(f"max_queue must be at least 0: {self.max_queue!r}")
        check_positive("queue_timeout", self.queue_timeout)
        if self.queue not in {"fifo", "lifo"}:
            raise ValueError(f"queue is 'fifo' or 'lifo': {self.queue!r}")


@frozen(kw_only=True)
class TLS:
    """How TLS is spoken with the destinations of a pool.

    Attributes:
        ca: File of certificates to trust instead of the system's.
        cert: File of the client certificate chain to present.
        key: File of its private key; None where ``cert`` holds both.
        verify: Whether the certificate and the host name are checked. Off is logged at each start.
        server_name: Name for SNI and verification instead of the destination's host.
        context: A ready ``ssl.SSLContext`` instead of all of the above but ``server_name``.

    Source:
        RFC 9110 §4.3.4 (https certificate verification).
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    verify: bool = True
    server_name: str | None = None
    context: ssl.SSLContext | None = field(default=None, eq=False, repr=False)


def _to_lower(value: Iterable[str]) -> tuple[str, ...]:
    return tuple([text.lower() for text in to_texts(value)])


def _to_names(value: Iterable[str]) -> frozenset[str]:
    return frozenset(_to_lower(value))


@frozen(kw_only=True)
class AccessLog:
    """What the access log says of a request. Each line goes to the logger ``proxyroutes.access``, level INFO.

    Attributes:
        request_headers: Names of received fields that are logged.
        secret_parameters: Names of query parameters whose value is never logged.
        secret_headers: Names of fields whose value is never logged, also where ``request_headers`` has them.
        query: Whether the query is logged at all.
        delay: Seconds for which lines may be kept, so that many are handed over to ``logging`` at a time; each keeps its
            own time. 0.0, the default, hands over each when its exchange ends.

    Raises:
        ValueError: If the delay is below 0, or longer than a second.
    """

    request_headers: tuple[str, ...] = field(
        default=("user-agent", "referer"),
        converter=_to_lower,
    )
    secret_parameters: frozenset[str] = field(
        default=(
            "access_token",
            "api-key",
            "api_key",
            "apikey",
            "auth",
            "awsaccesskeyid",
            "client_secret",
            "code",
            "id_token",
            "jwt",
            "key",
            "passwd",
            "password",
            "refresh_token",
            "secret",
            "sig",
            "signature",
            "state",
            "token",
            "x-amz-credential",
            "x-amz-security-token",
            "x-amz-signature",
            "x-goog-signature",
        ),
        converter=_to_names,
    )
    secret_headers: frozenset[str] = field(
        default=(
            "authorization",
            "cookie",
            "proxy-authorization",
            "set-cookie",
            "x-api-key",
            "x-auth-token",
            "x-csrf-token",
        ),
        converter=_to_names,
    )
    query: bool = True
    delay: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.delay <= 1.0:
            raise ValueError(f"the delay of a log is between 0 and 1 second: {self.delay!r}")


@frozen(kw_only=True)
class Destination:
    """One origin, with an optional base path, that may be forwarded to.

    Attributes:
        url: ``http(s)://host[:port][/base]``, ``ws(s)://`` as another spelling of it, or
            ``http+unix://%2Frun%2Fapp.sock[/base]``. No user, query or fragment.
        weight: Share relative to the other destinations of its pool, from 1 to 1,000,000.
        priority: Level; a level is used while every lower-numbered one has nothing available.
        max_requests: Attempts and sessions in one interval of the monitor, with a check or without. None is no limit.
        max_in_flight: Exchanges and sessions at once; where all are full, others wait as the pool's ``limits`` say. None is
            no limit.
        health: A check of its own, instead of the pool's. ``"/path"`` is short for ``HealthCheck("/path")``.

    Raises:
        ValueError: If the URL cannot be a destination or a number is out of its range.
    """

    url: str = field(kw_only=False)
    weight: int = 1
    priority: int = 0
    max_requests: int | None = None
    max_in_flight: int | None = None
    health: Check | None = field(default=None, converter=to_health_check)

    def __attrs_post_init__(self) -> None:
        _split_url(self.url)
        if isinstance(self.weight, bool) or not isinstance(self.weight, int):
            raise TypeError(f"weight is a whole number: {self.weight!r}")
        if self.weight < 1:
            raise ValueError(
                f"weight must be at least 1: {self.weight!r} (to send it nothing new, drain it)"
            )
        if self.weight > MAX_WEIGHT:
            raise ValueError(f"weight must be at most {MAX_WEIGHT}: {self.weight!r}")
        if self.priority < 0:
            raise ValueError(f"priority must be at least 0: {self.priority!r}")
        for name in ("max_requests", "max_in_flight"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit: {value!r}")

    @property
    def scheme(self) -> str:
        """``http``, ``https`` or ``http+unix``."""
        return _split_url(self.url)[0]

    @property
    def host(self) -> str:
        """Host name or address in lower case, without brackets; empty for a Unix socket."""
        return _split_url(self.url)[1]

    @property
    def port(self) -> int:
        """TCP port; 0 for a Unix socket."""
        return _split_url(self.url)[2]

    @property
    def socket_path(self) -> str | None:
        """Path of the Unix socket, or None."""
        return _split_url(self.url)[3]

    @property
    def base_path(self) -> str:
        """What is put in front of each target; never ends with a slash."""
        return _split_url(self.url)[4]

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own, as ``Host`` spells it (RFC 9110 §7.2)."""
        if self.socket_path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme and authority, for logs and errors."""
        if self.socket_path is not None:
            return f"http+unix://{self.socket_path}"
        return f"{self.scheme}://{self.authority}"


def _split_url(url: str) -> tuple[str, str, int, str | None, str]:
    """Take a destination's URL apart: scheme, host, port, socket path, base path."""
    if not isinstance(url, str):
        raise TypeError(f"a destination's URL is a string: {url!r}")
    if not url.isascii() or any(char <= " " or char in '\\"<>^`{|}\x7f' for char in url):
        raise ValueError(f"a destination's URL has only the characters of RFC 3986: {url!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {url!r} ({error})") from error
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        hint = f": write 'http://{url}'" if "://" not in url else ""
        raise ValueError(
            f"a destination's scheme is http, https, ws, wss or http+unix, not {url!r}{hint}"
        )
    if "@" in parts.netloc:
        raise ValueError("a destination's URL carries no user or password")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError(f"a destination's URL has no query and no fragment: {url!r}")
    base_path = parts.path.rstrip("/")
    if any(unquote(segment) in {".", ".."} for segment in base_path.split("/")):
        raise ValueError(f"a base path has no dot segments: {url!r}")
    if scheme == "http+unix":
        return scheme, "", 0, _socket_path(parts.netloc, url), base_path
    host = _check_host(parts.hostname or "", url)
    if port == 0:
        raise ValueError(f"port 0 cannot be connected to: {url!r}")
    return scheme, host, port or (443 if scheme == "https" else 80), None, base_path


def _socket_path(netloc: str, url: str) -> str:
    path = unquote(netloc)
    if not path.startswith("/") or "\0" in path:
        raise ValueError(
            f"write the socket's absolute path percent-encoded, as http+unix://%2Frun%2Fapp.sock: {url!r}"
        )
    return path


def _check_host(host: str, url: str) -> str:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError as error:
            raise ValueError(f"not an IPv6 address: {url!r}") from error
    elif not _HOST.fullmatch(host):
        raise ValueError(f"a destination needs a host: {url!r}")
    return host


def _to_hosts(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([str(one).lower().removesuffix(".") for one in to_texts(value)]))


def _to_lower_pairs(
    value: Mapping[str, str] | Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    return tuple([(str(name).lower(), text) for name, text in _to_mapping(value)])


@frozen(kw_only=True)
class Match:
    """What besides path and method decides a route. All that is given must hold.

    Several routes may have one path; the first one in declared order whose ``Match`` holds serves the request, and to a
    request for which it does not hold a route is not there at all. Only what the client may say is looked at: forwarding
    fields, hop-by-hop fields and the route's ``identity_headers`` are not seen.

    Attributes:
        hosts: Names that ``Host`` may have, in any case and with any port; ``*.example.com`` is every name below
            ``example.com``, but not itself. Empty: any, also none.
        headers: Fields and the value that each must have, exactly. Of a field with several lines, one is enough.
        query: Parameters and the value that each must have, exactly, after decoding. Of a parameter that is given
            several times, one is enough.
        when: A last word, asked only where all else holds: an ordinary function, given the request as a
            ``proxyroutes.typing.ReceivedRequest``. It must not block and should always say the same of the same request.
            What it raises is answered 500.

    Raises:
        TypeError: If a value is no text, or ``when`` is no ordinary function.
        ValueError: If a host or a field name cannot be one.

    Source:
        RFC 9110 §7.2 (Host), §4.2.3 (names of hosts have no case).
    """

    hosts: tuple[str, ...] = field(default=(), converter=_to_hosts)
    headers: tuple[tuple[str, str], ...] = field(default=(), converter=_to_lower_pairs)
    query: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    when: Callable[[Any], bool] | None = field(default=None)

    def __attrs_post_init__(self) -> None:
        for host in self.hosts:
            if not _HOST_PATTERN.fullmatch(host):
                raise ValueError(
                    "a host is a name without a port, 'api.example.com' or '*.example.com' "
                    f"(any port matches): {host!r}"
                )
        for name, value in (*self.headers, *self.query):
            if not isinstance(value, str):
                raise TypeError(f"the value of {name!r} is a text, not {value!r}")
        for name, _ in self.headers:
            if name == "host":
                raise ValueError(f"write hosts=[...] instead of headers={{{name!r}: ...}}")
            if not _FIELD_NAME.fullmatch(name):
                raise ValueError(f"not a field name: {name!r}")
        when: Any = self.when
        if when is not None and (not callable(when) or inspect.iscoroutinefunction(when)):
            raise TypeError(f"when is an ordinary function, not {when!r}")

    def covers(self, other: Match) -> bool:
        """Whether it surely holds wherever the other one does."""
        return (
            (self.when is None or self.when == other.when)
            and (not self.hosts or (bool(other.hosts) and set(self.hosts) >= set(other.hosts)))
            and set(self.headers) <= set(other.headers)
            and set(self.query) <= set(other.query)
        )


@frozen(kw_only=True)
class HeaderRules:
    """Edits of field lines, in this order: ``allow``, ``remove``, ``set``, ``add``.

    Names are compared without case. In values ``"<name>"`` or ``"{name}"`` is the text that the route's parameter of this
    name has captured, decoded; ``"<<name>>"`` is the text ``<name>`` itself. A request whose captured text cannot stand in a
    field (a control character, or one outside of latin-1) is answered 400.

    Attributes:
        set: Fields to write, instead of what is there.
        add: Fields to append. Several of one name are given as pairs.
        remove: Names to delete.
        allow: The only names to keep of what the other side sent, or None for all. What the gateway itself adds stays, and
            so does what says how content is to be read: ``Content-Encoding``, ``Content-Length``, ``Content-Range``.

    Raises:
        ValueError: If a field cannot be sent, or belongs to the connection: those are made for each hop.

    Source:
        RFC 9110 §5.1, §5.5 (names and values), RFC 9110 §7.6.1 (fields of one hop).
    """

    set: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    add: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    remove: tuple[str, ...] = field(default=(), converter=to_texts)
    allow: tuple[str, ...] | None = field(default=None, converter=optional(to_texts))

    def __attrs_post_init__(self) -> None:
        for name, value in (*self.set, *self.add):
            _check_name(name)
            _check_value(name, value)
        for name in (*self.remove, *(self.allow or ())):
            _check_name(name)
        names = [name.lower() for name, _ in self.set]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is set twice: add the second one")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError(f"not a field name: {name!r}")
    if name.lower() in HOP_FIELDS:
        raise ValueError(f"{name!r} belongs to the connection and is made by the gateway")


def _check_value(name: str, value: Any) -> None:
    if not isinstance(value, str) or _NO_VALUE.search(value) is not None:
        raise ValueError(
            f"the value of {name!r} has a character that no field can have: {value!r}"
        )


@frozen(kw_only=True)
class QueryRules:
    """Edits of the query, in this order: ``allow``, ``remove``, ``set``, ``add``.

    Parameters are what stands between ``&``; names are compared after one percent-decoding. What no rule names keeps its
    place and its bytes. In values ``"<name>"`` or ``"{name}"`` is what the route's parameter of this name has captured.

    Attributes:
        set: Parameters to write, instead of what is there.
        add: Parameters to append. Several of one name are given as pairs.
        remove: Names to delete.
        allow: The only names to keep of what the client sent, or None for all.

    Raises:
        ValueError: If a name is empty.
    """

    set: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    add: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    remove: tuple[str, ...] = field(default=(), converter=to_texts)
    allow: tuple[str, ...] | None = field(default=None, converter=optional(to_texts))

    def __attrs_post_init__(self) -> None:
        pairs = (*self.set, *self.add)
        for name in (*(name for name, _ in pairs), *self.remove, *(self.allow or ())):
            if not name or not isinstance(name, str):
                raise ValueError(f"not the name of a parameter: {name!r}")
        for name, value in pairs:
            if not isinstance(value, str):
                raise ValueError(f"the value of {name!r} is a string: {value!r}")  # noqa: TRY004 - as every other rule here.


@frozen(kw_only=True)
class CookieRules:
    """How the upstream's cookies are made to fit the gateway's address.

    A cookie whose name begins with ``__Host-`` keeps its domain and path, and one that begins with ``__Secure-`` or
    ``__Host-`` stays secure: browsers would refuse it otherwise.

    Attributes:
        domain: The ``Domain`` to write, an empty string to delete it (the cookie is then the gateway's own host's), None to
            leave it.
        path: The ``Path`` to write; ``"rewrite"`` maps the one that is there to the public address, as ``location`` does;
            None leaves it.
        secure: True writes ``Secure``, False deletes it, None leaves it.

    Raises:
        ValueError: If a value cannot stand in ``Set-Cookie``.

    Source:
        RFC 6265 §4.1.2 (attributes), RFC 6265 §5.1.4 (paths and path-match).
    """

    domain: str | None = None
    path: str | None = None
    secure: bool | None = None

    def __attrs_post_init__(self) -> None:
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            raise ValueError(f"domain is a host name: {self.domain!r}")
        path = self.path
        if path not in {None, "rewrite"} and not _COOKIE_PATH.fullmatch(str(path)):
            raise ValueError(f"path is 'rewrite' or starts with a slash: {path!r}")


def _to_trusted(values: Iterable[str]) -> tuple[str, ...]:
    found = to_texts(values)
    for value in found:
        if value != UNIX:
            ipaddress.ip_network(value)
    return found


UNIX = "unix"
"""Among trusted peers: those that come over a Unix socket."""


@frozen(kw_only=True)
class Forwarding:
    """What the upstream is told of the client's side.

    Attributes:
        mode: ``"set"``: what the client sent is dropped and ours is set. ``"append"``: what a trusted peer sent is kept and
            ours is added to it; for any other peer as ``"set"``. ``"off"``: it is dropped and nothing is set.
        forwarded: Whether ``Forwarded`` (RFC 7239) is set.
        x_forwarded: Whether ``X-Forwarded-For``, ``-Host``, ``-Proto`` and ``-Prefix`` are set.
        trusted: Networks and addresses of the proxies in front whose fields are believed, such as ``"10.0.0.0/8"``;
            ``"unix"`` for those that come over a Unix socket. Only the peer that the server names counts: run it so that it
            does not read these fields itself (uvicorn: ``proxy_headers=False``).
        client_cert: How the certificate that the client has shown is told: ``"rfc9440"`` in ``Client-Cert`` and
            ``Client-Cert-Chain``, ``"xfcc"`` in ``X-Forwarded-Client-Cert``, ``"off"`` not at all. It is read from the
            server's TLS extension of ASGI; a trusted peer's word is passed on. What anybody else sends of these fields is
            always dropped.

    Raises:
        ValueError: If a value is none of these, ``trusted`` has what is no network, or one of ``"append"`` and ``trusted``
            is given without the other.

    Source:
        RFC 7239 (Forwarded), RFC 9440 (Client-Cert).
    """

    mode: Literal["set", "append", "off"] = "set"
    forwarded: bool = True
    x_forwarded: bool = True
    trusted: tuple[str, ...] = field(default=(), converter=_to_trusted)
    client_cert: Literal["off", "rfc9440", "xfcc"] = "off"

    def __attrs_post_init__(self) -> None:
        if self.mode not in {"set", "append", "off"}:
            raise ValueError(f"mode is 'set', 'append' or 'off': {self.mode!r}")
        if self.client_cert not in {"off", "rfc9440", "xfcc"}:
            raise ValueError(f"client_cert is 'off', 'rfc9440' or 'xfcc': {self.client_cert!r}")
        if (self.mode == "append") != bool(self.trusted):
            raise ValueError(
                "mode='append' and trusted belong together: write mode='append', trusted=['10.0.0.0/8']"
            )


ProbeFunction: TypeAlias = Callable[[Destination], Awaitable[bool | float | None]]
"""What ``@pool.probe`` takes."""
