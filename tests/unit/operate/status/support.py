"""Records and boards for the tests of the status page."""

from time import monotonic

from proxyroutes import Proxy
from proxyroutes._operate.status.board import Board
from proxyroutes._operate.status.traffic import Traffic
from proxyroutes.typing import Attempt, ExchangeRecord


def make_record(*, ended=None, seconds=0.010, head=None, **facts):
    """A record of an exchange that has ended, as it has come about if nothing is said."""
    record = ExchangeRecord()
    record.ended = monotonic() if ended is None else ended
    record.started = record.ended - seconds
    record.head = record.started + (seconds if head is None else head)
    record.route, record.method, record.status, record.whole = "api", "GET", 200, True
    record.pool, record.destination, record.attempts = "users", "http://a:1", 1
    record.attempt = Attempt()
    record.attempt.destination = "http://a:1"
    record.attempt.began_at = record.started
    for name, value in facts.items():
        setattr(record, name, value)
    return record


def make_board(*pools, proxy=None):
    """A board over a proxy, with its traffic."""
    proxy = proxy or Proxy()
    for number, pool in enumerate(pools):

        @proxy.route(f"/{number}/<path>", upstream=pool, name=f"route{number}")
        async def stub() -> None: ...

    source = proxy._make_status_source()
    return Board(source)


def make_traffic(*records):
    """What has counted these."""
    traffic = Traffic()
    for record in records:
        traffic.observe(record)
    return traffic
