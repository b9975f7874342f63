"""A body model on a stub: what is not valid never reaches the upstream, and the document says what is.

Run it with ``python examples/validate_at_the_edge.py``, and then:

    curl -i http://127.0.0.1:8000/orders -H "Content-Type: application/json" -d '{"fruit": "apple",  "count": 3}'
    curl -i http://127.0.0.1:8000/orders -H "Content-Type: application/json" -d '{"fruit": "apple", "count": 0}'

Watch the 422, in FastAPI's usual shape, for which the upstream is not asked, and the bytes that it got of the valid one: the
two spaces are still there. ``http://127.0.0.1:8000/docs`` shows the model.
"""

from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

from proxyroutes import ForwardedRequest, Proxy

orders = FastAPI()


@orders.post("/orders")
async def take(request: Request) -> dict[str, str]:
    """Answer with the bytes that came."""
    return {"received": (await request.body()).decode()}


class Order(BaseModel):
    """What a client may order."""

    fruit: str
    count: Annotated[int, Field(gt=0, le=100)]


proxy = Proxy()


@proxy.post("/orders", upstream=orders, max_body_bytes=10_000)
async def order(
    order: Order, request: ForwardedRequest, x_tier: Annotated[str, Header()] = "basic"
) -> None:
    """Forward what is valid, as it was received."""
    if order.count > 10 and x_tier == "basic":
        raise HTTPException(403, "that many are not for you")
    request.headers["X-Order-Size"] = "large" if order.count > 10 else "small"


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
