"""A gateway in front of one upstream, declared by one stub.

Run it with ``python examples/quickstart.py``, and then:

    curl -i http://127.0.0.1:8000/api/users/ann

Watch what the upstream received: ``Via`` and ``X-Forwarded-For`` are from the gateway. The response is as it was sent.
"""

import uvicorn
from fastapi import FastAPI, Request

from proxyroutes import Proxy

users = FastAPI()


@users.get("/users/{name}")
async def show(name: str, request: Request) -> dict[str, object]:
    """Answer with the user, and with what was received."""
    return {"name": name, "path": request.url.path, "received": dict(request.headers)}


proxy = Proxy()


# An application in this process; a URL, a list of URLs or an UpstreamPool is as good.
@proxy.route("/api/<path>", upstream=users, rewrite="/<path>")
async def users_api() -> None:
    """Forward the users API."""


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
