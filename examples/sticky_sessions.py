"""A shop that keeps carts in memory: each client comes back to the instance that has its cart.

Run it with ``python examples/sticky_sessions.py`` and fill a cart; the cookie of the first answer is kept in a file:

    curl -c jar -b jar -X POST http://127.0.0.1:8000/shop/cart/tea
    curl -c jar -b jar -X POST http://127.0.0.1:8000/shop/cart/milk

Watch the cart grow, always at the same instance; without ``-b jar`` every request may meet another, empty one. Then
``curl -X POST http://127.0.0.1:8000/drain/one``: its clients move to the other instance, with a new cookie.
"""

import os
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, HTTPException

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.policies import CookieAffinity

# The instances are in the same application here; elsewhere they would be processes of their own.
SHOP_URL = os.environ.get("SHOP_URL", "http://127.0.0.1:8000")
# The same in every process of the gateway, and known to nobody else.
SECRET = os.environ.get("AFFINITY_SECRET", "only for this example")
URLS = {name: f"{SHOP_URL}/{name}" for name in ("one", "two")}

app = FastAPI()
carts: defaultdict[str, list[str]] = defaultdict(list)
shop = UpstreamPool("shop", URLS.values(), affinity=CookieAffinity(secret=SECRET))
proxy = Proxy()


@proxy.route("/shop/<path>", upstream=shop, rewrite="/<path>")
async def shop_api() -> None:
    """Forward to the instance that the client belongs to."""


app.include_router(proxy.build_router())


@app.post("/drain/{instance}")
async def drain(instance: str) -> None:
    """Let no new request come to an instance; its clients are redistributed."""
    if instance not in URLS:
        raise HTTPException(404)
    await shop.drain(URLS[instance], grace=5.0)


@app.post("/{instance}/cart/{item}")
async def add(instance: str, item: str) -> dict[str, str | list[str]]:
    """Put something into the cart of this instance."""
    carts[instance].append(item)
    return {"instance": instance, "cart": carts[instance]}


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
