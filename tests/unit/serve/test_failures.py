"""How failures are answered and logged."""

import json
import logging

import pytest

from proxyroutes._serve.failures import PROBLEM_BASE, log_failure, problem, send_problem
from proxyroutes.exceptions import (
    ClientRequestError,
    NoDestinationError,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from tests.unit.serve.scripted import Server, make_exchange

SECRET = "10.0.0.7 said no"


@pytest.mark.requirement("H-47")
@pytest.mark.requirement("H-48")
@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (UpstreamConnectError(SECRET), 502, "upstream-connect"),
        (UpstreamProtocolError(SECRET), 502, "upstream-protocol"),
        (UpstreamTimeoutError(SECRET), 504, "upstream-timeout"),
        (NoDestinationError(SECRET), 503, "no-destination"),
        (ClientRequestError(SECRET), 400, "client-request"),
        (
            ClientRequestError(SECRET, status_code=413, title="Content too large"),
            413,
            "client-request",
        ),
    ],
    ids=lambda value: getattr(value, "slug", value),
)
def test_a_problem_has_type_title_and_status_and_nothing_from_inside(error, status, slug):
    """RFC 9457, and no exception's text."""
    code, fields, body = problem(error)

    assert status == code
    assert {"type": PROBLEM_BASE + slug, "title": error.title, "status": status} == json.loads(
        body
    )
    assert SECRET.encode() not in body
    assert (b"content-type", b"application/problem+json") in fields
    assert (b"content-length", str(len(body)).encode()) in fields


@pytest.mark.requirement("H-49")
@pytest.mark.parametrize(
    ("seconds", "value"), [(0.01, b"1"), (1.0, b"1"), (1.2, b"2"), (30.0, b"30")]
)
def test_retry_after_is_in_whole_seconds(seconds, value):
    """Rounded up, and never 0."""
    assert (b"retry-after", value) in problem(NoDestinationError("x", retry_after=seconds))[1]


def test_only_a_refused_request_closes_the_clients_connection():
    """An upstream's failure leaves it usable."""
    closing = (b"connection", b"close")

    assert closing in problem(ClientRequestError("x"))[1]
    assert closing not in problem(UpstreamConnectError("x"))[1]


def test_further_fields_of_a_refusal_are_sent():
    """Such as ``Allow``."""
    error = ClientRequestError("x", status_code=405, fields=((b"allow", b"GET"),))

    assert (b"allow", b"GET") in problem(error)[1]


async def test_a_problem_is_sent_as_one_complete_response():
    """A head and a body."""
    server = Server()
    await send_problem(UpstreamConnectError("x"), server.send)

    assert (502, True) == (server.status, server.complete)
    assert 502 == json.loads(server.body)["status"]


async def failed(error):
    """An exchange that has failed."""
    exchange = make_exchange()
    exchange.pool = "users"
    exchange.begin_attempt("http://up.test")
    log_failure(exchange, error)


async def test_a_failure_is_logged_in_one_line_with_what_where_and_why(caplog):
    """Route, pool, kind, cause, attempts, stage, side and destination."""
    error = UpstreamConnectError("no route", destination="http://up.test")
    error.__cause__ = OSError(113, "unreachable")
    await failed(error)
    (record,) = caplog.records

    assert ("proxyroutes.serve", logging.WARNING) == (record.name, record.levelno)
    assert (
        "exchange failed: route=route pool=users error=UpstreamConnectError cause=OSError(113, 'unreachable') "
        "attempts=1 detail=no route stage=connect side=upstream sent=False destination=http://up.test"
    ) == record.getMessage()


async def test_a_clients_mistake_is_logged_as_information(caplog):
    """It is nobody's alarm."""
    caplog.set_level(logging.INFO)
    await failed(ClientRequestError("x"))

    assert [logging.INFO] == [record.levelno for record in caplog.records]


async def test_nothing_is_made_for_a_log_that_nobody_reads(caplog):
    """Levels are asked first."""
    caplog.set_level(logging.ERROR, "proxyroutes.serve")
    await failed(UpstreamConnectError("x"))

    assert [] == caplog.records
