from fastapi import FastAPI
from fastapi.testclient import TestClient

from proxyroutes import Proxy

users = FastAPI()


@users.get("/users/{name}")
def show(name: str) -> dict[str, str]:
    return {"name": name}


proxy = Proxy()


@proxy.route("/api/<path>", upstream=users, rewrite="/<path>")
async def api() -> None:
    """Forward the users API."""


app = FastAPI()
app.include_router(proxy.build_router())


def test_a_user_is_forwarded() -> None:
    with TestClient(app) as client:
        response = client.get("/api/users/ann")

    assert response.json() == {"name": "ann"}
