"""Mutated requests and responses: whatever comes, nothing is smuggled, nothing hangs, and the gateway serves on.

Bounded by a number of rounds that ``PROXYROUTES_FUZZ_ROUNDS`` raises; a failure names the seed that shows it again.
"""

import asyncio
import contextlib
import os
import re
from random import Random

import pytest
import pytest_asyncio

from proxyroutes import Proxy, Timeouts, UpstreamPool
from proxyroutes.testing import ScriptedOrigin, run_gateway
from tests.conformance.test_servers import BROKEN, RESPONSES
from tests.integration.support import RawClient, eventually, make_request
from tests.integration.test_request_guard import CHUNKED, CHUNKS, HOST, PASSED, REFUSED, post

ROUNDS = int(os.environ.get("PROXYROUTES_FUZZ_ROUNDS", "300"))
PATIENCE = 0.1
CONTENT = b"hello"
WELL = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(CONTENT), CONTENT)

REQUESTS = [
    *[one.values[0] for one in [*REFUSED, *PASSED] if len(one.values[0]) < 3_000],
    *[post(CHUNKED, body=one.values[0]) for one in CHUNKS],
    post(CHUNKED, body=b"3;x=y\r\nabc\r\n0\r\nX-Trailer: t\r\n\r\n"),
    make_request("/", "Expect: 100-continue", "Content-Length: 3", method="POST", body="abc"),
]
ANSWERS = [*RESPONSES.values(), *BROKEN.values(), WELL]
TOKENS = [
    *[b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"\x0b", b"\xa0", b"\x80"],
    *[
        b"Transfer-Encoding: chunked\r\n",
        b"transfer-encoding:\tchunked\r\n",
        b"Content-Length: 0\r\n",
    ],
    *[
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer_Encoding: chunked\r\n",
    ],
    *[b"Connection: close\r\n", b"Host: evil.test\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n"],
    *[
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0",
        b"%2e%2e",
    ],
    *[b" chunked", b"X: \r\n y\r\n", b"chunked, identity", b"0x5", b"+5", b"\xff" * 40],
]


def mutate(raw, random):
    """Some bytes changed, cut, repeated or put in."""
    content = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(content) + 1)
        match random.randrange(6):
            case 0:
                content[place:place] = random.choice(TOKENS)
            case 1:
                del content[place : place + random.randint(1, 12)]
            case 2:
                content[place : place + 1] = bytes([random.randrange(256)])
            case 3:
                piece = bytes(content[place : place + random.randint(1, 40)])
                content[place:place] = piece
            case 4:
                # A line more, where lines are.
                line = content.find(b"\r\n", place)
                if line >= 0:
                    content[line + 2 : line + 2] = random.choice(TOKENS)
            case _:
                content[:] = content[:place] + content[place:].swapcase()
        content = content or bytearray(b"\r\n")
    return bytes(content)


class StrictOrigin:
    """Reads requests by the letter and notes whatever could be read in two ways.

    Attributes:
        faults: What should never have come.
        answer: What the next requests are answered with, then the connection is closed; None for a good answer.
    """

    def __init__(self):
        self.scripted = ScriptedOrigin(self.serve)
        self.faults = []
        self.answer = None

    async def serve(self, reader, writer):
        """Answer requests until one ends the connection."""
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            self.check(head)
            try:
                await self.read_content(head, reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
                return
            answer = WELL
            if head.startswith(b"HEAD "):
                answer = WELL.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            writer.write(answer)
            await writer.drain()

    def check(self, head):
        """One request line, clean lines, one Host, one framing."""
        request, *lines = head[:-4].split(b"\r\n")
        names = [line.partition(b":")[0] for line in lines]
        framings = [name for name in names if name in {b"content-length", b"transfer-encoding"}]
        good = (
            re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ /[!-~]* HTTP/1\.1", request)
            and all(re.fullmatch(rb"[!#$%&'*+.^_`|~0-9a-z-]+", name) for name in names)
            and not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join(lines))
            and names.count(b"host") == 1
            and len(framings) <= 1
        )
        if not good:
            self.faults.append(head)

    async def read_content(self, head, reader):
        """What the head announces, and nothing else."""
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            while True:
                size = int(await reader.readuntil(b"\r\n"), 16)
                if size:
                    piece = await reader.readexactly(size + 2)
                    if not piece.endswith(b"\r\n"):
                        self.faults.append(piece)
                else:
                    await reader.readexactly(2)
                    return
        elif length := re.search(rb"\r\ncontent-length: (\d+)\r\n", head):
            await reader.readexactly(int(length[1]))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["h11", "httptools"])
async def fuzzed(request):
    """A gateway in front of an origin that is strict."""
    origin = StrictOrigin()
    proxy = Proxy(timeouts=Timeouts(first_byte=5.0, idle=5.0, total=10.0))
    async with origin.scripted:
        pool = UpstreamPool("p", [origin.scripted.url], outliers=None)

        @proxy.route("/<path>", upstream=pool)
        async def api() -> None: ...

        async with run_gateway(
            proxy.build_app(), http=request.param, log_level="critical"
        ) as gateway:
            yield gateway, origin, pool


async def talk(port, raw):
    """Send bytes and give what comes; who has sent no whole request is not waited for."""
    client = await RawClient.connect(port)
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        await client.send(raw)
        async with asyncio.timeout(PATIENCE):
            while piece := await client.reader.read(65_536):
                received += piece
    client.leave()
    await client.close()
    return received


def statuses_of(received):
    """Statuses of the responses in a stream of bytes."""
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def serves_on(gateway, pool):
    """The gateway answers, and nothing is left in flight."""
    client = await RawClient.connect(gateway.port)
    reply = await client.ask(make_request("/well"))
    await client.close()
    await eventually(lambda: not pool.state().in_flight)

    assert (200, CONTENT) == (reply.status, reply.body)


@pytest.mark.requirement("S-01", "S-02", "S-03", "S-04", "S-05", "S-08")
@pytest.mark.timeout(180)
async def test_no_mutated_request_is_forwarded_in_two_ways(fuzzed):
    """What reaches the origin is always one clean request, and every answer is a status of HTTP."""
    gateway, origin, pool = fuzzed
    for seed in range(ROUNDS):
        random = Random(seed)
        raw = mutate(random.choice(REQUESTS), random)
        # One that is whole is answered and over; the others are left.
        raw = raw.replace(HOST, HOST + b"Connection: close\r\n", 1)
        received = await talk(gateway.port, raw)

        assert [] == origin.faults, (seed, raw)
        assert not [
            one for one in statuses_of(received) if one >= 500 and one not in {502, 504, 508}
        ], (
            seed,
            raw,
            received,
        )
    await serves_on(gateway, pool)


@pytest.mark.requirement("S-30", "H-40", "H-41", "H-42", "R-01")
@pytest.mark.timeout(180)
async def test_no_mutated_response_reaches_another_request(fuzzed):
    """Each is relayed, broken or answered 502; the next request has its own answer."""
    gateway, origin, pool = fuzzed
    for seed in range(ROUNDS):
        random = Random(seed)
        raw = mutate(random.choice(ANSWERS), random)
        origin.answer = raw
        client = await RawClient.connect(gateway.port)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            reply = await client.ask(make_request("/", "Connection: close"))

            assert 200 <= reply.status < 600, (seed, raw)
        origin.answer = None
        await client.close()
        await serves_on(gateway, pool)


@pytest.mark.requirement("S-04", "H-08")
@pytest.mark.parametrize(
    "raw",
    [
        make_request("/a", "Content-Length: 5", method="POST", body="hello"),
        post(CHUNKED, body=b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: t\r\n\r\n"),
        make_request("/a?b=c", "Cookie: a=1", "Cookie: b=2"),
    ],
    ids=["length", "chunks", "no-content"],
)
async def test_a_request_that_is_split_at_any_byte_is_the_same_request(fuzzed, raw):
    """Where the network cuts it makes no difference."""
    gateway, origin, _ = fuzzed
    for place in range(1, len(raw)):
        client = await RawClient.connect(gateway.port)
        await client.send(raw[:place])
        # The first part is read before the second is sent.
        await asyncio.sleep(0)
        reply = await client.ask(raw[place:])
        await client.close()

        assert (200, CONTENT) == (reply.status, reply.body), place
        assert [] == origin.faults
