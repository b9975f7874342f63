"""Declared edits of field lines and of the query."""

from urllib.parse import quote, quote_plus, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes import Proxy
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.match import split_path
from proxyroutes._state.transforms import compile_headers, compile_query
from proxyroutes.exceptions import ClientRequestError
from proxyroutes.settings import HeaderRules, QueryRules
from tests.unit.serve.scripted import make_scope, stub


def edited(fields, *, response=False, captured=None, names=(), **rules):
    """The field lines that rules make."""
    edit = compile_headers(HeaderRules(**rules), names, response=response)
    return edit.apply(fields, lambda number: (captured or [])[number])


def query_of(query, *, captured=None, names=(), **rules):
    """The query that rules make."""
    edit = compile_query(QueryRules(**rules), names)
    return edit.apply(query, lambda number: (captured or [])[number])


def head_of(path, target, **route):
    """The forwarded head of a request to a route."""
    proxy = Proxy(via="here", **route.pop("proxy", {}))
    proxy.route(path, upstream="http://up", **route)(stub)
    scope = make_scope("GET", target, *route.pop("fields", ()))
    found = proxy.compiled().index.match(split_path(scope["raw_path"]), 0, "GET", scope)
    received = read_request(scope, found.plan, found)
    return make_head(scope, found.plan, found, received)


FIELDS = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param({"set": {"A": "x"}}, [(b"b", b"2"), (b"a", b"x")], id="set-replaces-all"),
        pytest.param({"set": {"c": "x"}}, [*FIELDS, (b"c", b"x")], id="set-writes"),
        pytest.param({"add": {"A": "x"}}, [*FIELDS, (b"a", b"x")], id="add"),
        pytest.param(
            {"add": [("c", "x"), ("c", "y")]},
            [*FIELDS, (b"c", b"x"), (b"c", b"y")],
            id="add-twice",
        ),
        pytest.param({"remove": ["A"]}, [(b"b", b"2")], id="remove"),
        pytest.param({"allow": ["B"]}, [(b"b", b"2")], id="allow"),
        pytest.param({"allow": []}, [], id="allow-nothing"),
        pytest.param(
            {"allow": ["a"], "remove": ["a"], "set": {"b": "x"}, "add": {"a": "y"}},
            [(b"b", b"x"), (b"a", b"y")],
            id="in-order",
        ),
        pytest.param({"set": {"a": ""}}, [(b"b", b"2"), (b"a", b"")], id="empty-value"),
        pytest.param({"set": {"a": "é"}}, [(b"b", b"2"), (b"a", b"\xe9")], id="latin-1"),
    ],
)
def test_rules_edit_field_lines(rules, expected):
    """Names have no case; what no rule names keeps order, duplicates and bytes."""
    assert expected == edited(FIELDS, **rules)


@pytest.mark.requirement("S-06")
@pytest.mark.parametrize("rules", [{"remove": ["x-user"]}, {"set": {"X-User": "me"}}])
def test_another_spelling_with_an_underscore_goes_too(rules):
    """An application that reads both as one variable must not find the client's."""
    actual = edited([(b"x_user", b"admin"), (b"x-user", b"root")], **rules)

    assert not any(value in {b"admin", b"root"} for _, value in actual)


def test_an_allow_list_keeps_what_is_the_gateways_own():
    """What the client sent of these was dropped before."""
    ours = [(b"via", b"1.1 gw"), (b"x-forwarded-for", b"192.0.2.1"), (b"forwarded", b"for=_x")]

    assert ours == edited([*ours, (b"cookie", b"a")], allow=["accept"])


def test_an_allow_list_keeps_what_says_how_content_is_read():
    """Content without its coding and length would be garbage."""
    kept = [(b"content-encoding", b"gzip"), (b"content-length", b"9")]

    assert kept == edited([*kept, (b"x-powered-by", b"a")], allow=[], response=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("<a>", b"A", id="angle"),
        pytest.param("{b}", b"B", id="brace"),
        pytest.param("x-<a>/{b}-y", b"x-A/B-y", id="within"),
        pytest.param("<<a>> {{b}}", b"<a> {b}", id="doubled"),
        pytest.param("</style.css>; rel=preload", b"</style.css>; rel=preload", id="link"),
        pytest.param('{"a":{"b":1}}', b'{"a":{"b":1}}', id="json"),
        pytest.param("a < b", b"a < b", id="lone"),
    ],
)
def test_a_value_is_filled_in_with_parameters(value, expected):
    """Both spellings of a parameter are known, and everything else is text."""
    actual = edited([], set={"x": value}, names=("a", "b"), captured=[b"A", b"B"])

    assert [(b"x", expected)] == actual


def test_a_parameter_that_is_not_there_is_refused():
    """The mistake names what there is and how the text itself is written."""
    with pytest.raises(ValueError, match=r"<tenat>.*<tenant>.*<<tenat>>"):
        edited([], set={"x": "<tenat>"}, names=("tenant",))


@pytest.mark.parametrize("rules", [{"set": {"Host": "a"}}, {"allow": ["host"]}])
def test_host_is_not_written_by_rules(rules):
    """There is a keyword for it."""
    with pytest.raises(ValueError, match="host="):
        edited([], **rules)


def test_via_of_a_request_is_not_written_by_rules():
    """Loops are found by it."""
    with pytest.raises(ValueError, match="via="):
        edited([], remove=["via"])


def test_via_of_a_response_may_be_removed():
    """It is the upstream's."""
    assert [] == edited([(b"via", b"1.1 cache")], remove=["via"], response=True)


def test_captured_text_is_decoded_once():
    """A field gets what FastAPI's parameter would be."""
    head = head_of(
        "/<a>/<path>", b"/caf%C3%A9%2525/x", request_headers=HeaderRules(set={"x": "<a>"})
    )

    assert (b"x", b"caf\xe9%25") in head.fields


@pytest.mark.requirement("S-29")
@pytest.mark.parametrize(
    "raw",
    [b"a%0Db", b"a%0Ab", b"a%00", b"a%01", b"a%7f", b"a%E6%97%A5", b"a%FF", b"a%C2%85"],
    ids=["cr", "lf", "nul", "control", "del", "not-latin-1", "not-utf-8", "c1"],
)
@pytest.mark.parametrize("keyword", ["request_headers", "response_headers"])
def test_captured_text_that_no_field_can_carry_is_refused(raw, keyword):
    """It is refused before anything is sent, also where only the response would carry it."""
    if raw == b"a%C2%85":
        # A C1 control character is obs-text in a field, and passes as any other byte above ASCII.
        head_of("/<a>", b"/" + raw, **{keyword: HeaderRules(set={"x": "<a>"})})
        return
    with pytest.raises(ClientRequestError) as caught:
        head_of("/<a>", b"/" + raw, **{keyword: HeaderRules(set={"x": "<a>"})})

    assert 400 == caught.value.status_code


def test_rules_are_applied_from_the_outside_to_the_inside():
    """A route's rule is the last, and sees what the others have made."""
    proxy = Proxy(via="here", request_headers=HeaderRules(set={"x": "proxy", "p": "1"}))
    group = proxy.group("/g", request_headers=HeaderRules(set={"x": "group"}, add={"y": "g"}))
    group.route("/a", upstream="http://up", request_headers=HeaderRules(add={"x": "route"}))(stub)
    group.route("/b", upstream="http://up", request_headers=None)(stub)
    heads = []
    for target in (b"/g/a", b"/g/b"):
        scope = make_scope("GET", target)
        found = proxy.compiled().index.match(split_path(target), 0, "GET", {})
        heads.append(make_head(scope, found.plan, found, read_request(scope, found.plan, found)))
    own = [[one for one in head.fields if one[0] in {b"x", b"y", b"p"}] for head in heads]

    assert [
        [(b"p", b"1"), (b"x", b"group"), (b"y", b"g"), (b"x", b"route")],
        [],
    ] == own


# Queries.


@pytest.mark.parametrize(
    ("query", "rules", "expected"),
    [
        pytest.param(b"a=1&b=2&a=3", {"set": {"a": "x y"}}, b"a=x+y&b=2", id="set-in-place"),
        pytest.param(b"b=%2f&&c", {"set": {"a": "1"}}, b"b=%2f&&c&a=1", id="set-appends"),
        pytest.param(b"", {"add": {"a": "&="}}, b"a=%26%3D", id="add-to-none"),
        pytest.param(b"a=1", {"add": [("a", "2"), ("a", "3")]}, b"a=1&a=2&a=3", id="add"),
        pytest.param(b"a=1&%61=2&b&+=4", {"remove": ["a", " "]}, b"b", id="remove-decoded"),
        pytest.param(b"a;b=1&b=2", {"remove": ["b"]}, b"a;b=1", id="semicolon-is-no-separator"),
        pytest.param(b"a=1&b=2&c=%zz", {"allow": ["c"]}, b"c=%zz", id="allow"),
        pytest.param(b"a=1", {"remove": ["a"]}, b"", id="nothing-is-left"),
        pytest.param(b"x=1", {"set": {"é": "日"}}, b"x=1&%C3%A9=%E6%97%A5", id="utf-8"),
    ],
)
def test_rules_edit_the_query(query, rules, expected):
    """What no rule names keeps its place and its bytes."""
    assert expected == query_of(query, **rules)


def test_captured_text_is_encoded_in_the_query():
    """It can neither end its parameter nor begin another one."""
    head = head_of(
        "/<a>/<path>", b"/x%26y=1%2f/z?q=%7e", query_rules=QueryRules(set={"t": "-<a>"})
    )

    assert b"/x%26y=1%2f/z?q=%7e&t=-x%26y%3D1%2F" == head.target


def test_captured_bytes_that_are_no_text_reach_the_query_as_they_are():
    """A query can carry every byte."""
    head = head_of("/<a>", b"/%FF", query_rules=QueryRules(set={"t": "<a>"}))

    assert b"/%FF?t=%FF" == head.target


NAMES = st.text(alphabet="abc+% é", min_size=1, max_size=3)
PIECES = st.lists(
    st.tuples(
        st.text(alphabet="abcAB=+%20;~!*", max_size=6), st.text(alphabet="ab=+%7e/?", max_size=6)
    ).map(lambda pair: "=".join(pair) if pair[1] else pair[0]),
    max_size=8,
)


@given(
    PIECES, st.lists(NAMES, max_size=3), st.dictionaries(NAMES, st.text(max_size=4), max_size=2)
)
def test_untouched_parameters_keep_their_bytes_and_their_order(pieces, removed, written):
    """Whatever the query is, only parameters that a rule names are different afterwards."""
    query = "&".join(pieces).encode()
    result = query_of(query, remove=removed, set=written)
    named = {*removed, *written}

    def untouched(text):
        return [
            piece
            for piece in text.decode().split("&")
            if unquote_plus(piece.partition("=")[0], errors="replace") not in named
        ]

    kept = untouched(query) if query else []
    if result:
        assert kept == untouched(result)
    else:
        assert "" == "".join(kept)


@given(st.dictionaries(NAMES, st.text(max_size=6), min_size=1, max_size=3), PIECES)
def test_a_written_parameter_is_read_back(written, pieces):
    """Any text is encoded so that it decodes to itself, once."""
    result = query_of("&".join(pieces).encode(), set=written).decode()
    read = [piece.partition("=") for piece in result.split("&")]
    actual = {
        name: [unquote_plus(value) for known, _, value in read if unquote_plus(known) == name]
        for name in written
    }

    assert {name: [value] for name, value in written.items()} == actual


@given(st.text(min_size=1, max_size=8).filter(lambda text: text.isascii() and text.isprintable()))
def test_a_capture_in_the_query_is_one_parameter(text):
    """Whatever was captured, the number of parameters stays."""
    raw = quote(text, safe="")
    result = query_of(b"a=1", set={"t": "<x>"}, names=("x",), captured=[quote_plus(text).encode()])

    assert (2, text, raw.encode()) == (
        len(result.split(b"&")),
        unquote_plus(result.rpartition(b"t=")[2].decode()),
        raw.encode(),
    )
