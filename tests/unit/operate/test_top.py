"""``top``: snapshots of the status page as tables."""

import httpx
import pytest
from rich.console import Console

from proxyroutes._operate.top import (
    StatusError,
    fetch_snapshot,
    head_line,
    render,
    tables,
    watch,
)

SNAPSHOT = {
    "totals": {
        "requests": 7,
        "requests_per_second": 2.5,
        "in_flight": 1,
        "p50": 0.0015,
        "p95": None,
        "p99": 0.25,
        "error_ratio": 0.125,
    },
    "routes": [
        {"name": "api", "template": "/api/<path>", "pool": "users", "requests_per_second": 2.5}
    ],
    "pools": [
        {
            "name": "users",
            "destinations": [
                {"url": "http://a", "state": "down", "reason": "refused [1]", "in_flight": 0}
            ],
        }
    ],
    "recent": [
        {"status": 200, "method": "GET", "path": "/a\x1b[2J", "route": "api", "seconds": 0.002},
        *[{"status": None, "cause": "abandoned"}] * 20,
    ],
}


def answering(response):
    """A client that gets this response, whatever it asks."""
    seen = []

    def answer(request):
        seen.append(str(request.url))
        if isinstance(response, Exception):
            raise response
        return response

    return httpx.Client(transport=httpx.MockTransport(answer)), seen


def test_the_snapshot_is_asked_for_below_the_routers_address():
    """Whether or not that ends with a slash."""
    client, seen = answering(httpx.Response(200, json=SNAPSHOT))
    actual = [fetch_snapshot(client, url) for url in ("http://a/_proxy", "http://a/_proxy/")]

    assert [SNAPSHOT, SNAPSHOT] == actual
    assert ["http://a/_proxy/snapshot.json"] * 2 == seen


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (httpx.ConnectError("refused"), "nothing answers at http://a: refused"),
        (httpx.Response(401), "is guarded (401)"),
        (httpx.Response(403), "is guarded (403)"),
        (httpx.Response(404), "no status page at http://a (404)"),
        (httpx.Response(200, text="<html>"), "is no snapshot"),
        (httpx.Response(200, json=[]), "is no snapshot"),
    ],
    ids=["refused", "401", "403", "404", "html", "other"],
)
def test_what_is_no_snapshot_is_explained(response, expected):
    """With what to do about it."""
    client, _ = answering(response)

    with pytest.raises(StatusError) as raised:
        fetch_snapshot(client, "http://a")

    assert expected in str(raised.value)


def test_the_totals_are_one_line():
    """What is not known yet is a dash."""
    actual = head_line(SNAPSHOT)

    assert (
        "2.5 requests/s, 1 in flight, p50 1.5 ms, p95 -, p99 250.0 ms, 12.5 % errors, 7 in all"
        == actual
    )


def test_routes_destinations_and_exchanges_are_tables():
    """A client's bytes cannot move the cursor, and there are not more exchanges than fit."""
    found = tables(SNAPSHOT)
    recent = found["last exchanges"].rows

    assert (("api", "/api/<path>", "users", "2.5", "-"),) == found["routes"].rows
    assert ("users", "http://a", "down", "0", "-", "-", "refused [1]") == (
        found["destinations"].rows[0]
    )
    assert (10, "/a\\x1b[2J", "2.0 ms") == (len(recent), recent[0][2], recent[0][5])


def test_an_empty_gateway_has_empty_tables():
    """As one that has just begun."""
    found = tables({"pools": []})

    assert [()] * 3 == [table.rows for table in found.values()]


def test_a_terminal_sees_every_cell():
    """Brackets are no markup."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(render(SNAPSHOT))

    assert "refused [1]" in captured.get()
    assert "\x1b[2J" not in captured.get()


def test_a_gateway_that_is_gone_for_a_while_is_waited_for(capsys):
    """The last snapshot stays, with the reason above it."""
    looks = iter([SNAPSHOT, StatusError("nothing answers"), SNAPSHOT])
    sleeps = []

    def look():
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(look, 0.5, sleep)

    assert [0.5] * 3 == sleeps
    assert "refused [1]" in capsys.readouterr().out


def test_without_a_gateway_there_is_nothing_to_watch():
    """It is said at once."""

    def look():
        raise StatusError("nothing answers")

    with pytest.raises(StatusError):
        watch(look, 0.5)
