"""An upstream that is reached through an httpx client of your own: here one that logs in and keeps a log.

Run it with ``python examples/custom_httpx_client.py``, and then:

    curl -i http://127.0.0.1:8000/reports/2026

Watch the 200: the upstream wants a password, which the client (httpx) knows and curl does not.
"""

import asyncio
import contextlib

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.testing import run_gateway
from proxyroutes.transports import HttpxTransport

archive = FastAPI()


@archive.get("/reports/{year}")
async def show(year: int, request: Request) -> dict[str, int]:
    """Answer those who know the password."""
    if request.headers.get("Authorization") != "Basic Z2F0ZXdheTpzM2NyZXQ=":
        raise HTTPException(401)
    return {"year": year}


async def log(response: httpx.Response) -> None:
    """Say what was answered."""
    print(f"{response.request.url} {response.status_code}", flush=True)


def make_app(archive_url: str) -> FastAPI:
    """Make the gateway. HTTP/2, outgoing proxies, client certificates: all that httpx can do is set here."""
    limits = httpx.Limits(max_connections=1000)
    hooks = {"response": [log]}
    client = httpx.AsyncClient(auth=("gateway", "s3cret"), event_hooks=hooks, limits=limits)
    pool = UpstreamPool("archive", [archive_url], transport=HttpxTransport(client))
    proxy = Proxy()

    @proxy.get("/reports/<path>", upstream=pool)
    async def reports() -> None:
        """Forward reports."""

    # The client stays ours to close: it is opened and closed with the app.
    app = FastAPI(lifespan=lambda _: client)
    app.include_router(proxy.build_router())
    return app


async def main() -> None:
    """Serve both, each on a socket of its own."""
    async with run_gateway(archive) as origin:
        await uvicorn.Server(uvicorn.Config(make_app(origin.url), port=8000)).serve()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
