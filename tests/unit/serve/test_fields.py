"""Field rules of both directions."""

import pytest

from proxyroutes._serve.fields import (
    FIELD_ACTIONS,
    check_edit,
    field_actions,
    filter_response,
    has_bad_name,
    has_bad_value,
    read_fields,
)
from proxyroutes._serve.guard import MAX_FIELD_BYTES, MAX_FIELDS, MAX_NAME_BYTES
from proxyroutes.exceptions import ClientRequestError

HOST = (b"host", b"gateway.test")


def read(*fields, version="1.1", actions=FIELD_ACTIONS):
    """Read fields behind a ``Host``."""
    return read_fields([HOST, *fields], version, actions)


def status_of(*fields, version="1.1"):
    """The status that fields are refused with."""
    with pytest.raises(ClientRequestError) as caught:
        read_fields(list(fields), version, FIELD_ACTIONS)
    return caught.value.status_code


def filtered(*fields, status=200, server_fields=frozenset()):
    """The fields of a response as the client gets them."""
    return filter_response(list(fields), status, server_fields=server_fields)


@pytest.mark.requirement("H-22")
def test_order_and_duplicates_of_passing_fields_are_kept():
    """Usual and unusual names alike."""
    fields = [
        (b"x-b", b"1"),
        (b"accept", b"2"),
        (b"x-b", b"3"),
        (b"accept", b""),
        (b"x-c", b"\xff"),
    ]

    assert fields == read(*fields).fields


@pytest.mark.requirement("H-27")
@pytest.mark.requirement("S-21")
@pytest.mark.parametrize(
    "name", sorted(name for name, action in FIELD_ACTIONS.items() if action == 0)
)
def test_hop_by_hop_and_forwarding_fields_go(name):
    """What is between two hops, or only says what an earlier hop may have seen, stays here."""
    assert [(b"a", b"1")] == read((name, b"x"), (b"a", b"1")).fields


@pytest.mark.requirement("H-27")
@pytest.mark.parametrize(
    "values",
    [
        [b"x-gone"],
        [b"X-GONE"],
        [b"close, x-gone"],
        [b"close,x-gone"],
        [b" ,, \tx-gone\t,"],
        [b"keep-alive", b"x-gone"],
        [b"x-other", b"x-gone"],
    ],
)
def test_fields_that_connection_names_go(values):
    """In every line and every spelling."""
    fields = [
        (b"x-gone", b"1"),
        *[(b"connection", value) for value in values],
        (b"x-kept", b"2"),
        (b"x-gone", b"3"),
    ]

    assert [(b"x-kept", b"2")] == read(*fields).fields


@pytest.mark.parametrize("value", [b"close", b"keep-alive", b"Close", b"Keep-Alive", b"", b","])
def test_a_connection_that_names_nothing_takes_nothing(value):
    """What every peer says costs no other field."""
    assert [(b"x", b"1")] == read((b"connection", value), (b"x", b"1")).fields


@pytest.mark.requirement("H-29")
def test_connection_does_not_take_end_to_end_fields():
    """Framing, credentials and the content's own fields keep their meaning."""
    received = read(
        (
            b"connection",
            b"content-length, host, cookie, authorization, content-type, content-encoding",
        ),
        (b"content-length", b"3"),
        (b"cookie", b"a"),
        (b"authorization", b"b"),
        (b"content-type", b"c"),
        (b"content-encoding", b"d"),
    )

    assert [b"cookie", b"authorization", b"content-type", b"content-encoding"] == [
        name for name, _ in received.fields
    ]
    assert (3, b"gateway.test") == (received.content_length, received.host)


def test_framing_and_host_are_read_and_do_not_pass():
    """The transport writes its own."""
    received = read(
        (b"transfer-encoding", b"Chunked"),
        (b"expect", b"100-Continue"),
        (b"via", b"1.1 a"),
        (b"via", b"2 b"),
    )

    assert [] == received.fields
    assert (None, True, True) == (
        received.content_length,
        received.chunked,
        received.expects_continue,
    )
    assert [b"1.1 a", b"2 b"] == received.via


@pytest.mark.requirement("H-24")
def test_pieces_of_cookie_are_joined_where_the_first_stood():
    """However many there are."""
    received = read((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3"))

    assert [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")] == received.fields


@pytest.mark.requirement("S-01")
@pytest.mark.requirement("S-02")
@pytest.mark.requirement("S-03")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], id="both"),
        pytest.param(
            [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")],
            id="both-the-other-way",
        ),
        pytest.param([(b"transfer-encoding", b"chunked")] * 2, id="two-codings"),
        *[
            pytest.param([(b"transfer-encoding", value)], id=repr(value))
            for value in (
                b"gzip, chunked",
                b"chunked, identity",
                b"xchunked",
                b",chunked",
                b"",
                b"\x0bchunked",
                b"\xa0chunked",
            )
        ],
        pytest.param([(b"content-length", b"1")] * 2, id="two-lengths"),
        *[
            pytest.param([(b"content-length", value)], id=repr(value))
            for value in (
                b"",
                b"+1",
                b"-1",
                b"0x1",
                b"1_0",
                b"1, 1",
                b"1 1",
                b"1" * 19,
                b"\xb2",
                b"1.0",
            )
        ],
    ],
)
def test_ambiguous_framing_is_refused(fields):
    """Where the content ends is never guessed."""
    assert 400 == status_of(HOST, *fields)


def test_a_coding_is_refused_in_http_1_0():
    """HTTP/1.0 knows no chunks."""
    assert 400 == status_of(HOST, (b"transfer-encoding", b"chunked"), version="1.0")


def test_the_largest_length_passes():
    """Eighteen digits are an exabyte."""
    assert 10**18 - 1 == read((b"content-length", b"9" * 18)).content_length


@pytest.mark.requirement("H-06")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="none"),
        pytest.param([HOST, HOST], id="two"),
        pytest.param([(b"host", b"")], id="empty"),
        pytest.param([(b"host", b"a/b")], id="path"),
    ],
)
def test_what_is_not_exactly_one_host_is_refused(fields):
    """A request must say whom it means."""
    assert 400 == status_of(*fields)


def test_http_1_0_may_be_without_host():
    """RFC 9112 §3.2 asks for it from 1.1 on."""
    assert b"" == read_fields([], "1.0", FIELD_ACTIONS).host


@pytest.mark.requirement("S-05")
@pytest.mark.requirement("S-07")
@pytest.mark.parametrize(
    "field",
    [
        (b"", b"x"),
        (b"a b", b"x"),
        (b"a:", b"x"),
        (b"caf\xe9", b"x"),
        (b"a\x00", b"x"),
        (b"Upper", b"x"),
        (b"a", b"\x00"),
        (b"a", b"x\r\ny"),
        (b"a", b"\x1b"),
        (b"a", b"\x7f"),
        (b"accept", b"\x01"),
        (b"host", b"a\nb"),
    ],
)
def test_what_is_no_field_is_refused(field):
    """Names are tokens in lower case, and values have no control characters."""
    assert 400 == status_of(HOST, field)


@pytest.mark.requirement("S-06")
@pytest.mark.parametrize(
    "name",
    [b"x_forwarded_for", b"x-forwarded_for", b"content_length", b"transfer_encoding", b"x_user"],
)
def test_a_name_with_underscores_that_reads_like_a_name_of_ours_goes(name):
    """Many applications read both spellings as one."""
    received = read((name, b"1"), (b"other_name", b"2"), actions=field_actions(["X-User"]))

    assert [(b"other_name", b"2")] == received.fields


@pytest.mark.requirement("S-28")
def test_identity_fields_go():
    """Only the application may set them."""
    assert [] == read((b"x-user", b"root"), actions=field_actions(["X-User"])).fields


def test_routes_without_identity_fields_share_their_actions():
    """No copy is made where nothing is added."""
    assert field_actions([]) is FIELD_ACTIONS


@pytest.mark.requirement("H-37")
def test_an_unknown_expectation_is_refused_with_417():
    """Nobody could meet it."""
    assert 417 == status_of(HOST, (b"expect", b"a-miracle"))


@pytest.mark.requirement("H-46")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(b"a", b"")] * MAX_FIELDS, id="count"),
        pytest.param([(b"a", b"x" * MAX_FIELD_BYTES)], id="value"),
        pytest.param([(b"a" * 100, b"x" * 1_000)] * 32, id="names-and-values"),
        pytest.param([(b"a" * (MAX_NAME_BYTES + 1), b"")], id="name"),
    ],
)
def test_too_much_is_refused_with_431(fields):
    """Number and size of the fields are bounded."""
    assert 431 == status_of(HOST, *fields)


def test_as_much_as_is_allowed_passes():
    """The limits themselves are allowed."""
    fields = [(b"a", b"x" * 300)] * (MAX_FIELDS - 1)

    assert fields == read(*fields).fields


# Responses.


@pytest.mark.requirement("H-27")
@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"alt-svc",
        b"proxy-authenticate",
    ],
)
def test_hop_by_hop_fields_of_a_response_go(name):
    """The server in front makes its own."""
    assert [(b"a", b"1")] == filtered((name, b"x"), (b"a", b"1"))


@pytest.mark.requirement("H-27")
def test_fields_that_a_responses_connection_names_go():
    """But for those that keep their meaning."""
    fields = [
        (b"connection", b"X-Gone, Set-Cookie"),
        (b"x-gone", b"1"),
        (b"set-cookie", b"a"),
        (b"connection", b"close"),
    ]

    assert [(b"set-cookie", b"a")] == filtered(*fields)


@pytest.mark.requirement("H-22")
def test_lines_of_set_cookie_are_kept_apart():
    """They cannot be joined."""
    fields = [(b"set-cookie", b"a"), (b"x", b"1"), (b"set-cookie", b"b")]

    assert fields == filtered(*fields)


@pytest.mark.requirement("H-44")
@pytest.mark.parametrize(
    ("server_fields", "kept"),
    [
        (frozenset({b"date", b"server"}), []),
        (frozenset({b"date"}), [b"server"]),
        (frozenset({b"server"}), [b"date"]),
        (frozenset(), [b"date", b"server"]),
    ],
)
def test_date_and_server_pass_where_the_server_adds_none(server_fields, kept):
    """Each comes once."""
    fields = [(b"date", b"x"), (b"server", b"y")]

    assert kept == [name for name, _ in filtered(*fields, server_fields=server_fields)]


@pytest.mark.requirement("H-11")
@pytest.mark.requirement("H-12")
@pytest.mark.parametrize(
    ("status", "kept"), [(200, True), (204, False), (304, False), (206, True)]
)
def test_a_length_goes_where_there_is_no_content(status, kept):
    """A server would wait for its bytes."""
    assert kept == bool(filtered((b"content-length", b"5"), status=status))


@pytest.mark.requirement("H-13")
@pytest.mark.parametrize(
    "fields", [[], [(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")]]
)
def test_a_205_has_a_length_of_zero(fields):
    """Whatever its upstream said."""
    assert [(b"content-length", b"0")] == filtered(*fields, status=205)


# Edits.


@pytest.mark.requirement("S-29")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a b", "x"),
        ("", "x"),
        ("a\r\n", "x"),
        ("caf\u00e9", "x"),
        ("a", "x\r\ny"),
        ("a", "\0"),
        ("a", "\x1b"),
        ("a", "\u20ac"),
    ],
)
def test_an_edit_that_is_no_field_is_refused(name, value):
    """Nothing of it is sent."""
    with pytest.raises(ValueError, match="field|value"):
        check_edit(name, value)


def test_an_edit_is_encoded():
    """Names in lower case, values in Latin-1 without surrounding white space."""
    assert (b"x-a", b"caf\xe9") == check_edit("X-A", " caf\u00e9\t")


def test_names_and_values_are_told_from_what_is_none():
    """RFC 9110 §5.1 and §5.5."""
    assert [False, True, True] == [has_bad_name(name) for name in (b"X-a", b"", b"a:")]
    assert [False, False, True] == [has_bad_value(value) for value in (b"", b"a \t\xff", b"\n")]
