from fastapi import FastAPI

from proxyroutes import Proxy

proxy = Proxy()


@proxy.route("/api/<path>", upstream="http://127.0.0.1:9001", rewrite="/v2/<path>")
async def forward() -> None:
    """Forward the API."""


app = FastAPI()
app.include_router(proxy.build_router())
