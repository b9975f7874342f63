"""A gateway, and the tests that its author has written for it.

Run its tests with ``pytest examples/tested_gateway.py``, or the gateway with ``python examples/tested_gateway.py``:

    curl -i http://127.0.0.1:8000/api/users/ann -H "X-Token: secret"

Watch the 502: its upstream is not on this machine. The tests need none, and show what is forwarded and what never is.
"""

from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.testing import RecordingUpstream

users = UpstreamPool("users", ["http://127.0.0.1:9"])
proxy = Proxy()


@proxy.route("/api/<path>", upstream=users, rewrite="/v2/<path>")
async def users_api(x_token: Annotated[str, Header()]) -> None:
    """Forward the users API to those who know the token."""
    if x_token != "secret":
        raise HTTPException(401)


app = FastAPI()
app.include_router(proxy.build_router())

# What follows would be a file of its own. The fixtures come with the package.


async def test_a_user_is_forwarded(
    proxy_upstream: RecordingUpstream, proxy_replace: Any, proxy_client: Any
) -> None:
    """The path is mapped, and the answer is the upstream's."""
    proxy_upstream.answer(json={"name": "ann"})
    proxy_replace(proxy, proxy_upstream)
    async with proxy_client(app) as client:
        response = await client.get("/api/users/ann", headers={"X-Token": "secret"})
    assert response.json() == {"name": "ann"}
    proxy_upstream.assert_forwarded("GET", "/v2/users/ann", headers={"host": "127.0.0.1:9"})


async def test_nobody_else_gets_in(
    proxy_upstream: RecordingUpstream, proxy_replace: Any, proxy_client: Any
) -> None:
    """What is refused is not forwarded."""
    proxy_replace(proxy, proxy_upstream)
    async with proxy_client(app) as client:
        response = await client.get("/api/users/ann", headers={"X-Token": "wrong"})
    assert response.status_code == 401
    proxy_upstream.assert_nothing_forwarded()


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
