"""An upstream that is reached through an httpx client of your own, one that logs in.

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


def make_client() -> httpx.AsyncClient:
    """Make the client. HTTP/2, proxies, client certificates: all that httpx can do is set here."""
    return httpx.AsyncClient(auth=("gateway", "s3cret"))


def make_app(url: str, client: httpx.AsyncClient) -> FastAPI:
    """Make the gateway."""
    proxy = Proxy()
    pool = UpstreamPool("archive", [url], transport=HttpxTransport(client))

    @proxy.get("/reports/<path>", upstream=pool)
    async def reports() -> None:
        """Forward reports."""

    app = FastAPI()
    app.include_router(proxy.build_router())
    return app


async def main() -> None:
    """Serve both on sockets of their own. The client stays ours to open and close."""
    async with run_gateway(archive) as origin, make_client() as client:
        await uvicorn.Server(uvicorn.Config(make_app(origin.url, client), port=8000)).serve()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
