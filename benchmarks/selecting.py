"""What it costs to choose a destination, by policy and size of the pool: ``python -m benchmarks.selecting``.

In one process, without a network: the best of several rounds, in microseconds for one choice. A choice must not cost more
in a larger pool, beyond the logarithm of its size where a policy searches.
"""

import random
import time

from proxyroutes import Destination, UpstreamPool
from proxyroutes._state.clock import SystemClock
from proxyroutes._state.destinations import DestinationState
from proxyroutes.policies import (
    ConsistentHash,
    FirstAvailable,
    LeastLatency,
    LeastRequests,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    WeightedRoundRobin,
)
from proxyroutes.typing import Balancing, ForwardedHead

SIZES = (2, 10, 100, 1000)
ROUNDS = 7
CHOICES = 5000
POLICIES: tuple[Balancing, ...] = (
    RoundRobin(),
    WeightedRoundRobin(),
    Random(),
    PowerOfTwoChoices(),
    FirstAvailable(),
    ConsistentHash("path"),
    LeastRequests(),
    LeastLatency(),
)


def measure(policy: Balancing, size: int, *, weighted: bool) -> float:
    """Microseconds for one choice."""
    recipes = [
        Destination(f"http://10.0.0.1:{1000 + number}", weight=1 + number % 3 * weighted)
        for number in range(size)
    ]
    pool = UpstreamPool("measured", recipes, balancing=policy)
    candidates = tuple([DestinationState.of(recipe) for recipe in pool.destinations])
    balancer = policy.bind(clock=SystemClock(), random=random.Random(1))
    heads = [ForwardedHead(b"GET", b"/%d" % n, [], None, None) for n in range(CHOICES)]
    balancer.pick(candidates, heads[0])
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for head in heads:
            balancer.pick(candidates, head)
        best = min(best, time.perf_counter() - began)
    return best / CHOICES * 1e6


def main() -> None:
    """Print the table."""
    print("| policy | weights |" + "".join(f" {size} |" for size in SIZES))
    print("|---|---|" + "---:|" * len(SIZES))
    for policy in POLICIES:
        for weighted in (False, True):
            cells = [f" {measure(policy, size, weighted=weighted):.2f} |" for size in SIZES]
            name = f"`{type(policy).__name__}`"
            print(f"| {name} | {'differ' if weighted else 'equal'} |{''.join(cells)}")


if __name__ == "__main__":
    main()
