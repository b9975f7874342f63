"""What the status page shows, and what has changed."""

import json
import os
from time import monotonic

import pytest

from proxyroutes import Destination, HealthCheck, HealthMonitor, Proxy, UpstreamPool
from proxyroutes.testing import ManualClock, RecordingUpstream
from proxyroutes.transports import ASGITransport
from tests.unit.operate.status.support import make_board, make_record


@pytest.fixture
def upstream():
    """What the pools forward to."""
    return RecordingUpstream()


@pytest.fixture
def clock():
    """The monitor's clock."""
    return ManualClock()


@pytest.fixture
async def users(upstream, clock):
    """A pool that runs: one destination that is probed, one that is not."""
    pool = UpstreamPool(
        "users",
        [Destination("http://a:1", weight=2, health=HealthCheck("/up", fall=1)), "http://b:1"],
        monitor=HealthMonitor(interval=1.0, clock=clock),
        transport=ASGITransport(upstream),
    )
    async with pool.monitor:
        pool.enter()
        await pool.first_round()
        yield pool
        await pool.leave()


async def break_a(users, upstream, clock):
    """Let the destination that is probed fail its check."""
    upstream.answer(503)
    users.set_health(None)
    await clock.advance(2.0)


async def test_a_snapshot_is_json_of_everything(users):
    """Routes, pools with destinations, totals and the last exchanges."""
    board = make_board(users)
    board.source.traffic.observe(make_record(ended=monotonic() - 1))
    snapshot = json.loads(json.dumps(board.snapshot()))
    first, second = snapshot["pools"][0]["destinations"]

    assert os.getpid() == snapshot["process"]
    assert ["route0"] == [route["name"] for route in snapshot["routes"]]
    assert ("users", "PowerOfTwoChoices") == tuple(
        snapshot["pools"][0][name] for name in ("name", "balancing")
    )
    assert ("http://a:1", "up", True, 2, False) == tuple(
        first[name] for name in ("url", "state", "healthy", "weight", "draining")
    )
    assert ("unchecked", "not probed") == (second["state"], second["reason"])
    assert 1 == snapshot["totals"]["requests"]
    assert "api" == snapshot["recent"][0]["route"]
    assert {60} == {len(values) for values in snapshot["history"].values()}


async def test_a_route_says_what_it_is():
    """Kind, methods and pool; one that chooses its pool for each request has none."""
    proxy = Proxy()

    @proxy.websocket("/live", upstream="http://a:1")
    async def live() -> None: ...

    @proxy.get("/chosen", upstream=lambda request: None)
    async def chosen() -> None: ...

    rows = make_board(proxy=proxy).snapshot()["routes"]
    actual = {row["name"]: (row["kind"], row["methods"], row["pool"]) for row in rows}

    assert {"live": ("websocket", None, "a:1"), "chosen": ("http", ["GET"], None)} == actual


async def test_to_look_does_not_start_a_pool():
    """One that has not started says so."""
    pool = UpstreamPool("idle", ["http://a:1"])
    row = make_board(pool).snapshot()["pools"][0]["destinations"][0]

    assert ("unchecked", "the pool has not started") == (row["state"], row["reason"])
    assert not pool.entered()


async def test_a_change_of_state_is_an_event(users, upstream, clock):
    """With what it was before, and why."""
    board = make_board(users)
    board.look()
    await break_a(users, upstream, clock)
    board.look()
    board.look()
    events = board.snapshot()["events"]

    assert 1 == len(events)
    assert ("http://a:1", "up", "down", "status 503") == tuple(
        events[0][name] for name in ("destination", "before", "state", "reason")
    )


async def test_a_drain_is_an_event(users):
    """As is the end of it."""
    board = make_board(users)
    board.look()
    await users.drain("http://b:1")
    board.look()
    users.undrain("http://b:1")
    board.look()
    actual = [event["state"] for event in board.snapshot()["events"]]

    assert ["unchecked", "draining"] == actual


async def test_lower_priorities_stand_by(upstream):
    """They are well, and not asked."""
    pool = UpstreamPool(
        "users",
        ["http://a:1", Destination("http://b:1", priority=1)],
        transport=ASGITransport(upstream),
    )
    pool.enter()
    rows = make_board(pool).snapshot()["pools"][0]["destinations"]
    await pool.leave()

    assert ["unchecked", "standby"] == [row["state"] for row in rows]


async def test_what_leaves_a_pool_is_forgotten(users):
    """A destination that is gone and comes back is no change of state."""
    board = make_board(users)
    board.look()
    users.remove("http://b:1")
    board.look()

    assert [("users", "http://a:1")] == list(board._states)


async def test_a_tick_has_what_changed(users, upstream, clock):
    """Rows that are as they were are left out; exchanges and events are the new ones."""
    board = make_board(users)
    board.look()
    assert board.tick() is None
    board.look()
    quiet = board.tick()
    board.source.traffic.observe(make_record())
    await break_a(users, upstream, clock)
    board.look()
    busy = board.tick()

    assert ([], [], [], []) == tuple(
        quiet[name] for name in ("routes", "pools", "recent", "events")
    )
    assert ["users"] == [row["name"] for row in busy["pools"]]
    assert [1] == [one["number"] for one in busy["recent"]]
    assert ["down"] == [one["state"] for one in busy["events"]]
    assert {"requests", "errors", "p50", "p95", "p99", "in_flight"} == set(busy["history"])


async def test_other_rows_need_a_snapshot(users):
    """A tick cannot tell of a destination that is new."""
    board = make_board(users)
    board.tick()
    assert board.tick() is not None
    users.add("http://c:1")

    assert board.tick() is None
    assert board.tick() is not None


async def test_after_nobody_watched_a_snapshot_comes_first(users):
    """What changed meanwhile is not collected."""
    board = make_board(users)
    board.tick()
    board.forget()

    assert board.tick() is None


async def test_what_is_in_flight_is_counted(users):
    """Leases that are out, in totals and history."""
    from proxyroutes.typing import ForwardedHead

    board = make_board(users)
    lease = users.state().lease(ForwardedHead(b"GET", b"/", [], None, None))
    board.look()
    snapshot = board.snapshot()
    lease.release()

    assert (1, 1) == (snapshot["totals"]["in_flight"], snapshot["history"]["in_flight"][-1])


def test_an_open_circuit_is_a_state_of_its_own():
    """The destinations of its pool are well, and nothing is sent to them."""
    from proxyroutes._operate.status.board import _state_of
    from proxyroutes._state.destinations import DestinationStatus

    def state(circuit):
        return _state_of(
            DestinationStatus(
                url="http://a:1",
                available=True,
                healthy=True,
                reason="status 200",
                latency=None,
                in_flight=0,
                requests=0,
                circuit=circuit,
            )
        )

    assert ["up", "up", "circuit", "circuit"] == [
        state(one) for one in (None, "closed", "open", "half-open")
    ]
