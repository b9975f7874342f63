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

from proxyroutes._state.checks import Finding, Probed, ask
from proxyroutes.exceptions import GatewayError
from proxyroutes.settings import Check, HealthCheck
from proxyroutes.typing import BoundTransport, Clock, RandomSource

__all__ = ["HealthReport", "Prober", "Watch", "watch_key"]

_AT_ONCE = 64
"""Probes at a time; a thousand destinations must not open a thousand connections in one moment."""
_JITTER = 0.1
"""Share of an interval by which each one is lengthened or shortened (HAProxy's ``spread-checks``)."""
_STUBBORN = 1.0
"""Seconds for a check that was cancelled to end. One that goes on all the same is left to itself."""
_LONGEST_REASON = 200
"""Characters of what a check has raised."""

_logger = logging.getLogger("proxyroutes.health")


@frozen(kw_only=True)
class HealthReport:
    """What is known of one destination by one check.

    Attributes:
        healthy: The verdict; None before the first result, which counts as available.
        reason: What the last probe came to.
        latency: Seconds that the last successful probe took, or None.
        weight: The weight that the last successful probe gave, or None.
    """

    healthy: bool | None = None
    reason: str = "not probed yet"
    latency: float | None = None
    weight: float | None = None


class Watcher(Protocol):
    """A pool that wants to know of a destination."""

    @property
    def transport(self) -> BoundTransport:
        """How its requests are sent: probes go the same way."""
        ...

    def judged(self, watch: Watch, before: HealthReport) -> None:
        """A verdict has changed, the first one among them, or the weight that goes with it."""
        ...

    def passed(self, watch: Watch) -> None:
        """A probe has passed."""
        ...


def watch_key(endpoint: Probed, check: Check, transport: object, tls: object) -> Hashable:
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
    check: Check
    endpoint: Probed
    watchers: dict[Watcher, int] = field(factory=dict)
    report: HealthReport = field(factory=HealthReport)
    first: asyncio.Event = field(factory=asyncio.Event)
    method: str = ""
    turn: int = -1
    streak: int = 0

    def __attrs_post_init__(self) -> None:
        if isinstance(self.check, HealthCheck):
            self.method = self.check.method

    def enter(self, finding: Finding, latency: float | None) -> None:
        """Enter a result. The first one decides alone."""
        known, passed = self.report.healthy, finding.passed
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
            reason=finding.reason,
            latency=self.report.latency if latency is None else latency,
            weight=finding.weight if passed else self.report.weight,
        )
        self.first.set()


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

    def watch(self, key: Hashable, check: Check, endpoint: Probed, watcher: Watcher) -> Watch:
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
            # There will be no result: whoever waits for the first one looks again.
            watch.first.set()

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
            watcher = next(iter(watch.watchers), None)
            if watcher is None:
                return
            finding, latency = await self._ask_in_time(watch, watcher.transport)
        if watch.turn != turn or self._watches.get(watch.key) is not watch:
            return
        if watcher not in watch.watchers:
            # The pool whose connections it went over has closed meanwhile: that says nothing of the destination.
            self._schedule(watch, 0.0)
            return
        self._enter(watch, finding, latency)
        check = watch.check
        interval = check.interval or self.interval
        if watch.report.healthy is False and check.unhealthy_interval is not None:
            interval = check.unhealthy_interval
        spread = 1.0 + _JITTER * (2.0 * self._random.random() - 1.0)
        self._schedule(watch, interval * spread)

    def _enter(self, watch: Watch, finding: Finding, latency: float | None) -> None:
        before = watch.report
        watch.enter(finding, latency)
        after = watch.report
        changed = before.healthy is not after.healthy
        # Unknown counts as available: it becoming healthy is not worth a line.
        if changed and not (before.healthy is None and after.healthy):
            _logger.warning(
                "health changed: destination=%s healthy=%s reason=%s",
                watch.endpoint.origin,
                after.healthy,
                finding.reason,
            )
        for watcher in tuple(watch.watchers):
            if changed or before.weight != after.weight:
                watcher.judged(watch, before)
            if finding.passed:
                watcher.passed(watch)

    async def _ask_in_time(
        self, watch: Watch, transport: BoundTransport
    ) -> tuple[Finding, float | None]:
        """Probe once: finding, seconds. A check that raises or hangs is a failure, and nothing else."""
        began = self._clock.monotonic()
        check = watch.check
        asking = asyncio.ensure_future(ask(check, watch.method, transport, watch.endpoint))
        sleeping = asyncio.ensure_future(self._clock.sleep(check.timeout))
        try:
            await asyncio.wait((asking, sleeping), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return Finding(passed=False, reason=f"no answer within {check.timeout} s"), None
            finding, watch.method = asking.result()
        except GatewayError as error:
            return Finding(passed=False, reason=f"{type(error).__name__}: {error.detail}"), None
        except asyncio.CancelledError:
            if not asking.cancelled():
                raise
            return Finding(passed=False, reason="the check cancelled itself"), None
        except Exception as error:
            if not isinstance(error, OSError):
                _logger.exception("a health check failed: destination=%s", watch.endpoint.origin)
            return Finding(passed=False, reason=_reason(check, error)), None
        finally:
            sleeping.cancel()
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,), timeout=_STUBBORN)
        return finding, self._clock.monotonic() - began if finding.passed else None


def _reason(check: Check, error: Exception) -> str:
    """What is shown of an exception: its text too, where the user's own function raised it or the system did."""
    name = type(error).__name__
    if isinstance(check, HealthCheck) or not str(error):
        return name
    text = f"{name}: {error}"
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."
