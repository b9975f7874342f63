"""An ordinary endpoint that forwards whatever the app's other endpoints do not take.

Run it with ``python examples/proxy_everything.py``, and then:

    curl http://127.0.0.1:8000/hello
    curl -d milk=2 "http://127.0.0.1:8000/basket?user=ann"

Watch who answers: ``/hello`` is the app's own, all else is the shop's, with its method, query and content.
"""

import uvicorn
from fastapi import FastAPI, Request, Response

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.transports import ASGITransport

shop = FastAPI()


@shop.api_route("/{page:path}", methods=["GET", "POST", "PUT", "DELETE"])
async def sell(request: Request) -> dict[str, str]:
    """Answer with what was received."""
    content = (await request.body()).decode()
    received = f"{request.method} {request.url.path}?{request.url.query}"
    return {"answered by": "the shop", "received": received, "content": content}


# Where the shop is a server of its own, its URL is all that `forward` needs.
upstream = UpstreamPool("shop", ["http://shop.internal"], transport=ASGITransport(shop))
proxy = Proxy()
app = FastAPI(lifespan=proxy.lifespan)


@app.get("/hello")
async def hello() -> dict[str, str]:
    """Answer without the shop: it is declared first, and so it is found first."""
    return {"answered by": "the app"}


@app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
async def everything(request: Request) -> Response:
    """Forward what is left."""
    return await proxy.forward(request, upstream)


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
