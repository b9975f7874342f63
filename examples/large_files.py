"""Files of any size pass in both directions, and nothing is kept in memory.

Run it with ``python examples/large_files.py``, and then:

    curl -o /dev/null http://127.0.0.1:8000/files/1024
    head -c 1G /dev/zero | curl -X PUT -T - http://127.0.0.1:8000/files/1024

Watch this process in ``top``: it is gateway and upstream in one, and its memory stays as it is. With ``--limit-rate 10M``
too, because the upstream is slowed down to the client's speed.
"""

from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from proxyroutes import Proxy

MIB = 1024 * 1024
storage = FastAPI()
proxy = Proxy()


async def read(mib: int) -> AsyncIterator[bytes]:
    """Read a file of so many MiB, a block at a time."""
    for _ in range(mib):
        yield bytes(MIB)


@storage.get("/files/{mib}")
async def download(mib: int) -> StreamingResponse:
    """Send a file."""
    return StreamingResponse(read(mib), headers={"Content-Length": str(mib * MIB)})


@storage.put("/files/{mib}")
async def upload(mib: int, request: Request) -> str:
    """Count what comes."""
    return f"{sum([len(block) async for block in request.stream()])} of {mib * MIB} bytes"


@proxy.route("/files/<int:mib>", upstream=storage)
async def files() -> None:
    """Forward files."""


app = FastAPI()
app.include_router(proxy.build_router())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
