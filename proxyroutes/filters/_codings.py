"""Content codings are undone here, and only for content that is filtered. Sans-I/O.

Whatever a coded content unfolds to, it comes in pieces of bounded size, and one that unfolds too much is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from proxyroutes.filters._framing import StreamError

__all__ = ["Decoder", "known_codings", "open_decoders"]

STEP_BYTES = 65_536
"""Bytes of decoded content in one piece."""

FREE_BYTES = 1_048_576
"""Decoded bytes from which on the ratio counts."""

MAX_RATIO = 200
"""Decoded bytes for one byte of coded content, as Apache's ``DeflateInflateRatioLimit`` has it."""

MAX_CODINGS = 3
"""Codings on top of each other."""

_ZSTD_WINDOW_LOG = 23  # RFC 9659 §3: no more than 8 MiB in a content coding.


class Decoder(Protocol):
    """Undoes one coding of one stream."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take the next bytes and give what they unfold to."""
        ...

    def finish(self) -> None:
        """Check that the content has come to its end."""
        ...


def _cut_off() -> StreamError:
    return StreamError("the coded content is cut off")


class _Inflate:
    """gzip and deflate (RFC 9110 §8.4.1), several members of gzip one after the other."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inflate: Any = zlib.decompressobj(31) if gzip else None
        self._head = b""
        self._touched = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            self._head += chunk
            if len(self._head) < 2:
                return
            chunk = self._head
            # RFC 9110 §8.4.1.2: "Some non-conformant implementations send the "deflate" compressed data without the zlib
            # wrapper."
            wrapped = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(15 if wrapped else -15)
        while True:
            self._touched = self._touched or bool(chunk)
            decoded = self._inflate.decompress(chunk, STEP_BYTES)
            chunk = self._inflate.unconsumed_tail
            if decoded:
                yield decoded
            if self._inflate.eof:
                chunk = self._inflate.unused_data
                if not chunk:
                    return
                if not self._gzip:
                    raise StreamError("bytes behind the end of the coded content")
                self._inflate = zlib.decompressobj(31)
            elif not chunk and len(decoded) < STEP_BYTES:
                return

    def finish(self) -> None:
        if self._inflate is None and not self._head:
            return
        if self._inflate is None or (self._touched and not self._inflate.eof):
            raise _cut_off()


class _Brotli:
    """br (RFC 7932), by ``brotli``."""

    def __init__(self) -> None:
        self._decoder = importlib.import_module("brotli").Decompressor()
        self._touched = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        self._touched = True
        if decoder.is_finished():
            raise StreamError("bytes behind the end of the coded content")
        decoded = decoder.process(chunk, output_buffer_limit=STEP_BYTES)
        while True:
            if decoded:
                yield decoded
            # A full piece may have more behind it, whatever the decoder says of its input.
            if len(decoded) < STEP_BYTES and decoder.can_accept_more_data():
                return
            decoded = decoder.process(b"", output_buffer_limit=STEP_BYTES)

    def finish(self) -> None:
        if self._touched and not self._decoder.is_finished():
            raise _cut_off()


class _Zstd:
    """zstd (RFC 8878), by the standard library or its backport; several frames one after the other."""

    def __init__(self) -> None:
        module = importlib.import_module(_zstd_module())
        parameter = module.DecompressionParameter.window_log_max

        def make() -> Any:
            return module.ZstdDecompressor(options={parameter: _ZSTD_WINDOW_LOG})

        self._make = make
        self._decoder = make()
        self._touched = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._touched = True
        while True:
            if self._decoder.eof:
                chunk = self._decoder.unused_data or chunk
                if not chunk:
                    return
                self._decoder = self._make()
            decoded = self._decoder.decompress(chunk, STEP_BYTES)
            chunk = b""
            if decoded:
                yield decoded
            if not self._decoder.eof and self._decoder.needs_input:
                return

    def finish(self) -> None:
        if self._touched and not self._decoder.eof:
            raise _cut_off()


def _zstd_module() -> str:
    return "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@lru_cache(maxsize=1)
def known_codings() -> frozenset[bytes]:
    """Names of the codings that can be undone here; ``br`` and ``zstd`` where their libraries are installed."""
    known = {b"gzip", b"x-gzip", b"deflate", b"identity"}
    # Older releases of brotli cannot be told how much to unfold at a time.
    if _is_there("brotli") and hasattr(
        importlib.import_module("brotli").Decompressor, "can_accept_more_data"
    ):
        known.add(b"br")
    if _is_there(_zstd_module()):
        known.add(b"zstd")
    return frozenset(known)


class _Guarded:
    """A decoder that refuses what unfolds too much, and whose failures are one kind."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._coded_bytes = 0
        self._decoded_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._coded_bytes += len(chunk)
        try:
            for decoded in self._decoder.feed(chunk):
                self._count(decoded)
                yield decoded
        except StreamError:
            raise
        except Exception as error:
            # Each library has an exception of its own.
            raise StreamError("the content is not in its coding") from error

    def _count(self, decoded: bytes) -> None:
        self._decoded_bytes += len(decoded)
        if self._decoded_bytes > max(FREE_BYTES, MAX_RATIO * self._coded_bytes):
            raise StreamError("the coded content unfolds too much", too_large=True)

    def finish(self) -> None:
        self._decoder.finish()


def open_decoders(codings: Sequence[bytes]) -> tuple[Decoder, ...]:
    """Decoders for a content, in the order in which they are applied.

    Args:
        codings: Values of ``Content-Encoding``.

    Raises:
        StreamError: If a coding cannot be undone here.
    """
    names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
    names = [name for name in names if name and name != b"identity"]
    if len(names) > MAX_CODINGS:
        raise StreamError("too many content codings", unsupported=True)
    decoders: list[Decoder] = []
    for name in reversed(names):
        if name not in known_codings():
            raise StreamError(
                f"a content coding that cannot be undone: {name!r}", unsupported=True
            )
        if name == b"br":
            decoders.append(_Guarded(_Brotli()))
        elif name == b"zstd":
            decoders.append(_Guarded(_Zstd()))
        else:
            decoders.append(_Guarded(_Inflate(gzip=name != b"deflate")))
    return tuple(decoders)
