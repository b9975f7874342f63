"""Two instances, one of which begins to fail: clients see nothing of it, and after a while it is left alone.

Run it with ``python examples/retries_and_outliers.py``, break an instance, and ask ten times:

    curl -X POST http://127.0.0.1:8000/one/break
    curl "http://127.0.0.1:8000/api/hello?[1-10]" http://127.0.0.1:8000/status

Watch every answer come from "two", while "one" is tried five times and then ejected. Orders are different:
``curl -X POST http://127.0.0.1:8000/api/order`` is sent once, unless it has a key: ``-H "Idempotency-Key: 1"``.
"""

import os

import uvicorn
from fastapi import FastAPI, Response

from proxyroutes import Proxy, Retry, UpstreamPool
from proxyroutes.policies import OutlierDetection, RetryBudget, RoundRobin

SERVICE_URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
app, proxy = FastAPI(), Proxy()
broken: set[str] = set()
service = UpstreamPool(
    "service",
    [f"{SERVICE_URL}/one", f"{SERVICE_URL}/two"],
    balancing=RoundRobin(),
    retry=Retry(on=[503], budget=RetryBudget(ratio=0.2, floor=5)),
    outliers=OutlierDetection(consecutive=5, ejection=30.0),
)


@proxy.route("/api/<path>", upstream=service, rewrite="/<path>")
async def api() -> None:
    """Forward, and try again where that does no harm."""


app.include_router(proxy.build_router())


@app.get("/status")
async def status() -> dict[str, str]:
    """Say of each instance whether it is asked, and why."""
    return {one.url: f"available={one.available}: {one.reason}" for one in service.status()}


@app.post("/{instance}/break")
async def break_it(instance: str) -> None:
    """Make an instance answer 503."""
    broken.add(instance)


@app.api_route("/{instance}/{path}", methods=["GET", "POST"])
async def answer(instance: str, path: str) -> Response:
    """Say which instance this is, unless it is broken."""
    return Response(f"{path} from {instance}\n", 503 if instance in broken else 200)


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
