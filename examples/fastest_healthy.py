"""Two instances of one service: requests go to the healthy one that answers its checks fastest.

Run it with ``python examples/fastest_healthy.py``, wait two seconds for the first good checks, and ask it:

    curl http://127.0.0.1:8000/api/hello

Watch who answers: "near". Then ``curl -X POST http://127.0.0.1:8000/near/break``, wait a second, and it is "far".
"""

import asyncio
import os

import uvicorn
from fastapi import FastAPI, Response

from proxyroutes import HealthCheck, Proxy, UpstreamPool
from proxyroutes.policies import LeastLatency

SERVICE_URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
app = FastAPI()
broken: set[str] = set()
instances = UpstreamPool(
    "instances",
    [f"{SERVICE_URL}/near", f"{SERVICE_URL}/far"],
    balancing=LeastLatency(),
    health=HealthCheck("/healthz", interval=1.0, rise=1, fall=1),
)
proxy = Proxy()


@proxy.get("/api/<path>", upstream=instances, rewrite="/<path>")
async def api() -> None:
    """Forward to the fastest healthy instance."""


app.include_router(proxy.build_router())


@app.head("/{instance}/healthz")
async def healthz(instance: str) -> Response:
    """Say whether this instance is well; the far one takes its time."""
    await asyncio.sleep(0.05 if instance == "far" else 0.0)
    return Response(status_code=503 if instance in broken else 200)


@app.post("/{instance}/break")
async def break_it(instance: str) -> None:
    """Make an instance fail its checks."""
    broken.add(instance)


@app.get("/{instance}/hello")
async def hello(instance: str) -> str:
    """Say which instance this is."""
    return f"hello from {instance}"


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
