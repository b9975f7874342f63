"""A FastAPI dependency decides who may pass, and the upstream is told who it is.

Run it with ``python examples/auth_dependency.py``, and then:

    curl -i http://127.0.0.1:8000/orders/7
    curl -i http://127.0.0.1:8000/orders/7 -H "Authorization: Bearer ann-secret" -H "X-User: root"

Watch the 401, for which the upstream is not asked, and the name that the upstream got: not the one that the client made up.
"""

from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from proxyroutes import ForwardedRequest, Proxy

orders = FastAPI()
TOKENS = {"ann-secret": "ann", "bob-secret": "bob"}


@orders.get("/orders/{number}")
async def show(number: int, x_user: Annotated[str, Header()]) -> dict[str, str | int]:
    """Answer with whose order it is; this service believes ``X-User``."""
    return {"order": number, "of": x_user}


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


async def login(credentials: Credentials) -> str:
    """Tell who it is, or end the request here."""
    user = TOKENS.get(credentials.credentials) if credentials else None
    if user is None:
        raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})
    return user


proxy = Proxy()


@proxy.get("/orders/<path>", upstream=orders, identity_headers=["X-User"])
async def forward(request: ForwardedRequest, user: Annotated[str, Depends(login)]) -> None:
    """Forward orders, and say whose they are."""
    request.headers["X-User"] = user
    del request.headers["Authorization"]


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
