import httpx
import pytest
from fastapi import FastAPI

from proxyroutes import Proxy
from proxyroutes.testing import Close, ScriptedOrigin, run_gateway


async def test_a_cut_response_does_not_look_complete() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    async with ScriptedOrigin([head + b"half", Close()]) as origin:
        proxy = Proxy()

        @proxy.get("/file", upstream=origin.url)
        async def file() -> None: ...

        app = FastAPI()
        app.include_router(proxy.build_router())
        async with run_gateway(app) as gateway, httpx.AsyncClient() as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"{gateway.url}/file")

    assert origin.requests[0].startswith(b"GET /file HTTP/1.1\r\n")
