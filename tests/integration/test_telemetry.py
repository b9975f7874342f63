"""Spans and metrics of OpenTelemetry, read back from memory."""

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from proxyroutes import Timeouts
from proxyroutes.testing import Close, ReadHead, ScriptedOrigin
from proxyroutes.transports._telemetry import find_telemetry
from tests.integration.support import (
    OK,
    eventually,
    make_request,
    one_transport,
    refusing_destination,
    values_of,
)
from tests.integration.websocket_support import SessionOrigin, open_sessions

pytestmark = one_transport

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch):
    """An exporter that keeps every span that has ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def measures(monkeypatch):
    """A reader of every metric."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", provider)
    yield reader
    provider.shutdown()


def ours(exporter):
    """The client spans that have ended."""
    return [one for one in exporter.get_finished_spans() if one.kind is SpanKind.CLIENT]


def points(reader):
    """Data points by the name of their metric."""
    collected = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in (collected.resource_metrics if collected else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if scope.scope.name == "proxyroutes"
    }


async def test_an_attempt_is_a_client_span(serve, lane, spans):
    """With the conventions' names, ended when the answer is relayed."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(f"{origin.url}/base", lane=lane)
        await gateway.get("/a%2Fb?token=secret&c=d")
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)
        attributes = dict(span.attributes)
        port = origin.port

        assert ("GET", StatusCode.UNSET) == (span.name, span.status.status_code)
        assert {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "server.address": "127.0.0.1",
            "server.port": port,
            "url.scheme": "http",
            "url.full": f"http://127.0.0.1:{port}/base/a%2Fb?token=REDACTED&c=d",
            "proxyroutes.pool": "pool",
            "proxyroutes.route": "forwarded",
        } == attributes


async def test_the_upstream_gets_the_spans_own_context(serve, lane, spans):
    """In place of the client's, whose trace goes on; what a vendor said of the client's span goes on with it."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get("/", f"Traceparent: {PARENT}", "Tracestate: a=b")
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)
        (received,) = origin.requests
        context = span.get_span_context()

        assert [f"00-{TRACE}-{context.span_id:016x}-01".encode()] == values_of(
            received, "traceparent"
        )
        assert [b"a=b"] == values_of(received, "tracestate")
        assert TRACE == f"{context.trace_id:032x}"


async def test_without_the_clients_a_trace_begins(serve, lane, spans):
    """The upstream learns of it."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get()
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)
        context = span.get_span_context()

        expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

        assert [expected.encode()] == values_of(origin.requests[0], "traceparent")


@pytest.mark.parametrize("given", [PARENT, "nonsense"], ids=["valid", "invalid"])
async def test_without_a_provider_the_clients_context_passes_as_it_came(serve, lane, given):
    """And nothing is wrapped."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get("/", f"Traceparent: {given}", "Tracestate: a=b")
        (received,) = origin.requests

        assert ([given.encode()], [b"a=b"]) == (
            values_of(received, "traceparent"),
            values_of(received, "tracestate"),
        )
        assert gateway.pool.state().telemetry is None


async def test_a_trace_that_is_not_sampled_is_passed_on_as_such(serve, monkeypatch):
    """The upstream is told not to sample."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get()
        (value,) = values_of(origin.requests[0], "traceparent")

        sampled = int(value[-2:], 16) & 1

        assert 0 == sampled


async def test_the_servers_span_is_the_parent_where_there_is_one(serve, spans):
    """FastAPI opens it where it knows how to; then ours lies within."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane="fastapi")
        await gateway.get()
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)
        others = {
            one.get_span_context().span_id: one.get_span_context().trace_id
            for one in spans.get_finished_spans()
            if one is not span
        }

        # Older releases of FastAPI open none.
        if others:
            assert others[span.parent.span_id] == span.get_span_context().trace_id
        else:
            assert span.parent is None


async def test_every_attempt_has_a_span_of_its_own(serve, lane, spans):
    """The second one says that it is a repetition."""
    with refusing_destination() as url:
        async with ScriptedOrigin([OK]) as origin:
            gateway = await serve(url, origin.url, lane=lane)
            await gateway.get()
            await eventually(lambda: len(ours(spans)) == 2)
            first, second = ours(spans)

            assert ("UpstreamConnectError", StatusCode.ERROR, None) == (
                first.attributes["error.type"],
                first.status.status_code,
                first.attributes.get("http.request.resend_count"),
            )
            assert (200, 1) == (
                second.attributes["http.response.status_code"],
                second.attributes["http.request.resend_count"],
            )
            assert first.get_span_context().span_id != second.get_span_context().span_id


FAILURES = [
    pytest.param(
        [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], {}, "503", 503, id="an answered failure"
    ),
    pytest.param(
        [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"], {}, "404", 404, id="not found"
    ),
    pytest.param([b"nonsense\r\n\r\n"], {}, "UpstreamProtocolError", None, id="no response"),
    pytest.param(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", Close()],
        {},
        "UpstreamProtocolError",
        200,
        id="cut off",
    ),
    pytest.param(
        [ReadHead()],
        {"timeouts": Timeouts(first_byte=0.05)},
        "UpstreamTimeoutError",
        None,
        id="time-out",
    ),
]


@pytest.mark.usefixtures("broken_relays")
@pytest.mark.parametrize(("script", "route", "kind", "status"), FAILURES)
async def test_a_failure_is_an_error_of_its_kind(serve, spans, script, route, kind, status):
    """The status as a string, or the exception's name."""
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url, **route)
        await gateway.get()
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)

        assert (kind, status, StatusCode.ERROR) == (
            span.attributes["error.type"],
            span.attributes.get("http.response.status_code"),
            span.status.status_code,
        )


@pytest.mark.parametrize("phase", ["head", "body"])
async def test_a_client_that_leaves_is_no_error(serve, spans, phase):
    """The span ends, and blames nobody."""
    script = (
        [ReadHead()] if phase == "head" else [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na"]
    )
    async with ScriptedOrigin(script) as origin:
        gateway = await serve(origin.url)
        client = await gateway.connect()
        await client.send(make_request())
        if phase == "head":
            await eventually(lambda: origin.requests)
        else:
            await client.read_head()
        client.leave()
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)

        assert (StatusCode.UNSET, None) == (
            span.status.status_code,
            span.attributes.get("error.type"),
        )


async def test_a_method_that_is_not_known_is_other(serve, spans):
    """With its spelling beside it."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url)
        await gateway.get(method="PROPFIND")
        await eventually(lambda: ours(spans))
        (span,) = ours(spans)

        assert ("HTTP", "_OTHER", "PROPFIND") == (
            span.name,
            span.attributes["http.request.method"],
            span.attributes["http.request.method_original"],
        )


@pytest.mark.usefixtures("transport")
async def test_a_session_is_the_span_of_its_handshake(spans):
    """It ends when the session is open, hours before the session does."""
    async with SessionOrigin() as origin:
        async with open_sessions(origin.url) as gateway:
            client, upstream = await gateway.open(origin)
            await eventually(lambda: ours(spans))
            (span,) = ours(spans)
            await client.close(1000)
            await upstream.closed()

    assert (101, "pool", StatusCode.UNSET) == (
        span.attributes["http.response.status_code"],
        span.attributes["proxyroutes.pool"],
        span.status.status_code,
    )


async def test_durations_are_measured(serve, lane, measures):
    """With the conventions' attributes, whatever became of the attempt; no head is changed for it."""
    async with ScriptedOrigin([OK]) as origin:
        gateway = await serve(origin.url, lane=lane)
        await gateway.get("/", f"Traceparent: {PARENT}")
        await eventually(lambda: "http.client.request.duration" in points(measures))
        (duration,) = points(measures)["http.client.request.duration"]
        (active,) = points(measures)["http.client.active_requests"]

        assert (1, 0) == (duration.count, active.value)
        assert (
            0.005,
            0.01,
            0.025,
            0.05,
            0.075,
            0.1,
            0.25,
            0.5,
            0.75,
            1,
            2.5,
            5,
            7.5,
            10,
        ) == tuple(duration.explicit_bounds)
        assert {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "server.address": "127.0.0.1",
            "server.port": origin.port,
            "url.scheme": "http",
        } == dict(duration.attributes)
        assert [PARENT.encode()] == values_of(origin.requests[0], "traceparent")


@pytest.mark.usefixtures("transport")
def test_the_apis_own_stand_ins_are_no_providers():
    """They are there in every process, and do nothing."""
    assert metrics.get_meter_provider() is not None
    assert find_telemetry("pool") is None
