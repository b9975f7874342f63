"""``retry=``, ``hedge=`` and ``limits=`` of routes: what they become, and what is refused."""

import pytest

from proxyroutes import Limits, Proxy, Retry
from proxyroutes.exceptions import PolicyError
from proxyroutes.policies import Hedge

URL = "http://127.0.0.1:9"


def compile_one(*, proxy=None, method="get", **route):
    """The plan of one route, and what is wrong with it."""
    proxy = Proxy(**(proxy or {}))

    async def stub() -> None:
        """Say nothing."""

    getattr(proxy, method)("/x", upstream=URL, **route)(stub)
    compiled = proxy.compiled()
    plan = compiled.routes[0][1] if compiled.routes else None
    return plan, compiled.problems


def test_a_plain_route_has_no_steps():
    """Nothing of it is on its way."""
    plan, problems = compile_one()

    assert (None, ()) == (plan.steps, problems)


@pytest.mark.parametrize("where", [{}, {"proxy": True}], ids=["route", "proxy"])
def test_what_a_route_says_becomes_its_steps(where):
    """Itself, or by its proxy."""
    given = {"retry": Retry(attempts=3), "hedge": Hedge(0.5), "limits": Limits(max_in_flight=2)}
    plan, problems = compile_one(proxy=given) if where else compile_one(**given)

    assert () == problems
    assert (given["retry"], given["hedge"]) == (plan.steps.retry, plan.steps.hedge)
    assert plan.steps.limits is not None


def test_limits_without_a_number_are_no_step():
    """The route stays plain."""
    assert None is compile_one(limits=Limits())[0].steps


@pytest.mark.parametrize(
    ("keyword", "value", "problem"),
    [
        ("retry", 3, "retry is a Retry value: write Retry(attempts=3), not 3"),
        ("hedge", 0.5, "hedge is a Hedge value: write Hedge(after=0.2), not 0.5"),
        ("limits", 9, "limits is a Limits value: write Limits(max_in_flight=100), not 9"),
    ],
)
def test_what_is_no_policy_is_reported(keyword, value, problem):
    """With the place of its stub."""
    _, (error,) = compile_one(**{keyword: value})

    assert isinstance(error, PolicyError)
    assert (problem, True) == (error.problem, "test_attempts.py:" in error.location)


def test_hedging_what_may_be_done_twice_is_reported():
    """Nobody wants two orders."""
    _, (error,) = compile_one(method="post", hedge=Hedge(0.5))

    assert "hedge: requests of POST may be done twice" in error.problem


def test_hedging_that_is_inherited_is_for_others():
    """A group of reads and writes may hedge its reads."""
    plan, problems = compile_one(proxy={"hedge": Hedge(0.5)}, method="post")

    assert ((), None) == (problems, plan.steps)


def test_hedging_a_route_of_every_method_is_fine():
    """Its idempotent requests are hedged."""
    assert () == compile_one(method="route", hedge=Hedge(0.5))[1]
