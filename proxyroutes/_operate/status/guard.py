"""Who may see the status page, and who may act on it.

A page that shows addresses and paths, and may even drain, is never open by mistake: where nothing stands between the
client and its routes the application does not start, and where that could not be seen at the start the page refuses.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.routing import BaseRoute

from proxyroutes.exceptions import BuildError, DeclarationError

__all__ = ["Guard", "check_origin"]

_OPEN = (
    "the status page is open to everybody: guard it, as "
    "app.include_router(proxy.status_router(), dependencies=[Depends(admin)]), "
    "or say status_router(public=True)"
)


class Guard:
    """Whether an application has put something in front of the status page's routes.

    Args:
        public: Whether it is meant to be open.
    """

    def __init__(self, *, public: bool) -> None:
        self.public = public
        self.routes: Sequence[BaseRoute] = ()

    def check_start(self, app: Any) -> None:
        """Refuse to start where the page is open.

        Args:
            app: The application whose lifespan begins, or None where it is not known.

        Raises:
            BuildError: If a route of the page has no dependency.
        """
        if self._judge(app) is False:
            raise BuildError("the gateway cannot be built", [DeclarationError(_OPEN)])

    def check_request(self, request: Request) -> None:
        """Refuse a request where it is not known that something stands in front.

        Raises:
            HTTPException: With 403.
        """
        if not self._judge(request.scope.get("app")):
            raise HTTPException(403, "The status page is not guarded; see the gateway's log.")

    def _judge(self, app: Any) -> bool | None:
        """Whether every one of the page's routes is guarded; None where the application does not have them."""
        if self.public:
            return True
        guarded = [
            bool(getattr(getattr(context, "dependant", None), "dependencies", None))
            for context in iter_route_contexts(getattr(app, "routes", ()))
            if context.original_route in self.routes
        ]
        return all(guarded) if guarded else None


def check_origin(request: Request, token: str) -> None:
    """Refuse an action that another site's page may have sent.

    The token stands in our own page, which other sites cannot read, and in a field, which they cannot send without asking.

    Raises:
        HTTPException: With 403.
    """
    given = request.headers.get("x-proxyroutes-token", "")
    if not secrets.compare_digest(given.encode("latin-1"), token.encode("ascii")):
        raise HTTPException(403, "The page is out of date, or of another process: load it again.")
    # Browsers say it themselves; programs that do not are held by the token.
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "Actions are taken from this page alone.")
