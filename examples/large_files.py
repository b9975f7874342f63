"""Files of any size pass in both directions, and nothing is kept in memory.

Run it with ``python examples/large_files.py``, and then:

    curl -o /dev/null http://127.0.0.1:8000/files/1024
    head -c 1G /dev/zero | curl -X PUT -T - http://127.0.0.1:8000/files/1024
    curl http://127.0.0.1:8000/memory

Watch the most memory that this process, gateway and upstream in one, has ever used. With ``--limit-rate 10M`` the
download takes long and the memory stays: the upstream is slowed down to the client's speed.
"""

import resource
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from proxyroutes import Proxy

MIB = 1024 * 1024
storage = FastAPI()


async def read(mib: int) -> AsyncIterator[bytes]:
    """Read a file of so many MiB, a block at a time."""
    for _ in range(mib):
        yield bytes(MIB)


@storage.get("/files/{mib}")
async def download(mib: int) -> StreamingResponse:
    """Send a file of so many MiB."""
    return StreamingResponse(read(mib), headers={"Content-Length": str(mib * MIB)})


@storage.put("/files/{mib}")
async def upload(request: Request) -> int:
    """Count what comes."""
    return sum([len(block) async for block in request.stream()])


proxy = Proxy()


@proxy.route("/files/<int:mib>", upstream=storage)
async def files() -> None:
    """Forward files."""


app = FastAPI()
app.include_router(proxy.build_router())


@app.get("/memory")
async def memory() -> str:
    """Say how much memory this process has ever used."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB"


if __name__ == "__main__":
    uvicorn.run(app, port=8000)
