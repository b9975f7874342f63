"""Places and the queue for them."""

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxyroutes import Destination, HealthMonitor, UpstreamPool
from proxyroutes._state.limits import LeaseQueue, Limiter, RouteLimiters
from proxyroutes.exceptions import NoDestinationError
from proxyroutes.settings import Limits
from proxyroutes.testing import ManualClock
from proxyroutes.typing import ForwardedHead

HEAD = ForwardedHead(b"GET", b"/", [], None, None)


def limiter_of(most=1, **keywords):
    """Places that are all free."""
    return Limiter("pool 'p'", Limits(max_in_flight=most, **keywords))


@pytest.mark.parametrize(("queue", "order"), [("fifo", [0, 1, 2]), ("lifo", [2, 1, 0])])
async def test_a_place_goes_to_exactly_one_who_waits(queue, order):
    """Whose turn it is."""
    limiter = limiter_of(queue=queue)
    assert limiter.take()
    assert not limiter.take()
    waiters = [limiter.join() for _ in range(3)]
    woken = []
    for _ in order:
        limiter.give_back()
        woken += [place for place, one in enumerate(waiters) if one.done() and place not in woken]
        assert not limiter.take(), "nobody who comes now gets it"
    limiter.give_back()

    assert order == woken
    assert (0, 0) == (limiter.taken, limiter.waiting)


async def test_a_full_queue_is_answered_at_once():
    """With a time after which to come again."""
    limiter = limiter_of(max_queue=1, queue_timeout=2.5)
    limiter.take()
    limiter.join()
    with pytest.raises(NoDestinationError, match="and 1 wait for one") as raised:
        limiter.join()

    assert 2.5 == raised.value.retry_after


async def test_without_a_queue_nobody_waits():
    """``max_queue=0``."""
    limiter = limiter_of(max_queue=0)
    limiter.take()
    with pytest.raises(NoDestinationError):
        limiter.join()


async def test_who_leaves_is_passed_over():
    """The next one gets the place."""
    limiter = limiter_of()
    limiter.take()
    first, second = limiter.join(), limiter.join()
    limiter.leave(first)
    limiter.give_back()

    assert (True, True) == (first.cancelled(), second.done())
    assert 1 == limiter.taken


async def test_a_place_that_was_given_to_one_who_leaves_goes_on():
    """It is not lost between the two."""
    limiter = limiter_of()
    limiter.take()
    first, second = limiter.join(), limiter.join()
    limiter.give_back()
    limiter.leave(first)
    assert second.done()
    limiter.leave(second)

    assert 0 == limiter.taken


async def test_who_was_cancelled_is_passed_over():
    """Though nobody has said so yet."""
    limiter = limiter_of()
    limiter.take()
    first, second = limiter.join(), limiter.join()
    first.cancel()
    limiter.give_back()

    assert second.done()
    limiter.leave(first)
    assert 1 == limiter.taken


class LeaseLike:
    """What can be given back."""

    def __init__(self):
        self.released = 0

    def release(self):
        """Give it back."""
        self.released += 1


async def test_a_lease_that_cannot_be_taken_fails_who_waits_for_it():
    """And nobody else; what is taken for one who leaves is given back."""

    def fail():
        raise ZeroDivisionError

    queue = LeaseQueue("pool 'p'", Limits())
    lease = LeaseLike()
    failing, leaving, gone, late = [queue.join(one) for one in (fail, lambda: lease, fail, fail)]
    gone.cancel()
    room = iter([True, True, False])
    queue.serve(lambda: next(room))
    assert (2, lease) == (queue.waiting, leaving.result())
    with pytest.raises(ZeroDivisionError):
        await failing
    for one in (failing, leaving, gone, late):
        queue.leave(one)

    assert (0, 1) == (queue.waiting, lease.released)


async def test_a_lease_that_fills_its_destination_serves_nobody_in_between():
    """The pool looks anew then, in the midst of it."""
    queue = LeaseQueue("pool 'p'", Limits())
    order = []

    def take(name):
        def lease():
            order.append(f"{name} begins")
            queue.serve(lambda: True)
            order.append(f"{name} has it")
            return LeaseLike()

        return lease

    for name in "ab":
        queue.join(take(name))
    queue.serve(lambda: True)

    assert ["a begins", "a has it", "b begins", "b has it"] == order


def test_each_loop_has_places_of_its_own():
    """A plan knows no loop."""
    limiters = RouteLimiters("route 'r'", Limits(max_in_flight=1))
    loops = [asyncio.new_event_loop() for _ in range(2)]
    first, second = (limiters.on(loop) for loop in loops)

    assert first is limiters.on(loops[0])
    assert first is not second
    for loop in loops:
        loop.close()


class Machine(RuleBasedStateMachine):
    """Any order of coming, leaving and giving back."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.limiter = limiter_of(3, max_queue=4)
        self.inside = 0
        self.waiters = []

    def in_loop(self, call):
        """Run within the loop, which futures need."""

        async def run():
            return call()

        return self.loop.run_until_complete(run())

    def look(self):
        """Whoever was woken is inside."""
        woken = [one for one in self.waiters if one.done()]
        self.waiters = [one for one in self.waiters if not one.done()]
        self.inside += len(woken)

    @rule()
    def come(self):
        """Somebody takes a place or waits."""
        if self.in_loop(self.limiter.take):
            self.inside += 1
            return
        try:
            self.waiters.append(self.in_loop(self.limiter.join))
        except NoDestinationError:
            assert 4 == len(self.waiters)

    @rule()
    def go(self):
        """Somebody gives a place back."""
        if self.inside:
            self.inside -= 1
            self.in_loop(self.limiter.give_back)
            self.look()

    @rule(place=st.integers(0, 3))
    def give_up(self, place):
        """Somebody who waits leaves."""
        if place < len(self.waiters):
            waiter = self.waiters.pop(place)
            self.in_loop(lambda: self.limiter.leave(waiter))

    @invariant()
    def places_are_kept(self):
        """Nobody waits while there is one, and there are never more than allowed."""
        assert self.inside == self.limiter.taken <= 3
        assert len(self.waiters) == self.limiter.waiting
        assert not self.waiters or self.inside == 3

    def teardown(self):
        """Close the loop."""
        self.loop.close()


TestMachine = Machine.TestCase


class Destinations(RuleBasedStateMachine):
    """Any order of coming, leaving, ending, and of destinations that come and go."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pool = UpstreamPool(
            "p",
            [Destination("http://a", max_in_flight=1), Destination("http://b", max_in_flight=2)],
            monitor=HealthMonitor(clock=ManualClock()),
        )
        self.leases = []
        self.waiters = []
        self.state = self.in_loop(self.pool.state)

    def in_loop(self, call):
        """Run within the loop, and have the pool's own tasks run."""

        async def run():
            result = call()
            for _ in range(3):
                await asyncio.sleep(0)
            return result

        result = self.loop.run_until_complete(run())
        self.leases += [one.result() for one in self.waiters if one.done()]
        self.waiters = [one for one in self.waiters if not one.done()]
        return result

    def lease(self):
        """As a request asks for it."""
        return self.state.lease(HEAD)

    @rule()
    def come(self):
        """Somebody takes a lease or waits."""
        try:
            lease = self.in_loop(self.lease)
            self.leases.append(lease)
        except NoDestinationError:
            if self.state.is_crowded():
                waiter = self.in_loop(lambda: self.state.queue.join(self.lease))
                self.waiters.append(waiter)

    @rule(place=st.integers(0, 3))
    def go(self, place):
        """Somebody gives a lease back."""
        if place < len(self.leases):
            self.in_loop(self.leases.pop(place).release)

    @rule(place=st.integers(0, 3), given=st.booleans())
    def give_up(self, place, given):
        """Somebody who waits leaves, also in the turn in which it was served."""
        if place < len(self.waiters):
            waiter = self.waiters.pop(place)
            if given and self.leases:
                last = self.leases.pop()
                self.in_loop(lambda: (last.release(), self.state.queue.leave(waiter)))
            else:
                self.in_loop(lambda: self.state.queue.leave(waiter))

    @rule(url=st.sampled_from(["http://a", "http://b"]))
    def drain(self, url):
        """One gets nothing new, or is used again."""
        state = next(one for one in self.state.destinations if one.origin == url)
        if state.draining:
            self.in_loop(lambda: self.pool.undrain(url))
        else:
            self.in_loop(lambda: self.loop.create_task(self.pool.drain(url)))

    @rule(place=st.integers(0, 1))
    def eject(self, place):
        """One is an outlier, or is no longer."""
        out, state = self.state.ejections.out, self.state.destinations[place]
        if out.pop(state, self) is self:
            out[state] = None
        self.in_loop(self.state.refresh)

    @invariant()
    def nobody_waits_for_what_is_there(self):
        """And there are never more than allowed."""
        state = self.state
        assert len(self.waiters) == state.queue.waiting
        assert not (self.waiters and state.available)
        assert len(self.leases) == state.in_flight
        assert all(one.in_flight <= one.recipe.max_in_flight for one in state.destinations)

    def teardown(self):
        """Let go of everything."""
        while self.waiters:
            waiter = self.waiters.pop()
            self.in_loop(lambda waiter=waiter: self.state.queue.leave(waiter))
        while self.leases:
            self.in_loop(self.leases.pop().release)
        assert 0 == self.state.in_flight == self.state.queue.waiting
        self.loop.run_until_complete(self.pool.close())
        self.loop.close()


TestDestinations = Destinations.TestCase
