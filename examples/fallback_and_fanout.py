"""A stub wraps the exchange: it falls back to another pool, then to what it remembers, and asks two services at once.

Run it with ``python examples/fallback_and_fanout.py``, and then, the first one three times:

    curl -i http://127.0.0.1:8000/prices/apple
    curl -i http://127.0.0.1:8000/pages/apple

Watch X-From: the live service answers, then it breaks and the replica does, then that breaks too and the last good answer
is given again. The page is made of two answers that were waited for at the same time.
"""

import asyncio

import uvicorn
from fastapi import FastAPI, Response

from proxyroutes import Forward, Proxy, UpstreamPool
from proxyroutes.transports import ASGITransport

shop, lives = FastAPI(), {"live": 1, "replica": 1, "stock": 9}


@shop.get("/{name}/{path:path}")
async def answer(name: str, path: str, response: Response) -> dict[str, str]:
    """Answer for each of three services, as often as it lives."""
    lives[name] -= 1
    response.status_code = 200 if lives[name] >= 0 else 503
    return {"by": name, "path": path}


proxy, remembered, link = Proxy(), dict[str, bytes](), ASGITransport(shop)
pools = (UpstreamPool(name, [f"http://shop.internal/{name}"], transport=link) for name in lives)
live, replica, stock = pools


@proxy.get("/prices/<fruit>", upstream=live)
async def prices(forward: Forward, fruit: str) -> Response:
    """Ask the live service, then its replica, then one's own memory."""
    for upstream in (live, replica):
        response = await forward(upstream=upstream)
        if response.status_code == 200:
            remembered[fruit] = await response.read(limit=10_000)
            response.headers["X-From"] = upstream.name
            return response
    return Response(remembered[fruit], headers={"X-From": "memory"})


@proxy.get("/pages/<fruit>", upstream=stock)
async def page(forward: Forward) -> dict[str, str]:
    """Ask two services at once, and answer with both."""
    both = await asyncio.gather(forward(), forward(upstream=live, path="/prices"))
    return {name: (await one.read()).decode() for name, one in zip("ab", both, strict=True)}


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
