"""What the access log says of an exchange, and what it never says."""

import json
import logging
import logging.handlers
import pickle
import queue

import pytest

from proxyroutes import Proxy
from proxyroutes._operate.access_log import AccessLogger
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes.exceptions import Side
from proxyroutes.settings import AccessLog
from proxyroutes.transports._websocket_connection import Ending
from tests.unit.operate.test_metrics import make_record

FORGED = b'/a"\n2026 ERROR \x1b[31mforged'


def make_scope(**values):
    """A received request."""
    return {
        "type": "http",
        "method": "GET",
        "raw_path": b"/api/a%20b",
        "query_string": b"",
        "http_version": "1.1",
        "client": ("192.0.2.7", 1234),
        "headers": [(b"host", b"shop.example"), (b"user-agent", b"curl/8")],
        **values,
    }


@pytest.fixture
def logged(caplog):
    """Log one exchange and give its record."""
    caplog.set_level(logging.INFO, "proxyroutes.access")

    def log(recipe=None, record=None, **scope):
        exchange = make_record(scope=make_scope(**scope)) if record is None else record
        AccessLogger(recipe or AccessLog())(exchange)
        return caplog.records[-1]

    return log


def test_a_line_says_who_asked_what_and_what_came_of_it(logged):
    """In the usual order, in one line."""
    line = logged(
        record=make_record(
            scope=make_scope(query_string=b"a=1"), response_bytes=7, started=1.0, ended=1.0015
        )
    )
    actual = line.getMessage()

    assert (
        '192.0.2.7 "GET /api/a%20b?a=1 HTTP/1.1" 200 7 1.50ms route=api destination=http://a cause=-'
        == actual
    )
    assert ("proxyroutes.access", logging.INFO) == (line.name, line.levelno)


def test_every_fact_is_an_attribute(logged):
    """For a formatter that writes JSON."""
    line = logged()
    names = (
        "client host method path query http_version request_headers route pool destination status cause attempts "
        "request_bytes response_bytes total_seconds queue_seconds connect_seconds first_byte_seconds overhead_seconds"
    ).split()
    actual = json.loads(json.dumps({name: getattr(line, name) for name in names}))

    assert ("shop.example", {"user-agent": "curl/8"}, "users", 200, None, 1) == (
        actual["host"],
        actual["request_headers"],
        actual["pool"],
        actual["status"],
        actual["cause"],
        actual["attempts"],
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"token=abc&a=1", "token=[redacted]&a=1"),
        (b"a=1;token=abc", "a=1;token=[redacted]"),
        (b"a=1;token=abc&b=2", "a=1;token=[redacted]&b=2"),
        (b"TOKEN=abc", "TOKEN=[redacted]"),
        (b"%74oken=abc", "%74oken=[redacted]"),
        (b"token=a=b=c", "token=[redacted]"),
        (b"token=a&token=b", "token=[redacted]&token=[redacted]"),
        (b"X-Amz-Signature=1", "X-Amz-Signature=[redacted]"),
        (b"token", "token"),
        (b"tokens=1", "tokens=1"),
        (b"a=token", "a=token"),
    ],
)
def test_what_is_secret_in_a_query_is_not_logged(logged, query, expected):
    """However it is spelt, and nothing else is hidden."""
    line = logged(query_string=query)

    assert expected == line.query
    assert "abc" not in line.getMessage()


def test_a_query_may_be_left_out(logged):
    """Where its names tell too much already; that of a link in a field, too."""
    line = logged(
        AccessLog(query=False), query_string=b"a=1", headers=[(b"referer", b"http://a/b?c=1")]
    )

    assert ("", {"referer": "http://a/b"}) == (line.query, line.request_headers)


def test_a_secret_field_is_never_logged(logged):
    """Also where it is asked for."""
    line = logged(
        AccessLog(request_headers=("Authorization", "Accept")),
        headers=[(b"authorization", b"Bearer abc"), (b"accept", b"a"), (b"accept", b"b")],
    )

    assert {"authorization": "[redacted]", "accept": "a, b"} == line.request_headers


def test_a_link_in_a_field_is_redacted_as_a_query_is(logged):
    """The page before may have had a token in its address."""
    line = logged(headers=[(b"referer", b"https://a.test/login?code=abc&next=1")])

    assert "https://a.test/login?code=[redacted]&next=1" == line.request_headers["referer"]


def test_what_a_client_sends_cannot_forge_a_line(logged):
    """Control bytes are escaped, and a quotation mark does not end the quotation."""
    line = logged(raw_path=FORGED, query_string=b"\r\n\xff")
    message = line.getMessage()

    assert message.isascii() and message.isprintable()
    assert 2 == message.count('"')


def test_what_a_client_sends_is_cut_where_it_is_too_long(logged):
    """A line has an end."""
    line = logged(
        raw_path=b"/" + b"a" * 9_000,
        query_string=b"b" * 9_000,
        headers=[(b"user-agent", b"c" * 9_000)],
    )

    assert (2048, 2048, 512) == (
        len(line.path),
        len(line.query),
        len(line.request_headers["user-agent"]),
    )


def test_a_session_says_how_it_ended(logged):
    """With its side, its code and its messages."""
    line = logged(
        record=make_record(
            SessionRecord,
            status=101,
            scope=make_scope(type="websocket"),
            ending=Ending(Side.CLIENT, 1001),
            request_messages=2,
            response_messages=3,
        )
    )

    assert ("client", 1001, 2, 3) == (
        line.session_side,
        line.session_code,
        line.request_messages,
        line.response_messages,
    )


def test_an_exchange_without_a_request_is_logged_too(logged):
    """With what is known of it."""
    line = logged(record=make_record(scope=None, status=None, destination=None, whole=False))

    assert '- "GET  HTTP/-" - 0 0.00ms route=api destination=- cause=abandoned' == (
        line.getMessage()
    )


def test_a_logger_that_is_off_costs_nothing(caplog):
    """Nothing is worked out for nobody."""
    caplog.set_level(logging.WARNING, "proxyroutes.access")
    AccessLogger(AccessLog())(None)

    assert [] == caplog.records


def test_lines_pass_a_queue(caplog):
    """To a thread or a process that writes them, with every attribute."""
    waiting = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(waiting)
    logger = logging.getLogger("proxyroutes.access")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "proxyroutes.access"):
            AccessLogger(AccessLog())(make_record(scope=make_scope(query_string=b"token=abc")))
    finally:
        logger.removeHandler(handler)
    line = pickle.loads(pickle.dumps(waiting.get_nowait()))

    assert ("api", "token=[redacted]", 200) == (line.route, line.query, line.status)
    assert "GET /api/a%20b?token=[redacted]" in line.getMessage()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(False, 0), (True, 1), (AccessLog(query=False), 1)],
    ids=["off", "on", "recipe"],
)
def test_it_is_off_unless_it_is_asked_for(value, expected):
    """A library does not write logs of its own accord."""
    proxy = Proxy(access_log=value)

    assert expected == len(proxy._observers)
    assert 0 == len(Proxy()._observers)


def test_names_are_compared_in_lower_case():
    """However a user writes them."""
    recipe = AccessLog(
        request_headers=("Accept",), secret_parameters=("Pin",), secret_headers=("X-Pin",)
    )

    assert (("accept",), {"pin"}, {"x-pin"}) == (
        recipe.request_headers,
        recipe.secret_parameters,
        recipe.secret_headers,
    )


def test_a_client_that_a_server_took_from_a_field_cannot_forge_a_line(logged):
    """Servers that trust X-Forwarded-For give whatever text stands in it."""
    line = logged(client=('1.2.3.4 "GET /a" 200\x1b[31m\x85', 0))
    assert line.client == r"1.2.3.4%20%22GET%20/a%22%20200\x1b[31m\xc2\x85"
    assert line.getMessage().startswith(f'{line.client} "GET ')
