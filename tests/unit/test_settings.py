"""Frozen values: what they store, what they refuse, and in which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes.settings import (
    TLS,
    CookieRules,
    Destination,
    Forwarding,
    HeaderRules,
    HealthCheck,
    Limits,
    Match,
    QueryRules,
    Timeouts,
)
from proxyroutes.settings._checks import to_health_check


def test_defaults_of_timeouts():
    """The numbers of the contract."""
    timeouts = Timeouts()

    assert (5.0, 60.0, 60.0, None) == (
        timeouts.connect,
        timeouts.first_byte,
        timeouts.idle,
        timeouts.total,
    )


@pytest.mark.parametrize("name", ["connect", "first_byte", "idle", "total"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")], ids=["zero", "negative", "nan"])
def test_a_timeout_is_greater_than_zero(name, value):
    """A duration that can never pass is refused by name."""
    with pytest.raises(ValueError, match=f"{name} must be greater than 0 seconds"):
        Timeouts(**{name: value})


def test_a_timeout_may_be_none():
    """None waits forever."""
    assert None is Timeouts(connect=None).connect


def test_defaults_of_limits():
    """The numbers of the contract."""
    limits = Limits()

    assert (None, 256, 1.0) == (limits.max_in_flight, limits.max_queue, limits.queue_timeout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"max_in_flight": 0}, "max_in_flight must be at least 1: 0", id="in-flight"),
        pytest.param({"max_queue": -1}, "max_queue must be at least 0: -1", id="queue"),
        pytest.param({"queue_timeout": 0}, "queue_timeout must be greater than 0", id="timeout"),
    ],
)
def test_limits_have_ranges(options, words):
    """What makes no sense is refused by name."""
    with pytest.raises(ValueError, match=words):
        Limits(**options)


def test_the_default_tls_verifies():
    """Verification is on unless it is turned off."""
    assert TLS().verify


# Health checks.


def test_defaults_of_health_checks():
    """The numbers of the contract."""
    check = HealthCheck()

    assert ("/", "HEAD", None, 2.0, frozenset(range(200, 400)), 2, 3) == (
        check.path,
        check.method,
        check.interval,
        check.timeout,
        check.expect,
        check.rise,
        check.fall,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"path": "healthz"}, "starts with a slash: 'healthz'", id="path"),
        pytest.param({"interval": 0}, "interval must be greater than 0", id="interval"),
        pytest.param({"timeout": 0}, "timeout must be greater than 0", id="timeout"),
        pytest.param({"rise": 0}, "rise and fall must be at least 1: 0, 3", id="rise"),
        pytest.param({"fall": 0}, "rise and fall must be at least 1: 2, 0", id="fall"),
    ],
)
def test_a_health_check_has_ranges(options, words):
    """What makes no sense is refused by name."""
    with pytest.raises(ValueError, match=words):
        HealthCheck(**options)


@pytest.mark.parametrize("value", [200, "200"], ids=["number", "str"])
def test_expected_statuses_are_a_list(value):
    """One status is written as a list of one."""
    with pytest.raises(TypeError, match="a list of statuses is meant, not one value: write"):
        HealthCheck(expect=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("/x", HealthCheck("/x"), id="path"),
        pytest.param(HealthCheck("/x", rise=1), HealthCheck("/x", rise=1), id="check"),
        pytest.param(None, None, id="none"),
    ],
)
def test_a_path_is_short_for_a_check(value, expected):
    """``health="/path"`` is short for ``HealthCheck("/path")``."""
    assert expected == to_health_check(value)


# Destinations.


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "base_path", "authority", "origin"),
    [
        pytest.param("http://a", "http", "a", 80, "", "a", "http://a", id="http"),
        pytest.param("https://a", "https", "a", 443, "", "a", "https://a", id="https"),
        pytest.param("ws://a", "http", "a", 80, "", "a", "http://a", id="ws"),
        pytest.param("wss://a:444", "https", "a", 444, "", "a:444", "https://a:444", id="wss"),
        pytest.param(
            "http://A.Example:8080/b/",
            "http",
            "a.example",
            8080,
            "/b",
            "a.example:8080",
            "http://a.example:8080",
            id="base",
        ),
        pytest.param(
            "http://[::1]:8080",
            "http",
            "::1",
            8080,
            "",
            "[::1]:8080",
            "http://[::1]:8080",
            id="ipv6",
        ),
        pytest.param(
            "http://[fe80::1%25eth0]",
            "http",
            "fe80::1%25eth0",
            80,
            "",
            "[fe80::1%25eth0]",
            "http://[fe80::1%25eth0]",
            id="ipv6-zone",
        ),
        pytest.param(
            "http://a:80/%2Fx//", "http", "a", 80, "/%2Fx", "a", "http://a", id="encoded-base"
        ),
    ],
)
def test_a_url_is_taken_apart(url, scheme, host, port, base_path, authority, origin):
    """Scheme, host, port and base path, and what they are written as."""
    destination = Destination(url)

    assert (scheme, host, port, None, base_path, authority, origin) == (
        destination.scheme,
        destination.host,
        destination.port,
        destination.socket_path,
        destination.base_path,
        destination.authority,
        destination.origin,
    )


def test_a_unix_socket_is_a_destination():
    """Its path stands percent-encoded where a host does."""
    destination = Destination("http+unix://%2Frun%2Fapp.sock/base/")

    assert (
        "http+unix",
        "",
        0,
        "/run/app.sock",
        "/base",
        "localhost",
        "http+unix:///run/app.sock",
    ) == (
        destination.scheme,
        destination.host,
        destination.port,
        destination.socket_path,
        destination.base_path,
        destination.authority,
        destination.origin,
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        pytest.param("a:80", "write 'http://a:80'", id="no-scheme"),
        pytest.param("localhost", "write 'http://localhost'", id="host-alone"),
        pytest.param("ftp://a", "scheme is http, https, ws, wss or http\\+unix", id="ftp"),
        pytest.param("http://user:password@a", "carries no user or password", id="user"),
        pytest.param("http://a/?x", "no query and no fragment", id="query"),
        pytest.param("http://a/?", "no query and no fragment", id="empty-query"),
        pytest.param("http://a/#x", "no query and no fragment", id="fragment"),
        pytest.param("http://a/../b", "no dot segments", id="dots"),
        pytest.param("http://a/%2e%2e/b", "no dot segments", id="encoded-dots"),
        pytest.param("http://", "needs a host", id="no-host"),
        pytest.param("http://a_b%20", "needs a host", id="bad-host"),
        pytest.param("http://[zz]", "not a URL", id="no-ipv6"),
        pytest.param("http://[1::2::3]", "not a", id="bad-ipv6"),
        pytest.param("http://[v1.a:b]", "not an IPv6 address", id="future-address"),
        pytest.param("http://a:99999", "not a URL", id="big-port"),
        pytest.param("http://a:0", "port 0 cannot be connected to", id="port-zero"),
        pytest.param("http://a b", "only the characters of RFC 3986", id="space"),
        pytest.param("http://a\r\nx", "only the characters of RFC 3986", id="line-end"),
        pytest.param("http://bücher", "only the characters of RFC 3986", id="not-ascii"),
        pytest.param("http+unix://run.sock", "percent-encoded", id="relative-socket"),
        pytest.param("http+unix://%2Fa%00b", "percent-encoded", id="nul-in-socket"),
    ],
)
@pytest.mark.requirement("S-32")
def test_a_bad_url_says_what_is_meant(url, words):
    """The message names the mistake."""
    with pytest.raises(ValueError, match=words):
        Destination(url)


def test_a_refused_url_does_not_show_its_password():
    """What was meant to be secret is in no traceback."""
    with pytest.raises(ValueError, match="user") as caught:
        Destination("http://user:hunter2@a")

    assert "hunter2" not in str(caught.value)


def test_a_url_that_is_no_string_is_refused():
    """Other types are told apart from bad text."""
    with pytest.raises(TypeError, match="a destination's URL is a string: 7"):
        Destination(7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"weight": 0}, "weight must be at least 1: 0", id="weight"),
        pytest.param({"priority": -1}, "priority must be at least 0: -1", id="priority"),
        pytest.param(
            {"max_requests": 0}, "max_requests must be at least 1, or None", id="requests"
        ),
        pytest.param(
            {"max_in_flight": 0}, "max_in_flight must be at least 1, or None", id="in-flight"
        ),
    ],
)
def test_a_destination_has_ranges(options, words):
    """What makes no sense is refused by name."""
    with pytest.raises(ValueError, match=words):
        Destination("http://a", **options)


def test_a_destinations_check_may_be_a_path():
    """The short form is stored as what it means."""
    assert HealthCheck("/x") == Destination("http://a", health="/x").health


def test_a_destination_is_a_value():
    """Equal ones are equal, and may be keys."""
    assert 1 == len({Destination("http://a"), Destination("http://a")})


@given(st.text())
def test_any_text_is_taken_apart_or_refused(text):
    """No text makes anything but a ValueError."""
    try:
        destination = Destination(f"http://{text}")
    except ValueError:
        return

    assert destination.authority.isascii()


# Rules.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: Match(hosts="a"), r"write \['a'\]", id="hosts"),
        pytest.param(lambda: Match(headers="a"), "a mapping or a list of pairs", id="headers"),
        pytest.param(lambda: HeaderRules(remove="a"), r"write \['a'\]", id="remove"),
        pytest.param(lambda: HeaderRules(allow="a"), r"write \['a'\]", id="allow"),
        pytest.param(lambda: HeaderRules(set="ab"), "a mapping or a list of pairs", id="set"),
        pytest.param(lambda: QueryRules(allow="a"), r"write \['a'\]", id="query-allow"),
    ],
)
def test_a_lone_string_is_refused(make, words):
    """A list is meant: one string would be read as its letters."""
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(lambda: Match(hosts=["a.test:80"]), ValueError, "without a port", id="port"),
        pytest.param(lambda: Match(hosts=["http://a.test"]), ValueError, "a host is", id="url"),
        pytest.param(lambda: Match(hosts=["*"]), ValueError, "a host is", id="star"),
        pytest.param(lambda: Match(hosts=["a.*.test"]), ValueError, "a host is", id="inner-star"),
        pytest.param(lambda: Match(hosts=["é.test"]), ValueError, "a host is", id="not-ascii"),
        pytest.param(lambda: Match(headers={"Host": "a"}), ValueError, "write hosts", id="host"),
        pytest.param(lambda: Match(headers={"a b": "c"}), ValueError, "field name", id="name"),
        pytest.param(lambda: Match(headers={"a": 1}), TypeError, "is a text", id="value"),
        pytest.param(lambda: Match(query={"a": None}), TypeError, "is a text", id="no-value"),
        pytest.param(lambda: Match(when="x"), TypeError, "ordinary function", id="no-function"),
        pytest.param(lambda: Match(when=_later), TypeError, "ordinary function", id="async"),
    ],
)
def test_a_match_that_cannot_be_is_refused(make, error, words):
    """It raises where it is written."""
    with pytest.raises(error, match=words):
        make()


async def _later(request):
    """A predicate that one would have to wait for."""


def test_a_mapping_and_pairs_are_the_same_rules():
    """Both spellings are stored as pairs."""
    assert HeaderRules(set={"a": "b"}, remove=["c"]) == HeaderRules(
        set=[("a", "b")], remove=("c",)
    )


def test_allowing_nothing_is_not_allowing_all():
    """An empty list of names is kept apart from none."""
    assert (None, ()) == (QueryRules().allow, QueryRules(allow=[]).allow)


def test_match_stores_pairs():
    """What decides a route is hashable."""
    assert (("a.example",), (("x", "1"),), (("y", "2"),)) == (
        Match(hosts=["a.example"]).hosts,
        Match(headers={"x": "1"}).headers,
        Match(query={"y": "2"}).query,
    )


def test_cookie_rules_leave_everything_by_default():
    """None leaves an attribute as it is."""
    assert (None, None, None) == (CookieRules().domain, CookieRules().path, CookieRules().secure)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mode": "add"}, "mode is 'set', 'append' or 'off': 'add'"),
        ({"client_cert": "on"}, "client_cert is"),
        ({"mode": "append"}, "belong together"),
        ({"trusted": ["10.0.0.0/8"]}, "belong together"),
        ({"mode": "append", "trusted": ["10.0.0.1/8"]}, "host bits"),
        ({"mode": "append", "trusted": ["proxy.test"]}, "does not appear"),
    ],
)
def test_forwarding_refuses_what_it_does_not_know(options, problem):
    """Trust is given by address, and only where it is used."""
    with pytest.raises(ValueError, match=problem):
        Forwarding(**options)


def test_trusted_networks_are_a_list():
    """A lone one is a mistake."""
    with pytest.raises(TypeError, match="a list of strings"):
        Forwarding(mode="append", trusted="10.0.0.0/8")


@pytest.mark.parametrize(
    "rules",
    [
        {"set": {"Connection": "close"}},
        {"add": {"Transfer-Encoding": "chunked"}},
        {"remove": ["Content-Length"]},
        {"allow": ["keep-alive"]},
        {"set": {"a b": "1"}},
        {"set": {"": "1"}},
        {"set": {"a": "1\r\nb: 2"}},
        {"add": {"a": "1\0"}},
        {"set": {"a": "\u65e5"}},
        {"set": {"a": 1}},
        {"remove": ["\xe9"]},
        {"set": [("a", "1"), ("A", "2")]},
    ],
    ids=str,
)
@pytest.mark.requirement("S-29")
def test_a_rule_for_a_field_that_cannot_be_sent_is_refused(rules):
    """Where it is written, and not when a request comes."""
    with pytest.raises(ValueError, match="field|connection|value|twice"):
        HeaderRules(**rules)


@pytest.mark.parametrize("rules", [{"set": {"": "1"}}, {"add": {"a": 1}}, {"remove": [""]}])
def test_a_rule_for_no_parameter_is_refused(rules):
    """A parameter has a name and a text."""
    with pytest.raises(ValueError, match="parameter|string"):
        QueryRules(**rules)


@pytest.mark.parametrize(
    "value",
    [Timeouts(), Limits(), HealthCheck(), Destination("http://a"), Forwarding(), Match()],
    ids=lambda one: type(one).__name__,
)
def test_values_cannot_be_changed(value):
    """Settings are frozen."""
    name = next(iter(value.__attrs_attrs__)).name
    with pytest.raises(AttributeError):
        setattr(value, name, None)


def test_a_weight_has_an_end():
    """Sums of weights stay numbers."""
    with pytest.raises(ValueError, match="at most 1000000"):
        Destination("http://a.test", weight=10**400)
