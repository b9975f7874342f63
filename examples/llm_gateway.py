"""A gateway in front of a language model: who asks is known and limited, and tokens are counted while they stream.

Run it with ``python examples/llm_gateway.py``, and then, four times within a minute,
``curl -N http://127.0.0.1:8000/chat -H "X-Api-Key: a" --json '{"prompt": "please go on"}'``.

Watch the words come one by one, and a 429 the fourth time. Stop curl in the middle: the model stops too, and only what was
sent is counted, as ``http://127.0.0.1:8000/tokens`` shows.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI, Header, HTTPException, Response
from fastapi.responses import StreamingResponse

from proxyroutes import Forward, Proxy, RateLimit

PAUSE_SECONDS, USERS, PER_USER = 0.2, {"a": "ann"}, RateLimit("3/minute", key="header:x-api-key")
model, proxy, tokens = FastAPI(), Proxy(rate_limit=PER_USER), Counter[str]()
Prompt = Annotated[str, Body(embed=True, max_length=1_000)]


@model.post("/chat")
async def think(prompt: Prompt) -> StreamingResponse:
    """Stream words, as a language model does."""

    async def speak() -> AsyncIterator[str]:
        for word in prompt.split():
            yield f"data: {word}\n\n"
            await asyncio.sleep(PAUSE_SECONDS)

    return StreamingResponse(speak(), media_type="text/event-stream")


@proxy.post("/chat", upstream=model, max_body_bytes=10_000)
async def chat(prompt: Prompt, forward: Forward, x_api_key: Annotated[str, Header()]) -> Response:
    """Ask the model for who is known, and count what it says."""
    if x_api_key not in USERS:
        raise HTTPException(401, "who are you?")
    response = await forward()
    tokens[USERS[x_api_key]] += len(prompt.split())

    async def counted() -> AsyncIterator[bytes]:
        async for chunk in response.aiter_bytes():
            tokens[USERS[x_api_key]] += chunk.count(b"data:")
            yield chunk

    return StreamingResponse(counted(), response.status_code, media_type="text/event-stream")


app = FastAPI()
app.add_api_route("/tokens", lambda: tokens)
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
