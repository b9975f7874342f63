"""Each message of a session in your hands: card numbers do not pass, and a visitor has a minute.

Run it with ``python examples/message_filter.py``, and then:

    curl -N ws://127.0.0.1:8000/support

(curl from 8.11 on, or ``python -m websockets`` with the same address.) Type ``my card is 4111 1111 1111 1111``.
Watch the support desk repeat it without the number. After a minute the session ends with code 4408.
"""

import asyncio
import os
import re

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from proxyroutes import Proxy, Session

# The support desk is in the same application here; elsewhere it would be a machine of its own.
DESK_URL = os.environ.get("DESK_URL", "http://127.0.0.1:8000")
VISIT_SECONDS = 60.0
CARD = re.compile(r"\b(?:\d[ -]?){12,18}\d\b")

app = FastAPI()
proxy = Proxy()


@app.websocket("/desk")
async def desk(websocket: WebSocket) -> None:
    """Repeat what the visitor says."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(f"You said: {await websocket.receive_text()}")
    except WebSocketDisconnect:
        pass


def hide_cards(message: str | bytes) -> str | bytes | None:
    """Text without card numbers; binary messages, in which nobody can look for one, do not pass."""
    return CARD.sub("[card]", message) if isinstance(message, str) else None


@proxy.websocket("/support", upstream=DESK_URL, rewrite="/desk")
async def support(session: Session) -> None:
    """Relay a visit, as long as it may last."""
    try:
        async with asyncio.timeout(VISIT_SECONDS):
            await session.relay(from_client=hide_cards)
    except TimeoutError:
        session.close(4408, "the visit is over")


app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
