"""A balancing policy of your own: each half of the pool has a shift of a minute.

Run it with ``python examples/custom_policy.py`` and ask it, now and in a minute:

    curl http://127.0.0.1:8000/api/hello

Watch who answers: the other half, as soon as the minute is over. A policy never blocks, and is given who may be asked.
"""

import os
from collections.abc import Sequence

import uvicorn
from attrs import frozen
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.typing import Candidate, Clock, ForwardedHead, RandomSource

URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")


@frozen
class Shift:
    """What one pool has of it: the time."""

    clock: Clock

    def pick(self, candidates: Sequence[Candidate], _: ForwardedHead, /) -> Candidate:
        """Of those whose shift it is, the one with the least to do. There are always two candidates or more."""
        half = candidates[int(self.clock.monotonic() // 60) % 2 :: 2]
        return min(half, key=lambda one: one.in_flight / one.weight)


@frozen
class Shifts:
    """The recipe, which any number of pools may share."""

    def bind(self, *, clock: Clock, random: RandomSource) -> Shift:  # noqa: ARG002 - not needed here.
        """Make what one pool has."""
        return Shift(clock)


app, proxy = FastAPI(), Proxy()
pool = UpstreamPool("instances", [f"{URL}/{name}" for name in "abcd"], balancing=Shifts())


@proxy.get("/api/<path>", upstream=pool, rewrite="/<path>")
async def api() -> None:
    """Forward to one of those whose shift it is."""


app.include_router(proxy.build_router())
app.get("/{name}/hello")(lambda name: f"hello from {name}")

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
