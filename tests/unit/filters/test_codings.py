"""Codings are undone in pieces of bounded size, and what is not in its coding is refused."""

import gzip
import importlib
import tracemalloc
import zlib

import brotli
import pytest

from proxyroutes.filters import StreamError
from proxyroutes.filters import _codings as codings
from proxyroutes.filters._codings import FREE_BYTES, known_codings, open_decoders

zstd = importlib.import_module(codings._zstd_module())

TEXT = b"".join(b"line %d of %d\n" % (number, number * number) for number in range(20_000))
CODED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "gzip-members": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]),
    "deflate": zlib.compress(TEXT),
    "deflate-raw": zlib.compress(TEXT)[2:-4],
    "br": brotli.compress(TEXT, quality=4),
    "zstd": zstd.compress(TEXT),
    "zstd-frames": zstd.compress(TEXT[:1000]) + zstd.compress(TEXT[1000:]),
}


def decoded(name, *chunks):
    """What a coded content unfolds to."""
    pieces = []
    (decoder,) = open_decoders(
        [name.partition("-")[0].encode() if name[0] != "x" else name.encode()]
    )
    for chunk in chunks:
        pieces.extend(decoder.feed(chunk))
    decoder.finish()
    return pieces


@pytest.mark.parametrize("size", [1, 7, 1000, 10**9])
@pytest.mark.parametrize("name", CODED)
def test_a_coding_is_undone_however_it_comes(name, size):
    """Several members and raw deflate too."""
    coded = CODED[name]
    pieces = decoded(name, *(coded[at : at + size] for at in range(0, len(coded), size)))

    assert TEXT == b"".join(pieces)
    assert max(len(piece) for piece in pieces) <= 2 * codings.STEP_BYTES


@pytest.mark.parametrize("name", CODED)
def test_a_coded_content_that_is_cut_off_is_refused(name):
    """A cut content never looks complete."""
    with pytest.raises(StreamError, match="cut off"):
        decoded(name, CODED[name][:-3])


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_what_is_not_in_its_coding_is_refused(name):
    """Each library's own exception is one of ours."""
    with pytest.raises(StreamError):
        decoded(name, b"this is plain text, which begins like none of them")


@pytest.mark.parametrize("name", ["deflate", "br"])
def test_bytes_behind_the_end_are_refused(name):
    """They could be anything."""
    with pytest.raises(StreamError):
        decoded(name, CODED[name], b"more")


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_no_content_is_no_content(name):
    """Nothing was coded."""
    assert [] == decoded(name)


@pytest.mark.requirement("S-43")
@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_refused_before_it_unfolds(name):
    """It takes neither the memory nor the time of what it would unfold to."""
    zeros = bytes(100_000_000)
    coded = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": lambda text: brotli.compress(text, quality=4),
        "zstd": zstd.compress,
    }[name](zeros)
    del zeros
    (decoder,) = open_decoders([name.encode()])
    size = 0
    tracemalloc.start()
    try:
        with pytest.raises(StreamError) as caught:
            for piece in decoder.feed(coded):
                size += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert caught.value.too_large
    assert size <= max(FREE_BYTES, codings.MAX_RATIO * len(coded))
    assert peak < 20_000_000


def test_codings_are_undone_in_turn():
    """The last one that was applied comes first."""
    coded = brotli.compress(gzip.compress(TEXT))
    outer, inner = open_decoders([b"gzip, br"])
    text = b"".join(piece for part in outer.feed(coded) for piece in inner.feed(part))

    assert TEXT == text


@pytest.mark.parametrize("values", [[], [b""], [b"identity"], [b" Identity , "]])
def test_no_coding_needs_no_decoder(values):
    """``identity`` is none."""
    assert () == open_decoders(values)


@pytest.mark.parametrize("values", [[b"compress"], [b"gzip, x"], [b"gzip"] * 4])
def test_a_coding_that_cannot_be_undone_is_refused(values):
    """It would pass unfiltered otherwise."""
    with pytest.raises(StreamError) as caught:
        open_decoders(values)

    assert caught.value.unsupported


@pytest.fixture
def only_the_standard_library(monkeypatch):
    """As if no extra was installed."""
    monkeypatch.setattr(codings, "_is_there", lambda module: False)
    known_codings.cache_clear()
    yield
    known_codings.cache_clear()


@pytest.mark.usefixtures("only_the_standard_library")
def test_without_the_extra_there_are_gzip_and_deflate():
    """Nobody has to install a library for a coding that is not used."""
    assert {b"gzip", b"x-gzip", b"deflate", b"identity"} == known_codings()
    with pytest.raises(StreamError):
        open_decoders([b"br"])


def test_a_library_is_looked_for_without_its_parent():
    """A package that is not there has no modules."""
    assert not codings._is_there("no_such_package.zstd")
