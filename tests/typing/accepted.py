"""What type checkers accept: the public API as users write it. Never run."""

import asyncio
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from proxyroutes import (
    Destination,
    Forward,
    ForwardedRequest,
    GatewayError,
    GatewayMiddleware,
    HealthCheck,
    HealthMonitor,
    Proxy,
    RelayResponse,
    Session,
    Timeouts,
    UpstreamPool,
)
from proxyroutes.exceptions import EditError, UpstreamTimeoutError
from proxyroutes.policies import LeastLatency

monitor = HealthMonitor(interval=5.0)
users = UpstreamPool(
    "users",
    ["http://127.0.0.1:9001", Destination("http://127.0.0.1:9002", weight=2)],
    monitor=monitor,
    balancing=LeastLatency(),
    health=HealthCheck("/healthz"),
)
proxy = Proxy(monitor=monitor, timeouts=Timeouts(total=30.0))


class Item(BaseModel):
    """A body."""

    name: str


def login() -> str:
    """A dependency."""
    return "ann"


@proxy.route("/silent/<path>", upstream=users)
async def silent() -> None:
    """Say nothing."""


@proxy.post("/items", upstream=users, max_body_bytes=1_000, identity_headers=["X-User"])
async def guarded(
    item: Item, request: ForwardedRequest, user: Annotated[str, Depends(login)]
) -> None:
    """Guard and edit."""
    try:
        request.headers["X-User"] = user
    except EditError as error:
        assert_type(error.location, str)
    request.query.set("name", item.name)
    request.path = "/v2" + request.path


@proxy.get("/wrapped", upstream=users)
async def wrapped(forward: Forward) -> Response:
    """Wrap the exchange."""
    try:
        response = await forward(path="/a", extra_headers={"X-A": "1"}, forward_query=False)
    except GatewayError as error:
        if isinstance(error, UpstreamTimeoutError):
            return JSONResponse({"sent": error.sent}, error.status_code)
        response = await forward(upstream="http://127.0.0.1:9003/base", timeouts=Timeouts())
    assert_type(response, RelayResponse)
    response.status_code = 203
    response.headers["X-B"] = "2"
    assert_type(await response.read(limit=1_000), bytes)
    assert_type(response.text, str)
    first, second = await asyncio.gather(forward(), forward(upstream=users, body={"a": 1}))
    assert_type(second, RelayResponse)
    return StreamingResponse(first.aiter_bytes())


@proxy.on_error(UpstreamTimeoutError)
async def slow(error: UpstreamTimeoutError, request: ForwardedRequest) -> dict[str, str]:
    """Answer a failure."""
    return {"slow": request.route}


@proxy.websocket("/live/<path>", upstream=users)
async def live(session: Session) -> None:
    """See each message."""
    await session.relay(from_client=lambda message: message)


# A decorator gives back what it was given.
def _unchanged() -> None:
    assert_type(login(), str)
    assert_type(proxy.get("/x", upstream=users)(login)(), str)


app = FastAPI(lifespan=proxy.lifespan)
app.add_middleware(GatewayMiddleware, proxy=proxy)
app.include_router(proxy.build_router(prefix="/api"))


@app.get("/imperative")
async def imperative(request: Request) -> Any:
    """Forward from an endpoint."""
    return await proxy.forward(request, users, method="PUT", headers=[("X-A", "1")])
