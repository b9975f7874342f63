"""Active health: destinations are asked whether they are well, and pools are told when the answer changes.

One prober a loop and monitor. What is watched is keyed by origin, base path, check, transport and TLS, so that many pools
over one destination with one check cause one probe an interval, and two checks of one address never share a verdict.
Nothing here chooses a destination.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol

from attrs import define, field, frozen

from proxyroutes.exceptions import GatewayError
from proxyroutes.settings import HealthCheck, Timeouts
from proxyroutes.typing import (
    Attempt,
    BoundTransport,
    Clock,
    Endpoint,
    Field,
    ForwardedHead,
    RandomSource,
    UpstreamResponse,
)

__all__ = ["HealthReport", "Prober", "Watch", "watch_key"]

_AT_ONCE = 64
"""Probes at a time; a thousand destinations must not open a thousand connections in one moment."""
_JITTER = 0.1
"""Share of an interval by which each one is lengthened or shortened (HAProxy's ``spread-checks``)."""
_MOST_CONTENT_BYTES = 65_536
"""Content of a probe's answer that is read, so that its connection can be used again; more closes it."""
_FIELDS: list[Field] = [(b"user-agent", b"proxyroutes (health check)"), (b"accept", b"*/*")]

_logger = logging.getLogger("proxyroutes.health")


@frozen(kw_only=True)
class HealthReport:
    """What is known of one destination by one check.

    Attributes:
        healthy: The verdict; None before the first result, which counts as available.
        reason: What the last probe came to.
        latency: Seconds that the last successful probe took, or None.
    """

    healthy: bool | None = None
    reason: str = "not probed yet"
    latency: float | None = None


class Watcher(Protocol):
    """A pool that wants to know of a destination."""

    @property
    def transport(self) -> BoundTransport:
        """How its requests are sent: probes go the same way."""
        ...

    def refresh(self) -> None:
        """A verdict has changed."""
        ...

    def probed(self, watch: Watch) -> None:
        """A probe has passed."""
        ...


def watch_key(endpoint: Endpoint, check: HealthCheck, transport: object, tls: object) -> Hashable:
    """What two watches must have in common to share a verdict."""
    parts: list[Hashable] = [endpoint.origin, endpoint.base_path, check]
    for recipe in (transport, tls):
        try:
            hash(recipe)
        except TypeError:
            parts.append(id(recipe))
        else:
            parts.append(recipe)
    return tuple(parts)


@define(eq=False)
class Watch:
    """One destination under one check.

    Attributes:
        report: What is known.
        first: Set once there is a result.
    """

    key: Hashable
    check: HealthCheck
    endpoint: Endpoint
    watchers: dict[Watcher, int] = field(factory=dict)
    report: HealthReport = field(factory=HealthReport)
    first: asyncio.Event = field(factory=asyncio.Event)
    method: str = ""
    turn: int = -1
    streak: int = 0

    def __attrs_post_init__(self) -> None:
        self.method = self.check.method

    def enter(self, passed: bool, reason: str, latency: float | None) -> bool:
        """Enter a result; true if the verdict has changed. The first result decides alone."""
        known = self.report.healthy
        if known is None:
            healthy = passed
            self.streak = 0
        elif passed == known:
            healthy = known
            self.streak = 0
        else:
            self.streak += 1
            needed = self.check.rise if passed else self.check.fall
            healthy = passed if self.streak >= needed else known
            if healthy != known:
                self.streak = 0
        self.report = HealthReport(
            healthy=healthy,
            reason=reason,
            latency=latency if latency is not None else self.report.latency,
        )
        self.first.set()
        # Unknown counts as available: it becoming healthy changes nothing for a pool.
        return healthy != known and not (known is None and healthy)


class Prober:
    """Probes whatever is watched on one loop."""

    def __init__(
        self,
        clock: Clock,
        random: RandomSource,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        interval: float,
    ) -> None:
        self._clock = clock
        self._random = random
        self._spawn = spawn
        self.interval = interval
        self._watches: dict[Hashable, Watch] = {}
        self._due: list[tuple[float, int, Watch]] = []
        self._turns = itertools.count()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._wake = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Everything that is watched."""
        return tuple(self._watches.values())

    def watch(
        self, key: Hashable, check: HealthCheck, endpoint: Endpoint, watcher: Watcher
    ) -> Watch:
        """Begin to watch, or join those who do; a new watch is probed at once."""
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = Watch(key, check, endpoint)
            self._schedule(watch, 0.0)
        watch.watchers[watcher] = watch.watchers.get(watcher, 0) + 1
        return watch

    def unwatch(self, watch: Watch, watcher: Watcher) -> None:
        """End it for one pool; the last one ends the watch."""
        left = watch.watchers.get(watcher, 0) - 1
        if left > 0:
            watch.watchers[watcher] = left
            return
        watch.watchers.pop(watcher, None)
        if not watch.watchers and self._watches.get(watch.key) is watch:
            del self._watches[watch.key]

    def probe_now(self, watch: Watch) -> None:
        """Do not wait for its turn."""
        self._schedule(watch, 0.0)

    def set_interval(self, interval: float) -> None:
        """Take another interval, and probe everything at once."""
        self.interval = interval
        for watch in self._watches.values():
            self._schedule(watch, 0.0)

    def _schedule(self, watch: Watch, delay: float) -> None:
        watch.turn = turn = next(self._turns)
        heapq.heappush(self._due, (self._clock.monotonic() + delay, turn, watch))
        self._wake.set()
        if self._rounds is None or self._rounds.done():
            self._rounds = self._spawn(self._run(), "proxyroutes-health")

    async def _run(self) -> None:
        """Start each probe when it is due; ends when nothing is watched."""
        while self._watches:
            self._wake.clear()
            now = self._clock.monotonic()
            while self._due and self._due[0][0] <= now:
                _, turn, watch = heapq.heappop(self._due)
                # One that was scheduled anew, or is no longer watched, has left its old turn behind.
                if watch.turn == turn and self._watches.get(watch.key) is watch:
                    self._spawn(self._probe(watch, turn), "proxyroutes-probe")
            pause = self._due[0][0] - now if self._due else self.interval
            sleeping = asyncio.ensure_future(self._clock.sleep(pause))
            waking = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()

    async def _probe(self, watch: Watch, turn: int) -> None:
        async with self._at_once:
            passed, reason, latency = await self._ask_in_time(watch)
        if watch.turn != turn or self._watches.get(watch.key) is not watch:
            return
        if watch.enter(passed, reason, latency):
            _logger.warning(
                "health changed: destination=%s healthy=%s reason=%s",
                watch.endpoint.origin,
                watch.report.healthy,
                reason,
            )
            for watcher in tuple(watch.watchers):
                watcher.refresh()
        if passed:
            for watcher in tuple(watch.watchers):
                watcher.probed(watch)
        check = watch.check
        interval = check.interval or self.interval
        if watch.report.healthy is False and check.unhealthy_interval is not None:
            interval = check.unhealthy_interval
        spread = 1.0 + _JITTER * (2.0 * self._random.random() - 1.0)
        self._schedule(watch, interval * spread)

    async def _ask_in_time(self, watch: Watch) -> tuple[bool, str, float | None]:
        """Probe once: verdict, reason, seconds. A check that raises or hangs is a failure, and nothing else."""
        began = self._clock.monotonic()
        asking = asyncio.ensure_future(self._ask(watch))
        sleeping = asyncio.ensure_future(self._clock.sleep(watch.check.timeout))
        try:
            await asyncio.wait((asking, sleeping), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return False, f"no answer within {watch.check.timeout} s", None
            status = asking.result()
        except GatewayError as error:
            return False, f"{type(error).__name__}: {error.detail}", None
        except Exception as error:
            _logger.exception("a health check failed: destination=%s", watch.endpoint.origin)
            return False, type(error).__name__, None
        finally:
            sleeping.cancel()
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,))
        took = self._clock.monotonic() - began
        if status in watch.check.expect:
            return True, f"status {status}", took
        return False, f"status {status}", None

    async def _ask(self, watch: Watch) -> int:
        watcher = next(iter(watch.watchers), None)
        if watcher is None:
            raise GatewayError("no longer watched")
        status = await _status_of(watcher.transport, watch)
        if status in {405, 501} and watch.method == "HEAD" and status not in watch.check.expect:
            # RFC 9110 §9.1 has every general-purpose server support GET and HEAD; many do not. Asked once, remembered.
            watch.method = "GET"
            status = await _status_of(watcher.transport, watch)
        return status


async def _status_of(transport: BoundTransport, watch: Watch) -> int:
    head = ForwardedHead(
        watch.method.encode("ascii"), watch.check.path.encode("ascii"), list(_FIELDS), None, None
    )
    # The time is kept by who asks: no time-out of the transport's own must come before.
    unlimited = Timeouts(connect=None, first_byte=None, idle=None, total=None)
    response = await transport.send(head, None, watch.endpoint, unlimited, Attempt())
    try:
        await _read_a_little(response)
        return response.status
    finally:
        response.abort()


async def _read_a_little(response: UpstreamResponse) -> None:
    left = _MOST_CONTENT_BYTES
    while left > 0:
        chunk = await response.read()
        if not chunk:
            return
        left -= len(chunk)
