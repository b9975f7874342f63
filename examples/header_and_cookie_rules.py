"""An old shop behind a new address: its fields, query, cookies and redirects are made to fit it.

Run it with ``python examples/header_and_cookie_rules.py``, and then:

    curl -i 'http://127.0.0.1:8000/de/shop/basket?debug=1'
    curl -i http://127.0.0.1:8000/de/shop/login

Watch the shop being told the language that stands in the path and not being told to debug. Its cookie, which it means for
``/app`` of its own host, is for ``/de/shop`` of this one; its redirect leads here too, and its version is not shown.
"""

import uvicorn
from fastapi import FastAPI, Request, Response

from proxyroutes import Proxy
from proxyroutes.settings import CookieRules, HeaderRules, QueryRules

shop = FastAPI()
proxy = Proxy(response_headers=HeaderRules(remove=["X-Powered-By"]))


@shop.get("/app/{language}/basket")
async def basket(language: str, request: Request, response: Response) -> dict[str, str]:
    """Say what came, and remember the visitor."""
    response.headers["X-Powered-By"] = "shop 1.2"
    response.set_cookie("basket", "7", domain="shop.internal", path=f"/app/{language}")
    return {"query": request.url.query, "shop": request.headers["x-shop"]}


@shop.get("/app/{language}/login")
async def login(language: str) -> Response:
    """Lead to the basket."""
    return Response(status_code=303, headers={"Location": f"/app/{language}/basket"})


@proxy.route(
    "/<language>/shop/<path>",
    upstream=shop,
    rewrite="/app/<language>/<path>",
    request_headers=HeaderRules(set={"X-Shop": "shop in <language>"}, remove=["X-Debug"]),
    query_rules=QueryRules(set={"lang": "<language>"}, remove=["debug"]),
    cookies=CookieRules(domain="", path="rewrite", secure=True),
)
async def shop_in_a_language() -> None:
    """Forward the shop in every language."""


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
