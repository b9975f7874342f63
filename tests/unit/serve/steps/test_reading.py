"""``_serve/steps/reading.py``: what is sans-I/O of it."""

import gzip
import zlib

import pytest

from proxyroutes._serve.steps.reading import decode

TEXT = b"text" * 100


@pytest.mark.parametrize(
    ("content", "coding"),
    [
        (TEXT, b""),
        (TEXT, b"identity"),
        (gzip.compress(TEXT), b"gzip"),
        (gzip.compress(TEXT), b"X-GZIP"),
        (zlib.compress(TEXT), b"deflate"),
        (gzip.compress(zlib.compress(TEXT)), b"deflate, gzip"),
    ],
    ids=["none", "identity", "gzip", "x-gzip", "deflate", "both"],
)
def test_codings_are_taken_off(content, coding):
    """In the reverse of the order in which they were put on."""
    assert TEXT == decode(content, coding, 400)


@pytest.mark.parametrize(
    ("content", "coding", "reason"),
    [
        (TEXT, b"compress", "cannot be undone"),
        (TEXT, b"gzip", "not in its coding"),
        (gzip.compress(TEXT)[:-9], b"gzip", "cut off"),
        (gzip.compress(b"\0" * 1_000_000), b"gzip", "larger than 400"),
    ],
    ids=["unknown", "no gzip", "cut off", "bomb"],
)
def test_what_cannot_be_decoded_is_refused(content, coding, reason):
    """With a reason; a bomb does not go off."""
    with pytest.raises(ValueError, match=reason):
        decode(content, coding, 400)
