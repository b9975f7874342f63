"""What type checkers reject. Each line that is wrong says so; the test asks for exactly these. Never run."""

from fastapi import Response

from proxyroutes import Forward, ForwardedRequest, Proxy, Timeouts, UpstreamPool
from proxyroutes.exceptions import UpstreamTimeoutError

pool = UpstreamPool("users", ["http://127.0.0.1:9001"], balancing="round-robin")  # wrong: a name
proxy = Proxy(timeouts=5.0)  # wrong: a bare number


@proxy.get("/a", upstream=pool, method="GET")  # wrong: no such keyword
async def one() -> None:
    """Forward."""


@proxy.get("/b", upstream=pool)
async def two(forward: Forward, request: ForwardedRequest) -> Response:
    """Edit and wrap."""
    request.headers["X-Count"] = 7  # wrong: no text
    await forward("http://127.0.0.1:9002")  # wrong: not by position
    response = await forward(timeouts=Timeouts(total=1.0))
    response.read(limit=10).decode()  # wrong: not awaited
    return await forward(retries=3)  # wrong: no such keyword


@proxy.on_error("timeout")  # wrong: no class
def three(error: UpstreamTimeoutError, request: ForwardedRequest) -> None:
    """Answer."""
