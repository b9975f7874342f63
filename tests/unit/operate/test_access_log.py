"""What the access log says of an exchange, and what it never says."""

import asyncio
import contextvars
import copy
import json
import logging
import logging.handlers
import pickle
import queue

import pytest

from proxyroutes import Proxy
from proxyroutes._operate import access_log
from proxyroutes._operate.access_log import AccessLogger
from proxyroutes._serve.websocket import SessionRecord
from proxyroutes.exceptions import Side
from proxyroutes.settings import AccessLog
from proxyroutes.transports._websocket_ending import Ending
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


@pytest.mark.parametrize("delay", [-0.001, 1.1, float("nan")])
def test_a_delay_has_a_range(delay):
    """A line that is kept for long is one that a crash loses."""
    with pytest.raises(ValueError, match="between 0 and 1 second"):
        AccessLog(delay=delay)


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


def test_a_record_that_is_copied_is_another_one(logged):
    """A queue's handler writes into its copy."""
    line = logged()
    copied = copy.copy(line)
    expected = dict(line.__dict__)
    copied.msg, copied.args = "x", None

    assert expected == line.__dict__
    assert {**expected, "msg": "x", "args": None} == copied.__dict__


def test_a_pickled_record_needs_nothing_of_this_package(logged):
    """A process that only writes lines may not have it."""
    line = logged()
    actual = pickle.loads(pickle.dumps(line))

    assert (logging.LogRecord, line.__dict__) == (type(actual), actual.__dict__)


@pytest.fixture
def factory():
    """Records are made by the application."""

    class Own(logging.LogRecord):
        """One of its own."""

    def make(*arguments, **keywords):
        record = Own(*arguments, **keywords)
        record.release = "1.2"
        record.text = record.getMessage()
        return record

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(make)
    yield Own
    logging.setLogRecordFactory(before)


def test_the_applications_own_records_are_used(logged, factory):
    """With every attribute that they have, and every one of the exchange."""
    line = logged()

    assert (factory, "1.2", "users", "shop.example") == (
        type(line),
        line.release,
        line.pool,
        line.host,
    )
    assert line.getMessage().startswith('192.0.2.7 "GET /api/a%20b HTTP/1.1" 200 ')
    assert line.getMessage() == line.text


# Lines that are kept.


@pytest.fixture
def lines(caplog):
    """Routes of what was logged, in order."""
    caplog.set_level(logging.INFO, "proxyroutes.access")
    return lambda: [one.route for one in caplog.records]


def log_routes(logger, *routes):
    """Log an exchange of each route."""
    for route in routes:
        logger(make_record(scope=make_scope(), route=route))


async def test_without_a_delay_a_line_is_there_at_once(lines):
    """So that a test may look for it after the answer."""
    log_routes(AccessLogger(AccessLog()), "a")

    assert ["a"] == lines()


async def test_lines_that_are_kept_come_together_and_in_order(lines):
    """When the delay is over, with one timer for all."""
    logger = AccessLogger(AccessLog(delay=0.001))
    log_routes(logger, "a", "b", "c")
    before = lines()
    while not lines():
        await asyncio.sleep(0)

    assert ([], ["a", "b", "c"], {}) == (before, lines(), logger._batches)


async def test_lines_that_are_many_do_not_wait(lines, monkeypatch):
    """Nor does their timer log them again."""
    monkeypatch.setattr(access_log, "_MOST_KEPT", 2)
    logger = AccessLogger(AccessLog(delay=0.001))
    log_routes(logger, "a", "b", "c")
    before = lines()
    await asyncio.sleep(0.01)

    assert (["a", "b"], ["a", "b", "c"]) == (before, lines())


@pytest.mark.parametrize("made_by", ["logging", "factory"])
async def test_a_line_has_the_time_at_which_its_exchange_ended(
    caplog, lines, monkeypatch, made_by, request
):
    """Not that of its hand-over."""
    if made_by == "factory":
        request.getfixturevalue("factory")
    ended = iter([1_000.25, 1_001.5])
    monkeypatch.setattr(access_log, "time", lambda: next(ended))
    logger = AccessLogger(AccessLog(delay=1.0))
    log_routes(logger, "a", "b")
    logger.flush(asyncio.get_running_loop())
    first, second = caplog.records

    assert [(1_000.25, 250.0), (1_001.5, 500.0)] == [
        (one.created, one.msecs) for one in caplog.records
    ]
    assert 1_250.0 == pytest.approx(second.relativeCreated - first.relativeCreated, abs=0.1)
    assert ["a", "b"] == lines()


async def test_a_line_that_fails_takes_no_other_with_it(caplog, lines):
    """An application's filter raises."""

    def refuse(line):
        if line.route == "b":
            raise ValueError("no")
        return True

    logger = AccessLogger(AccessLog(delay=1.0))
    access = logging.getLogger("proxyroutes.access")
    access.addFilter(refuse)
    try:
        log_routes(logger, "a", "b", "c")
        logger.flush(asyncio.get_running_loop())
    finally:
        access.removeFilter(refuse)
    failures = [one for one in caplog.records if one.name == "proxyroutes.serve"]

    assert ["an observer of exchanges failed"] == [one.getMessage() for one in failures]
    assert ["a", "c"] == [one.route for one in caplog.records if one not in failures]


async def test_lines_that_are_kept_are_of_no_requests_context(lines):
    """A filter that asks a context variable would be told of another request."""
    user = contextvars.ContextVar("user", default=None)
    seen = []
    handler = logging.Handler()
    handler.emit = lambda line: seen.append((line.route, user.get(), line.taskName))
    access = logging.getLogger("proxyroutes.access")
    access.addHandler(handler)
    access.addFilter(ensure_task)
    logger = AccessLogger(AccessLog(delay=0.001))
    try:
        user.set("first")
        log_routes(logger, "a", "b")
        user.set("last")
        while not lines():
            await asyncio.sleep(0)
        log_routes(logger, "c")
        logger.flush(asyncio.get_running_loop())
    finally:
        access.removeHandler(handler)
        access.removeFilter(ensure_task)

    assert [("a", None, None), ("b", None, None), ("c", None, None)] == seen


def ensure_task(line):
    """Before Python 3.12 no record had a task's name."""
    line.__dict__.setdefault("taskName", None)
    return True


def test_what_waits_is_logged_before_its_loop_is_closed(lines):
    """Also where no lifespan ends; what ends later does not wait for a timer that never comes."""
    logger = AccessLogger(AccessLog(delay=1.0))
    seen = []

    async def late():
        try:
            yield
        finally:
            # Loops end their generators side by side.
            await asyncio.sleep(0)
            log_routes(logger, "b")
            seen.append(lines())

    async def run():
        await anext(late_one)
        log_routes(logger, "a")
        seen.append(lines())

    late_one = late()
    asyncio.run(run())

    assert ([[], ["a", "b"]], {}) == (seen, logger._batches)


def test_an_exchange_that_ends_with_no_loop_is_logged_at_once(lines):
    """Nobody waited for its end, and there is no timer."""
    log_routes(AccessLogger(AccessLog(delay=1.0)), "a")

    assert ["a"] == lines()


async def test_what_waits_is_logged_when_the_proxy_stops(lines):
    """Before the application lets go of its handlers."""
    proxy = Proxy(access_log=AccessLog(delay=1.0))
    async with proxy:
        log_routes(proxy._observers[0], "a")
        before = lines()

    assert ([], ["a"]) == (before, lines())


async def test_a_logger_that_is_off_keeps_nothing(caplog):
    """Nor does one that is turned off meanwhile log what waits."""
    logger = AccessLogger(AccessLog(delay=1.0))
    loop = asyncio.get_running_loop()
    caplog.set_level(logging.WARNING, "proxyroutes.access")
    log_routes(logger, "a")
    before = dict(logger._batches)
    caplog.set_level(logging.INFO, "proxyroutes.access")
    log_routes(logger, "b")
    caplog.set_level(logging.WARNING, "proxyroutes.access")
    logger.flush(loop)

    assert ({}, [], {}) == (before, caplog.records, logger._batches)
