"""Pools, circuits and budgets under any order of events: what must hold after each of them."""

import asyncio
from collections import deque
from random import Random

import pytest
from attrs import field, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from proxyroutes import HealthCheck, HealthMonitor, UpstreamPool
from proxyroutes.exceptions import UpstreamConnectError
from proxyroutes.policies import (
    CircuitBreaker,
    LeastRequests,
    OutlierDetection,
    PowerOfTwoChoices,
    RetryBudget,
    RoundRobin,
)
from proxyroutes.testing import ManualClock
from tests.unit.state.test_ejection import HEAD, Transport
from tests.unit.state.test_health import Scripted

SOME = settings(max_examples=60, stateful_step_count=40, deadline=None)
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 9.0, 10.0, 30.0, 65.0, 300.0])


class StandingClock:
    """Time that the machine moves, for what only reads it."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        """Seconds."""
        return self.now

    async def sleep(self, seconds):
        """Nobody waits here."""
        raise NotImplementedError


class PoolMachine(RuleBasedStateMachine):
    """Leases that end in every way, while time passes and destinations are ejected and come back."""

    leases = Bundle("leases")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.out = 0
        self.pool = None

    def run(self, function):
        """Run a step in the pool's loop."""

        async def step():
            result = function()
            for _ in range(3):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(step())

    def started(self):
        """The pool's state, made on first use."""
        if self.pool is None:
            self.pool = UpstreamPool(
                "p",
                [f"http://{name}" for name in "abcd"],
                monitor=HealthMonitor(clock=self.clock),
                transport=Transport(),
                balancing=self.balancing,
                outliers=OutlierDetection(consecutive=2),
            )
        return self.pool.state()

    balancing = RoundRobin()

    @rule(target=leases)
    def lease(self):
        """Begin an exchange: there is always somebody to ask."""
        lease = self.run(lambda: self.started().lease(HEAD))
        self.out += 1
        return lease

    @rule(lease=consumes(leases), ending=st.sampled_from(["well", "failed", "gateway", "left"]))
    def release(self, lease, ending):
        """End it, and end it again: the second time counts for nothing."""

        def end():
            lease.failed = ending == "failed"
            lease.status = {"well": 200, "gateway": 502}.get(ending, 0)
            lease.release()
            lease.release()

        self.run(end)
        self.out -= 1

    @rule(seconds=SECONDS)
    def wait(self, seconds):
        """Let time pass."""
        self.run(self.started)
        self.loop.run_until_complete(self.clock.advance(seconds))

    @invariant()
    def counters_are_right(self):
        """What is out is in flight, at the pool and at its destinations, and nothing else."""
        if self.pool is None:
            return
        state = self.run(self.started)

        assert self.out == state.in_flight == sum(one.in_flight for one in state.destinations)
        assert all(one.in_flight >= 0 for one in state.destinations)

    @invariant()
    def somebody_is_left(self):
        """At most half are ejected, so that the last one never is."""
        if self.pool is None:
            return
        state = self.run(self.started)

        assert 2 <= len(state.available) <= 4
        assert set(state.available) <= set(state.destinations)

    def teardown(self):
        """Once all have ended and enough time has passed, everything is as at the beginning."""
        if self.pool is not None:
            state = self.run(self.started)
            self.loop.run_until_complete(self.clock.advance(1_000.0))
            available = len(state.available)
            self.loop.run_until_complete(state.aclose())
            self.loop.run_until_complete(state.monitor.aclose())
            left = asyncio.all_tasks(self.loop)
        else:
            available, left = 4, set()
        self.loop.close()

        assert 4 == available
        assert set() == left


class TwoChoicesMachine(PoolMachine):
    """The same with another balancer, which looks at what is in flight."""

    balancing = PowerOfTwoChoices()


class LeastRequestsMachine(PoolMachine):
    """And with one that prefers the idlest."""

    balancing = LeastRequests()


class CircuitMachine(RuleBasedStateMachine):
    """A circuit breaker, with exchanges that end in every way and order."""

    admitted = Bundle("admitted")
    recipe = CircuitBreaker(min_requests=4, trials=2, open_for=10.0, window=10.0)

    def __init__(self):
        super().__init__()
        self.clock = StandingClock()
        self.circuit = self.recipe.bind(clock=self.clock)
        self.trials = set()

    @rule(target=admitted)
    def admit(self):
        """Ask to be let through."""
        before = self.circuit.state
        trial, wait = self.circuit.admit()

        assert before != "open" or wait > 0
        assert before != "closed" or (trial, wait) == (0, 0.0)
        if wait:
            return None
        token = (trial, object())
        if trial:
            self.trials.add(token)

            assert len([one for one in self.trials if one[0] == trial]) <= self.recipe.trials
        return token

    @rule(token=consumes(admitted), failed=st.sampled_from([True, False, None]))
    def end(self, token, failed):
        """An exchange has ended, or its client has left."""
        if token is not None:
            # A trial that went well counts against the number that may be under way until the circuit closes.
            self.circuit.ended(failed, trial=token[0])
            self.trials.discard(token)

    @rule(seconds=SECONDS)
    def wait(self, seconds):
        """Let time pass."""
        self.clock.now += seconds

    def teardown(self):
        """Whatever was cancelled: after its time it lets trials through, and closes when they go well."""
        for trial, _ in self.trials:
            self.circuit.ended(None, trial=trial)
        self.clock.now += self.recipe.open_for
        for _ in range(self.recipe.trials):
            if self.circuit.state == "closed":
                break
            trial, wait = self.circuit.admit()

            assert 0.0 == wait
            self.circuit.ended(False, trial=trial)

        assert "closed" == self.circuit.state


class BudgetMachine(RuleBasedStateMachine):
    """A retry budget."""

    recipe = RetryBudget(ratio=0.25, floor=2, window=10.0)

    def __init__(self):
        super().__init__()
        self.clock = StandingClock()
        self.budget = self.recipe.bind(clock=self.clock)
        self.requests = 0
        self.allowed = deque()
        self.total = 0

    @rule(count=st.integers(0, 40))
    def serve(self, count):
        """First attempts are made."""
        self.requests += count

    @rule(seconds=SECONDS)
    def wait(self, seconds):
        """Let time pass."""
        self.clock.now += seconds

    @rule()
    def spend(self):
        """Ask for a further attempt."""
        if self.budget.spend(self.requests):
            self.total += 1
            self.allowed.append(self.clock.now)

    @invariant()
    def budget_is_kept(self):
        """All further attempts are paid for: by a share of the requests, or by the floor of their window."""
        windows = 1 + (self.clock.now - 100.0) / self.recipe.window

        assert self.total <= self.recipe.ratio * self.requests + self.recipe.floor * windows + 1e-6
        assert self.total == self.budget.spent


def case(machine, *lines):
    """The test of a machine, that names its lines."""
    made = machine.TestCase
    made.settings = SOME
    for line in lines:
        made = pytest.mark.requirement(line)(made)
    return made


TestPool = case(PoolMachine, "R-40", "R-32")
TestPoolOfTwoChoices = case(TwoChoicesMachine, "R-40", "R-32")
TestPoolOfLeastRequests = case(LeastRequestsMachine, "R-40", "R-32")
TestCircuit = case(CircuitMachine, "R-38")
TestBudget = case(BudgetMachine, "R-18")


RISE, FALL, INTERVAL = 2, 3, 10.0


@frozen(eq=False)
class Recording(Scripted):
    """A transport that keeps how each destination's probes ended, in order."""

    ended: dict = field(factory=dict)

    async def send(self, head, body, destination, timeouts, attempt):
        """Answer as told, and take note."""
        answer = self.answers.get(destination.origin, 200)
        self.ended.setdefault(destination.origin, []).append(answer == 200)
        return await super().send(head, body, destination, timeouts, attempt)


def verdict_of(results):
    """What a check has come to by these results: the first decides alone, then so many of another kind in a row."""
    verdict, others = None, 0
    for passed in results:
        if verdict is None:
            verdict = passed
        elif passed == verdict:
            others = 0
        else:
            others += 1
            if others >= (RISE if passed else FALL):
                verdict, others = passed, 0
    return verdict


class HealthMachine(RuleBasedStateMachine):
    """Destinations that fail and recover while time passes, checks are set again and destinations come and go."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.transport = Recording()
        self.names = deque(["http://a", "http://b", "http://c"])
        self.pool = UpstreamPool(
            "p",
            self.names,
            monitor=HealthMonitor(clock=self.clock, interval=INTERVAL, random=Random(1)),
            transport=self.transport,
            health=HealthCheck("/", rise=RISE, fall=FALL),
            outliers=None,
        )
        self.run(self.pool.enter)

    def run(self, function):
        """Run a step in the pool's loop, and let what it has begun come to its end."""

        async def step():
            function()
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.run_until_complete(step())

    @rule(place=st.integers(0, 3), answer=st.sampled_from([200, 200, 500, OSError("gone")]))
    def answers(self, place, answer):
        """A destination becomes another one's likeness: well, failing, or unreachable."""
        name = self.names[place % len(self.names)]
        if isinstance(answer, OSError):
            answer = UpstreamConnectError("gone")
        self.transport.answers[name] = answer

    @rule(rounds=st.integers(1, 5))
    def wait(self, rounds):
        """Let rounds pass."""
        self.loop.run_until_complete(self.clock.advance(rounds * INTERVAL))
        self.run(lambda: None)

    @rule()
    def ask_anew(self):
        """The same check is set again: everything is probed at once, and what was known stays known."""
        self.run(lambda: self.pool.set_health(self.pool.health))

    @rule()
    def replace(self):
        """One goes, another one comes, of which nothing is known."""
        gone = self.names.popleft()
        came = f"http://new-{len(self.transport.ended)}"
        self.names.append(came)
        self.run(lambda: (self.pool.add(came), self.pool.remove(gone)))

    @invariant()
    def verdicts_are_right(self):
        """Each is what its own results come to, and who is unhealthy is not asked."""
        found = {}
        self.run(lambda: found.update(state=self.pool.state()))
        state = found["state"]
        expected = {one: verdict_of(self.transport.ended.get(one, ())) for one in self.names}

        assert expected == {one.origin: one.healthy for one in state.destinations}
        assert {one.origin for one in state.available} == {
            one for one, verdict in expected.items() if verdict is not False
        }

    def teardown(self):
        """Nothing of it is left."""
        self.loop.run_until_complete(self.pool.leave())
        left = [one for one in asyncio.all_tasks(self.loop) if "probe" in one.get_name()]
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(_nothing())
        self.loop.close()

        assert [] == left


async def _nothing():
    for _ in range(3):
        await asyncio.sleep(0)


TestHealth = case(HealthMachine, "R-25")
