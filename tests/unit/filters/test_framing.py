"""Where a stream is cut: however it comes in, the same pieces come out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes.filters import ServerSentEvent, StreamError
from proxyroutes.filters._framing import EventFraming, LineFraming, RecordFraming


def cut(framing, *chunks):
    """Everything that a framing gives for these chunks."""
    items = [item for chunk in chunks for item in framing.feed(chunk)]
    return [*items, *framing.finish()]


def joined(framing, *chunks):
    """The bytes that come out where nothing is changed."""
    return b"".join(framing.join(item) for item in cut(framing, *chunks))


def split_at(text, places):
    """A text in pieces."""
    ends = sorted({min(place, len(text)) for place in places})
    starts = [0, *ends]
    return [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]


LINES = "a\r\n\nümlaut\n日本\nlast".encode()


@pytest.mark.parametrize("place", range(len(LINES) + 1))
def test_lines_are_the_same_wherever_the_stream_is_split(place):
    """A character whose bytes come in two chunks is one character."""
    actual = cut(LineFraming(100), LINES[:place], LINES[place:])

    assert ["a\r\n", "\n", "ümlaut\n", "日本\n", "last"] == actual


def test_lines_come_byte_by_byte():
    """Nothing is taken for an end that is none."""
    actual = cut(LineFraming(100), *(LINES[at : at + 1] for at in range(len(LINES))))

    assert ["a\r\n", "\n", "ümlaut\n", "日本\n", "last"] == actual


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_lines_that_are_not_changed_keep_their_bytes(content, places):
    """Bytes that are no UTF-8 too."""
    assert content == joined(LineFraming(1000), *split_at(content, places))


@pytest.mark.requirement("S-41")
@pytest.mark.parametrize(
    "chunks",
    [
        [b"12345678\n\n"],
        [b"123456789"],
        [b"1234", b"56789"],
        [b"12345678\n"],
        [b"1\n", b"1234567", b"8\n"],
    ],
    ids=["whole", "no-end", "in-pieces", "with-an-end", "behind-another"],
)
@pytest.mark.parametrize("kind", [LineFraming, RecordFraming, EventFraming])
def test_a_piece_over_its_cap_is_refused(kind, chunks):
    """A line that does not end is not kept."""
    with pytest.raises(StreamError) as caught:
        cut(kind(8), *chunks)

    assert caught.value.too_large


def test_a_piece_at_its_cap_passes():
    """The cap is the largest that passes."""
    assert ["1234567\n"] == cut(LineFraming(8), b"1234567\n")


def test_records_are_values():
    """Empty lines are none, and the last one needs no end."""
    actual = cut(RecordFraming(100), b'{"a": [1, 2.5, null]}\r\n\n  \n"\xc3', b'\xa9"\ntrue')

    assert [{"a": [1, 2.5, None]}, "é", True] == actual


def test_a_record_is_written_anew():
    """One line, without white space."""
    assert b'{"a":["\xc3\xa9"]}\n' == RecordFraming(100).join({"a": ["é"]})


@pytest.mark.parametrize(
    "line",
    [b"{", b"NaN", b"[" * 100_000, b"\xff", b"1 2"],
    ids=["cut", "nan", "deep", "bytes", "two"],
)
def test_a_line_that_is_no_record_is_refused(line):
    """Not guessed at, and not passed unfiltered."""
    with pytest.raises(StreamError) as caught:
        cut(RecordFraming(1_000_000), line + b"\n")

    assert not caught.value.too_large


def test_a_value_that_json_does_not_know_is_refused():
    """A filter's mistake is not sent."""
    with pytest.raises(ValueError, match="JSON"):
        RecordFraming(100).join(float("nan"))


STREAM = (
    b"\xef\xbb\xbf: hello\n\ndata: a\ndata\ndata:  b\r\nid: 1\r\nevent: x\rretry: 10\r\r"
    b"data: \xe6\x97\xa5\n\n:\n\ndata: last"
)
EVENTS = [
    ServerSentEvent(comment="hello"),
    ServerSentEvent("a\n\n b", id="1", event="x", retry=10),
    ServerSentEvent("日"),
    ServerSentEvent(comment=""),
    ServerSentEvent("last"),
]


@pytest.mark.parametrize("place", range(len(STREAM) + 1))
def test_events_are_the_same_wherever_the_stream_is_split(place):
    """Three kinds of line ends, and ends of events in two chunks."""
    assert EVENTS == cut(EventFraming(1000), STREAM[:place], STREAM[place:])


def test_events_come_byte_by_byte():
    """Each is complete with its empty line and not before."""
    framing = EventFraming(1000)
    actual = cut(framing, *(STREAM[at : at + 1] for at in range(len(STREAM))))

    assert EVENTS == actual


def test_an_event_is_there_as_soon_as_it_is_complete():
    """Nothing is waited for behind its empty line."""
    framing = EventFraming(1000)

    assert [ServerSentEvent("a")] == list(framing.feed(b"data: a\n\n"))
    assert [ServerSentEvent("b")] == list(framing.feed(b"data: b\r\r"))
    assert [ServerSentEvent("c")] == list(framing.feed(b"data: c\r\n\r"))


@pytest.mark.parametrize("place", range(len(STREAM) + 1))
def test_events_that_are_not_changed_keep_their_bytes(place):
    """Byte order mark, spelling and line ends included."""
    assert STREAM == joined(EventFraming(1000), STREAM[:place], STREAM[place:])


def test_a_changed_event_is_written_anew():
    """Data of several lines, and what belongs to it."""
    (event,) = cut(EventFraming(100), b"id:7\ndata:x\n\n")
    event.data = "a\r\nb\rc"

    assert b"id: 7\ndata: a\ndata: b\ndata: c\n\n" == bytes(event)


def test_a_made_event_has_every_part():
    """In an order that every client reads."""
    event = ServerSentEvent("d", event="e", id="", retry=3, comment="c\nc")

    assert b": c\n: c\nevent: e\nid: \nretry: 3\ndata: d\n\n" == bytes(event)


@pytest.mark.parametrize("name", ["event", "id"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\nb", "a\0"])
def test_a_value_of_one_line_cannot_hold_a_line_end(name, value):
    """It would begin a field of its own."""
    with pytest.raises(ValueError, match="one line"):
        bytes(ServerSentEvent("x", **{name: value}))


def test_fields_that_clients_ignore_are_ignored():
    """As a browser reads them."""
    (event,) = cut(
        EventFraming(100), b"id: a\0b\nretry: 1s\nretry: \xc2\xb2\nother: x\ndata: d\n\n"
    )

    assert ServerSentEvent("d") == event


@given(st.binary(max_size=120).map(lambda text: text.replace(b"\r", b"\n")))
def test_any_bytes_are_events_or_nothing(content):
    """Garbage neither raises nor is lost, but for line ends in front of an event."""
    actual = joined(EventFraming(1000), content)

    assert content.replace(b"\n", b"") == actual.replace(b"\n", b"")


@given(st.lists(st.text(max_size=20), max_size=4), st.text(max_size=8))
def test_data_is_read_back(lines, comment):
    """Any text is one event, with its line ends as line feeds."""
    data = "\n".join(lines)
    (event,) = cut(EventFraming(1000), bytes(ServerSentEvent(data, comment=comment)))

    assert json.dumps(data.replace("\r\n", "\n").replace("\r", "\n")) == json.dumps(event.data)


@pytest.mark.parametrize(
    ("framing", "item"),
    [(LineFraming(9), b"x"), (EventFraming(9), "x")],
    ids=["lines", "events"],
)
def test_what_is_of_another_kind_is_refused(framing, item):
    """A filter that yields something else is told so."""
    with pytest.raises(TypeError, match="yields"):
        framing.join(item)


def test_an_event_of_one_value_has_one_line():
    """What it does not have is not written."""
    assert b"retry: 5\n\n" == bytes(ServerSentEvent(retry=5))
