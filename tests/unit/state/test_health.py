"""Active health: rounds, verdicts, and what pools make of them; time passes when a test says so."""

import asyncio
import contextlib
import random

import pytest
from attrs import field, frozen

from proxyroutes import Destination, HealthCheck, HealthMonitor, Proxy, UpstreamPool
from proxyroutes.exceptions import NoDestinationError, UpstreamConnectError
from proxyroutes.typing import ForwardedHead

A, B = "http://a.test", "http://b.test"
HEAD = ForwardedHead(b"GET", b"/", [], None, None)


class Answer:
    """A response with a status and content."""

    strict = complete = True
    reason = b""

    def __init__(self, status, content=()):
        self.status = status
        self.fields = self.trailers = []
        self.content = list(content)
        self.aborted = False

    async def read(self):
        """The next bytes."""
        return self.content.pop(0) if self.content else b""

    def abort(self):
        """Let go."""
        self.aborted = True


@frozen(eq=False)
class Scripted:
    """A transport whose destinations answer what ``answers`` says, and what was asked of them."""

    answers: dict = field(factory=dict)
    asked: list = field(factory=list)

    def bind(self, *, clock, tls):
        """It needs neither."""
        return self

    async def send(self, head, body, destination, timeouts, attempt):
        """Answer, raise or hang."""
        self.asked.append((destination.origin, head.method, head.target))
        answer = self.answers.get(destination.origin, 200)
        if callable(answer):
            answer = answer(head)
        if answer == "hangs":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(answer)

    async def aclose(self):
        """Nothing is open."""


@pytest.fixture
def monitor(clock):
    """A monitor on it."""
    return HealthMonitor(interval=10.0, clock=clock, random=random.Random(1))


@pytest.fixture
def transport():
    """Every destination is well until a test says otherwise."""
    return Scripted()


@contextlib.asynccontextmanager
async def running(monitor, *pools):
    """Pools that a lifespan has opened, first round done."""
    async with monitor:
        for pool in pools:
            pool.enter()
        await asyncio.gather(*[pool.first_round() for pool in pools])
        try:
            yield
        finally:
            for pool in pools:
                await pool.leave()


def make(monitor, transport, *urls, **options):
    """A pool whose destinations are checked."""
    options.setdefault("health", HealthCheck("/healthz"))
    return UpstreamPool("p", urls or [A, B], monitor=monitor, transport=transport, **options)


def available(pool):
    """The URLs that may be asked now."""
    return [status.url for status in pool.status() if status.available]


async def rounds(clock, count):
    """Let so many intervals pass, jitter included."""
    for _ in range(count):
        await clock.advance(11.0)


@pytest.mark.requirement("R-29")
async def test_the_first_round_decides_alone(monitor, transport):
    """And it is over before anything is served."""
    transport.answers[A] = 503
    pool = make(monitor, transport)
    async with running(monitor, pool):
        assert [B] == available(pool)
        first = pool.status()[0]

    assert (False, "status 503") == (first.healthy, first.reason)
    assert {(A, b"HEAD", b"/healthz"), (B, b"HEAD", b"/healthz")} == set(transport.asked)


@pytest.mark.requirement("R-25")
async def test_it_takes_fall_failures_and_rise_successes_to_change(monitor, transport, clock):
    """Three and two by default; a success in between begins the count anew."""
    pool = make(monitor, transport)
    seen = []
    async with running(monitor, pool):
        for answer in (500, 500, 200, 500, 500, 500, 200, 500, 200, 200):
            transport.answers[A] = answer
            await rounds(clock, 1)
            seen.append(A in available(pool))

    assert [True, True, True, True, True, False, False, False, False, True] == seen


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (UpstreamConnectError("refused"), "UpstreamConnectError: refused"),
        (RuntimeError("a bug"), "RuntimeError"),
        (302, "status 302"),
    ],
    ids=["connect", "raises", "redirects"],
)
@pytest.mark.requirement("R-26")
async def test_a_probe_that_fails_says_why(monitor, transport, fault, reason):
    """And the loop lives; a redirect is a status like any other."""
    transport.answers[A] = fault
    check = HealthCheck("/healthz", expect=range(200, 300))
    pool = make(monitor, transport, health=check)
    async with running(monitor, pool):
        assert ([B], reason) == (available(pool), pool.status()[0].reason)


@pytest.mark.requirement("R-26")
async def test_a_probe_that_hangs_fails_after_its_time(monitor, transport, clock):
    """The first round waits for that long, and no longer."""
    transport.answers[A] = "hangs"
    pool = make(monitor, transport)
    async with monitor:
        pool.enter()
        waiting = asyncio.create_task(pool.first_round())
        await clock.advance(1.9)
        assert not waiting.done()
        await clock.advance(0.2)
        assert waiting.done()
        assert ([B], "no answer within 2.0 s") == (available(pool), pool.status()[0].reason)
        await pool.leave()


@pytest.mark.requirement("R-26", "S-41")
async def test_endless_content_is_not_read_to_its_end(monitor, transport):
    """A destination that answers a check so is not well; the connection is let go."""
    endless = Answer(200, [b"x" * 65_536] * 1000)
    transport.answers[A] = endless
    pool = make(monitor, transport, health=HealthCheck("/", method="GET"))
    async with running(monitor, pool):
        assert ([B], "more than 1 MiB of content") == (available(pool), pool.status()[0].reason)

    assert (True, 983) == (endless.aborted, len(endless.content))


@pytest.mark.parametrize(
    ("expect", "well"), [(None, False), ({200, 302}, True)], ids=["default", "expected"]
)
async def test_a_redirect_is_no_answer(monitor, transport, expect, well):
    """It is not followed; where to was never asked. Who means it says so."""
    transport.answers[A] = 302
    check = HealthCheck("/") if expect is None else HealthCheck("/", expect=expect)
    pool = make(monitor, transport, health=check)
    async with running(monitor, pool):
        status = pool.status()[0]

    assert (well, "status 302") == (status.healthy, status.reason)


@pytest.mark.parametrize("status", [405, 501])
async def test_head_that_is_refused_becomes_get_once(monitor, transport, clock, status):
    """It is remembered, and not asked again."""
    transport.answers[A] = lambda head: status if head.method == b"HEAD" else 200
    pool = make(monitor, transport, A)
    async with running(monitor, pool):
        await rounds(clock, 2)
        assert [A] == available(pool)

    assert [b"HEAD", b"GET", b"GET", b"GET"] == [method for _, method, _ in transport.asked]


@pytest.mark.requirement("R-28")
async def test_one_check_of_one_origin_is_one_probe_for_all(monitor, transport, clock):
    """Twenty pools share it; another path, or another transport, is another check."""
    pools = [make(monitor, transport, A) for _ in range(20)]
    other_path = make(monitor, transport, A, health="/other")
    other_way = make(monitor, Scripted(), A)
    async with running(monitor, *pools, other_path, other_way):
        await rounds(clock, 1)

    assert 2 == transport.asked.count((A, b"HEAD", b"/healthz"))
    assert 2 == transport.asked.count((A, b"HEAD", b"/other"))


async def test_a_shared_check_goes_on_without_the_pool_that_began_it(monitor, transport, clock):
    """The others are still told."""
    first, second = make(monitor, transport, A), make(monitor, transport, A)
    async with running(monitor, first, second):
        first.enter()
        await first.close()
        transport.answers[A] = 500
        await rounds(clock, 3)
        assert [] == available(second)
        second_asked = len(transport.asked)
        await second.close()
        await rounds(clock, 3)
        assert second_asked == len(transport.asked)
        second.enter()
        first.enter()


@pytest.mark.requirement("R-33")
async def test_a_destination_may_have_a_check_of_its_own(monitor, transport):
    """Instead of the pool's."""
    pool = make(monitor, transport, Destination(A, health="/mine"), B)
    async with running(monitor, pool):
        pass

    assert {(A, b"HEAD", b"/mine"), (B, b"HEAD", b"/healthz")} == set(transport.asked)


@pytest.mark.requirement("R-34")
async def test_without_a_check_nothing_is_probed(monitor, transport, clock):
    """And everything counts as available."""
    pool = make(monitor, transport, health=None)
    async with running(monitor, pool):
        await rounds(clock, 3)
        status = pool.status()[0]

        assert ([A, B], None, "not probed") == (available(pool), status.healthy, status.reason)
    assert [] == transport.asked


@pytest.mark.requirement("R-34")
async def test_another_check_holds_at_once(monitor, transport, clock):
    """At run time, probing at once; None ends it."""
    pool = make(monitor, transport)
    async with running(monitor, pool):
        transport.answers[A] = lambda head: 200 if head.target == b"/healthz" else 500
        pool.set_health("/deep")
        await clock.advance(0.1)
        assert ([B], "/deep") == (available(pool), pool.health.path)
        pool.set_health(None)
        assert [A, B] == available(pool)


@pytest.mark.requirement("R-34")
async def test_the_same_check_again_probes_at_once(monitor, transport, clock):
    """Whoever sets it wants to know."""
    pool = make(monitor, transport, A)
    async with running(monitor, pool):
        pool.set_health(pool.health)
        await clock.advance(0.0)
        assert 2 == len(transport.asked)
        await clock.advance(8.9)
        assert 2 == len(transport.asked)


@pytest.mark.requirement("R-34")
async def test_another_interval_holds_at_once(monitor, transport, clock):
    """Everything is probed at once, and then at that pace."""
    pool = make(monitor, transport, A)
    async with running(monitor, pool):
        monitor.interval = 1.0
        await clock.advance(0.0)
        assert 2 == len(transport.asked)
        await clock.advance(3.35)
        assert 5 == len(transport.asked)
    with pytest.raises(ValueError, match="interval"):
        monitor.interval = 0


async def test_an_unhealthy_one_may_be_probed_more_often(monitor, transport, clock):
    """So that it is back sooner."""
    transport.answers[A] = 500
    pool = make(monitor, transport, A, health=HealthCheck("/", unhealthy_interval=1.0))
    async with running(monitor, pool):
        await clock.advance(2.25)
        assert 3 == len(transport.asked)


@pytest.mark.requirement("R-30")
async def test_with_nothing_healthy_the_pool_refuses(monitor, transport):
    """503 with Retry-After, or all of them in a panic, said once."""
    transport.answers.update({A: 500, B: 500})
    pool = make(monitor, transport)
    async with running(monitor, pool):
        with pytest.raises(NoDestinationError) as caught:
            pool.state().lease(HEAD)

    assert caught.value.retry_after


@pytest.mark.requirement("R-30")
async def test_a_panic_uses_all_and_says_so_once(monitor, transport, clock, caplog):
    """Until one is healthy again."""
    transport.answers.update({A: 500, B: 500})
    pool = make(monitor, transport, panic=True)
    async with running(monitor, pool):
        assert [A, B] == available(pool)
        await rounds(clock, 3)
        transport.answers[A] = 200
        await rounds(clock, 2)
        assert [A] == available(pool)

    assert 1 == sum("all are used" in message for message in caplog.messages)


async def test_a_level_is_used_when_every_lower_one_is_down(monitor, transport, clock):
    """And no longer when it is back."""
    pool = make(monitor, transport, A, Destination(B, priority=1))
    async with running(monitor, pool):
        seen = [available(pool)]
        for answer in (500, 200):
            transport.answers[A] = answer
            await rounds(clock, 3)
            seen.append(available(pool))

    assert [[A], [B], [A]] == seen


async def test_the_monitor_shows_what_it_knows(monitor, transport):
    """By origin, one report for each check."""
    transport.answers[B] = 500
    pool = make(monitor, transport)
    async with running(monitor, pool):
        seen = {origin: reports[0].healthy for origin, reports in monitor.snapshot().items()}

    assert {A: True, B: False} == seen


@pytest.mark.requirement("R-27")
async def test_at_most_64_are_probed_at_a_time(monitor, transport, clock):
    """The rest wait for their turn."""
    urls = [f"http://{number}.test" for number in range(100)]
    transport.answers.update(dict.fromkeys(urls, "hangs"))
    pool = make(monitor, transport, *urls)
    async with monitor:
        pool.enter()
        await clock.advance(0.0)
        assert 64 == len(transport.asked)
        await clock.advance(2.0)
        assert 100 == len(transport.asked)
        await pool.leave()


async def test_the_proxy_waits_for_the_first_round(monitor, transport):
    """And two who enter at the same time are counted both."""
    transport.answers[A] = 500
    pool = make(monitor, transport)
    proxy = Proxy(monitor=monitor)

    @proxy.route("/<path>", upstream=pool)
    async def api() -> None: ...

    proxy.build_router()
    async with proxy:
        assert [B] == available(pool)
    await asyncio.gather(proxy.__aenter__(), proxy.__aenter__())
    await proxy.__aexit__(None, None, None)
    assert pool.entered()
    await proxy.__aexit__(None, None, None)
    assert not pool.entered()


async def test_one_that_recovers_starts_slowly(monitor, transport, clock):
    """One that was down when the pool started does; those that were well do not."""
    transport.answers[A] = 503
    pool = make(monitor, transport, slow_start=100.0)
    async with running(monitor, pool):
        assert [1.0, 1.0] == [one.effective_weight for one in pool.status()]
        transport.answers[A] = 200
        await rounds(clock, 2)
        back = [one.effective_weight for one in pool.status()]
        transport.answers[A] = 503
        await rounds(clock, 3)
        assert [B] == available(pool)
        await clock.advance(120.0)
        transport.answers[A] = 200
        await rounds(clock, 2)
        again = [one.effective_weight for one in pool.status()]

    assert [0.1, 1.0] == [round(back[0], 1), back[1]]
    assert [0.1, 1.0] == [round(again[0], 1), again[1]]
