"""The API gateway that you declare in Python."""

from proxyroutes._build.forward import Forward
from proxyroutes._build.lane import GatewayMiddleware
from proxyroutes._build.readiness import HealthMonitor
from proxyroutes._build.responses import RelayResponse
from proxyroutes._serve.session import Session
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import BuildError, GatewayError, ProxyRoutesError
from proxyroutes.policies.rates import RateLimit
from proxyroutes.policies.retries import Retry
from proxyroutes.proxy import Proxy
from proxyroutes.settings import Destination, HealthCheck, Limits, Match, Timeouts

__all__ = [
    "BuildError",
    "Destination",
    "Forward",
    "ForwardedRequest",
    "GatewayError",
    "GatewayMiddleware",
    "HealthCheck",
    "HealthMonitor",
    "Limits",
    "Match",
    "Proxy",
    "ProxyRoutesError",
    "RateLimit",
    "RelayResponse",
    "Retry",
    "Session",
    "Timeouts",
    "UpstreamPool",
    "__version__",
]

__version__ = "0.1.0"
