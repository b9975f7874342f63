"""A big and a small instance of one service, and a pool that changes while it runs.

Run it with ``python examples/weighted_pool.py`` and ask it a few times:

    curl http://127.0.0.1:8000/api/hello

Watch who answers: "big" three times as often as "small". ``curl -X POST http://127.0.0.1:8000/pool/small/drain`` takes
the small one out, ``.../undrain`` lets it in again, slowly, and ``curl http://127.0.0.1:8000/pool`` shows both.
"""

import os

import attrs
import uvicorn
from fastapi import FastAPI

from proxyroutes import Destination, Proxy, UpstreamPool
from proxyroutes.policies import WeightedRoundRobin

URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
app = FastAPI()
proxy = Proxy()
both = [Destination(f"{URL}/big", weight=3), Destination(f"{URL}/small")]
instances = UpstreamPool("instances", both, balancing=WeightedRoundRobin(), slow_start=10.0)


@proxy.get("/api/<path>", upstream=instances, rewrite="/<path>")
async def api() -> None:
    """Forward to one of the instances."""


app.include_router(proxy.build_router())


@app.get("/pool")
async def show() -> list[dict[str, object]]:
    """Show both instances, with their weights and what they carry."""
    return [attrs.asdict(status) for status in instances.status()]


@app.post("/pool/{name}/{change}")
async def change_pool(name: str, change: str) -> None:
    """Drain an instance, or use it again."""
    if change == "drain":
        await instances.drain(f"{URL}/{name}", grace=5.0)
    else:
        instances.undrain(f"{URL}/{name}")


@app.get("/{instance}/hello")
async def hello(instance: str) -> str:
    """Say which instance this is."""
    return f"hello from {instance}"


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
