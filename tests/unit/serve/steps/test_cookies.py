"""Cookies of the upstream at the gateway's address."""

import pytest

from proxyroutes import Destination, Proxy
from proxyroutes._serve.match import route_start, split_path
from proxyroutes._serve.steps.edits import ResponseCookieEdit
from proxyroutes._state.pools import DestinationState
from proxyroutes._state.transforms import compile_cookies
from proxyroutes.settings import CookieRules
from tests.unit.serve.scripted import stub


def cookie(value, **rules):
    """What a cookie comes to, on a route without rewrite."""
    proxy = Proxy()
    proxy.route("/<path>", upstream="http://up")(stub)
    found = proxy.compiled().index.match(split_path(b"/x"), 0, "GET", {})
    fields = [(b"set-cookie", value), (b"x", b"1; Path=/")]
    edited = ResponseCookieEdit(compile_cookies(CookieRules(**rules)))(
        fields, found, DestinationState.of(Destination("http://up"))
    )

    assert fields[1:] == edited[1:]
    return edited[0][1]


@pytest.mark.parametrize(
    ("value", "rules", "expected"),
    [
        pytest.param(
            b"a=1; DOMAIN=.up.test; HttpOnly",
            {"domain": "gw.test"},
            b"a=1; HttpOnly; Domain=gw.test",
            id="domain",
        ),
        pytest.param(b"a=1;domain = x", {"domain": ""}, b"a=1", id="domain-is-deleted"),
        pytest.param(b"a=1", {"domain": "gw.test"}, b"a=1; Domain=gw.test", id="domain-is-added"),
        pytest.param(b"a=1; Path=/x", {"path": "/"}, b"a=1; Path=/", id="path"),
        pytest.param(b"a=1; SECURE", {"secure": True}, b"a=1; Secure", id="secure-once"),
        pytest.param(b"a=1; secure; x", {"secure": False}, b"a=1; x", id="secure-is-deleted"),
        pytest.param(
            b"a=secure; b", {"secure": False}, b"a=secure; b", id="value-is-no-attribute"
        ),
        pytest.param(b"a=1; Max-Age=3;;x=\xe9", {}, b"a=1; Max-Age=3;;x=\xe9", id="nothing"),
        pytest.param(
            b"__Host-a=1; Secure; Path=/",
            {"domain": "gw.test", "path": "/x", "secure": False},
            b"__Host-a=1; Secure; Path=/",
            id="host-prefix",
        ),
        pytest.param(
            b"__Secure-a=1; Secure", {"secure": False}, b"__Secure-a=1; Secure", id="secure-prefix"
        ),
    ],
)
def test_attributes_are_written(value, rules, expected):
    """What no rule names keeps its bytes."""
    assert expected == cookie(value, **rules)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(b"/v2/users", b"/api/users", id="below"),
        pytest.param(b"/v2/users/", b"/api/users/", id="below-with-slash"),
        pytest.param(b"/v2", b"/api", id="the-prefix"),
        pytest.param(b"/v2/", b"/api/", id="the-prefix-with-slash"),
        pytest.param(b"/", b"/api", id="root"),
        pytest.param(b"/other", b"/other", id="not-shown"),
        pytest.param(b"/v22", b"/v22", id="another-prefix"),
        pytest.param(b"", b"", id="none"),
        pytest.param(b"v2", b"v2", id="relative"),
    ],
)
def test_a_path_is_mapped_to_the_public_address(path, expected):
    """A cookie is sent for the same resources as the upstream's."""
    assert expected == cookie_path(path)


def cookie_path(value, **options):
    """What a cookie's path comes to."""
    rules = CookieRules(path="rewrite")
    proxy = Proxy()
    options = {"path": "/api/<path>", "rewrite": "/v2/<path>", "raw_path": b"/api/x", **options}
    url = options.pop("url", "http://up")
    raw_path, root = options.pop("raw_path"), options.pop("root", "")
    proxy.route(options.pop("path"), upstream=url, **options)(stub)
    parts = split_path(raw_path)
    found = proxy.compiled().index.match(parts, route_start(parts, root), "GET", {})
    edited = ResponseCookieEdit(compile_cookies(rules))(
        [(b"set-cookie", b"a=1; Path=" + value)], found, DestinationState.of(Destination(url))
    )
    return edited[0][1].partition(b"; Path=")[2]


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        pytest.param(b"/base/v2/a", {"url": "http://up/base"}, b"/api/a", id="base"),
        pytest.param(b"/base", {"url": "http://up/base"}, b"/api", id="the-base"),
        pytest.param(b"/", {"url": "http://up/base"}, b"/api", id="above-the-base"),
        pytest.param(b"/bas", {"url": "http://up/base"}, b"/bas", id="not-the-base"),
        pytest.param(
            b"/v2/a",
            {"raw_path": b"/out/er/api/x", "root": "/out/er"},
            b"/out/er/api/a",
            id="mount",
        ),
        pytest.param(b"/a", {"rewrite": None}, b"/a", id="no-rewrite"),
        pytest.param(
            b"/base/a", {"rewrite": None, "url": "http://up/base"}, b"/a", id="no-rewrite-base"
        ),
        pytest.param(
            b"/t/1",
            {"path": "/<t>/app/<path>", "rewrite": "/t/<t>/<path>", "raw_path": b"/1/app/x"},
            b"/1/app",
            id="captures",
        ),
        pytest.param(
            b"/v2/a",
            {"path": "/<t>/<path>", "rewrite": "/v2/<path>", "raw_path": b"/1/x"},
            b"/v2/a",
            id="no-inverse",
        ),
        pytest.param(
            b"/one", {"path": "/api", "rewrite": "/one", "raw_path": b"/api"}, b"/api", id="one"
        ),
    ],
)
def test_a_path_is_mapped_through_base_rewrite_and_mount(value, options, expected):
    """As a Location is; where there is no way back it stays."""
    assert expected == cookie_path(value, **options)


def test_other_attributes_are_not_mapped():
    """A value is a path only in its own attribute."""
    value = b"a=/v2/x; HttpOnly; SameSite=/v2/x"
    mapped = cookie_path(b"/v2/x; HttpOnly")

    assert b"/api/x; HttpOnly" == mapped
    assert value == cookie(value, path="rewrite")


def test_a_path_of_a_parameter_cannot_end_its_attribute():
    """What a client wrote into a prefix's parameter begins no attribute of its own."""
    actual = cookie_path(b"/v2/a", raw_path=b"/x;y/api/x", root="/x;y")

    assert b"/v2/a" == actual


@pytest.mark.parametrize(
    "rules",
    [{"domain": "a;b"}, {"domain": "a b"}, {"path": "x"}, {"path": "/a;b"}, {"path": "/\r"}],
)
def test_a_value_that_cannot_stand_in_a_cookie_is_refused(rules):
    """It raises where it is written."""
    with pytest.raises(ValueError, match="is"):
        CookieRules(**rules)
