"""Policies and filters are user code: what they raise costs nobody a lease or a connection."""

import pytest

from proxyroutes.filters import by_chunk
from proxyroutes.testing import ScriptedOrigin
from proxyroutes.transports import Http1Transport
from tests.integration.support import OK, eventually, open_gateway


class RaisingAffinity:
    """Finds nobody, and fails where it would begin."""

    rejects = False

    def bind(self, *, pool, clock, random):
        """One for every pool."""
        return self

    def find(self, members, head):
        """Nobody."""
        return None

    find_another = find

    def fields(self, chosen, head):
        """Fail."""
        raise RuntimeError("affinity")


@by_chunk
def raising_filter(chunks):
    """Fail before anything is read."""
    raise RuntimeError("filter")


@pytest.mark.parametrize("lane", ["router", "fastapi", "app"])
@pytest.mark.parametrize(
    ("pool", "statuses"),
    [({"affinity": RaisingAffinity()}, {500}), ({"response_filters": [raising_filter]}, {502})],
    ids=["affinity", "filter"],
)
async def test_nothing_is_left_of_an_exchange_whose_policy_fails(lane, pool, statuses):
    """The client gets an answer, and the lease is given back: closing the gateway waits for that."""
    async with ScriptedOrigin([OK]) as origin:
        transport = Http1Transport(max_requests_per_connection=1)
        async with open_gateway(origin.url, transport=transport, lane=lane, pool=pool) as gateway:
            seen = {(await gateway.get()).status for _ in range(3)}
            await eventually(gateway.is_idle)

    assert statuses == seen
