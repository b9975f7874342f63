"""A gateway between bad networks and bad origins: every request has its own answer or a clean failure, and nothing stays."""

import asyncio
import contextlib
from collections import Counter
from random import Random

import pytest

from proxyroutes import Proxy, Timeouts, UpstreamPool
from proxyroutes.testing import Fault, FaultProxy, FaultyOrigin, NetworkFaults, run_gateway
from tests.conformance.test_security import open_descriptors
from tests.integration.support import (
    Gateway,
    RawClient,
    eventually,
    make_request,
    one_transport,
)

CONTENT = bytes(range(256)) * 40
QUICK = [fault for fault in Fault if fault not in {Fault.HANG, Fault.STALL}]


@contextlib.asynccontextmanager
async def gateway_between(origins, *, timeouts=None):
    """A gateway over such origins, whose network and pool can be looked at."""
    proxy = Proxy(timeouts=timeouts or Timeouts(), on_exchange=(records := []).append)
    pool = UpstreamPool("faulty", [one.url for one in origins], outliers=None)

    @proxy.route("/<path>", upstream=pool)
    async def api() -> None: ...

    async with run_gateway(proxy.build_app()) as running:
        gateway = Gateway(running, pool, proxy, records)
        yield gateway
        await eventually(gateway.is_idle)


@pytest.mark.requirement("R-48", "R-01", "R-40", "R-50", "S-30")
async def test_requests_with_faults_leave_nothing_behind():
    """One in ten fails in some way: each is whole or broken, and descriptors, tasks and leases are as before."""
    before = open_descriptors()
    seen = Counter()
    async with (
        FaultyOrigin(CONTENT, faults=QUICK, ratio=0.1, random=Random(1)) as one,
        FaultyOrigin(CONTENT, faults=QUICK, ratio=0.1, random=Random(2)) as other,
        gateway_between([one, other]) as gateway,
    ):

        async def ask_many():
            client = await RawClient.connect(gateway.port)
            for _ in range(150):
                reply = await client.ask(make_request())
                seen[reply.status, reply.complete, reply.body == CONTENT] += 1
                if not reply.complete:
                    await client.close()
                    client = await RawClient.connect(gateway.port)
            await client.close()

        async with asyncio.TaskGroup() as clients:
            for _ in range(10):
                clients.create_task(ask_many())
        await eventually(gateway.is_idle)
        state = gateway.pool.state()
        for destination in state.destinations:
            opened, idle = state.transport.connections(destination)

            assert opened == idle
        failed = Counter([*one.failed, *other.failed])
    await eventually(lambda: open_descriptors() <= before + 2)
    await eventually(lambda: len(asyncio.all_tasks()) == 1)

    assert set(failed) == set(QUICK)
    # A fault is a 502, a 503 of the origin or a response that breaks; whatever is complete is right.
    assert {(200, True, True), (200, False, False), (502, True, False), (503, True, True)} >= set(
        seen
    )
    assert seen[200, True, True] >= 1_100
    assert 1_500 == sum(seen.values())
    assert 1_500 == len(gateway.records)


@pytest.mark.requirement("H-19", "R-12")
@one_transport
@pytest.mark.parametrize("size", [1, 3, 7])
async def test_messages_in_slices_of_any_size_are_whole(serve, size):
    """Both networks pass a few bytes at a time: nothing of heads or contents is lost."""
    async with FaultyOrigin(CONTENT) as origin, FaultProxy(origin.port) as behind:
        gateway = await serve(behind.url)
        behind.to_client = NetworkFaults(slice_bytes=size * 97)
        behind.to_origin = NetworkFaults(slice_bytes=size)
        async with FaultProxy(gateway.port) as before:
            before.to_origin = NetworkFaults(slice_bytes=size)
            before.to_client = NetworkFaults(slice_bytes=size * 101)
            client = await RawClient.connect(before.port)
            replies = [
                await client.ask(
                    make_request("/", "Content-Length: 300", method="POST", body="a" * 300)
                ),
                await client.ask(make_request()),
            ]
            await client.close()

        assert [(200, True)] * 2 == [(reply.status, reply.body == CONTENT) for reply in replies]
        assert b"a" * 300 in bytes(origin.requests[0])


@pytest.mark.requirement("R-10", "H-47")
@one_transport
async def test_a_black_hole_is_a_time_out(serve):
    """Behind it nothing is heard: 504, and the connection is gone."""
    async with FaultyOrigin() as origin, FaultProxy(origin.port) as network:
        network.to_origin = NetworkFaults(black_hole=True)
        gateway = await serve(network.url, timeouts=Timeouts(first_byte=0.1))
        reply = await gateway.get()
        await eventually(lambda: not network.open_connections)

        assert 504 == reply.status


@pytest.mark.requirement("H-16", "R-01")
@pytest.mark.parametrize("limit", [1, 20, 40, 60, 5_000, 10_000])
async def test_a_network_that_breaks_anywhere_never_makes_a_whole_response(
    serve, broken_relays, limit
):
    """Before the head it is 502, after it the client's connection breaks; then all is well again."""
    async with FaultyOrigin(CONTENT) as origin, FaultProxy(origin.port) as network:
        gateway = await serve(network.url)
        network.to_client = NetworkFaults(limit_bytes=limit)
        broken = await gateway.get()
        network.to_client = NetworkFaults()
        well = await gateway.get()

        assert 502 == broken.status or not broken.complete
        assert (200, CONTENT) == (well.status, well.body)


@pytest.mark.requirement("R-01", "R-03")
async def test_a_network_that_goes_down_and_comes_back_costs_what_was_running(serve):
    """Kept connections that broke meanwhile are not asked again."""
    async with FaultyOrigin() as origin, FaultProxy(origin.port) as network:
        gateway = await serve(network.url)
        statuses = [(await gateway.get()).status]
        await network.go_down()
        statuses.append((await gateway.get()).status)
        await network.come_back()
        statuses.append((await gateway.get()).status)

        assert [200, 502, 200] == statuses
