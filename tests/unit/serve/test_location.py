"""Mapping the destination's own address back to the public one."""

import pytest

from proxyroutes import Destination, Proxy
from proxyroutes._serve.location import map_location
from proxyroutes._serve.match import route_start, split_path
from proxyroutes._state.pools import DestinationState


async def stub() -> None:
    """Say nothing."""


def mapped(
    value,
    *,
    path="/api/<path>",
    rewrite="/<path>",
    raw_path=b"/api/x",
    url="http://up:8080/base",
    root="",
):
    """What a Location comes to."""
    proxy = Proxy()
    proxy.route(path, upstream=url, rewrite=rewrite)(stub)
    parts = split_path(raw_path)
    found = proxy.compiled().index.match(parts, route_start(parts, root), "GET", {})
    return map_location(value, found, DestinationState.of(Destination(url)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"http://up:8080/base/a/b", b"/api/a/b", id="absolute"),
        pytest.param(b"HTTP://UP:8080/base/a", b"/api/a", id="case-of-scheme-and-host"),
        pytest.param(b"/base/a", b"/api/a", id="absolute-path"),
        pytest.param(b"/base", b"/api/", id="the-base-itself"),
        pytest.param(b"http://up:8080/base", b"/api/", id="the-absolute-base-itself"),
        pytest.param(b"/base/a?x=1#y", b"/api/a?x=1#y", id="query-and-fragment"),
        pytest.param(b"/base/a%2Fb//c", b"/api/a%2Fb//c", id="raw-text"),
        pytest.param(b"/base?x=/base/", b"/api/?x=/base/", id="query-at-once"),
        pytest.param(b"/basement/a", b"/basement/a", id="another-base"),
        pytest.param(b"/a", b"/a", id="outside-of-the-base"),
        pytest.param(b"http://other:8080/base/a", b"http://other:8080/base/a", id="another-host"),
        pytest.param(b"http://up/base/a", b"http://up/base/a", id="another-port"),
        pytest.param(b"https://up:8080/base/a", b"https://up:8080/base/a", id="another-scheme"),
        pytest.param(
            b"http://up:8080@evil/base", b"http://up:8080@evil/base", id="another-authority"
        ),
        pytest.param(b"//up:8080/base/a", b"//up:8080/base/a", id="network-path"),
        pytest.param(b"a", b"a", id="relative"),
        pytest.param(b"", b"", id="empty"),
        pytest.param(b"mailto:a@b", b"mailto:a@b", id="other-scheme"),
    ],
)
def test_only_the_destinations_own_address_is_mapped(value, expected):
    """Scheme, host, port and base path must be the destination's; any other value is left alone."""
    assert expected == mapped(value)


@pytest.mark.parametrize(
    ("url", "value", "expected"),
    [
        pytest.param("http://up", b"http://up:80/a", b"/api/a", id="http-with-default-port"),
        pytest.param("https://up", b"https://up:443/a", b"/api/a", id="https-with-default-port"),
        pytest.param("https://up", b"https://up/a", b"/api/a", id="https"),
        pytest.param("http://up", b"http://up", b"/api/", id="authority-alone"),
        pytest.param("http://up", b"http://up?x=1", b"/api/?x=1", id="authority-and-query"),
        pytest.param("http://up", b"http://up#x", b"/api/#x", id="authority-and-fragment"),
        pytest.param("http://up", b"https://up:80/a", b"https://up:80/a", id="other-scheme"),
    ],
)
def test_default_ports_are_known(url, value, expected):
    """A port that is the scheme's own may be written or not."""
    assert expected == mapped(value, url=url)


@pytest.mark.parametrize(
    ("path", "rewrite", "raw_path", "value", "expected"),
    [
        pytest.param("/api/<path>", None, b"/api/x", b"/api/y", b"/api/y", id="no-rewrite"),
        pytest.param("/t/<a>/<b>", "/<b>/<a>", b"/t/1/2", b"/x/y", b"/t/y/x", id="swapped"),
        pytest.param("/t/<a>", "/v/<a>/z", b"/t/1", b"/v/q/z", b"/t/q", id="literal-behind"),
        pytest.param("/t/<a>", "/v/<a>/z", b"/t/1", b"/v/q/%7A", b"/t/q", id="encoded-literal"),
        pytest.param("/t/<a>", "/v/<a>/z", b"/t/1", b"/v/q/y", b"/v/q/y", id="other-literal"),
        pytest.param("/t/<a>", "/v/<a>/z", b"/t/1", b"/v/q", b"/v/q", id="too-short"),
        pytest.param("/t/<a>", "/v/<a>/z", b"/t/1", b"/v/q/z/w", b"/v/q/z/w", id="too-long"),
        pytest.param("/t/<a>", "/v/<a>/z", b"/t/1", b"/v//z", b"/v//z", id="empty-capture"),
        pytest.param("/t/<a>/<b>", "/v/<a>", b"/t/1/2", b"/v/q", b"/v/q", id="no-inverse"),
        pytest.param("/t", "/", b"/t", b"/", b"/t", id="root"),
        pytest.param(
            "/<path>",
            "/v/<path>",
            b"/x",
            b"/v//evil.example",
            b"/.//evil.example",
            id="no-open-redirect",
        ),
    ],
)
def test_the_rewrite_is_inverted(path, rewrite, raw_path, value, expected):
    """A path that the rewrite could have made is turned back; without an inverse it is left alone."""
    assert expected == mapped(
        value, path=path, rewrite=rewrite, raw_path=raw_path, url="http://up"
    )


def test_the_inclusions_prefix_is_put_back():
    """The public address has what stands in front of the template, as the client wrote it."""
    value = mapped(b"/a", raw_path=b"/%70re/api/x", url="http://up", root="/pre")

    assert b"/%70re/api/a" == value


def test_a_relative_reference_of_nothing_is_not_inverted():
    """An authority with something that is no path behind it is left alone."""
    assert b"http://up:8080" == mapped(b"http://up:8080")
