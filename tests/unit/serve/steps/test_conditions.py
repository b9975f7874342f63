"""Conditions: hosts, fields, parameters and predicates; what a client may not say is not seen."""

import pytest

from proxyroutes import Match, Proxy
from proxyroutes._serve.match import split_path

UPSTREAM = "http://127.0.0.1:9"
HOST = (b"host", b"gateway.test")


async def stub() -> None:
    """Say nothing."""


def scope_of(*headers, query=b"", **more):
    """A request with these field lines."""
    return {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "client": ("192.0.2.1", 7),
        "query_string": query,
        "headers": list(headers),
        **more,
    }


def index_of(*matches, path="/a", **options):
    """Routes on one path, in this order; hidden ones are allowed."""
    proxy = Proxy()
    for number, match in enumerate(matches):
        proxy.route(path, upstream=UPSTREAM, match=match, name=str(number), **options)(stub)
    return proxy.compiled().index


def winner(index, scope, raw_path=b"/a", method="GET"):
    """The name of the route that serves, or None."""
    found = index.match(split_path(raw_path), 0, method, scope)
    return found.plan.name if found is not None and found.full else None


def holds(match, *headers, **more):
    """Whether a match holds for a request with these field lines."""
    return winner(index_of(match), scope_of(*headers, **more)) is not None


def view_of(*headers, path="/a", raw_path=b"/a", identity=(), **more):
    """What a predicate is given."""
    seen = []
    index = index_of(Match(when=seen.append), path=path, identity_headers=identity)
    index.match(split_path(raw_path), 0, "GET", scope_of(*headers, **more))
    return seen[0]


@pytest.mark.parametrize(
    ("hosts", "host", "expected"),
    [
        pytest.param(["a.test"], b"a.test", True, id="same"),
        pytest.param(["A.test"], b"a.TEST", True, id="any-case"),
        pytest.param(["a.test"], b"a.test:8443", True, id="any-port"),
        pytest.param(["a.test"], b"a.test:", True, id="empty-port"),
        pytest.param(["a.test"], b"a.test.", True, id="absolute-name"),
        pytest.param(["a.test."], b"a.test", True, id="absolute-pattern"),
        pytest.param(["a.test"], b"b.a.test", False, id="name-below"),
        pytest.param(["a.test"], b"ba.test", False, id="longer-name"),
        pytest.param(["*.a.test"], b"b.a.test", True, id="wild"),
        pytest.param(["*.a.test"], b"c.b.a.test:80", True, id="wild-two-below"),
        pytest.param(["*.a.test"], b"a.test", False, id="wild-is-not-itself"),
        pytest.param(["*.a.test"], b"ba.test", False, id="wild-needs-its-dot"),
        pytest.param(["x.test", "a.test"], b"a.test", True, id="one-of-several"),
        pytest.param(["[::1]"], b"[::1]:80", True, id="address"),
        pytest.param(["[::1]"], b"[::2]", False, id="other-address"),
        pytest.param(["a.test"], b"", False, id="empty"),
        pytest.param(["a.test"], b"a.test/", False, id="no-host-at-all"),
        pytest.param(["a.test"], b"a.test:80:80", False, id="two-ports"),
        pytest.param(["a.test"], b"user@a.test", False, id="user"),
        pytest.param(["a.test"], b"a.test, b.test", False, id="list"),
    ],
)
@pytest.mark.requirement("S-46")
def test_a_host_is_matched_by_name(hosts, host, expected):
    """Names have no case, a port does not matter, and what the guard refuses is no host."""
    actual = holds(Match(hosts=hosts), (b"host", host))

    assert expected == actual


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([HOST, HOST], id="twice"),
        pytest.param([(b"host", b"other.test"), HOST], id="two"),
        pytest.param([(b"x-forwarded-host", b"gateway.test")], id="forwarded"),
        pytest.param([(b"forwarded", b"host=gateway.test")], id="forwarded-standard"),
    ],
)
def test_a_forged_host_matches_nothing(headers):
    """There is one Host, and no other field stands in for it."""
    assert not holds(Match(hosts=["gateway.test"]), *headers)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([(b"x-beta", b"1")], True, id="equal"),
        pytest.param([(b"x-beta", b"0"), (b"x-beta", b"1")], True, id="one-of-several"),
        pytest.param([(b"x-beta", b"10")], False, id="longer"),
        pytest.param([(b"x-beta", b"0, 1")], False, id="exactly-the-line"),
        pytest.param([(b"x-alpha", b"1")], False, id="other-name"),
        pytest.param([], False, id="missing"),
        pytest.param([[b"x-beta", b"1"]], True, id="pairs-that-are-lists"),
    ],
)
def test_a_field_is_matched_exactly(headers, expected):
    """The whole value counts; of several lines one is enough."""
    actual = holds(Match(headers={"X-Beta": "1"}), *headers)

    assert expected == actual


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(b"beta=1", True, id="equal"),
        pytest.param(b"a=b&beta=0&beta=1", True, id="one-of-several"),
        pytest.param(b"b%65ta=%31", True, id="decoded"),
        pytest.param(b"beta=11", False, id="longer"),
        pytest.param(b"Beta=1", False, id="names-have-case"),
        pytest.param(b"beta", False, id="no-value"),
        pytest.param(b"a=1;beta=1", False, id="a-semicolon-separates-nothing"),
        pytest.param(b"", False, id="none"),
    ],
)
def test_a_parameter_is_matched_exactly(query, expected):
    """Name and value count after one decoding; of several values one is enough."""
    actual = holds(Match(query={"beta": "1"}), query=query)

    assert expected == actual


def test_all_that_is_given_must_hold():
    """One part that does not hold is enough against it."""
    match = Match(hosts=["gateway.test"], headers={"a": "1", "b": "2"}, query={"q": ""})
    whole = [HOST, (b"a", b"1"), (b"b", b"2")]
    without = [[one for one in whole if one is not left_out] for left_out in whole]

    assert holds(match, *whole, query=b"q")
    assert not holds(match, *whole)
    assert [False] * 3 == [holds(match, *some, query=b"q") for some in without]


def test_the_first_declared_route_that_holds_serves():
    """Declared order decides among routes of one path; what holds for none is not there."""
    index = index_of(Match(headers={"v": "2"}), Match(headers={"w": "2"}), Match(query={"v": "2"}))
    both = scope_of((b"w", b"2"), (b"v", b"2"))
    actual = [winner(index, one) for one in (both, scope_of((b"w", b"2")), scope_of())]

    assert ["0", "1", None] == actual


def test_a_route_that_does_not_hold_refuses_no_method():
    """To a request for which it does not hold it is not there: 404, and no 405."""
    index = index_of(Match(headers={"v": "2"}), methods=["GET"])
    holds_not = index.match([b"a"], 0, "PUT", scope_of())
    holds = index.match([b"a"], 0, "PUT", scope_of((b"v", b"2")))

    assert (None, False, b"GET") == (holds_not, holds.method_allowed, holds.allow)


def test_a_route_that_does_not_hold_redirects_nobody():
    """The slash at the end is only asked for where the route would then serve."""
    index = index_of(Match(headers={"v": "2"}), path="/a/")
    found = [index.match([b"a"], 0, "GET", scope_of(*one)) for one in ([], [(b"v", b"2")])]

    assert (None, True) == (found[0], found[1].redirect)


def test_a_predicate_sees_the_request():
    """Everything that the client may say is there, under the names that stubs know too."""
    view = view_of(
        (b"host", b"Gateway.test:80"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"cookie", b"a=b"),
        (b"cookie", b'c="d"; e'),
        path="/a/<x>/<path>",
        raw_path=b"/a/%C3%A9/b%2Fc",
        query=b"q=1&q=%20+",
    )

    assert ("GET", "/a/%C3%A9/b%2Fc", "q=1&q=%20+") == (view.method, view.path, view.query_string)
    assert ("gateway.test", "http", ("192.0.2.1", 7)) == (view.host, view.scheme, view.client)
    assert {"x": "é", "path": "b/c"} == view.path_params
    assert (["1", "2"], "1", True) == (
        view.headers.get_all("X-A"),
        view.headers["x-A"],
        "X-a" in view.headers,
    )
    assert ({"q": "1"}, ["1", "  "]) == (dict(view.query), view.query.get_all("q"))
    assert {"a": "b", "c": '"d"'} == dict(view.cookies)
    assert None is view.headers.get("x-b")
    with pytest.raises(KeyError):
        view.query["x"]


def test_a_predicate_cannot_edit_the_request():
    """The view is read only."""
    view = view_of(HOST)

    with pytest.raises((AttributeError, TypeError)):
        view.path = "/b"
    with pytest.raises(TypeError):
        view.headers["x"] = "1"


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for",
        b"x_forwarded_for",
        b"forwarded",
        b"x-real-ip",
        b"connection",
        b"x-user-id",
        b"x_user_id",
    ],
)
def test_a_predicate_does_not_see_what_a_client_may_not_say(name):
    """Forwarding, connection and identity fields are hidden, in both spellings."""
    view = view_of((name, b"1"), identity=["x-user-id"])

    assert 0 == len(view.headers)


def test_a_predicate_is_asked_last_and_once():
    """It is asked only where all else holds, and not again for the same request."""
    asked = []
    index = index_of(Match(headers={"v": "2"}, when=lambda request: asked.append(request) or True))
    scope = scope_of((b"v", b"2"))
    names = [winner(index, scope_of()), winner(index, scope), winner(index, scope)]

    assert ([None, "0", "0"], 1) == (names, len(asked))


def test_a_predicate_that_fails_is_no_answer():
    """What it raises is never taken for a route that does not hold: a wider one might serve then."""

    def when(request):
        raise KeyError(request.path)

    with pytest.raises(RuntimeError, match="predicate of route '0'") as caught:
        winner(index_of(Match(when=when), None), scope_of())

    assert isinstance(caught.value.__cause__, KeyError)
