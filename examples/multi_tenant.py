"""Every tenant has a pool of its own: it is chosen for each request, by the key that the tenant's clients send.

Run it with ``python examples/multi_tenant.py`` and ask it:

    curl -H "X-Api-Key: blue-key" http://127.0.0.1:8000/api/hello
    curl -H "X-Api-Key: red-key" http://127.0.0.1:8000/api/hello

Watch that each tenant has its own service, and nobody another one's: what clients say in ``X-Tenant`` is deleted.
"""

import os
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException

from proxyroutes import ForwardedRequest, Proxy, UpstreamPool

SERVICE_URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
app = FastAPI()
tenants = {"blue-key": "blue", "red-key": "red"}
pools = {name: UpstreamPool(name, [f"{SERVICE_URL}/{name}"]) for name in tenants.values()}
proxy = Proxy()


def find_tenant(x_api_key: Annotated[str, Header()] = "") -> str:
    """Whose key it is."""
    if x_api_key not in tenants:
        raise HTTPException(401)
    return tenants[x_api_key]


def choose_pool(request: ForwardedRequest) -> UpstreamPool:
    """The tenant's pool; an async function could ask a database for it."""
    return pools[request.headers["x-tenant"]]


@proxy.route(
    "/api/<path>",
    upstream=choose_pool,
    rewrite="/<path>",
    identity_headers=["x-tenant"],
)
async def api(tenant: Annotated[str, Depends(find_tenant)], request: ForwardedRequest) -> None:
    """Forward to the tenant's own service."""
    request.headers["x-tenant"] = tenant


app.include_router(proxy.build_router())


@app.get("/{name}/hello")
async def hello(name: str, x_tenant: Annotated[str, Header()]) -> str:
    """Be the service of every tenant."""
    return f"hello from {name}, for {x_tenant}"


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
