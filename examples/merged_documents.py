"""One document for a gateway and what is behind it.

Run it with ``python examples/merged_documents.py``, open http://127.0.0.1:8000/docs, and then:

    curl http://127.0.0.1:8000/openapi.json

Watch the operations of both upstreams under the gateway's paths, without the one that no route leads to.
"""

import uvicorn
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.transports import ASGITransport

users = FastAPI(title="users")
orders = FastAPI(title="orders")


@users.get("/v2/users/{user_id}", tags=["accounts"])
def show_user(user_id: int) -> dict[str, int]:
    """Show one user."""
    return {"id": user_id}


@users.get("/internal/metrics")
def metrics() -> None:
    """No route leads here."""


@orders.get("/orders")
def list_orders(limit: int = 10) -> list[int]:
    """List the last orders."""
    return list(range(limit))


user_pool = UpstreamPool("users", ["http://users.internal"], transport=ASGITransport(users))
order_pool = UpstreamPool("orders", ["http://orders.internal"], transport=ASGITransport(orders))
proxy = Proxy()


@proxy.get("/api/<path>", upstream=user_pool, rewrite="/v2/<path>")
async def users_api() -> None:
    """Forward the users API."""


@proxy.get("/shop/<path>", upstream=order_pool, rewrite="/<path>")
async def orders_api() -> None:
    """Forward the orders API."""


proxy.merge_openapi(user_pool)
proxy.merge_openapi(order_pool)

app = FastAPI(title="everything")
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
