"""``HealthMonitor`` as applications have it: the monitor of ``_state``, and its dependency for readiness endpoints."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from proxyroutes._state import monitor

__all__ = ["HealthMonitor"]


class HealthMonitor(monitor.HealthMonitor):
    """Watches over destinations for any number of pools, routes and apps.

    Also an asynchronous context manager by itself.

    Args:
        interval: Seconds between two probes of a destination, for checks that do not say it themselves.
        clock: Where time comes from; for tests.
        random: Where jitter and random choices come from; for tests.

    Raises:
        ValueError: If the interval is not greater than 0.
    """

    async def ready(self) -> None:
        """A FastAPI dependency for a readiness endpoint: it is answered 503 until every pool has something available.

        ```python
        @app.get("/ready", dependencies=[Depends(monitor.ready)])
        async def ready() -> None: ...
        ```

        Pools count that run on this event loop. Liveness is another question: a gateway without upstreams is alive.

        Raises:
            HTTPException: With 503 and the names of the pools that have nothing.

        Source:
            RFC 9110 §15.6.4 (503 Service Unavailable).
        """
        names = self.unready()
        if names:
            raise HTTPException(
                503, f"nothing available in: {', '.join(names)}", headers={"Retry-After": "1"}
            )
