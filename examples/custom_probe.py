"""Workers with queues: the check is a function that reads the depth of a queue, and gives the worker its weight.

Run it with ``python examples/custom_probe.py``, fill one queue, and ask it a few times:

    curl -X POST http://127.0.0.1:8000/left/queue/9
    curl http://127.0.0.1:8000/api/hello

Watch who answers: "right" ten times as often, a second later. Fill both with 100, and ``/ready`` answers 503.
"""

import os

import uvicorn
from fastapi import Depends, FastAPI

from proxyroutes import Destination, HealthMonitor, Proxy, UpstreamPool
from proxyroutes.policies import WeightedRoundRobin

URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
queues = {"left": 0, "right": 0}
app = FastAPI()
monitor = HealthMonitor(interval=1.0)
workers = UpstreamPool("workers", [f"{URL}/left", f"{URL}/right"], balancing=WeightedRoundRobin())
proxy = Proxy(monitor=monitor)


@workers.probe(rise=1, fall=1)
async def has_room(worker: Destination) -> float:
    """Give a worker its weight: less where more waits, and none at all from a hundred on."""
    depth = queues[worker.url.rpartition("/")[2]]
    return 0 if depth >= 100 else 10 / (1 + depth)


@proxy.get("/api/<path>", upstream=workers, rewrite="/<path>")
async def api() -> None:
    """Forward to a worker that has room."""


app.include_router(proxy.build_router())


@app.get("/ready", dependencies=[Depends(monitor.ready)])
async def ready() -> None:
    """Say whether there is a worker that has room."""


@app.post("/{worker}/queue/{depth}")
async def fill_queue(worker: str, depth: int) -> None:
    """Have so much wait at this worker."""
    queues[worker] = depth


app.get("/{worker}/hello")(lambda worker: f"hello from {worker}")

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
