"""The same bytes to each proxy, and what became of them.

A request's verdict is what the origin got of it; a response's is what the client got. ``grid.json`` has all verdicts, and
the page is written from it: ``python -m tests.oracle.grid`` asks every proxy that is installed and writes both.
"""

import asyncio
import contextlib
import json
import re
from pathlib import Path

from tests.conformance.servers import serve_in_process
from tests.conformance.test_servers import BROKEN, RESPONSES
from tests.integration.support import OK, RawClient, make_request
from tests.integration.test_request_guard import CHUNKED, CHUNKS, PASSED, REFUSED, post
from tests.oracle.proxies import CONFIGURATIONS, PACKAGES, WHEELS, missing, serve_proxy

HERE = Path(__file__).parent
GRID = HERE / "grid.json"
PAGE = HERE.parent.parent / "docs" / "reference" / "differences.md"
OURS = "proxyroutes"
NAMES = (OURS, *CONFIGURATIONS)
PATIENCE = 4.0

HOSTILE = {one.id: one.values[0] for one in REFUSED} | {
    one.id: post(CHUNKED, body=one.values[0]) for one in CHUNKS
}
GOOD = {one.id: one.values[0] for one in PASSED}
ANSWERS = RESPONSES | BROKEN
SURPLUS = {
    "surplus-response": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    + OK.replace(b"ok", b"no"),
    "surplus-after-204": b"HTTP/1.1 204 No Content\r\n\r\n" + OK.replace(b"ok", b"no"),
    "surplus-after-304": b"HTTP/1.1 304 Not Modified\r\n\r\n" + OK.replace(b"ok", b"no"),
}
ANSWERS = {**ANSWERS, **SURPLUS}

REFUSALS = ("refused", "closed", "waits")
LAXNESS = {"refused": 0, "closed": 0, "waits": 0, "changed": 1, "forwarded": 2, "smuggled": 3}
"""How much a verdict on a request lets through."""
HEAD = re.compile(rb"([^ ]*) (.*) HTTP/1\.[01]\r\n", re.DOTALL)


class Origin:
    """Takes whole requests only, and says what it got."""

    def __init__(self):
        self.server = None
        self.got = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error):
        self.server.close()

    @property
    def port(self):
        """Where it listens."""
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        """Answer one request of each connection by the last part of its target."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            head = await reader.readuntil(b"\r\n\r\n")
            await self.read_content(head, reader)
            self.got.append((head, bytes(reader._buffer)))
            name = head.split(b" ")[1].rpartition(b"/")[2].decode("latin-1")
            plain = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            writer.write(ANSWERS.get(name, plain))
            await writer.drain()
            if name in SURPLUS:
                await reader.read()
        writer.close()

    @staticmethod
    async def read_content(head, reader):
        """Read what the head announces, by the letter."""
        lower = head.lower()
        if b"\r\ntransfer-encoding:" in lower:
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                if not size:
                    await reader.readuntil(b"\r\n")
                    return
                assert (await reader.readexactly(size + 2)).endswith(b"\r\n")
        elif length := re.search(rb"\r\ncontent-length: *(\d+)", lower):
            await reader.readexactly(int(length[1]))


async def ask(port, raw, method="GET"):
    """The status of a reply, "closed" or "waits"."""
    client = await RawClient.connect(port)
    try:
        await client.send(raw)
        async with asyncio.timeout(PATIENCE):
            reply = await client.read_reply(method)
        return str(reply.status) if reply.complete else f"{reply.status} cut"
    except TimeoutError:
        return "waits"
    except (asyncio.IncompleteReadError, ConnectionError, ValueError, IndexError):
        return "closed"
    finally:
        client.leave()
        await client.close()


def judge_request(raw, got, answer):
    """What became of a request: a verdict and what the client was told."""
    if not got:
        return answer if answer in REFUSALS else f"refused {answer}"
    head, rest = got[0]
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    framings = sum(name in {b"content-length", b"transfer-encoding"} for name in names)
    if len(got) > 1 or rest or framings > 1:
        return f"smuggled {answer}"
    sent, received = HEAD.match(raw), HEAD.match(head)
    same = sent is not None and received is not None and sent[2] == received[2]
    framed = sum(
        name.strip().lower() in {b"content-length", b"transfer-encoding"}
        for name in (
            line.partition(b":")[0] for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
        )
    )
    return f"{'forwarded' if same and framed == framings else 'changed'} {answer}"


async def look(port, origin):
    """Every verdict of what listens on a port."""
    verdicts = {}
    for name, raw in (HOSTILE | GOOD).items():
        del origin.got[:]
        answer = await ask(port, raw)
        await asyncio.sleep(0)
        verdicts[name] = judge_request(raw, list(origin.got), answer)
    for name in ANSWERS:
        client = await RawClient.connect(port)
        first = await read(client, "/" + name)
        second = await read(client, "/next")
        if second == "closed":
            await client.close()
            client = await RawClient.connect(port)
            second = await read(client, "/next")
        client.leave()
        await client.close()
        verdicts[f"response {name}"] = first + ("" if second == "200 ok" else f", then {second}")
    return verdicts


async def read(client, target):
    """Status and content of one reply."""
    try:
        await client.send(make_request(target))
        async with asyncio.timeout(PATIENCE):
            reply = await client.read_reply()
            while reply.status < 200 and reply.status != 101:
                reply = await client.read_reply()
    except TimeoutError:
        return "waits"
    except (asyncio.IncompleteReadError, ConnectionError, ValueError, IndexError):
        return "closed"
    if reply.status >= 400 and reply.status != 999:
        return str(reply.status)
    return f"{reply.status} {reply.body[:4].decode('latin-1')}".strip() + (
        "" if reply.complete else " cut"
    )


async def look_at(name):
    """Start a proxy and get every verdict of it."""
    async with Origin() as origin:
        if name == OURS:
            url = f"http://127.0.0.1:{origin.port}"
            async with serve_in_process("uvicorn-httptools", url) as server:
                return await look(server.port, origin)
        async with serve_proxy(name, origin.port) as port:
            return await look(port, origin)


def read_grid():
    """The verdicts that are known, by input and name."""
    return json.loads(GRID.read_text(encoding="utf-8"))


PAGE_HEAD = """# Differences from other proxies

The same bytes to this gateway, behind uvicorn with httptools, and to five proxies in their plainest configuration: {versions}.
The test suite asks the gateway each time, and the others where they are installed; CI installs them.

*refused*: the origin got no whole request. *forwarded*: it got the same target and framing. *changed*: something of them was
made over on the way. *smuggled*: it got two framings, or bytes after the request. Then the status that the client was told;
*closed* is a connection without an answer, *waits* one that is still open after a while.

Where this gateway refuses and others forward, it does so because two programs may read those bytes differently, and the one
behind is who is attacked: see the [security model](../explanation/security-model.md). Where all refuse, there is nothing to
say. **Bold** is where this gateway differs from most of the others.

"""


def render(grid):
    """The page."""
    versions = ", ".join(f"{name} {WHEELS[PACKAGES[name]]}" for name in CONFIGURATIONS)
    parts = [PAGE_HEAD.format(versions=versions)]
    titles = {
        "Requests that are refused": HOSTILE,
        "Requests that are forwarded": GOOD,
        "Responses": [f"response {name}" for name in ANSWERS],
    }
    for title, names in titles.items():
        parts.append(
            f"## {title}\n\n| bytes | {' | '.join(NAMES)} |\n|---{'|---' * len(NAMES)}|\n"
        )
        for name in names:
            row = grid[name]
            kinds = [row[other].split()[0] for other in CONFIGURATIONS]
            unlike = kinds.count(row[OURS].split()[0]) * 2 < len(kinds)
            ours = f"**{row[OURS]}**" if unlike else row[OURS]
            cells = " | ".join([ours, *[row[other] for other in CONFIGURATIONS]])
            parts.append(f"| {name.removeprefix('response ')} | {cells} |\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


async def main():
    """Ask every proxy, and write grid and page."""
    grid = {name: {} for name in [*HOSTILE, *GOOD, *[f"response {one}" for one in ANSWERS]]}
    for name in NAMES:
        if name != OURS and (reason := missing(name)):
            raise SystemExit(reason)
        for key, verdict in (await look_at(name)).items():
            grid[key][name] = verdict
        print(name)
    GRID.write_text(json.dumps(grid, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(grid), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
