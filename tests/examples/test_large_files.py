"""``examples/large_files.py``."""

import httpx
import pytest

from proxyroutes.testing import run_gateway
from tests.examples.support import load

MIB = 1024 * 1024
FILE_MIB = 64
# What both sockets and both servers hold at most, with room.
AHEAD_BYTES = 24 * MIB


@pytest.fixture
def example():
    """The example as a module."""
    return load("large_files")


async def test_a_download_is_slowed_down_to_the_client(example, monkeypatch):
    """The upstream is never far ahead of what was read, and all of it comes."""
    produced = read = furthest = 0

    async def produce(mib):
        nonlocal produced
        for _ in range(mib):
            produced += MIB
            yield bytes(MIB)

    monkeypatch.setattr(example, "read", produce)
    async with (
        run_gateway(example.app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
        client.stream("GET", f"/files/{FILE_MIB}") as response,
    ):
        async for block in response.aiter_raw():
            read += len(block)
            furthest = max(furthest, produced - read)

    assert (FILE_MIB * MIB, True) == (read, furthest <= AHEAD_BYTES)


async def test_an_upload_of_unknown_length_arrives_whole(example):
    """A chunked request is counted by the upstream to its last byte."""

    async def content():
        for _ in range(FILE_MIB):
            yield bytes(MIB)

    async with (
        run_gateway(example.app) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        response = await client.put(f"/files/{FILE_MIB}", content=content())

    assert f"{FILE_MIB * MIB} of {FILE_MIB * MIB} bytes" == response.json()
