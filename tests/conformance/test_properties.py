"""Properties that hold for whatever bytes come: the guard, the fields, the match."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyroutes._serve.fields import (
    FIELD_ACTIONS,
    PASS,
    filter_response,
    has_bad_name,
    has_bad_value,
    read_fields,
)
from proxyroutes._serve.guard import check_host, check_target
from proxyroutes.exceptions import ClientRequestError

MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Pieces from which paths are put together that are likely to be read in two ways.
PIECES = st.sampled_from(
    [
        *[b"/", b"//", b".", b"..", b"%2e", b"%2E", b"%2f", b"%5c", b"\\", b";", b"%3b", b"%00"],
        *[
            b"%25",
            b"%252e",
            b"%2",
            b"%zz",
            b"a",
            b"admin",
            b"%61",
            b"#",
            b"?",
            b" ",
            b"\t",
            b"\xe9",
        ],
        *[
            b"%0a",
            b"%0d%0a",
            b"%c0%ae",
            b"%ef%bc%8e",
            b":",
            b"@",
            b"*",
            b"~",
            b"%",
            b"%20",
            b"...",
        ],
    ]
)
PATHS = st.one_of(
    st.lists(PIECES, max_size=12).map(b"".join),
    st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)),
    st.binary(max_size=40).map(lambda raw: b"/" + raw),
)


def passes(check, *arguments):
    """Whether a guard lets it through."""
    try:
        check(*arguments)
    except ClientRequestError:
        return False
    return True


def resolve(path, *, decode, also_backslash, parameters):
    """Where a path leads, as one kind of server reads it; None where it leaves the root.

    Args:
        path: The path as it is sent.
        decode: How often it decodes.
        also_backslash: Whether a backslash separates segments, as on Windows.
        parameters: Whether what follows a semicolon in a segment is cut off, as in servlets.
    """
    for _ in range(decode):
        path = unquote_to_bytes(path)
    if also_backslash:
        path = path.replace(b"\\", b"/")
    kept = []
    for segment in path.split(b"/"):
        name = segment.partition(b";")[0] if parameters else segment
        if name == b"..":
            if not kept:
                return None
            kept.pop()
        elif name not in {b"", b"."}:
            kept.append(segment)
    return kept


@pytest.mark.requirement("S-11", "S-12")
@given(PATHS)
@MANY
def test_no_server_resolves_a_path_that_passes(path):
    """Whoever decodes at most once, with or without backslashes and parameters, finds every segment where it stood."""
    if not passes(check_target, path, b""):
        return
    for decode in (0, 1):
        for also_backslash in (False, True):
            for parameters in (False, True):
                read = path
                for _ in range(decode):
                    read = unquote_to_bytes(read)
                if also_backslash:
                    read = read.replace(b"\\", b"/")
                plain = [
                    segment
                    for segment in read.split(b"/")
                    if (segment.partition(b";")[0] if parameters else segment)
                ]

                assert plain == resolve(
                    path, decode=decode, also_backslash=also_backslash, parameters=parameters
                )


@pytest.mark.requirement("S-10", "S-14", "S-17")
@given(PATHS)
@MANY
def test_a_path_that_passes_is_plain_ascii(path):
    """It begins with a slash, has no byte that a target cannot have, and only whole escapes."""
    if not passes(check_target, path, b""):
        return

    assert path.startswith(b"/")
    assert re.fullmatch(rb"(?:%[0-9A-Fa-f]{2}|[!-$&-\[\]-~])*", path)
    assert b"#" not in path
    assert not {0, 10, 13} & set(unquote_to_bytes(path))


@pytest.mark.requirement("S-11")
@given(st.lists(st.sampled_from([b"a", b"b.c", b".hidden", b"...", b"%41", b"x;y"]), min_size=1))
@MANY
def test_a_path_of_harmless_segments_passes(segments):
    """The guard refuses nothing that only looks odd."""
    assert passes(check_target, b"/" + b"/".join(segments), b"a=b&c")


@pytest.mark.requirement("S-14")
@given(st.binary(max_size=30))
@MANY
def test_a_query_that_passes_is_plain_ascii(query):
    """No space, control, 8-bit byte or fragment."""
    if passes(check_target, b"/", query):
        assert re.fullmatch(rb"[!-~]*", query)
        assert b"#" not in query


@pytest.mark.requirement("H-06")
@given(st.binary(max_size=40))
@MANY
def test_a_host_that_passes_has_no_other_part_of_a_url(host):
    """No user, path, query, fragment, list or space."""
    if passes(check_host, host):
        assert host
        assert not set(host) & set(b'/?#@\\ \t\r\n\x00"<>')


NAMES = st.one_of(
    st.sampled_from(sorted(FIELD_ACTIONS)),
    st.sampled_from(
        [
            b"x-a",
            b"x_forwarded_for",
            b"transfer_encoding",
            b"x a",
            b"X-Upper",
            b"x-\xe9",
            b"set-cookie",
        ]
    ),
    st.binary(max_size=6),
)
VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"a",
            b"close",
            b"chunked",
            b"gzip, chunked",
            b"3",
            b"+3",
            b"3, 3",
            b"a.test",
            b"100-continue",
        ]
    ),
    st.lists(NAMES, max_size=3).map(b", ".join),
    st.binary(max_size=8),
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(
    lambda fields: [(b"host", b"gateway.test"), *fields]
)
HOP = {
    *[b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"],
    *[b"upgrade", b"proxy-authenticate", b"proxy-authorization", b"http2-settings", b"host"],
    *[b"content-length", b"expect", b"forwarded", b"x-forwarded-for", b"x-real-ip"],
}


@pytest.mark.requirement("H-27", "S-05", "S-06", "S-07", "S-21")
@given(LINES, st.sampled_from(["1.0", "1.1"]))
@MANY
def test_fields_that_pass_are_clean_and_in_order(lines, version):
    """Whatever came: no hop-by-hop field, none of ours, no bad name or value, nothing new, nothing moved."""
    try:
        received = read_fields(list(lines), version, FIELD_ACTIONS)
    except ClientRequestError:
        return
    passed = [field for field in received.fields if field[0] != b"cookie"]
    names = {name for name, _ in received.fields}
    places = iter(lines)

    assert not names & HOP
    assert not [one for one in received.fields if has_bad_name(one[0]) or has_bad_value(one[1])]
    assert not [name for name in names if name != name.lower()]
    assert all(field in places for field in passed)
    assert not [
        name
        for name in names
        if b"_" in name and FIELD_ACTIONS.get(name.replace(b"_", b"-"), PASS) != PASS
    ]
    assert received.content_length is None or not received.chunked


@pytest.mark.requirement("H-27", "H-29")
@given(
    LINES, st.lists(st.sampled_from([b"x-a", b"X-A", b"x-forwarded-for", b"cookie", b"host", b""]))
)
@MANY
def test_what_connection_names_is_gone_but_for_what_must_stay(lines, named):
    """However it is spelled, and never what frames or identifies the request."""
    sent = [*lines, (b"x-a", b"1"), (b"cookie", b"c=1"), (b"connection", b" ,".join(named))]
    try:
        received = read_fields(sent, "1.1", FIELD_ACTIONS)
    except ClientRequestError:
        return
    names = {name for name, _ in received.fields}

    assert b"cookie" in names
    assert b"gateway.test" == received.host
    if {b"x-a", b"X-A"} & set(named):
        assert b"x-a" not in names


@pytest.mark.requirement("H-27", "H-44", "H-11")
@given(LINES, st.sampled_from([200, 204, 205, 304, 404]))
@MANY
def test_fields_of_a_response_that_pass_are_clean(lines, status):
    """No hop-by-hop field, nothing that Connection names, and no length where there can be none."""
    fields = filter_response(
        [(name.lower(), value) for name, value in lines],
        status,
        server_fields=frozenset({b"date", b"server"}),
    )
    names = [name for name, _ in fields]

    assert not set(names) & {b"connection", b"transfer-encoding", b"keep-alive", b"trailer"}
    assert not set(names) & {b"date", b"server", b"alt-svc", b"proxy-authenticate", b"upgrade"}
    if status in {204, 304}:
        assert b"content-length" not in names
