"""The pytest plugin of proxyroutes: fixtures for tests of a gateway.

It stands outside of the package, and imports it only when a fixture is asked for: it is loaded by every run of pytest in
an environment that has proxyroutes, those that have nothing to do with it too.

Fixtures that open something give a function for ``async with`` or ``with``, so they need no plugin for asynchronous
fixtures, and serve ``pytest-asyncio`` in both modes and ``anyio`` alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from proxyroutes import Proxy, UpstreamPool
    from proxyroutes.testing import FaultyOrigin, ManualClock, RecordingUpstream
    from proxyroutes.typing import ASGIApp, Transport

    Client = contextlib.AbstractAsyncContextManager[httpx.AsyncClient]

__all__ = [
    "proxy_client",
    "proxy_clock",
    "proxy_faulty_origin",
    "proxy_gateway",
    "proxy_no_retries",
    "proxy_replace",
    "proxy_respx",
    "proxy_upstream",
]


@pytest.fixture
def proxy_clock() -> ManualClock:
    """A clock that stands still until it is advanced: ``HealthMonitor(clock=proxy_clock)``."""
    from proxyroutes.testing import ManualClock  # noqa: PLC0415 - see above

    return ManualClock()


@pytest.fixture
def proxy_upstream() -> RecordingUpstream:
    """An upstream in this process that answers as it is told and keeps what was forwarded to it."""
    from proxyroutes.testing import RecordingUpstream  # noqa: PLC0415 - see above

    return RecordingUpstream()


@pytest.fixture
def proxy_faulty_origin() -> type[FaultyOrigin]:
    """An origin on a socket that fails as told: use it in ``async with``."""
    from proxyroutes.testing import FaultyOrigin  # noqa: PLC0415 - see above

    return FaultyOrigin


@pytest.fixture
def proxy_client() -> Callable[..., Client]:
    """Opens an httpx client of an app in this process, its lifespan run: use it in ``async with``."""
    from proxyroutes.testing import open_client  # noqa: PLC0415 - see above

    return open_client


@pytest.fixture
def proxy_gateway() -> Callable[..., Client]:
    """Opens the same over real sockets, served by uvicorn: use it in ``async with``."""
    from proxyroutes.testing import open_socket_client  # noqa: PLC0415 - see above

    return open_socket_client


@pytest.fixture
def proxy_replace() -> Iterator[Callable[[Proxy | UpstreamPool, Transport | ASGIApp], None]]:
    """``proxy_replace(proxy, upstream)``: pools forward to an ASGI app or a transport until the test ends."""
    from proxyroutes.testing import replaced_transport  # noqa: PLC0415 - see above

    with contextlib.ExitStack() as stack:

        def replace(place: Any, instead: Any) -> None:
            stack.enter_context(replaced_transport(place, instead))

        yield replace


@pytest.fixture
def proxy_no_retries() -> Iterator[Callable[[Proxy | UpstreamPool], None]]:
    """``proxy_no_retries(proxy)``: its pools try nothing again until the test ends."""
    from proxyroutes.testing import without_retries  # noqa: PLC0415 - see above

    with contextlib.ExitStack() as stack:

        def turn_off(place: Any) -> None:
            stack.enter_context(without_retries(place))

        yield turn_off


@pytest.fixture
def proxy_respx(
    proxy_replace: Callable[[Any, Any], None],
) -> Callable[[Proxy | UpstreamPool], None]:
    """``proxy_respx(proxy)``: pools send with httpx until the test ends, so that ``respx`` can answer for them."""
    from proxyroutes.transports import HttpxTransport  # noqa: PLC0415 - see above

    def replace(place: Any) -> None:
        proxy_replace(place, HttpxTransport())

    return replace
