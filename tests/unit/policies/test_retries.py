"""The recipes of retries, and the account of a budget."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes.exceptions import UpstreamTimeoutError
from proxyroutes.policies import Backoff, Retry, RetryBudget
from proxyroutes.testing import ManualClock


def test_the_defaults_are_those_of_the_contract():
    """Two tries, 20 %, three in any case."""
    retry = Retry()

    assert (2, 0.2, 3, frozenset()) == (
        retry.attempts,
        retry.budget.ratio,
        retry.budget.floor,
        retry.on,
    )


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Retry(attempts=0), "attempts must be at least 1"),
        (lambda: Retry(replay_bytes=-1), "replay_bytes must be at least 0"),
        (lambda: Retry(on=[99]), "not a final status: 99"),
        (lambda: Retry(methods=["POST"]), "POST may be done twice.*non_idempotent=True"),
        (lambda: Retry(methods=["GET", "patch"]), "PATCH may be done twice"),
        (lambda: RetryBudget(ratio=-0.1), "ratio must be at least 0"),
        (lambda: RetryBudget(floor=-1), "floor must be at least 0"),
        (lambda: RetryBudget(window=0.0), "window must be greater than 0"),
        (lambda: Backoff(base=-1.0), "base must be at least 0"),
        (lambda: Backoff(most=-1.0), "most must be at least 0"),
        (lambda: Backoff(max_retry_after=-1.0), "max_retry_after must be at least 0"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(make, problem):
    """Where it is written."""
    with pytest.raises(ValueError, match=problem):
        make()


@pytest.mark.parametrize("on", [503, "503", UpstreamTimeoutError, ["503"], [OSError]])
def test_what_is_tried_again_is_a_list_of_statuses_and_errors(on):
    """A lone one is refused, and so is what is neither."""
    with pytest.raises(TypeError):
        Retry(on=on)


def test_one_attempt_asks_for_no_status():
    """There is nothing to try again."""
    assert frozenset() == Retry(attempts=1, on=[503]).statuses


@pytest.mark.parametrize(
    ("number", "most"), [(1, 0.025), (2, 0.075), (3, 0.175), (4, 0.25), (5, 0.25), (5000, 0.25)]
)
def test_a_wait_is_a_random_part_of_a_doubling_time(number, most):
    """(2**n - 1) times 25 ms, a quarter of a second at most."""
    source = random.Random(7)
    waits = [Backoff().wait(number, source) for _ in range(500)]

    assert 0.0 <= min(waits) < 0.1 * most
    assert 0.9 * most < max(waits) <= most


def budget(clock, **keywords):
    """An account with no request in it."""
    return RetryBudget(**keywords).bind(clock=clock)


def test_requests_pay_for_retries():
    """Five for one, and three in any case."""
    account = budget(ManualClock())
    allowed = [account.spend(100) for _ in range(30)]

    assert [True] * 23 + [False] * 7 == allowed
    assert 23 == account.spent


async def test_the_floor_comes_back():
    """So many in each window."""
    clock = ManualClock()
    account = budget(clock, ratio=0.0, floor=2)
    spent = []
    for _ in range(5):
        spent.append([account.spend(0) for _ in range(4)].count(True))
        await clock.advance(4.0)

    assert [2, 0, 0, 2, 0] == spent


async def test_what_was_paid_is_gone_after_the_window():
    """A busy hour does not pay for a bad minute."""
    clock = ManualClock()
    account = budget(clock, floor=0)
    account.spend(1000)
    await clock.advance(10.0)

    assert not account.spend(1000)


async def test_a_quiet_time_counts_by_its_share():
    """Of 1,000 requests in 100 s about a tenth were in the last 10."""
    clock = ManualClock()
    account = budget(clock, floor=0)
    await clock.advance(100.0)

    assert 20 == [account.spend(1000) for _ in range(100)].count(True)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 20), st.integers(0, 20)), max_size=40),
    st.floats(0, 1),
    st.integers(0, 5),
)
async def test_no_sequence_gets_more_than_its_share(steps, ratio, floor):
    """All retries together: the ratio of all requests, and the floor once for each window that was begun."""
    clock = ManualClock()
    account = budget(clock, ratio=ratio, floor=floor)
    requests, elapsed = 0, 0.0
    for more, seconds, tries in steps:
        requests += more
        elapsed += seconds
        await clock.advance(seconds)
        for _ in range(tries):
            account.spend(requests)

    assert account.spent <= ratio * requests + floor * (1 + elapsed / 10.0) + 1e-6
