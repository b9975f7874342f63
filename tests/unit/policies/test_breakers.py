"""Circuit breakers: when they open, whom they let through, when they close."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxyroutes.policies import CircuitBreaker
from proxyroutes.testing import ManualClock

BREAKER = CircuitBreaker(window=10.0, min_requests=4, max_failures=0.5, open_for=5.0, trials=2)


@pytest.fixture
def clock():
    """Time that stands still."""
    return ManualClock()


@pytest.mark.parametrize(
    "keywords",
    [
        {"window": 0.5},
        {"open_for": 0.0},
        {"max_failures": 0.0},
        {"max_failures": 1.1},
        {"min_requests": 0},
        {"trials": 0},
    ],
)
def test_a_number_out_of_its_range_is_refused(keywords):
    """Where it is written."""
    with pytest.raises(ValueError, match=next(iter(keywords))):
        CircuitBreaker(**keywords)


def pass_through(circuit, *outcomes):
    """Let exchanges through, each ended at once; gives whether they were let."""
    let = []
    for failed in outcomes:
        trial, seconds = circuit.admit()
        let.append(not seconds)
        if not seconds:
            circuit.ended(failed, trial=trial)
    return let


@pytest.mark.requirement("R-38")
def test_it_opens_at_the_share(clock):
    """Half of at least four, and not before there are four."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, True, True, True)
    assert "closed" == circuit.state
    pass_through(circuit, True)

    assert ("open", 1) == (circuit.state, circuit.openings)
    assert "4 of 4 exchanges failed within 10 s" == circuit.reason
    assert (0, 5.0) == circuit.admit()


def test_less_than_the_share_leaves_it_closed(clock):
    """However many there are."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, *[False, False, True] * 50)

    assert "closed" == circuit.state


@pytest.mark.requirement("R-38", "R-31")
def test_who_has_left_counts_as_nothing(clock):
    """Neither for nor against."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, *[None] * 50, True, True, True)

    assert "closed" == circuit.state


async def test_what_is_older_than_the_window_is_forgotten(clock):
    """By the second."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, True, True, True)
    await clock.advance(10.5)
    pass_through(circuit, False, False, False, True)

    assert "closed" == circuit.state


@pytest.mark.requirement("R-38")
async def test_trials_close_it(clock):
    """As many as are asked for, no more at a time."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, *[True] * 4)
    await clock.advance(5.0)
    assert "half-open" == circuit.state
    first, second = circuit.admit(), circuit.admit()
    assert ((1, 0.0), (1, 0.0)) == (first, second)
    assert (0, 1.0) == circuit.admit()
    circuit.ended(False, trial=1)
    assert (0, 1.0) == circuit.admit()
    circuit.ended(False, trial=1)

    assert "closed" == circuit.state
    pass_through(circuit, True, True, True)
    assert "closed" == circuit.state, "it begins to count anew"


async def test_a_trial_that_fails_opens_it_again(clock):
    """For as long as before; what the other one comes to no longer counts."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, *[True] * 4)
    await clock.advance(5.0)
    circuit.admit()
    circuit.admit()
    circuit.ended(True, trial=1)
    assert ("open", "a trial failed") == (circuit.state, circuit.reason)
    circuit.ended(False, trial=1)
    await clock.advance(5.0)

    assert ((2, 0.0), (2, 0.0)) == (circuit.admit(), circuit.admit())


@pytest.mark.requirement("R-38")
async def test_a_trial_whose_client_has_left_makes_room_for_another(clock):
    """Nobody can tell what it would have come to."""
    circuit = BREAKER.bind(clock=clock)
    pass_through(circuit, *[True] * 4)
    await clock.advance(5.0)
    let = pass_through(circuit, None, None, None, False)

    assert [True] * 4 == let
    assert "half-open" == circuit.state


def test_what_ends_after_it_has_opened_changes_nothing(clock):
    """It was let through before."""
    circuit = BREAKER.bind(clock=clock)
    for _ in range(8):
        circuit.admit()
    for _ in range(8):
        circuit.ended(True)

    assert 1 == circuit.openings


class Machine(RuleBasedStateMachine):
    """Any order of what may happen."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.circuit = BREAKER.bind(clock=self)
        self.running = []

    def monotonic(self):
        """It is its own clock."""
        return self.now

    @rule(seconds=st.floats(0, 8))
    def wait(self, seconds):
        """Time passes."""
        self.now += seconds

    @rule()
    def come(self):
        """A request comes."""
        state = self.circuit.state
        trial, seconds = self.circuit.admit()
        if not seconds:
            self.running.append(trial)
        assert (state == "open") <= (seconds > 0)
        assert (state == "closed") <= (seconds == 0 and not trial)
        assert (state == "half-open" and not seconds) <= (trial > 0)

    @rule(place=st.integers(0, 100), failed=st.sampled_from([True, False, None]))
    def end(self, place, failed):
        """One of them ends."""
        if self.running:
            trial = self.running.pop(place % len(self.running))
            self.circuit.ended(failed, trial=trial)

    @invariant()
    def trials_are_few(self):
        """There are never more of this opening than are asked for."""
        running = self.running.count(self.circuit.openings) if self.circuit.openings else 0
        assert self.circuit.state == "closed" or running <= 2


TestMachine = Machine.TestCase
