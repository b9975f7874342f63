"""A chat behind the gateway, which says who is talking: the chat server never sees a password.

Run it with ``python examples/websocket_chat.py``, and then in two terminals, as ada and as bob:

    curl -N "ws://127.0.0.1:8000/chat/tea?token=ada-secret"

(curl from 8.11 on, or ``python -m websockets`` with the same address.) Type something in one of them.
Watch it arrive in the other one with its author's name. With another token the handshake is answered 401.
"""

import os
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect

from proxyroutes import ForwardedRequest, Proxy

# The chat server is in the same application here; elsewhere it would be a machine of its own.
CHAT_URL = os.environ.get("CHAT_URL", "http://127.0.0.1:8000")
TOKENS = {"ada-secret": "Ada", "bob-secret": "Bob"}

app = FastAPI()
proxy = Proxy()
rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


@app.websocket("/internal/{room}")
async def talk(websocket: WebSocket, room: str) -> None:
    """Send what each member says to all of them; the gateway has put the member's name into X-User."""
    await websocket.accept()
    members = rooms[room]
    members.add(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            for member in tuple(members):
                await member.send_text(f"{websocket.headers['x-user']}: {text}")
    except WebSocketDisconnect:
        members.discard(websocket)


@proxy.websocket(
    "/chat/<room>", upstream=CHAT_URL, rewrite="/internal/<room>", identity_headers=["X-User"]
)
async def chat(request: ForwardedRequest, token: str = "") -> None:
    """Find out who it is before the chat server is dialled."""
    if token not in TOKENS:
        raise HTTPException(401)
    request.headers["x-user"] = TOKENS[token]


app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
