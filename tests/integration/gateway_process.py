"""A gateway in a process of its own: ``python -m tests.integration.gateway_process TRANSPORT HTTP LANE URL``.

It prints its port, and serves until its input ends.
"""

import asyncio
import sys

from proxyroutes import transports
from tests.integration.support import open_gateway


async def main(transport: str, http: str, lane: str, url: str) -> None:
    """Serve until nobody holds the other end."""
    made = getattr(transports, transport)()
    async with open_gateway(url, transport=made, http=http, lane=lane) as gateway:
        print(gateway.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
