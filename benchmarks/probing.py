"""What health checks cost: ``python -m benchmarks.probing``.

A thousand destinations, each probed every 10 seconds over a connection that is kept, for 20 seconds after the first round.
They are base paths of one origin in a process of its own, so that only this side's work is counted.
"""

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection

from proxyroutes import HealthCheck, HealthMonitor, UpstreamPool

DESTINATIONS = 1000
INTERVAL = 10.0
SECONDS = 20.0


class Origin(asyncio.Protocol):
    """Answers whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        del data
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]  # It is a stream's.


def serve(told: Connection) -> None:
    """Serve on a free port, and tell it."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Origin, "127.0.0.1", 0, backlog=4096)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def measure(port: int) -> float:
    """Share of a core that probing takes, of 100."""
    pool = UpstreamPool(
        "measured",
        [f"http://127.0.0.1:{port}/{number}" for number in range(DESTINATIONS)],
        monitor=HealthMonitor(interval=INTERVAL),
        health=HealthCheck("/healthz"),
    )
    pool.enter()
    await pool.first_round()
    began, used = time.monotonic(), time.process_time()
    await asyncio.sleep(SECONDS)
    share = (time.process_time() - used) / (time.monotonic() - began)
    await pool.leave()
    return 100.0 * share


def main() -> None:
    """Print the share."""
    here, there = multiprocessing.Pipe()
    origin = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    origin.start()
    share = asyncio.run(measure(here.recv()))
    origin.terminate()
    print(f"{DESTINATIONS} destinations, each every {INTERVAL:g} s: {share:.1f} % of a core")


if __name__ == "__main__":
    main()
