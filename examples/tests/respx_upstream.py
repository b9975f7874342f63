from collections.abc import Callable

import httpx
import respx
from fastapi import FastAPI
from fastapi.testclient import TestClient

from proxyroutes import Proxy, UpstreamPool

users = UpstreamPool("users", ["http://users.internal"])
proxy = Proxy()


@proxy.get("/users/<name>", upstream=users)
async def show() -> None:
    """Forward one user."""


app = FastAPI()
app.include_router(proxy.build_router())


def test_a_refused_connection_is_a_bad_gateway(proxy_respx: Callable[[Proxy], None]) -> None:
    proxy_respx(proxy)
    with respx.mock, TestClient(app) as client:
        respx.get("http://users.internal/users/ann").mock(
            side_effect=httpx.ConnectError("refused")
        )
        response = client.get("/users/ann")

    assert response.status_code == 502
