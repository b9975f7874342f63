"""What the status page can change, where its author has allowed it: drain, undrain and weigh a destination."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

from attrs import frozen
from fastapi import HTTPException
from starlette.requests import Request

from proxyroutes._state.pools import UpstreamPool

__all__ = ["Change", "Changes", "read_change"]

_MOST_BYTES = 4_096
_ACTIONS = ("drain", "undrain", "weight")
_logger = logging.getLogger("proxyroutes.status")


@frozen(kw_only=True)
class Change:
    """One change that was asked for.

    Attributes:
        pool: The pool's name.
        destination: The destination's URL.
        action: ``"drain"``, ``"undrain"`` or ``"weight"``.
        weight: The new weight, where that is the action.
    """

    pool: str
    destination: str
    action: str
    weight: int | None


async def read_change(request: Request) -> Change:
    """Read the request's content, and no more of it than a change can have.

    Raises:
        HTTPException: With 400 or 413, if it is none.
    """
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise HTTPException(413, "A change is a small JSON object.")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "A change is a JSON object.") from error
    if not isinstance(values, dict) or values.get("action") not in _ACTIONS:
        raise HTTPException(400, f"A change has an action: {', '.join(_ACTIONS)}.")
    pool, destination, weight = (values.get(name) for name in ("pool", "destination", "weight"))
    if not isinstance(pool, str) or not isinstance(destination, str):
        raise HTTPException(400, "A change names a pool and a destination.")
    whole = isinstance(weight, int) and not isinstance(weight, bool)
    if values["action"] == "weight" and not whole:
        raise HTTPException(400, "A weight is a whole number.")
    return Change(pool=pool, destination=destination, action=values["action"], weight=weight)


class Changes:
    """Makes changes, and keeps the drains that run."""

    def __init__(self) -> None:
        self._drains: set[asyncio.Task[Any]] = set()

    def make(self, change: Change, pools: Iterable[UpstreamPool]) -> None:
        """Make a change. A drain goes on by itself: its progress is seen in the destination's row.

        Raises:
            HTTPException: With 404 if there is no such pool or destination, with 400 if the pool refuses.
        """
        pool = next((one for one in pools if one.name == change.pool), None)
        known = () if pool is None else pool.destinations
        if pool is None or all(one.url != change.destination for one in known):
            raise HTTPException(404, "There is no such destination any more.")
        try:
            if change.action == "weight" and change.weight is not None:
                pool.set_weight(change.destination, change.weight)
            elif change.action == "undrain":
                pool.undrain(change.destination)
            else:
                self._drain(pool, change.destination)
        except ValueError as error:
            raise HTTPException(400, "A weight is at least 1.") from error
        _logger.warning(
            "changed by the status page: pool=%s destination=%s action=%s weight=%s",
            change.pool,
            change.destination,
            change.action,
            change.weight,
        )

    def _drain(self, pool: UpstreamPool, destination: str) -> None:
        task = asyncio.create_task(pool.drain(destination), name="proxyroutes-status-drain")
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    async def aclose(self) -> None:
        """Wait for no drain any more; what was drained stays so."""
        for task in tuple(self._drains):
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
