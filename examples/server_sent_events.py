"""Server-sent events reach the client one by one, when the upstream sends them.

Run it with ``python examples/server_sent_events.py``, and then:

    curl -N http://127.0.0.1:8000/live/events

Watch the events come in, one a second. Stop curl: the upstream's stream is cancelled at once, and it says so here.
"""

import asyncio
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from proxyroutes import Proxy, Timeouts

news = FastAPI()


async def pause() -> None:
    """Wait until there is news."""
    await asyncio.sleep(1.0)


async def report() -> AsyncIterator[str]:
    """Give one event after the other, for as long as somebody listens."""
    number = 0
    try:
        while True:
            number += 1
            yield f"id: {number}\ndata: item {number}\n\n"
            await pause()
    finally:
        print(f"nobody listens any more, after {number} events", flush=True)


@news.get("/events")
async def events() -> StreamingResponse:
    """Stream the news."""
    return StreamingResponse(report(), media_type="text/event-stream")


proxy = Proxy()


# News may be rare: without a byte for 60 seconds, the default, a stream would be cut.
@proxy.get("/live/<path>", upstream=news, rewrite="/<path>", timeouts=Timeouts(idle=None))
async def live() -> None:
    """Forward the news."""


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
