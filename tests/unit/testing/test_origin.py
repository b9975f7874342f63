"""The origin that does what a test tells it."""

import asyncio

import pytest
import trustme

from proxyroutes.testing import (
    Close,
    HalfClose,
    ReadBody,
    ReadHead,
    ReadToEnd,
    ReadUntil,
    Reset,
    ScriptedOrigin,
    Wait,
)

HEAD = b"GET / HTTP/1.1\r\n\r\n"


class Client:
    """A connection to an origin."""

    def __init__(self, origin, **settings) -> None:
        self._origin = origin
        self._settings = settings

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._origin.port, **self._settings
        )
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass

    async def ask(self, raw: bytes, answer: bytes) -> None:
        """Send bytes and expect others."""
        self.writer.write(raw)

        assert answer == await self.reader.readexactly(len(answer))


async def test_bytes_at_the_beginning_wait_for_a_head():
    """Nothing is sent before the request's empty line."""
    async with ScriptedOrigin([b"answer", Close()]) as origin, Client(origin) as client:
        await client.ask(HEAD, b"answer")

        assert b"" == await client.reader.read()

    assert [HEAD] == origin.requests


async def test_steps_are_played_in_turn():
    """Reading stops where a step says, also in the middle of what came at once."""
    script = [
        ReadHead(),
        ReadBody(3),
        b"one",
        ReadUntil(),
        b"two",
        ReadHead(),
        b"three",
        ReadToEnd(),
        b"four",
    ]
    async with ScriptedOrigin(script) as origin, Client(origin) as client:
        await client.ask(HEAD + b"abc0\r\n\r\n" + HEAD, b"onetwothree")
        client.writer.write_eof()

        assert b"four" == await client.reader.read()

    assert [HEAD + b"abc0\r\n\r\n" + HEAD] == origin.requests


async def test_after_the_last_step_the_connection_stays_until_the_client_leaves():
    """And what comes meanwhile is kept."""
    async with ScriptedOrigin([b"answer"]) as origin:
        async with Client(origin) as client:
            await client.ask(HEAD, b"answer")
            client.writer.write(b"more")
            await origin.wait_until(lambda: origin.requests[0].endswith(b"more"))

            assert (1, 1) == (origin.connections, origin.open_connections)

        await origin.wait_until(lambda: origin.open_connections == 0)


async def test_waiting_for_an_event_reads_and_sends_nothing():
    """A slow origin."""
    event = asyncio.Event()
    async with ScriptedOrigin([ReadHead(), Wait(event), b"late", Close()]) as origin:
        async with Client(origin) as client:
            client.writer.write(HEAD)
            await origin.wait_until(lambda: bool(origin.requests and origin.requests[0]))
            event.set()

            assert b"late" == await client.reader.read()


async def test_a_reset_is_seen_as_one():
    """Not as an end in good order."""
    async with ScriptedOrigin([ReadHead(), Reset()]) as origin, Client(origin) as client:
        client.writer.write(HEAD)
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_half_closed_connection_still_reads():
    """The client sees the end and may go on sending."""
    script = [ReadHead(), HalfClose(), ReadBody(4), Close()]
    async with ScriptedOrigin(script) as origin, Client(origin) as client:
        client.writer.write(HEAD)

        assert b"" == await client.reader.read()

        client.writer.write(b"more")
        await origin.wait_until(lambda: origin.open_connections == 0)

    assert [HEAD + b"more"] == origin.requests


async def test_each_connection_has_its_script_and_the_last_one_repeats():
    """In the order in which they are made."""
    async with ScriptedOrigin([b"1"], [b"2"]) as origin:
        for answer in (b"1", b"2", b"2"):
            async with Client(origin) as client:
                await client.ask(HEAD, answer)

    assert (3, [HEAD] * 3) == (origin.connections, origin.requests)


async def test_a_function_is_a_script():
    """For what steps cannot say; what it received is kept as well."""

    async def echo(reader, writer):
        while chunk := await reader.read(100):
            writer.write(chunk)

    async with ScriptedOrigin(echo) as origin, Client(origin) as client:
        await client.ask(b"hello", b"hello")

    assert ([b"hello"], []) == (origin.requests, origin.errors)


async def test_what_a_function_raises_is_kept():
    """So that a test can look at it."""
    mistake = ZeroDivisionError()

    async def fail(reader, writer):
        raise mistake

    async with ScriptedOrigin(fail) as origin, Client(origin) as client:
        assert b"" == await client.reader.read()

    assert [mistake] == origin.errors


async def test_a_client_that_leaves_in_a_step_ends_the_script():
    """It is not an error."""
    async with ScriptedOrigin([ReadHead(), b"never"]) as origin:
        async with Client(origin) as client:
            client.writer.write(b"GET / HT")
        await origin.wait_until(lambda: origin.connections == 1 and not origin.open_connections)

    assert [] == origin.errors


async def test_an_origin_listens_on_a_unix_socket(tmp_path):
    """Its URL can be a destination."""
    path = tmp_path / "a.sock"
    async with ScriptedOrigin([b"answer", Close()], unix=path) as origin:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(HEAD)

        assert b"answer" == await reader.read()

        writer.close()
        await writer.wait_closed()

        assert 0 == origin.port
        assert f"http+unix://{str(path).replace('/', '%2F')}" == origin.url


async def test_an_origin_speaks_tls():
    """With the context that it is given."""
    import ssl

    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("name.test").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with ScriptedOrigin([b"answer"], tls=server) as origin:
        async with Client(origin, ssl=trusting, server_hostname="name.test") as client:
            await client.ask(HEAD, b"answer")

        assert f"https://127.0.0.1:{origin.port}" == origin.url


async def test_leaving_closes_connections_and_leaves_no_task():
    """Also those in the middle of a step."""
    before = asyncio.all_tasks()
    async with ScriptedOrigin([ReadHead(), Wait(asyncio.Event())]) as origin:
        client = Client(origin)
        await client.__aenter__()
        client.writer.write(HEAD)
        await origin.wait_until(lambda: bool(origin.requests and origin.requests[0]))

    assert b"" == await client.reader.read()
    assert before == asyncio.all_tasks()

    await client.__aexit__()


@pytest.mark.parametrize("by_function", [False, True], ids=["writing", "closing"])
async def test_leaving_does_not_wait_for_a_client_that_does_not_read(by_function):
    """What was written but not sent is dropped, also where the script has come to its end."""

    async def script(reader, writer):
        await reader.readline()
        writer.write(bytes(50_000_000))

    async with ScriptedOrigin(script if by_function else [bytes(50_000_000)]) as origin:
        client = Client(origin)
        await client.__aenter__()
        client.writer.write(HEAD)
        await origin.wait_until(lambda: bool(origin.requests and origin.requests[0]))
    await client.__aexit__()

    assert 0 == origin.open_connections


def test_an_origin_that_was_not_started_has_no_port():
    """The message says what to write."""
    with pytest.raises(RuntimeError, match="async with"):
        _ = ScriptedOrigin([]).url


async def test_an_origin_that_was_not_started_can_be_left():
    """Closing twice is no mistake."""
    await ScriptedOrigin([]).__aexit__(None, None, None)


def test_an_origin_without_a_script_is_a_mistake():
    """An empty script is one, no script is none."""
    with pytest.raises(ValueError, match="at least one script"):
        ScriptedOrigin()
