"""Ejection: what a pool does with an outlier."""

import asyncio

import pytest

from proxyroutes import Destination, HealthCheck, HealthMonitor, UpstreamPool
from proxyroutes._state.pools import Lease
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.policies import OutlierDetection, RoundRobin
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)
URLS = [f"http://{name}" for name in "abcde"]


class Transport:
    """A transport whose probes are answered as the test says."""

    status = 200
    reason = b""
    trailers = fields = []
    strict = complete = True

    def bind(self, *, clock, tls):
        """Serve all pools."""
        return self

    async def send(self, head, body, destination, timeouts, attempt):
        """Answer."""
        return self

    async def read(self):
        """No content."""
        return b""

    def abort(self):
        """Nothing to let go of."""

    async def aclose(self):
        """Nothing to close."""


def pool_of(clock, count, **keywords):
    """A pool of this many destinations."""
    return UpstreamPool(
        "p",
        URLS[:count],
        monitor=HealthMonitor(clock=clock),
        transport=Transport(),
        balancing=RoundRobin(),
        **keywords,
    )


def end(pool, number, times=1, *, failed=True, status=0):
    """End exchanges with one destination."""
    state = pool.state()
    destination = state.destinations[number]
    for _ in range(times):
        destination.in_flight += 1
        state.in_flight += 1
        lease = Lease(state, destination)
        lease.failed, lease.status = failed, status
        lease.release()


def waiting():
    """Names of the tasks that a pool has started."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith("proxyroutes")}


def ejected(pool):
    """Numbers of those that are ejected."""
    return [number for number, one in enumerate(pool.state().destinations) if one.ejected]


async def test_an_outlier_is_not_asked_for_a_while(clock, caplog):
    """It is taken back when its time is over, and both are said."""
    pool = pool_of(clock, 3)
    end(pool, 0, 4)
    assert [] == ejected(pool)
    end(pool, 0)
    assert [0] == ejected(pool)
    asked = [pool.state().lease(HEAD).destination.host for _ in range(6)]
    assert {"b", "c"} == set(asked)
    status = pool.status()[0]
    assert (False, 1, None) == (status.available, status.ejections, status.healthy)
    assert "ejected: 5 failures in a row, the last one: failure" == status.reason

    await clock.advance(29.9)
    assert [0] == ejected(pool)
    await clock.advance(0.2)
    assert [] == ejected(pool)
    assert pool.status()[0].available
    assert ["ejected", "no longer ejected"] == [
        record.getMessage().partition(":")[0]
        for record in caplog.records
        if record.name == "proxyroutes.health"
    ]
    await pool.close()


@pytest.mark.requirement("R-32")
async def test_the_last_one_is_never_ejected(clock):
    """Neither one that is alone nor the last one that is left."""
    alone = pool_of(clock, 1)
    end(alone, 0, 50)
    assert alone.status()[0].available

    pair = pool_of(clock, 2, outliers=OutlierDetection(max_ejected=1.0))
    end(pair, 0, 5)
    end(pair, 1, 50)
    assert [0] == ejected(pair)
    assert [False, True] == [one.available for one in pair.status()]
    await alone.close()
    await pair.close()


@pytest.mark.requirement("R-32")
async def test_share_of_the_pool_that_may_be_ejected(clock):
    """Half of five is two; a further one follows when one has come back."""
    pool = pool_of(clock, 5)
    for number in range(4):
        end(pool, number, 5)
    assert [0, 1] == ejected(pool)

    await clock.advance(30.1)
    assert [] == ejected(pool)
    end(pool, 2)
    assert [2] == ejected(pool), "it had failed on meanwhile"
    await pool.close()


@pytest.mark.requirement("R-31")
async def test_clients_that_leave_count_against_nobody(clock):
    """A lease that ends without status and without failure is not entered."""
    pool = pool_of(clock, 2)
    end(pool, 0, 50, failed=False)
    end(pool, 0, 4)
    end(pool, 0, 50, failed=False)
    assert [] == ejected(pool)
    end(pool, 0)
    assert [0] == ejected(pool), "nor do they break a row"
    await pool.close()


async def test_statuses_of_a_gateway(clock):
    """Five in a row; 500 is the application's own."""
    pool = pool_of(clock, 2)
    end(pool, 0, 50, failed=False, status=500)
    assert [] == ejected(pool)
    end(pool, 0, 5, failed=False, status=503)
    assert [0] == ejected(pool)
    await pool.close()


async def test_an_active_pass_ends_an_ejection(clock):
    """Before its time; and the next one lasts longer and has its own end."""
    pool = pool_of(clock, 2, health=HealthCheck("/", interval=10.0))
    pool.enter()
    await clock.advance(0.0)
    end(pool, 0, 5)
    assert [0] == ejected(pool)
    await clock.advance(11.1)
    assert [] == ejected(pool)

    pool.set_health(None)
    end(pool, 0, 5)
    await clock.advance(20.0)
    assert [0] == ejected(pool), "the end of the first ejection is not its end"
    await clock.advance(41.0)
    assert [] == ejected(pool)
    await pool.leave()


async def test_with_the_rest_unhealthy_there_is_nothing(clock):
    """An ejected one is not used where the others go down, unless the pool panics."""
    for panic in (False, True):
        pool = pool_of(clock, 2, panic=panic)
        end(pool, 0, 5)
        state = pool.state()
        pool.set_health(HealthCheck("/", interval=10.0, fall=1, expect=[299]))
        await clock.advance(0.1)
        if panic:
            assert 2 == len(state.available)
        else:
            with pytest.raises(NoDestinationError):
                state.lease(HEAD)
        await pool.close()


async def test_it_can_be_turned_off(clock):
    """None keeps no record."""
    pool = pool_of(clock, 2, outliers=None)
    end(pool, 0, 50)
    assert pool.status()[0].available
    await pool.close()


async def test_a_pool_that_closes_leaves_no_task(clock):
    """Neither for an ejection that lasts nor for an interval that runs; its monitor may live on."""
    monitor = HealthMonitor(clock=clock)
    urls = [Destination("http://a", max_requests=5), "http://b"]
    async with monitor:
        pool = UpstreamPool("p", urls, monitor=monitor, transport=Transport())
        end(pool, 1, 5)
        for _ in range(4):
            pool.state().lease(HEAD).release()
        assert {"proxyroutes-outlier-p", "proxyroutes-interval-p"} == waiting()
        await pool.close()
        assert set() == waiting()
