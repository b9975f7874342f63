"""PLUG POINT. Balancing policies: frozen, shareable recipes whose ``bind()`` makes the state of one pool."""

from proxyroutes.policies.balancing import (
    FirstAvailable,
    LeastLatency,
    LeastRequests,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    WeightedRoundRobin,
)
from proxyroutes.policies.hashing import ConsistentHash
from proxyroutes.policies.mirrors import ComparedResponse, Comparison, Mirror, MirrorCounts
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.policies.rates import RateLimit
from proxyroutes.policies.slow_start import SlowStart
from proxyroutes.policies.splits import WeightedSplit

__all__ = [
    "ComparedResponse",
    "Comparison",
    "ConsistentHash",
    "FirstAvailable",
    "LeastLatency",
    "LeastRequests",
    "Mirror",
    "MirrorCounts",
    "OutlierDetection",
    "PowerOfTwoChoices",
    "Random",
    "RateLimit",
    "RoundRobin",
    "SlowStart",
    "WeightedRoundRobin",
    "WeightedSplit",
]
