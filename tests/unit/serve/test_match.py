"""Matching on raw paths: split first, literals decoded once, captures raw, and the route that was declared first wins."""

import string
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes import Proxy
from proxyroutes._build.inclusions import match_prefix
from proxyroutes._declare.templates import parse_template
from proxyroutes._serve.match import (
    path_parameters,
    raw_path_of,
    redirect_location,
    route_start,
    split_path,
)

UPSTREAM = "http://127.0.0.1:9"


def index_of(*routes, **options):
    """The index of routes, each a path or a path with methods; hidden ones are allowed."""
    proxy = Proxy(**options)
    for number, route in enumerate(routes):
        path, methods = (route, None) if isinstance(route, str) else route
        proxy.route(path, upstream=UPSTREAM, methods=methods, name=str(number))(stub)
    return proxy.compiled().index


async def stub() -> None:
    """Say nothing."""


def find(index, raw_path, method="GET", start=0):
    """What is found for a raw path."""
    return index.match(split_path(raw_path), start, method, {})


def parameters(template, raw_path):
    """FastAPI's parameters for a path, or None."""
    found = find(index_of(template), raw_path)
    return None if found is None or not found.full else path_parameters(found)


def captures(template, raw_path):
    """The raw text of every capture."""
    found = find(index_of(template), raw_path)
    return [found.captured(capture) for capture in found.plan.captures]


@pytest.mark.parametrize(
    ("template", "raw_path", "expected"),
    [
        pytest.param("/", b"/", {}, id="root"),
        pytest.param("/a/b", b"/a/b", {}, id="literals"),
        pytest.param("/a", b"/b", None, id="other-literal"),
        pytest.param("/a", b"/A", None, id="case-counts"),
        pytest.param("/a", b"/%61", {}, id="encoded-literal"),
        pytest.param("/caf%C3%A9", b"/caf%c3%a9", {}, id="case-of-hex-digits"),
        pytest.param("/a", b"/%2561", None, id="decoded-only-once"),
        pytest.param("/a/b", b"/a%2Fb", None, id="encoded-slash-splits-nothing"),
        pytest.param("/<x>", b"/a%2Fb", {"x": "a/b"}, id="encoded-slash-in-a-segment"),
        pytest.param("/<x>", b"/a;v=1", {"x": "a;v=1"}, id="semicolon"),
        pytest.param("/<x>", b"/a+b", {"x": "a+b"}, id="plus"),
        pytest.param("/<x>", b"/", None, id="a-segment-is-not-empty"),
        pytest.param("/<x>", b"/a/b", None, id="a-segment-is-one"),
        pytest.param("/<x>/<y>", b"/a//b", None, id="an-empty-segment-is-one"),
        pytest.param("/<x>", b"/%FF", {"x": "\ufffd"}, id="what-is-not-utf-8"),
        pytest.param("/<int:n>", b"/042", {"n": 42}, id="int"),
        pytest.param("/<int:n>", b"/%34%32", {"n": 42}, id="int-encoded"),
        pytest.param("/<int:n>", b"/-1", None, id="no-int"),
        pytest.param("/<int:n>", b"/" + b"9" * 5000, None, id="int-too-long-for-python"),
        pytest.param("/<float:n>", b"/1.5", {"n": 1.5}, id="float"),
        pytest.param("/<float:n>", b"/1", {"n": 1.0}, id="float-of-int"),
        pytest.param("/<float:n>", b"/nan", None, id="no-float"),
        pytest.param("/<uuid:n>", b"/" + b"0" * 32, {"n": UUID(int=0)}, id="uuid"),
        pytest.param("/<uuid:n>", b"/0", None, id="no-uuid"),
        pytest.param("/a/<path>", b"/a/", {"path": ""}, id="empty-rest"),
        pytest.param("/a/<path>", b"/a/b/c/", {"path": "b/c/"}, id="rest"),
        pytest.param("/a/<path>", b"/a//b%2Fc", {"path": "/b/c"}, id="rest-with-slashes"),
        pytest.param("/a/<path>", b"/ab", None, id="rest-behind-its-literal"),
        pytest.param("/a/", b"/a/", {}, id="slash-at-end"),
        pytest.param("/a", b"/a/", None, id="one-slash-too-many"),
        pytest.param("/a//b", b"/a//b", {}, id="empty-literal"),
        pytest.param(
            "/<x>/a/<int:n>/<path>",
            b"/q/a/7/r/s",
            {"x": "q", "n": 7, "path": "r/s"},
            id="all-together",
        ),
        pytest.param("/{x}/{n:int}", b"/q/7", {"x": "q", "n": 7}, id="other-spelling"),
    ],
)
def test_a_raw_path_matches_or_does_not(template, raw_path, expected):
    """The raw path is split first and decoded afterwards."""
    assert expected == parameters(template, raw_path)


@pytest.mark.parametrize(
    ("template", "raw_path", "expected"),
    [
        pytest.param("/<x>", b"/a%2fb%2F", [b"a%2fb%2F"], id="case-of-hex-digits"),
        pytest.param("/<path>", b"/a//b;c/%2e", [b"a//b;c/%2e"], id="rest"),
        pytest.param("/<a>/<path>", b"/1/", [b"1", b""], id="empty-rest"),
    ],
)
def test_a_capture_is_the_raw_text(template, raw_path, expected):
    """Captures are never decoded on their way to the upstream."""
    assert expected == captures(template, raw_path)


@pytest.mark.parametrize(
    ("routes", "raw_path", "method", "winner"),
    [
        pytest.param(["/<x>", "/<path>"], b"/a", "GET", "0", id="segment-before-rest"),
        pytest.param([("/<path>", ["GET"]), "/a"], b"/a", "GET", "0", id="rest-before-literal"),
        pytest.param(
            [("/<path>", ["GET"]), "/a"], b"/a", "PUT", "1", id="the-first-that-serves-the-method"
        ),
        pytest.param(["/<int:n>", "/<x>"], b"/7", "GET", "0", id="typed"),
        pytest.param(["/<int:n>", "/<x>"], b"/x", "GET", "1", id="not-of-the-type"),
        pytest.param(
            ["/a/<x>/c", "/<x>/b/<path>"], b"/a/b/d", "GET", "1", id="branches-are-followed"
        ),
        pytest.param(["/<x>/b", "/a/<y>"], b"/a/b", "GET", "0", id="parameter-declared-first"),
        pytest.param(["/a/b/<path>", "/a/<path>"], b"/a/b/c", "GET", "0", id="longer-rest-first"),
        pytest.param(["/a/b", "/a/<path>"], b"/a/c", "GET", "1", id="rest-catches"),
        pytest.param([("/a", ["X-NEW"])], b"/a", "X-NEW", "0", id="extension-method"),
        pytest.param(["/a"], b"/a", "PROPFIND", "0", id="every-method"),
    ],
)
def test_the_route_that_was_declared_first_wins(routes, raw_path, method, winner):
    """Declared order decides, whatever is longer or more exact."""
    found = find(index_of(*routes), raw_path, method)

    assert (winner, True) == (found.plan.name, found.full)


def test_a_route_of_another_method_is_a_partial_match():
    """The first one that has the path refuses, with every method that is served there."""
    found = find(index_of(("/a", ["PUT", "GET"]), ("/<x>", ["POST"])), b"/a", "DELETE")

    assert ("0", False, False, b"GET, POST, PUT") == (
        found.plan.name,
        found.full,
        found.method_allowed,
        found.allow,
    )


@pytest.mark.parametrize(
    ("routes", "raw_path", "expected"),
    [
        pytest.param(["/a/"], b"/a", True, id="literal"),
        pytest.param(["/a/<path>"], b"/a", True, id="rest"),
        pytest.param(["/<x>/"], b"/a", True, id="parameter"),
        pytest.param(["/a"], b"/a/", None, id="one-slash-too-many-is-404"),
        pytest.param(["/a/"], b"/b", None, id="other-path"),
        pytest.param([("/a/", ["POST"])], b"/a", None, id="not-for-this-method"),
        pytest.param(
            [("/a", ["POST"]), "/a/"], b"/a", False, id="not-where-the-path-itself-is-known"
        ),
    ],
)
def test_a_path_that_lacks_the_last_slash_is_redirected(routes, raw_path, expected):
    """Only where nothing else has the path."""
    found = find(index_of(*routes), raw_path)

    assert expected is (None if found is None else found.redirect)


def test_redirects_may_be_turned_off():
    """Then the path is not known."""
    assert None is find(index_of("/a/", redirect_slashes=False), b"/a")


def test_matching_begins_behind_a_mount():
    """Segments of a mount or a prefix belong to others."""
    found = find(index_of("/b/<x>"), b"/a/b/c", start=1)

    assert ({"x": "c"}, b"/a/b/c") == (path_parameters(found), b"/" + b"/".join(found.parts))


@pytest.mark.parametrize(
    ("raw_path", "query", "expected"),
    [
        pytest.param(b"/a", b"", b"/a/", id="plain"),
        pytest.param(b"/a", b"x=1&y=%20", b"/a/?x=1&y=%20", id="query"),
        pytest.param(b"/a%2Fb", b"", b"/a%2Fb/", id="raw"),
        pytest.param(b"//evil.example", b"", b"/.//evil.example/", id="no-open-redirect"),
        pytest.param(b"///evil.example", b"", b"/.///evil.example/", id="three-slashes"),
    ],
)
@pytest.mark.requirement("S-39")
def test_a_redirect_is_relative_and_names_no_host(raw_path, query, expected):
    """Two leading slashes would be read as an authority."""
    assert expected == redirect_location(raw_path, query)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        pytest.param({"raw_path": b"/a%2Fb", "path": "/a/b"}, b"/a%2Fb", id="raw"),
        pytest.param({"raw_path": b"/a?x=1", "path": "/a"}, b"/a", id="raw-with-query"),
        pytest.param({"path": "/a b/é;v=1,2"}, b"/a%20b/%C3%A9;v=1,2", id="encoded-again"),
        pytest.param({"raw_path": None, "path": "/a"}, b"/a", id="none"),
    ],
)
@pytest.mark.requirement("H-51")
def test_the_raw_path_is_taken_from_the_scope(scope, expected):
    """Servers may leave it out."""
    assert expected == raw_path_of(scope)


@pytest.mark.parametrize(
    ("raw_path", "root_path", "expected"),
    [
        pytest.param(b"/a/b", "", 0, id="no-root"),
        pytest.param(b"/a/b", "/", 0, id="only-a-slash"),
        pytest.param(b"/a/b", "/a", 1, id="one-segment"),
        pytest.param(b"/a/b/c", "/a/b/", 2, id="two-segments"),
        pytest.param(b"/%61/b", "/a", 1, id="encoded"),
        pytest.param(b"/%C3%A9/b", "/é", 1, id="not-ascii"),
        pytest.param(b"/ab", "/a", 0, id="not-a-whole-segment"),
        pytest.param(b"/a", "/a/b", 0, id="shorter"),
        pytest.param(b"/x", "/a", 0, id="another"),
    ],
)
def test_a_mount_is_stripped_where_it_is_there(raw_path, root_path, expected):
    """As in Starlette, a path that does not begin with the root is matched whole."""
    assert expected == route_start(split_path(raw_path), root_path)


@pytest.mark.parametrize(
    ("prefix", "raw_path", "expected"),
    [
        pytest.param("/api", b"/api/x", {}, id="literal"),
        pytest.param("/api", b"/%61pi/x", {}, id="encoded-literal"),
        pytest.param("/api", b"/app/x", None, id="other-literal"),
        pytest.param("/api/v1", b"/api", None, id="shorter"),
        pytest.param("/{tenant}", b"/a%20b/x", {"tenant": "a b"}, id="parameter"),
        pytest.param("/{tenant}", b"//x", None, id="empty-parameter"),
        pytest.param("/{n:int}", b"/7/x", {"n": 7}, id="typed"),
        pytest.param("/{n:int}", b"/seven/x", None, id="not-of-the-type"),
    ],
)
def test_an_inclusions_prefix_is_matched_by_segments(prefix, raw_path, expected):
    """A prefix is a template of its own."""
    assert expected == match_prefix(split_path(raw_path), 0, parse_template(prefix).segments)


# The index against a matcher that reads one template after the other.

WORDS = ["a", "b", "7", "1.5", "x%20y", ""]
KINDS = ["<{}>", "<int:{}>", "<float:{}>", "<uuid:{}>", "{{{}}}"]


@st.composite
def templates(draw):
    """A path template."""
    segments = []
    for number in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            segments.append(draw(st.sampled_from(WORDS)))
        else:
            segments.append(draw(st.sampled_from(KINDS)).format(f"p{number}"))
    if draw(st.integers(0, 3)) == 0:
        segments.append("<path>")
    return "/" + "/".join(segments)


METHODS = ["GET", "POST", "PURGE"]
tables = st.lists(
    st.tuples(
        templates(),
        st.one_of(st.none(), st.lists(st.sampled_from(METHODS), min_size=1, unique=True)),
    ),
    min_size=1,
    max_size=8,
)
raw_segments = st.one_of(
    st.sampled_from([*WORDS, "%61", "%37", "%2F", "0" * 32, "a;b", "%C3%A9"]),
    st.text(alphabet=string.ascii_letters + "/%", max_size=3).map(
        lambda text: quote(text, safe="")
    ),
)
paths = st.lists(raw_segments, min_size=1, max_size=6).map(
    lambda parts: ("/" + "/".join(parts)).encode()
)


def naive_fits(template, parts):
    """Read one template against one path."""
    segments = parse_template(template).segments
    for position, segment in enumerate(segments):
        if segment.is_rest:
            return len(parts) > position
        if position >= len(parts):
            return False
        text = unquote_to_bytes(parts[position])
        if segment.name is None:
            if text != segment.literal:
                return False
        elif not segment.converter.takes(text.decode("utf-8", "replace")):
            return False
    return len(parts) == len(segments)


def naive_match(table, raw_path, method):
    """The verdict of reading one route after the other."""
    parts = raw_path[1:].split(b"/")
    having = [number for number, (template, _) in enumerate(table) if naive_fits(template, parts)]
    for number in having:
        if table[number][1] is None or method in table[number][1]:
            return number, "full"
    if having:
        return having[0], "method"
    if parts[-1]:
        for number, (template, methods) in enumerate(table):
            if naive_fits(template, [*parts, b""]) and (methods is None or method in methods):
                return number, "redirect"
    return None


@given(table=tables, raw_path=paths, method=st.sampled_from(METHODS))
@pytest.mark.requirement("S-12")
def test_the_index_agrees_with_reading_every_template(table, raw_path, method):
    """The tree gives what a linear search would give, for any table and any path."""
    found = find(index_of(*table), raw_path, method)
    verdict = None
    if found is not None:
        kind = "redirect" if found.redirect else "full" if found.method_allowed else "method"
        verdict = (int(found.plan.name), kind)

    assert naive_match(table, raw_path, method) == verdict


@given(table=tables, raw_path=paths)
def test_what_was_matched_can_be_converted(table, raw_path):
    """No path makes a parameter's conversion fail."""
    found = find(index_of(*table), raw_path)
    if found is not None:
        path_parameters(found)
