import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

client = httpx.AsyncClient(base_url="http://127.0.0.1:9001")
app = FastAPI()


@app.api_route("/api/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def forward(request: Request, path: str) -> StreamingResponse:
    url = httpx.URL(path=f"/v2/{path}", query=request.url.query.encode())
    upstream = client.build_request(
        request.method, url, headers=request.headers.raw, content=request.stream()
    )
    response = await client.send(upstream, stream=True)
    return StreamingResponse(
        response.aiter_raw(),
        status_code=response.status_code,
        headers=dict(response.headers),
        background=BackgroundTask(response.aclose),
    )
