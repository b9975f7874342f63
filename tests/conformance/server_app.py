"""The application that every server is tried with: a gateway in front of the origins that the environment names."""

import os

from proxyroutes import Proxy, UpstreamPool

proxy = Proxy()
pool = UpstreamPool("origin", [os.environ["PROXYROUTES_TEST_ORIGIN"]], outliers=None)
sessions = UpstreamPool(
    "sessions",
    [os.environ.get("PROXYROUTES_TEST_SESSIONS", os.environ["PROXYROUTES_TEST_ORIGIN"])],
    outliers=None,
)


@proxy.route("/<path>", upstream=pool)
async def forwarded() -> None:
    """Forward everything."""


@proxy.websocket("/<path>", upstream=sessions)
async def relayed() -> None:
    """Relay every session."""


app = proxy.build_app()
