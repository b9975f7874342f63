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


def _positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{name} must be greater than 0 seconds, or None for no limit: {value!r}")


def _to_mapping(
    value: Mapping[str, str] | Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        raise TypeError(f"a mapping or a list of pairs is meant, not one string: {value!r}")
    return tuple(value.items()) if isinstance(value, Mapping) else tuple(value)


def to_statuses(value: Iterable[int]) -> frozenset[int]:
    """Store an iterable of statuses as a set, and refuse a lone one."""
    if isinstance(value, int | str):
        raise TypeError(f"a list of statuses is meant, not one value: write [{value!r}]")
    return frozenset(value)


def to_texts(value: Iterable[str]) -> tuple[str, ...]:
    """Store an iterable of strings as a tuple, and refuse a lone string."""
    if isinstance(value, str):
        raise TypeError(f"a list of strings is meant, not one string: write [{value!r}]")
    return tuple(value)


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
            _positive(name, getattr(self, name))


@frozen(kw_only=True)
class Limits:
    """How much a pool or a route carries at once.

    An exchange has its place from before its first attempt until its last byte, a session until both sides are closed.

    Attributes:
        max_in_flight: Exchanges and sessions at once. None is no limit.
        max_queue: Exchanges and handshakes that may wait for a place; the next one is answered 503 at once.
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
        _positive("queue_timeout", self.queue_timeout)
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


_EXPECTED = frozenset(range(200, 400))
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROBE_PATH = re.compile(r"/[!-~]*")


def _check_turns(check: HealthCheck | TCPCheck | FunctionCheck) -> None:
    """What every kind of check has: when it is made, and how often it must say the same."""
    _positive("interval", check.interval)
    _positive("unhealthy_interval", check.unhealthy_interval)
    _positive("timeout", check.timeout)
    if check.rise < 1 or check.fall < 1:
        raise ValueError(f"rise and fall must be at least 1: {check.rise!r}, {check.fall!r}")


def _to_content(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


@frozen(kw_only=True)
class HealthCheck:
    """How a destination is asked whether it is well.

    Redirects are not followed, and mean unhealthy unless ``expect`` was given and holds them. So does content of more
    than 1 MiB.

    Attributes:
        path: Path and query of the probe, below the destination's base path.
        method: Its method. ``HEAD`` that is refused with 405 or 501 becomes ``GET``, once.
        interval: Seconds between probes; None takes the monitor's.
        timeout: Seconds for one probe.
        expect: Statuses that mean healthy.
        rise: Consecutive successes until it is used again.
        fall: Consecutive failures until it is no longer used.
        unhealthy_interval: Seconds between probes of one that is unhealthy; None is ``interval``.
        body: Content of the probe, text as UTF-8; None sends none. It needs another method than ``HEAD``.

    Raises:
        ValueError: If a number is out of its range, the path does not start with a slash, or the method cannot be sent.
    """

    path: str = field(default="/", kw_only=False)
    method: str = "HEAD"
    interval: float | None = None
    timeout: float = 2.0
    expect: frozenset[int] = field(default=_EXPECTED, converter=to_statuses)
    rise: int = 2
    fall: int = 3
    unhealthy_interval: float | None = None
    body: bytes | None = field(default=None, converter=_to_content)

    def __attrs_post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"the path of a health check starts with a slash: {self.path!r}")
        if not _PROBE_PATH.fullmatch(self.path):
            raise ValueError(f"write the path of a health check percent-encoded: {self.path!r}")
        if not _METHOD.fullmatch(self.method) or self.method in {"CONNECT", "TRACE"}:
            raise ValueError(f"not a method that a probe can have: {self.method!r}")
        if self.body is not None and self.method == "HEAD":
            raise ValueError("a body needs a method for it: say method='POST'")
        _check_turns(self)

    def expects(self, status: int) -> bool:
        """Whether a status means healthy."""
        if status in {301, 302, 303, 307, 308} and self.expect == _EXPECTED:
            return False
        return status in self.expect


@frozen(kw_only=True)
class TCPCheck:
    """A destination is well if it takes a connection, which is closed at once: for services that have no path to ask.

    Attributes:
        interval: Seconds between probes; None takes the monitor's.
        timeout: Seconds for one probe.
        rise: Consecutive successes until it is used again.
        fall: Consecutive failures until it is no longer used.
        unhealthy_interval: Seconds between probes of one that is unhealthy; None is ``interval``.

    Raises:
        ValueError: If a number is out of its range.
    """

    interval: float | None = None
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    unhealthy_interval: float | None = None

    def __attrs_post_init__(self) -> None:
        _check_turns(self)


@frozen(kw_only=True)
class FunctionCheck:
    """A destination is well if an asynchronous function says so; ``@pool.probe`` makes one.

    Attributes:
        function: Given the destination. None and True mean healthy, False unhealthy. A number above 0 means healthy,
            and is the destination's weight from then on; 0 means unhealthy. What it raises, or that it takes too long,
            means unhealthy, and is the reason.
        interval: Seconds between probes; None takes the monitor's.
        timeout: Seconds for one probe, after which it is cancelled.
        rise: Consecutive successes until it is used again.
        fall: Consecutive failures until it is no longer used.
        unhealthy_interval: Seconds between probes of one that is unhealthy; None is ``interval``.

    Raises:
        TypeError: If the function is not asynchronous.
        ValueError: If a number is out of its range.
    """

    function: ProbeFunction = field(kw_only=False)
    interval: float | None = None
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    unhealthy_interval: float | None = None

    def __attrs_post_init__(self) -> None:
        function: Any = self.function
        call = getattr(function, "__call__", None)  # noqa: B004 - an object's own call may be asynchronous.
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(call):
            raise TypeError(f"a probe is an asynchronous function: {function!r}")
        _check_turns(self)


Check: TypeAlias = HealthCheck | TCPCheck | FunctionCheck
"""How a destination is probed."""

ProbeFunction: TypeAlias = "Callable[[Destination], Awaitable[bool | float | None]]"
"""What ``@pool.probe`` takes."""


def to_health_check(value: Check | str | None) -> Check | None:
    """Take ``"/path"`` for ``HealthCheck("/path")``."""
    if value is None or isinstance(value, HealthCheck | TCPCheck | FunctionCheck):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a health check is a path, HealthCheck, TCPCheck or None: {value!r}")
    return HealthCheck(value)


@frozen(kw_only=True)
class Destination:
    """One origin, with an optional base path, that may be forwarded to.

    Attributes:
        url: ``http(s)://host[:port][/base]``, ``ws(s)://`` as another spelling of it, or
            ``http+unix://%2Frun%2Fapp.sock[/base]``. No user, query or fragment.
        weight: Share relative to the other destinations of its pool.
        priority: Level; a level is used while every lower-numbered one has nothing available.
        max_requests: Attempts and sessions in one interval of the monitor, with a check or without. None is no limit.
        max_in_flight: Exchanges and sessions at once. None is no limit.
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


@frozen(kw_only=True)
class Match:
    """What besides path and method decides a route.

    Attributes:
        hosts: Names that ``Host`` may have, ``*.example.com`` for every name below one. Empty: any.
        headers: Fields and the value that each must have.
        query: Parameters and the value that each must have.
        when: A last word on the request; called only where all else matches.
    """

    hosts: tuple[str, ...] = field(default=(), converter=to_texts)
    headers: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    query: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    when: Callable[[Any], bool] | None = field(default=None)


@frozen(kw_only=True)
class HeaderRules:
    """Edits of field lines.

    Attributes:
        set: Fields to write, instead of what is there.
        add: Fields to append.
        remove: Names to delete.
        allow: The only names to keep, or None for all.
    """

    set: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    add: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    remove: tuple[str, ...] = field(default=(), converter=to_texts)
    allow: tuple[str, ...] | None = field(default=None, converter=optional(to_texts))


@frozen(kw_only=True)
class QueryRules:
    """Edits of the query.

    Attributes:
        set: Parameters to write, instead of what is there.
        add: Parameters to append.
        remove: Names to delete.
        allow: The only names to keep, or None for all.
    """

    set: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    add: tuple[tuple[str, str], ...] = field(default=(), converter=_to_mapping)
    remove: tuple[str, ...] = field(default=(), converter=to_texts)
    allow: tuple[str, ...] | None = field(default=None, converter=optional(to_texts))


@frozen(kw_only=True)
class CookieRules:
    """How the upstream's cookies are made to fit the gateway's address (RFC 6265 §4.1.2).

    Attributes:
        domain: The ``Domain`` to write, an empty string to delete it, None to leave it.
        path: The ``Path`` to write, None to leave it.
        secure: Whether to write ``Secure``, None to leave it.
    """

    domain: str | None = None
    path: str | None = None
    secure: bool | None = None


@frozen(kw_only=True)
class Forwarding:
    """What the upstream is told of the client's side.

    Attributes:
        mode: ``"set"``: what the client sent is dropped and ours is set. ``"off"``: it is dropped and nothing is set.
        forwarded: Whether ``Forwarded`` (RFC 7239) is set.
        x_forwarded: Whether ``X-Forwarded-For``, ``-Host``, ``-Proto`` and ``-Prefix`` are set.
    """

    mode: Literal["set", "off"] = "set"
    forwarded: bool = True
    x_forwarded: bool = True

    def __attrs_post_init__(self) -> None:
        if self.mode not in {"set", "off"}:
            raise ValueError(f"mode is 'set' or 'off': {self.mode!r}")
