"""The request as it will be forwarded, in the application's hands: every edit is checked where it is made."""

import pytest

from proxyroutes import ForwardedRequest
from proxyroutes._serve.steps.forwarded import edit_field
from proxyroutes.typing import ForwardedHead


@pytest.fixture
def head():
    """A forwarded head."""
    fields = [(b"accept", b"a"), (b"x-one", b"1"), (b"accept", b"b"), (b"x-latin", b"\xe9")]
    return ForwardedHead(b"GET", b"/a%2Fb?x=1&y=%20&x=2&&z", fields, None, None)


@pytest.fixture
def request_(head):
    """The request of that head."""
    return ForwardedRequest(
        head, route="r", client=("127.0.0.1", 1), path_params={"a": 1}, received_host="h"
    )


def test_facts_of_the_received_request_are_there(request_):
    """What decided the route and who asked can be read."""
    assert ("r", ("127.0.0.1", 1), "http", {"a": 1}, "h") == (
        request_.route,
        request_.client,
        request_.scheme,
        request_.path_params,
        request_.received_host,
    )


def test_defaults_without_a_request():
    """A head alone is enough."""
    request = ForwardedRequest(ForwardedHead(b"GET", b"/", [], None, None))

    assert ("", None, {}, "") == (
        request.route,
        request.client,
        request.path_params,
        request.received_host,
    )


def test_a_request_says_what_it_is(request_):
    """Method and target."""
    assert "<ForwardedRequest GET /a%2Fb?x=1&y=%20&x=2&&z>" == repr(request_)


# The method.


def test_the_method_may_be_edited(request_, head):
    """What is set goes out."""
    request_.method = "PURGE"

    assert (b"PURGE", "PURGE") == (head.method, request_.method)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "", "A B", "GET\r\n", "GÉT"])
def test_a_method_that_cannot_be_forwarded_is_refused(request_, head, method):
    """Nothing is changed."""
    with pytest.raises(ValueError, match="not a method that can be forwarded"):
        request_.method = method

    assert b"GET" == head.method


# Path and query.


def test_path_and_query_are_raw(request_):
    """They are percent-encoded as they came."""
    assert ("/a%2Fb", "x=1&y=%20&x=2&&z") == (request_.path, request_.query_string)


def test_the_path_may_be_edited(request_, head):
    """The query stays."""
    request_.path = "/c%20d;v=1"

    assert b"/c%20d;v=1?x=1&y=%20&x=2&&z" == head.target


def test_the_query_may_be_edited(request_, head):
    """The path stays, and no query has no question mark."""
    request_.query_string = "q=%2F"
    with_query = head.target
    request_.query_string = ""

    assert (b"/a%2Fb?q=%2F", b"/a%2Fb") == (with_query, head.target)


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "",
        "/a?b",
        "/a b",
        "/../a",
        "/a/%2e%2e",
        "/a\\b",
        "/a#b",
        "/a\r\nX: y",
        "/a\0",
        "/%00",
        "/%0d%0a",
        "/%zz",
        "/é",
    ],
)
def test_a_path_that_cannot_be_forwarded_is_refused(request_, head, path):
    """The application's own edits pass the guard too."""
    before = head.target
    with pytest.raises(ValueError, match="target that can be forwarded|no question mark"):
        request_.path = path

    assert before == head.target


@pytest.mark.parametrize("query", ["a b", "a#b", "a\r\nX: y", "a\0", "é"])
def test_a_query_that_cannot_be_forwarded_is_refused(request_, query):
    """The application's own edits pass the guard too."""
    with pytest.raises(ValueError, match="not a target that can be forwarded"):
        request_.query_string = query


def test_parameters_are_read_decoded(request_):
    """In order, duplicates kept."""
    query = request_.query

    assert (
        [("x", "1"), ("y", " "), ("x", "2"), ("z", "")],
        "1",
        None,
        "-",
        ["1", "2"],
        True,
        False,
        4,
    ) == (
        query.items(),
        query.get("x"),
        query.get("w"),
        query.get("w", "-"),
        query.get_all("x"),
        "x" in query,
        "w" in query,
        len(query),
    )


def test_adding_a_parameter_leaves_the_others_as_they_are(request_, head):
    """What is not edited goes out byte for byte."""
    request_.query.add("n m", "a&b=c")

    assert b"/a%2Fb?x=1&y=%20&x=2&&z&n+m=a%26b%3Dc" == head.target


def test_removing_a_parameter_leaves_the_others_as_they_are(request_, head):
    """Every one of its name goes."""
    request_.query.remove("x")

    assert b"/a%2Fb?y=%20&&z" == head.target


def test_setting_a_parameter_replaces_all_of_its_name(request_, head):
    """One is left, at the end."""
    request_.query.set("x", "3")

    assert b"/a%2Fb?y=%20&&z&x=3" == head.target


def test_a_request_without_query_can_be_given_one():
    """The question mark comes with it."""
    head = ForwardedHead(b"GET", b"/", [], None, None)
    ForwardedRequest(head).query.add("a", "1")

    assert b"/?a=1" == head.target


# Fields.


def test_fields_are_read_without_case(request_):
    """In order, duplicates kept, as Latin-1."""
    headers = request_.headers

    assert ("a", ["a", "b"], "1", None, "-", "é", True, False, False, 4) == (
        headers.get("Accept"),
        headers.get_all("ACCEPT"),
        headers["X-One"],
        headers.get("x-two"),
        headers.get("x-two", "-"),
        headers.get("x-latin"),
        "x-one" in headers,
        "x-two" in headers,
        7 in headers,
        len(headers),
    )


def test_fields_are_iterated_in_order(request_):
    """Each line is a pair."""
    assert [("accept", "a"), ("x-one", "1"), ("accept", "b"), ("x-latin", "é")] == list(
        request_.headers
    )


def test_a_missing_field_is_a_key_error(request_):
    """As in a mapping."""
    with pytest.raises(KeyError):
        request_.headers["x-two"]


def test_setting_a_field_replaces_all_of_its_name_in_place(request_, head):
    """The first line's place is kept."""
    request_.headers["Accept"] = " c "

    assert [(b"accept", b"c"), (b"x-one", b"1"), (b"x-latin", b"\xe9")] == head.fields


def test_setting_a_new_field_appends_it(request_, head):
    """It goes to the end."""
    request_.headers.set("X-New", "ü")

    assert (b"x-new", b"\xfc") == head.fields[-1]


def test_adding_a_field_keeps_the_others(request_):
    """Duplicates are allowed."""
    request_.headers.add("accept", "c")

    assert ["a", "b", "c"] == request_.headers.get_all("accept")


def test_removing_a_field(request_, head):
    """Every line of its name goes; a missing one is no error."""
    request_.headers.remove("Accept")
    request_.headers.remove("x-two")
    del request_.headers["X-One"]

    assert [(b"x-latin", b"\xe9")] == head.fields


def test_deleting_a_missing_field_is_a_key_error(request_):
    """As in a mapping."""
    with pytest.raises(KeyError):
        del request_.headers["x-two"]


def test_host_is_one_of_its_own(request_, head):
    """It is read and set like a field, and sent as the one ``Host``."""
    before = (request_.headers.get("host"), request_.headers.get("host", "-"))
    request_.headers["Host"] = "example.org:81"

    assert ((None, "-"), "example.org:81", b"example.org:81", 4) == (
        before,
        request_.headers.get("host"),
        head.host,
        len(head.fields),
    )


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a:x"])
def test_a_bad_host_is_refused(request_, head, host):
    """One host and an optional port."""
    with pytest.raises(ValueError, match="not a host and a port"):
        request_.headers["host"] = host

    assert None is head.host


def test_host_cannot_be_added(request_):
    """There is only one."""
    with pytest.raises(ValueError, match="there is only one Host: set it"):
        request_.headers.add("host", "a")


@pytest.mark.parametrize("edit", ["set", "add"])
@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0", "a\x7f", "a\x01"])
def test_a_control_character_is_refused(request_, head, edit, value):
    """CR, LF and NUL never reach the wire."""
    before = list(head.fields)
    with pytest.raises(ValueError, match="has a control character"):
        getattr(request_.headers, edit)("x-one", value)

    assert before == head.fields


@pytest.mark.parametrize("edit", ["set", "add"])
@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "a\0"])
def test_a_bad_name_is_refused(request_, edit, name):
    """A name is a token."""
    with pytest.raises(ValueError, match="not a field name"):
        getattr(request_.headers, edit)(name, "x")


@pytest.mark.parametrize(("name", "value"), [("é", "x"), ("x", "…")], ids=["name", "value"])
def test_what_http_cannot_carry_is_refused(request_, name, value):
    """Names are ASCII, values are Latin-1."""
    with pytest.raises(ValueError, match="not a field that HTTP can carry"):
        request_.headers.set(name, value)


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Content-Length",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_fields_of_the_connection_are_the_gateways(name):
    """Framing is made once, by whoever sends."""
    with pytest.raises(ValueError, match="belongs to the connection"):
        edit_field(name, "x")
