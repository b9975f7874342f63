"""Card numbers are taken out of a stream of events while it runs, and its words are counted.

Run it with ``python examples/redact_stream.py``, and then ``curl -N http://127.0.0.1:8000/chat``.

Watch the events come one by one, without the number. ``curl http://127.0.0.1:8000/words`` says how many words were sent.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from proxyroutes import Proxy
from proxyroutes.filters import ServerSentEvent, by_event

PAUSE_SECONDS = 0.3
CARD = re.compile(r"\b(?:\d[ -]?){12,18}\d\b")
TALK = ["Your card", "is 4111 1111 1111 1111", "and valid", "until May"]
model = FastAPI()
proxy = Proxy()
sent = {"words": 0}


async def talk() -> AsyncIterator[str]:
    """Talk, as a language model does."""
    for words in TALK:
        yield f"data: {words}\n\n"
        await asyncio.sleep(PAUSE_SECONDS)


@model.get("/chat")
async def chat() -> StreamingResponse:
    """Stream it."""
    return StreamingResponse(talk(), media_type="text/event-stream")


@by_event
async def redact(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """Hide card numbers and count words."""
    async for event in events:
        event.data = CARD.sub("[card]", event.data or "")
        sent["words"] += len(event.data.split())
        yield event


@proxy.get("/chat", upstream=model, response_filters=[redact])
async def filtered_chat() -> None:
    """Forward the chat."""


app = FastAPI()
app.add_api_route("/words", lambda: sent)
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
