"""PLUG POINT. Policies of pools and routes: frozen, shareable recipes whose ``bind()`` makes the state of one pool."""

from proxyroutes.policies.affinity import CookieAffinity, HeaderAffinity
from proxyroutes.policies.balancing import (
    FirstAvailable,
    LeastRequests,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    WeightedRoundRobin,
)
from proxyroutes.policies.breakers import CircuitBreaker
from proxyroutes.policies.hashing import ConsistentHash
from proxyroutes.policies.hedging import Hedge
from proxyroutes.policies.latency import LeastLatency
from proxyroutes.policies.mirrors import ComparedResponse, Comparison, Mirror, MirrorCounts
from proxyroutes.policies.outliers import OutlierDetection
from proxyroutes.policies.rates import RateLimit
from proxyroutes.policies.retries import Backoff, Retry, RetryBudget
from proxyroutes.policies.slow_start import SlowStart
from proxyroutes.policies.splits import WeightedSplit

__all__ = [
    "Backoff",
    "CircuitBreaker",
    "ComparedResponse",
    "Comparison",
    "ConsistentHash",
    "CookieAffinity",
    "FirstAvailable",
    "HeaderAffinity",
    "Hedge",
    "LeastLatency",
    "LeastRequests",
    "Mirror",
    "MirrorCounts",
    "OutlierDetection",
    "PowerOfTwoChoices",
    "Random",
    "RateLimit",
    "Retry",
    "RetryBudget",
    "RoundRobin",
    "SlowStart",
    "WeightedRoundRobin",
    "WeightedSplit",
]
