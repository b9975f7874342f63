"""PLUG POINT. Balancing policies: frozen, shareable recipes whose ``bind()`` makes the state of one pool."""

from proxyroutes.policies.balancing import PowerOfTwoChoices, RoundRobin

__all__ = ["PowerOfTwoChoices", "RoundRobin"]
