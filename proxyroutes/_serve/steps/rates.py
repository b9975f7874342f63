"""Rate limits on the way of a request: counted before anything is asked of an upstream."""

from __future__ import annotations

import asyncio
import logging
import math
from hashlib import blake2b

from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.keys import bind_key, client_key
from proxyroutes._state.monitor import HealthMonitor
from proxyroutes.exceptions import RateLimitError
from proxyroutes.policies.rates import MemoryStore, RateLimit, Rates, Verdict
from proxyroutes.typing import ForwardedHead

__all__ = ["RateAdmission"]

_logger = logging.getLogger("proxyroutes.serve")
_COUNTED = "proxyroutes.counted"


class _Count:
    """What one limit has come to for one request."""

    __slots__ = ("lock", "passed")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.passed = False


class RateAdmission:
    """One rate limit of a proxy; every route that was given the same ``RateLimit`` has the same one of these."""

    __slots__ = ("_key", "_monitor", "_rates", "_recipe")

    def __init__(self, recipe: RateLimit, monitor: HealthMonitor) -> None:
        self._recipe = recipe
        self._monitor = monitor
        self._key = bind_key(recipe.key)
        # Not one for each event loop: what is kept is numbers, and a client is one client for all of them.
        self._rates: Rates | None = None

    async def __call__(
        self, exchange: Exchange, plan: Plan, found: Found, head: ForwardedHead
    ) -> None:
        """Count a request, once however often its stub forwards it.

        Raises:
            RateLimitError: If there were too many.
            GatewayError: If a time-out passed.
            ClientLeft: If the client left.
        """
        scope = exchange.scope or {"headers": ()}
        count = scope.setdefault(_COUNTED, {}).setdefault(id(self), _Count())
        if count.passed:
            return
        key = self._key(plan, found, scope, head)
        # Keys that clients choose may be long; what is kept of each is not. The two kinds never meet.
        text = b"key:" + key if key else b"client:" + client_key(scope)
        rates = self._rates or self._bind()
        exchange.enter()
        try:
            # Of forwards at the same time one is counted, and none passes before that one has.
            async with count.lock:
                if count.passed:
                    return
                verdict = await rates.take(blake2b(text, digest_size=16).digest())
                count.passed = verdict.admitted
        except asyncio.CancelledError as error:
            reason = exchange.settle()
            if reason is None:
                raise
            raise reason from error
        except Exception:
            # A store that is down must not take the gateway with it.
            count.passed = True
            _logger.exception(
                "a rate limit's store failed: the request passes, route=%s", plan.name
            )
            return
        finally:
            exchange.leave()
        if not verdict.admitted:
            # Asked again, it is counted again.
            raise _refusal(rates, verdict)

    def _bind(self) -> Rates:
        store = self._recipe.store or MemoryStore(self._monitor.state().clock)
        self._rates = self._recipe.bind(store)
        return self._rates


def _refusal(rates: Rates, verdict: Verdict) -> RateLimitError:
    # The draft: Retry-After and RateLimit-Reset should mean the same point in time.
    reset = max(1, math.ceil(verdict.wait))
    values = (("limit", rates.burst), ("remaining", 0), ("reset", reset), ("policy", rates.policy))
    return RateLimitError(
        f"more than {rates.count} requests in {rates.seconds:g} s",
        retry_after=verdict.wait,
        fields=tuple(
            (f"ratelimit-{name}".encode(), str(value).encode()) for name, value in values
        ),
    )
