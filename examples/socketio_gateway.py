"""Socket.IO behind the gateway: polling and its upgrade to a WebSocket meet the same one of two servers.

Run it with ``python examples/socketio_gateway.py`` (it needs ``pip install python-socketio``) and begin a session:

    curl -i "http://127.0.0.1:8000/socket.io/?EIO=4&transport=polling"

Watch the cookie in the answer: whoever sends it back with the session's ``sid`` comes to the server that knows it. Without
affinity every other request would meet a server that does not, and be answered 400. Real clients do it by themselves.
"""

import os

import socketio
import uvicorn
from fastapi import FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.policies import CookieAffinity, RoundRobin

# The servers are in the same application here; elsewhere they would be processes of their own.
CHAT_URL = os.environ.get("CHAT_URL", "http://127.0.0.1:8000")
SECRET = os.environ.get("AFFINITY_SECRET", "only for this example")
chat = UpstreamPool(
    "chat",
    [f"{CHAT_URL}/one", f"{CHAT_URL}/two"],
    balancing=RoundRobin(),
    affinity=CookieAffinity(secret=SECRET),
)
proxy = Proxy()


@proxy.route("/socket.io/<path>", upstream=chat)
async def polling() -> None:
    """Forward long polling, which begins every session."""


@proxy.websocket("/socket.io/<path>", upstream=chat)
async def upgraded() -> None:
    """Relay what the session is upgraded to."""


def make_server(name: str) -> socketio.ASGIApp:
    """Make a chat server that says its name with every message that comes back."""
    server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")

    async def say(_sid: str, text: str) -> str:
        return f"{name} heard {text}"

    server.on("say", say)
    return socketio.ASGIApp(server, socketio_path=f"/{name}/socket.io")


app = FastAPI()
app.include_router(proxy.build_router())
app.mount("/one", make_server("one"))
app.mount("/two", make_server("two"))

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
