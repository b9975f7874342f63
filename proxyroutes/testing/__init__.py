"""For tests of gateways, ours and yours: a clock to turn by hand, origins that do what they are told, a real server."""

from proxyroutes.testing.client import open_client, open_socket_client
from proxyroutes.testing.clock import ManualClock
from proxyroutes.testing.faults import Fault, FaultProxy, FaultyOrigin, NetworkFaults
from proxyroutes.testing.gateway import RunningGateway, run_gateway
from proxyroutes.testing.origin import (
    Close,
    HalfClose,
    ReadBody,
    ReadHead,
    ReadToEnd,
    ReadUntil,
    Reset,
    Script,
    ScriptedOrigin,
    Step,
    Wait,
)
from proxyroutes.testing.replace import replaced_transport, without_retries
from proxyroutes.testing.upstream import RecordedRequest, RecordingUpstream

__all__ = [
    "Close",
    "Fault",
    "FaultProxy",
    "FaultyOrigin",
    "HalfClose",
    "ManualClock",
    "NetworkFaults",
    "ReadBody",
    "ReadHead",
    "ReadToEnd",
    "ReadUntil",
    "RecordedRequest",
    "RecordingUpstream",
    "Reset",
    "RunningGateway",
    "Script",
    "ScriptedOrigin",
    "Step",
    "Wait",
    "open_client",
    "open_socket_client",
    "replaced_transport",
    "run_gateway",
    "without_retries",
]
