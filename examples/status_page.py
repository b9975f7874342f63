"""A gateway with its live status page, behind a password.

Run it with ``python examples/status_page.py``, open http://127.0.0.1:8000/_proxy as ``admin`` with ``let me in``, and then:

    curl http://127.0.0.1:8000/api/hello
    curl http://127.0.0.1:8000/api/fail

Watch the two destinations take turns, and one of them be ejected once it has failed five times in a row.
"""

import secrets
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.policies import RoundRobin
from proxyroutes.transports import ASGITransport

upstream = FastAPI()


@upstream.get("/api/{what}")
async def answer(what: str, request: Request) -> dict[str, str | None]:
    """Answer from two hosts, one of which does not know how to fail."""
    if what == "fail" and request.headers["host"].startswith("blue"):
        raise HTTPException(503)
    return {"from": request.headers["host"]}


colours = UpstreamPool(
    "colours",
    ["http://red.internal", "http://blue.internal"],
    balancing=RoundRobin(),
    transport=ASGITransport(upstream),
)
proxy = Proxy()


@proxy.route("/api/<path>", upstream=colours)
async def api() -> None:
    """Forward to one of the two."""


def admin(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    """Let the operator in: the browser sends a password with the page's stream too."""
    if not secrets.compare_digest(credentials.password.encode(), b"let me in"):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})


app = FastAPI()
status = proxy.status_router(controls=True)
app.include_router(status, prefix="/_proxy", dependencies=[Depends(admin)])
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
