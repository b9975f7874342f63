"""A new version gets one visitor in five, and a newer one a copy of every request, whose answers are compared.

Run it with ``python examples/canary_and_mirror.py`` and ask it as several visitors:

    for i in 1 2 3 4 5 6 7 8; do curl -b visitor=$i http://127.0.0.1:8000/shop/price; done

Watch that a visitor keeps its version, and in the log what the newest one would have answered. With
``curl -X POST http://127.0.0.1:8000/canary/50`` it is every second visitor; none of those who had it loses it.
"""

import logging
import os

import uvicorn
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.policies import Comparison, Mirror, WeightedSplit

SERVICE_URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
logger = logging.getLogger("uvicorn.error")
app = FastAPI()
versions = ("v1", "v2", "v3")
stable, canary, newest = (UpstreamPool(name, [f"{SERVICE_URL}/{name}"]) for name in versions)
visitors = WeightedSplit({stable: 80, canary: 20}, key="cookie:visitor")
proxy = Proxy()


def compare(pair: Comparison) -> None:
    """Log what the newest version answers otherwise."""
    if pair.primary.body != pair.shadow.body:
        logger.warning("%s: %s is %s", pair.target, pair.primary.body, pair.shadow.body)


newest_too = Mirror(to=newest, compare=compare)


@proxy.get("/shop/<path>", upstream=visitors, rewrite="/<path>", mirror=newest_too)
async def shop() -> None:
    """Forward to the visitor's version, with a copy for the newest."""


app.include_router(proxy.build_router())


@app.post("/canary/{percent}")
async def set_canary(percent: int) -> None:
    """Change the canary's share."""
    visitors.set_weights({stable: 100 - percent, canary: percent})


@app.get("/{version}/price")
async def price(version: str) -> dict[str, int]:
    """Be every version of the service."""
    return {"price": {"v1": 10, "v2": 10, "v3": 12}[version]}


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
