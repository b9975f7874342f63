"""Health checks: what is asked of a destination, and which answers mean that it is well."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from attrs import field, frozen

from proxyroutes.settings._values import check_positive, to_statuses

__all__ = ["Check", "FunctionCheck", "HealthCheck", "TCPCheck", "to_health_check"]

_EXPECTED = frozenset(range(200, 400))
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROBE_PATH = re.compile(r"/[!-~]*")


def _check_turns(check: HealthCheck | TCPCheck | FunctionCheck) -> None:
    """What every kind of check has: when it is made, and how often it must say the same."""
    check_positive("interval", check.interval)
    check_positive("unhealthy_interval", check.unhealthy_interval)
    check_positive("timeout", check.timeout)
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

    function: Callable[[Any], Awaitable[bool | float | None]] = field(kw_only=False)
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


def to_health_check(value: Check | str | None) -> Check | None:
    """Take ``"/path"`` for ``HealthCheck("/path")``."""
    if value is None or isinstance(value, HealthCheck | TCPCheck | FunctionCheck):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a health check is a path, HealthCheck, TCPCheck or None: {value!r}")
    return HealthCheck(value)
