from fastapi import FastAPI

from proxyroutes import Destination, Proxy, Timeouts, UpstreamPool
from proxyroutes.policies import WeightedRoundRobin

users = UpstreamPool(
    "users",
    [
        Destination("http://10.0.0.1:8000", weight=2),
        "http://10.0.0.2:8000",
        Destination("http://10.0.0.3:8000", priority=1),
    ],
    balancing=WeightedRoundRobin(),
)
proxy = Proxy()


@proxy.route(
    "/api/<path>",
    upstream=users,
    rewrite="/v2/<path>",
    host="preserve",
    timeouts=Timeouts(connect=5.0, first_byte=30.0, idle=30.0),
    max_body_bytes=10_000_000,
)
async def api() -> None:
    """Forward the users API."""


@proxy.websocket("/live/<path>", upstream=users)
async def live() -> None:
    """Forward live updates."""


app = FastAPI()
app.include_router(proxy.build_router())
