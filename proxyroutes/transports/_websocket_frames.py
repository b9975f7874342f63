"""Frames without an engine, where nothing is left to decide: plain data frames, of which nearly all traffic is.

On its way through ``websockets``' engine a message is copied four times (a slice of what was read, the engine's buffer, the
frame, the message), and once more than its mask needs on its way out. Here frames are told apart by their headers alone; a
plain one is cut out of what was read, or gathered from several reads. All others go to the engine, one after the other and
unchanged, so that it stays the judge of whatever is not as plain as can be. Sans-I/O.
"""

from __future__ import annotations

import os
import sys
from struct import Struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where websockets was installed without a compiler.
    from websockets.utils import apply_mask

__all__ = [
    "BINARY",
    "ENDLESS",
    "MASKED",
    "TEXT",
    "FrameFollower",
    "FrameReader",
    "find_frame",
    "make_frame",
    "make_header",
    "writes_pieces",
]

TEXT, BINARY = 0x81, 0x82
"""First bytes of an unfragmented data frame without an extension (RFC 6455 §5.2)."""
_PLAIN = frozenset({TEXT, BINARY})
ENDLESS = 1 << 65
"""End of a frame behind which there can be none, because the engine fails the connection for it; beyond every length."""
_CONTROL = 0x88
_LAST_FRAGMENT = 0x80
# Reserved bits are 0, the opcode is a known one, and no control frame is fragmented.
_SOUND = frozenset({0x00, 0x01, 0x02, _LAST_FRAGMENT, TEXT, BINARY, _CONTROL, 0x89, 0x8A})
_LONGEST_SHORT = 125
_PIECE_BYTES = 8 * 1024
MASKED = 0x80
"""The bit that says that a frame is masked, beside its length."""

_short = Struct("!BB").pack
_long = Struct("!BBH").pack
_huge = Struct("!BBQ").pack


def find_frame(received: bytes, start: int, mask: int = 0) -> tuple[int, int] | None:
    """Where the frame that begins at ``start`` has its content, and where it ends.

    Args:
        received: What was received.
        start: Where the frame begins.
        mask: ``MASKED`` for what a client sends; its keys are the four bytes before the content.

    Returns:
        Both, perhaps behind what was received; None if the header is not whole yet and may be sound.
    """
    begin = start + 2
    if len(received) < begin:
        return None
    first, size = received[start], received[start + 1] ^ mask
    if size > _LONGEST_SHORT or first not in _SOUND:
        # RFC 6455 §5.1: a client's frames are masked, and a server's are not.
        if size >= MASKED or first not in _SOUND:
            return begin, ENDLESS
        begin += 2 if size == _LONGEST_SHORT + 1 else 8
        if len(received) < begin:
            return None
        size = int.from_bytes(received[start + 2 : begin], "big")
        # RFC 6455 §5.5: control frames are short; the engine lets one pass whose length could be written so.
        if first >= _CONTROL and size > _LONGEST_SHORT:
            return begin, ENDLESS
    if mask:
        begin += 4
    return begin, begin + size


def _find_lone(received: bytes, limit: int, mask: int = 0) -> int | None:
    """Where the content of a plain frame begins, where that is all that was received, as it is by most reads."""
    found = find_frame(received, 0, mask)
    if found is None or found[1] != len(received):
        return None
    begin, end = found
    return begin if received[0] in _PLAIN and end - begin <= limit else None


def _find_run(received: bytes, start: int, end: int) -> int:
    """Where the frames for the engine end that begin with this one.

    It is given them together, because each call costs more than a short frame does; but no more than one message, so that
    none is begun while messages wait or after one that ends the session.
    """
    last = received[start]
    while last != _LAST_FRAGMENT:
        found = find_frame(received, end)
        if found is None or received[end] in _PLAIN:
            break
        last = received[end]
        end = found[1]
    return end


# Masks that no frame has had: the system is asked for many at once, because asking takes longer than masking a short message.
_masks: list[bytes] = []
_MASKS_AT_ONCE = 256


def _take_mask() -> bytes:
    """A mask that nobody can foresee, and no other frame has (RFC 6455 §5.3)."""
    try:
        return _masks.pop()
    except IndexError:
        drawn = os.urandom(4 * _MASKS_AT_ONCE)
        _masks.extend(drawn[at : at + 4] for at in range(4, len(drawn), 4))
        return drawn[:4]


if hasattr(os, "register_at_fork"):
    # Two processes would have the same ones.
    os.register_at_fork(after_in_child=_masks.clear)


def make_header(size: int, first: int, mask: int = 0) -> bytes:
    """The header of a frame, but for the key of its mask.

    Args:
        size: Bytes of its content.
        first: ``TEXT`` or ``BINARY``.
        mask: ``MASKED`` if there is a key.
    """
    if size <= _LONGEST_SHORT:
        return _short(first, mask | size)
    if size <= 0xFFFF:
        return _long(first, mask | 126, size)
    return _huge(first, mask | 127, size)


def make_frame(content: bytes, first: int) -> tuple[bytes, bytes]:
    """Header and content of a client's frame, masked with a key of its own (RFC 6455 §5.3)."""
    key = _take_mask()
    return make_header(len(content), first, MASKED) + key, apply_mask(content, key)


def writes_pieces(transport: object) -> bool:
    """Whether a transport writes the pieces of a frame from where they are.

    asyncio's own join them, or forget to stop who writes them (CVE-2024-12254).
    """
    return type(transport).__module__.startswith("uvloop")


class FrameReader:
    """Finds the frames in what is received, and takes the plain ones.

    Args:
        limit: Bytes of the largest message; None is no limit.

    Attributes:
        owed: Bytes that the engine is to be given before there is a next frame to look at; ``ENDLESS`` to give it all, as
            until somebody has chosen otherwise.
        missing: Bytes that a plain frame lacks, which come first.
        is_text: Whether the message that was taken last is text.
        limit: As given, or beyond every size.
    """

    __slots__ = ("_header", "_pieces", "is_text", "limit", "missing", "owed")

    def __init__(self, limit: int | None) -> None:
        self.owed = ENDLESS
        self.missing = 0
        self.is_text = False
        self.limit = sys.maxsize if limit is None else limit
        # What came of a header that is not whole.
        self._header = b""
        # What came of a plain frame that is not.
        self._pieces: list[bytearray] = []

    def take_lone(self, received: bytes) -> tuple[str | bytes, int] | None:
        """The message of a plain frame, where that is all that was received, and its bytes.

        Returns:
            None for anything else, and for a message that is too large or no UTF-8: others say what is wrong with it.
        """
        if self.owed or self.missing or self._header:
            return None
        begin = _find_lone(received, self.limit)
        if begin is None:
            return None
        size = len(received) - begin
        if received[0] == BINARY:
            return received[begin:], size
        try:
            return str(memoryview(received)[begin:], "utf-8"), size
        except UnicodeDecodeError:
            return None

    def resume(self, received: bytes) -> bytes:
        """What is to be read now, with the header that began in what was received before."""
        if self._header:
            received = self._header + received
            self._header = b""
        return received

    def take(
        self, received: bytes, start: int, *, fragmented: bool
    ) -> tuple[bytes | memoryview | None, int]:
        """Look at the frame that begins, or goes on, at ``start``.

        Args:
            received: What was received.
            start: Where to look.
            fragmented: Whether a fragmented message has begun, so that the engine is the judge of what comes.

        Returns:
            The message of a plain frame if it is whole now, and where to go on; ``owed`` is set if that is at the engine.
        """
        if self.missing:
            return self._gather(received, start)
        found = find_frame(received, start)
        if found is None:
            self._header = received[start:]
            return None, len(received)
        begin, end = found
        first = received[start]
        if fragmented or first not in _PLAIN or end - begin > self.limit:
            self.owed = _find_run(received, start, end) - start
            return None, start
        self.is_text = first == TEXT
        if end > len(received):
            self.missing = end - len(received)
            self._pieces.append(bytearray(memoryview(received)[begin:]))
        elif self.is_text:
            # To be decoded from where it is.
            return memoryview(received)[begin:end], end
        else:
            return received[begin:end], end
        return None, end

    def _gather(self, received: bytes, start: int) -> tuple[bytes | None, int]:
        """Go on with a plain frame.

        Small pieces grow together, so that who sends byte by byte takes no more memory than is sent; large ones are
        joined once, because a buffer that grows by each of them is copied over and over.
        """
        piece = memoryview(received)[start : start + self.missing]
        if len(self._pieces[-1]) < _PIECE_BYTES:
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))
        self.missing -= len(piece)
        start += len(piece)
        if self.missing:
            return None, start
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces), start


class FrameFollower:
    """Knows where the frames of a client begin while an engine reads them, and takes the plain ones from it.

    Args:
        limit: Bytes of the largest message that is taken; None is no limit.
    """

    __slots__ = ("_fragmented", "_header", "_limit", "_owed")

    def __init__(self, limit: int | None) -> None:
        self._limit = sys.maxsize if limit is None else limit
        # What is still to come of a frame that the engine has.
        self._owed = 0
        # What came of a header that is not whole; the engine has it, too.
        self._header = b""
        self._fragmented = False

    def take_lone(self, received: bytes) -> tuple[int, bytes] | None:
        """The first byte and the content of a plain frame, where that is all that was received.

        Returns:
            None for anything else: give it to the engine, and ``follow`` it.
        """
        if self._owed or self._header or self._fragmented:
            return None
        begin = _find_lone(received, self._limit, MASKED)
        if begin is None:
            return None
        return received[0], apply_mask(memoryview(received)[begin:], received[begin - 4 : begin])

    def follow(self, received: bytes) -> None:
        """Find the frames in what the engine is given."""
        received = self._header + received
        self._header = b""
        at, end = 0, len(received)
        while at < end:
            if not self._owed:
                found = find_frame(received, at, MASKED)
                if found is None:
                    self._header = received[at:]
                    return
                self._owed = found[1] - at
                if received[at] < _CONTROL:
                    self._fragmented = received[at] < _LAST_FRAGMENT
            step = min(self._owed, end - at)
            self._owed -= step
            at += step
