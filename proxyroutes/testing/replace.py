"""Other upstreams for pools that are declared already, for as long as a test lasts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from typing_extensions import TypeIs

from proxyroutes._state.pools import UpstreamPool
from proxyroutes.proxy import Proxy
from proxyroutes.transports import ASGITransport
from proxyroutes.typing import ASGIApp, Transport

__all__ = ["replaced_transport", "without_retries"]


@contextlib.contextmanager
def replaced_transport(
    place: Proxy | UpstreamPool, instead: Transport | ASGIApp
) -> Iterator[None]:
    """Send what pools forward somewhere else: destinations, policies and health checks stay as they are declared.

    Enter it before the application starts: a pool takes its transport when it starts, and keeps it until it stops.

    ```python
    with replaced_transport(proxy, upstream):
        async with open_client(app) as client:
            ...
    ```

    Args:
        place: A pool, or a proxy for every pool that its routes name.
        instead: A transport, or an ASGI application, which is asked in this process. ``HttpxTransport()`` is what
            ``respx`` answers for.

    Raises:
        RuntimeError: If one of the pools is running on this event loop.
        TypeError: If ``place`` is neither.
    """
    pools = _find_idle_pools(place)
    transport = instead if _is_transport(instead) else ASGITransport(instead)
    before = [pool.transport for pool in pools]
    try:
        for pool in pools:
            pool.transport = transport
        yield
    finally:
        for pool, own in zip(pools, before, strict=True):
            pool.transport = own


@contextlib.contextmanager
def without_retries(place: Proxy | UpstreamPool) -> Iterator[None]:
    """Have pools try nothing again: what an upstream does in a test is seen once, and what it answers is what comes.

    Enter it before the application starts. A route that has a ``retry=`` of its own keeps it, and where no connection is
    made the next destination is asked in any case.

    Args:
        place: A pool, or a proxy for every pool that its routes name.

    Raises:
        RuntimeError: If one of the pools is running on this event loop.
        TypeError: If ``place`` is neither.
    """
    pools = _find_idle_pools(place)
    before = [pool.retry for pool in pools]
    try:
        for pool in pools:
            pool.retry = None
        yield
    finally:
        for pool, own in zip(pools, before, strict=True):
            pool.retry = own


def _find_idle_pools(place: Proxy | UpstreamPool) -> tuple[UpstreamPool, ...]:
    pools = _find_pools(place)
    for pool in pools:
        if _runs_here(pool):
            raise RuntimeError(
                f"pool {pool.name!r} is running: change it for a test before the application starts"
            )
    return pools


def _find_pools(place: Proxy | UpstreamPool) -> tuple[UpstreamPool, ...]:
    if isinstance(place, UpstreamPool):
        return (place,)
    if isinstance(place, Proxy):
        return place.compiled().pools
    raise TypeError(f"a Proxy or an UpstreamPool is meant, not {place!r}")


def _is_transport(instead: Transport | ASGIApp) -> TypeIs[Transport]:
    return callable(getattr(instead, "bind", None))


def _runs_here(pool: UpstreamPool) -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return pool.entered()
