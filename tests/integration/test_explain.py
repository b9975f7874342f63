"""What is explained is what happens."""

from proxyroutes.testing import ScriptedOrigin
from tests.integration.support import OK, forwarded_fields, one_transport, target_of

pytestmark = one_transport


async def test_the_head_that_is_explained_is_the_one_that_is_sent(serve, lane):
    """Line by line, as an origin receives it."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(
            f"{origin.url}/base",
            lane=lane,
            proxy={"via": "here"},
            server={"proxy_headers": False},
            rewrite="/v2/<path>",
        )
        lines = ("X-Kept: 1", "X-Forwarded-For: 6.6.6.6", "Cookie: a=b", "Cookie: c=d")
        await gateway.get("/a%2Fb?c=d", *lines)
        explanation = gateway.proxy.explain(
            "GET",
            "http://gateway.test/a%2Fb?c=d",
            [(name, value) for name, _, value in (line.partition(": ") for line in lines)],
        )
        (received,) = origin.requests
        sent = explanation.forwarded

        assert target_of(received) == sent.target.encode()
        assert [("host", sent.host), *sent.fields] == [
            (name.decode(), value.decode()) for name, value in forwarded_fields(received)
        ]
