"""An upstream's response in the application's hands: read chunk by chunk or as a whole, instead of being relayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from proxyroutes._serve.relay import Answer
from proxyroutes.exceptions import GatewayError, Side, Stage, UpstreamProtocolError
from proxyroutes.filters._codings import Decoder, open_decoders
from proxyroutes.filters._framing import StreamError

__all__ = ["MOST_READ_BYTES", "decode", "read_chunks", "too_long"]

MOST_READ_BYTES = 16 * 1024 * 1024
"""Bytes of a response that are read into memory where nobody says how many."""


def too_long(answer: Answer, limit: int) -> GatewayError:
    """The failure of reading a response that is longer than allowed; the destination is not to blame."""
    return UpstreamProtocolError(
        f"the response is larger than {limit} bytes",
        stage=Stage.RESPONSE_BODY,
        side=Side.GATEWAY,
        sent=True,
        destination=answer.exchange.destination,
    )


async def read_chunks(answer: Answer) -> AsyncGenerator[bytes, None]:
    """The content as it comes. At its end, or where it is given up, connection and lease are let go of.

    Raises:
        GatewayError: If it breaks off, or takes too long.
        ClientLeft: If the client left.
    """
    exchange = answer.exchange
    exchange.status = answer.status
    try:
        while True:
            complete = answer.upstream.complete
            chunk = await _read(answer)
            if chunk:
                exchange.response_bytes += len(chunk)
                yield chunk
            if complete or not chunk:
                break
        exchange.whole = True
    finally:
        answer.close()


async def _read(answer: Answer) -> bytes:
    exchange, upstream = answer.exchange, answer.upstream
    # Each chunk may be asked for by another task.
    exchange.attach()
    try:
        exchange.enter()
        return upstream.take() if upstream.complete else await upstream.read()
    except asyncio.CancelledError:
        reason = exchange.settle()
        if reason is None:
            raise
        answer.blame(reason)
        raise reason from None
    except GatewayError as error:
        answer.blame(error)
        raise
    finally:
        exchange.leave()


def decode(content: bytes, coding: bytes, limit: int) -> bytes:
    """Take the codings off a content.

    Args:
        content: As it was received.
        coding: The value of ``Content-Encoding``.
        limit: Bytes that may come of it.

    Raises:
        ValueError: If it is in a coding that is not known, is not what its coding says, or becomes too long.

    Source:
        RFC 9110 §8.4.1.
    """
    try:
        for decoder in open_decoders([coding]):
            content = _unfold(decoder, content, limit)
    except StreamError as error:
        raise ValueError(str(error)) from error
    return content


def _unfold(decoder: Decoder, content: bytes, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for piece in decoder.feed(content):
        size += len(piece)
        if size > limit:
            raise StreamError(f"the content becomes larger than {limit} bytes", too_large=True)
        pieces.append(piece)
    decoder.finish()
    return b"".join(pieces)
