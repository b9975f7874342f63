"""The forwarded head: target, fields of this hop, and Host."""

import pytest

from proxyroutes import Proxy
from proxyroutes._serve.guard import MAX_TARGET_BYTES
from proxyroutes._serve.head import fill, forwarded_path, make_head, public_prefix, read_request
from proxyroutes._serve.match import raw_path_of, route_start, split_path
from proxyroutes.exceptions import ClientRequestError
from proxyroutes.settings import Forwarding


async def stub() -> None:
    """Say nothing."""


def scope_of(raw_path=b"/x", *, query=b"", headers=((b"host", b"gw"),), method="GET", **more):
    """A request as a server describes it."""
    return {
        "type": "http",
        "method": method,
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(headers),
        "http_version": "1.1",
        "scheme": "http",
        "client": ("192.0.2.1", 5),
        **more,
    }


def compose(scope, path="/<path>", *, proxy=None, **route):
    """The plan, what was found, and the head."""
    proxy = proxy or Proxy(via="gw1")
    proxy.route(path, upstream="http://up", **route)(stub)
    parts = split_path(raw_path_of(scope))
    found = proxy.compiled().index.match(
        parts, route_start(parts, scope.get("root_path", "")), scope["method"], scope
    )
    received = read_request(scope, found.plan, found)
    return found, make_head(scope, found.plan, found, received)


def head_of(scope, *args, **options):
    """The head alone."""
    return compose(scope, *args, **options)[1]


def values(head, name):
    """Values of a field."""
    return [value for known, value in head.fields if known == name]


@pytest.mark.parametrize(
    "raw_path",
    [
        b"/",
        b"/a%2Fb",
        b"/a%2fb",
        b"//a//",
        b"/a;v=1/b",
        b"/a+b%20c",
        b"/%41",
        b"/%5c",
        b"/%252e",
        b"/...",
    ],
)
def test_a_target_is_forwarded_byte_for_byte(raw_path):
    """Without rewrite nothing of it is changed."""
    assert raw_path + b"?q=%2F&q=+&&" == head_of(scope_of(raw_path, query=b"q=%2F&q=+&&")).target


@pytest.mark.requirement("H-54")
def test_no_query_has_no_question_mark():
    """An empty query is none."""
    assert b"/x" == head_of(scope_of()).target


@pytest.mark.parametrize(
    ("path", "rewrite", "raw_path", "expected"),
    [
        pytest.param("/api/<path>", "/v2/<path>", b"/api/a%2Fb//c", b"/v2/a%2Fb//c", id="rest"),
        pytest.param("/api/<path>", "/<path>", b"/api/", b"/", id="empty-rest"),
        pytest.param("/<a>/<b>", "/<b>/x/<a>", b"/1/2;v", b"/2;v/x/1", id="swapped"),
        pytest.param("/<int:n>", "/items/<n>", b"/0042", b"/items/0042", id="typed-stays-raw"),
        pytest.param("/a", "/b%20c", b"/a", b"/b%20c", id="literal"),
    ],
)
@pytest.mark.requirement("H-52")
def test_a_rewrite_is_filled_in_with_raw_text(path, rewrite, raw_path, expected):
    """Captured text goes out as it came in."""
    assert expected == head_of(scope_of(raw_path), path, rewrite=rewrite).target


@pytest.mark.parametrize(
    "raw_path",
    [
        b"/a\\b",
        b"/a#b",
        b"/a\x00",
        b"/a\x80",
        b"/%00",
        b"/%0a",
        b"/%0D",
        b"/%",
        b"/%zz",
        b"/../a",
        b"/a/..",
        b"/%2e%2E/a",
        b"/a%2f..%2fb",
        b"/..;x/a",
        b"/a%5c..",
        b"/.",
    ],
)
def test_a_target_that_two_parties_read_differently_is_refused(raw_path):
    """The guard stands before everything else."""
    with pytest.raises(ClientRequestError) as caught:
        head_of(scope_of(raw_path))

    assert 400 == caught.value.status_code


def test_a_target_that_is_too_long_is_refused():
    """It has a status of its own."""
    with pytest.raises(ClientRequestError) as caught:
        head_of(scope_of(b"/" + b"a" * MAX_TARGET_BYTES))

    assert 414 == caught.value.status_code


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_connect_and_trace_are_refused(method):
    """No route serves them, not even one that serves every method."""
    with pytest.raises(ClientRequestError) as caught:
        head_of(scope_of(method=method))

    assert 405 == caught.value.status_code


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("destination", None, id="destination"),
        pytest.param("preserve", b"gw", id="preserve"),
        pytest.param("example.org", b"example.org", id="literal"),
    ],
)
def test_host_is_chosen(host, expected):
    """None leaves it to the destination."""
    assert expected == head_of(scope_of(), host=host).host


def test_a_host_that_is_not_there_cannot_be_preserved():
    """HTTP/1.0 may be without; then it is the destination's."""
    assert None is head_of(scope_of(headers=(), http_version="1.0"), host="preserve").host


def test_the_hop_is_described():
    """Via, X-Forwarded and Forwarded are ours."""
    head = head_of(scope_of(headers=[(b"host", b"gw"), (b"a", b"1")]))

    assert [
        (b"a", b"1"),
        (b"via", b"1.1 gw1"),
        (b"x-forwarded-for", b"192.0.2.1"),
        (b"x-forwarded-host", b"gw"),
        (b"x-forwarded-proto", b"http"),
        (b"forwarded", b'for=192.0.2.1;host="gw";proto=http'),
    ] == head.fields


@pytest.mark.parametrize(
    ("forwarding", "names"),
    [
        pytest.param(Forwarding(mode="off"), {b"via"}, id="off"),
        pytest.param(Forwarding(x_forwarded=False), {b"via", b"forwarded"}, id="forwarded-alone"),
        pytest.param(
            Forwarding(forwarded=False),
            {
                b"via",
                b"x-forwarded-for",
                b"x-forwarded-host",
                b"x-forwarded-proto",
                b"x-forwarded-prefix",
            },
            id="x-forwarded-alone",
        ),
    ],
)
def test_what_is_told_is_chosen(forwarding, names):
    """Each family is set or not."""
    head = head_of(scope_of(b"/api/x"), "/api/<path>", rewrite="/<path>", forwarding=forwarding)

    assert names == {name for name, _ in head.fields}


@pytest.mark.parametrize(
    ("path", "rewrite", "raw_path", "root", "expected"),
    [
        pytest.param("/api/<path>", "/<path>", b"/api/users", "", [b"/api"], id="stripped"),
        pytest.param("/api/<path>", "/<path>", b"/api/", "", [b"/api"], id="stripped-to-nothing"),
        pytest.param("/api/<path>", "/v2/<path>", b"/api/users", "", [], id="replaced"),
        pytest.param("/<path>", None, b"/users", "", [], id="as-it-came"),
        pytest.param("/<path>", "/<path>", b"/users", "", [], id="rewritten-to-the-same"),
        pytest.param("/<path>", None, b"/root/users", "/root", [b"/root"], id="servers-root"),
        pytest.param(
            "/<path>",
            "/<path>",
            b"/root/users",
            "/root",
            [b"/root"],
            id="servers-root-and-rewrite",
        ),
    ],
)
def test_the_prefix_that_the_upstream_does_not_see_is_told(
    path, rewrite, raw_path, root, expected
):
    """X-Forwarded-Prefix has what was taken off the front."""
    head = head_of(scope_of(raw_path, root_path=root), path, rewrite=rewrite)

    assert expected == values(head, b"x-forwarded-prefix")


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        pytest.param({"root_path": "/root"}, b"/x", id="servers-root-goes"),
        pytest.param({"root_path": "/root", "app_root_path": ""}, b"/root/x", id="a-mount-stays"),
        pytest.param({"root_path": "/other"}, b"/root/x", id="another-root"),
    ],
)
def test_a_root_that_the_server_put_in_front_is_not_forwarded(scope, expected):
    """It was never part of the request target."""
    found, head = compose(scope_of(b"/root/x", **scope))

    assert (expected, expected) == (head.target, forwarded_path(scope, found.plan, found))


def test_a_request_that_comes_around_is_refused():
    """Our own pseudonym in Via means a loop."""
    scope = scope_of(headers=[(b"host", b"gw"), (b"via", b"1.1 a, 1.1 gw1 (x)")])
    with pytest.raises(ClientRequestError) as caught:
        head_of(scope)

    assert 508 == caught.value.status_code


def test_hops_before_us_are_kept():
    """Via is appended to, its lines joined."""
    scope = scope_of(
        headers=[(b"host", b"gw"), (b"via", b"1.0 a"), (b"via", b"gw1")], http_version="2"
    )

    assert [b"1.0 a, gw1, 2 gw1"] == values(head_of(scope), b"via")


@pytest.mark.parametrize(
    ("client", "address", "node"),
    [
        pytest.param(("2001:db8::1", 5), [b"2001:db8::1"], b'"[2001:db8::1]"', id="ipv6"),
        pytest.param(None, [], b"unknown", id="unix-socket"),
        pytest.param(("testclient", 5), [b"testclient"], b"_hidden", id="no-address"),
    ],
)
@pytest.mark.requirement("S-26")
def test_clients_are_named(client, address, node):
    """An address that Forwarded cannot spell is quoted, hidden or unknown."""
    head = head_of(scope_of(client=client))

    assert (address, [b"for=" + node + b';host="gw";proto=http']) == (
        values(head, b"x-forwarded-for"),
        values(head, b"forwarded"),
    )


@pytest.mark.requirement("S-20")
def test_two_clients_are_never_mixed_up():
    """What is kept for one client is not told of another."""
    proxy = Proxy(via="gw1")
    proxy.route("/<path>", upstream="http://up")(stub)
    plan = proxy.compiled().routes[0][1]
    told = [
        dict(plan.hop.fields({"client": (address, 1)}, b"gw", []))[b"x-forwarded-for"]
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
    ]

    assert [b"192.0.2.1", b"192.0.2.2", b"192.0.2.1"] == told


def test_many_clients_are_told_of_rightly():
    """However many there are, each is told of as itself."""
    proxy = Proxy(via="gw1")
    proxy.route("/<path>", upstream="http://up")(stub)
    hop = proxy.compiled().routes[0][1].hop
    addresses = [f"10.0.{high}.{low}" for high in range(5) for low in range(250)] * 2
    told = [
        dict(hop.fields({"client": (address, 1)}, b"gw", []))[b"x-forwarded-for"].decode()
        for address in addresses
    ]

    assert addresses == told


def test_the_public_prefix_is_as_the_client_wrote_it():
    """Raw segments in front of the template."""
    found, _ = compose(scope_of(b"/%72oot/x", root_path="/root"))
    plain, _ = compose(scope_of(b"/x"))

    assert (b"/%72oot", b"") == (public_prefix(found), public_prefix(plain))


def test_pieces_are_filled_in():
    """Numbers are captures, bytes are literals."""
    assert b"/a/1/b/0" == fill((b"/a/", 1, b"/b/", 0), [b"0", b"1"])


def test_a_length_is_known_before_the_body():
    """The head carries the received Content-Length."""
    assert (
        7
        == head_of(scope_of(headers=[(b"host", b"gw"), (b"content-length", b"7")])).content_length
    )
