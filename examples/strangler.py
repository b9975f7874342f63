"""An old service is replaced piece by piece: what the new one can do already goes there, under the same paths.

Run it with ``python examples/strangler.py`` and ask it:

    curl http://127.0.0.1:8000/orders/7
    curl -X POST http://127.0.0.1:8000/orders
    curl http://127.0.0.1:8000/customers/7
    curl -b tester=1 http://127.0.0.1:8000/customers/7

Watch who answers: reading orders is moved, writing them is not; customers are moved for testers alone. Each further piece
is one more route in front of the last one.
"""

import os

import uvicorn
from fastapi import FastAPI, Request

from proxyroutes import Match, Proxy, UpstreamPool
from proxyroutes.typing import ReceivedRequest

SERVICE_URL = os.environ.get("SERVICE_URL", "http://127.0.0.1:8000")
app = FastAPI()
old = UpstreamPool("old", [f"{SERVICE_URL}/services/old"])
new = UpstreamPool("new", [f"{SERVICE_URL}/services/new"])
proxy = Proxy()


def is_tester(request: ReceivedRequest) -> bool:
    """Whoever tries what is not for everybody yet."""
    return request.cookies.get("tester") == "1"


@proxy.get("/orders/<int:order>", upstream=new)
async def read_order() -> None:
    """Moved: reading one order."""


@proxy.route("/customers/<path>", upstream=new, match=Match(when=is_tester))
async def customers() -> None:
    """Moved for testers: all of the customers."""


@app.api_route("/services/{name}/{path:path}", methods=["GET", "POST"])
async def service(name: str, path: str, request: Request) -> str:
    """Be both services."""
    return f"{request.method} /{path} by the {name} service"


@proxy.route("/<path>", upstream=old)
async def everything_else() -> None:
    """Not moved yet."""


app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
