"""A real scrape of a real gateway, read by Prometheus' own parser."""

from fastapi import Depends, FastAPI, HTTPException
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.integration.support import RawClient, eventually, make_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def ask(port, target, *lines, method="GET"):
    """Ask over a new connection."""
    client = await RawClient.connect(port)
    try:
        return await client.ask(make_request(target, *lines, method=method), method)
    finally:
        await client.close()


def samples_of(families):
    """Samples by name and labels."""
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


def make_app(origin_url, records):
    """A gateway with two routes, its metrics beside them."""
    proxy = Proxy(on_exchange=records.append)
    pool = UpstreamPool("users", [origin_url])

    @proxy.route("/api/<path>", upstream=pool)
    async def api() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    app.include_router(proxy.metrics_router(), prefix="/_proxy")
    return app


async def test_a_scrape_tells_what_was_served():
    """Exchanges by route, pool and destination, and the pool's state."""
    records = []
    async with (
        ScriptedOrigin([OK]) as origin,
        run_gateway(make_app(origin.url, records)) as gateway,
    ):
        for _ in range(3):
            await ask(gateway.port, "/api/a")
        await ask(gateway.port, "/api/a", "Host: twice")
        await eventually(lambda: len(records) == 4)
        reply = await ask(gateway.port, "/_proxy/metrics")
        samples = samples_of(text_string_to_metric_families(reply.body.decode()))
        destination = {"pool": "users", "destination": origin.url}

    def value(name, **labels):
        return samples[(name, *sorted(labels.items()))]

    assert (200, True) == (reply.status, reply.get("content-type").startswith(b"text/plain"))
    assert (3.0, 1.0, 3.0, 3.0, 3.0, 0.0, 1.0) == (
        value(
            "proxyroutes_route_exchanges_total", route="api", method="GET", status="200", cause=""
        ),
        value(
            "proxyroutes_route_exchanges_total",
            route="api",
            method="GET",
            status="400",
            cause="client-request",
        ),
        value("proxyroutes_destination_exchanges_total", **destination, status="200", cause=""),
        value("proxyroutes_destination_leases_total", **destination),
        value("proxyroutes_destination_first_byte_seconds_count", **destination),
        value("proxyroutes_pool_in_flight", pool="users"),
        value("proxyroutes_pool_available", pool="users"),
    )


async def test_a_scraper_may_ask_for_openmetrics():
    """Then it gets that format, and it is complete."""
    async with ScriptedOrigin([OK]) as origin, run_gateway(make_app(origin.url, [])) as gateway:
        await ask(gateway.port, "/api/a")
        reply = await ask(
            gateway.port,
            "/_proxy/metrics",
            "Accept: application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
        families = list(openmetrics.text_string_to_metric_families(reply.body.decode()))

    assert reply.get("content-type").startswith(b"application/openmetrics-text")
    assert "proxyroutes_route_exchanges" in {family.name for family in families}


async def test_metrics_are_guarded_by_what_they_are_included_with():
    """They are an ordinary route of the application."""

    def refuse():
        raise HTTPException(401)

    proxy = Proxy()
    app = FastAPI()
    app.include_router(proxy.metrics_router("/numbers"), dependencies=[Depends(refuse)])
    async with run_gateway(app) as gateway:
        reply = await ask(gateway.port, "/numbers")

    assert 401 == reply.status
