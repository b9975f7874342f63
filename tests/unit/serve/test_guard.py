"""The request guard, byte by byte."""

import pytest

from proxyroutes._serve.guard import (
    MAX_HOST_BYTES,
    MAX_TARGET_BYTES,
    check_host,
    check_method,
    check_target,
    refuse,
)
from proxyroutes.exceptions import ClientRequestError, Side


def status_of(check, *values):
    """The status that a check refuses with."""
    with pytest.raises(ClientRequestError) as caught:
        check(*values)
    return caught.value.status_code


def test_a_refusal_is_the_clients_fault():
    """Nobody else is blamed for a request that cannot be forwarded."""
    error = refuse("nonsense")

    assert (400, Side.CLIENT, False) == (error.status_code, error.side, error.sent)


@pytest.mark.requirement("H-04")
@pytest.mark.parametrize(
    "method", ["GET", "get", "M-SEARCH", "PROPFIND", "QUERY", "!#$%&'*+.^_`|~"]
)
def test_every_token_is_a_method(method):
    """Extension methods pass, and case is kept."""
    check_method(method)


@pytest.mark.requirement("H-03")
@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_methods_for_intermediaries_are_refused_with_405_and_allow(method):
    """A tunnel and a loop-back of the request are not forwarded."""
    with pytest.raises(ClientRequestError) as caught:
        check_method(method)

    assert 405 == caught.value.status_code
    assert ((b"allow", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),) == caught.value.fields


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "G\u00c9T", "GET/", "a\x00"])
def test_what_is_no_token_is_no_method(method):
    """A method with a separator could end the request line."""
    assert 400 == status_of(check_method, method)


@pytest.mark.requirement("S-15")
@pytest.mark.requirement("S-16")
@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"//",
        b"/a/b/",
        b"//a//b",
        b"/a.b/c..d/e.",
        b"/.a",
        b"/..a",
        b"/...",
        b"/a%20b",
        b"/%2F%5c%3b%23%3f%25",
        b"/%252e%252e/",
        b"/a;b=c",
        b"/a;..b",
        b'/[]{}|^`"<>',
        b"/:@!$&'()*+,=~_-",
        b"/" + b"a" * (MAX_TARGET_BYTES - 1),
    ],
)
def test_a_path_that_is_read_in_one_way_passes(path):
    """What is unusual is not therefore wrong."""
    check_target(path, b"")


@pytest.mark.requirement("S-10")
@pytest.mark.requirement("S-11")
@pytest.mark.requirement("S-14")
@pytest.mark.requirement("S-17")
@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"a",
        b"*",
        b"@evil.test/",
        b"http://evil.test/",
        b"/.",
        b"/..",
        b"/a/.",
        b"/a/../b",
        b"/a/./b",
        b"/%2e",
        b"/%2E%2e",
        b"/.%2e/a",
        b"/a/..;",
        b"/a/..;x=y/b",
        b"/a;/../b",
        b"/a;../b",
        b"/..%3b",
        b"/..%2f",
        b"/%2f..",
        b"/..%5c",
        b"/a%5c..%5cb",
        b"/a\\b",
        b"/a#b",
        b"/a b",
        b"/a\tb",
        b"/a\x00b",
        b"/a\x7fb",
        b"/a\x80b",
        b"/%",
        b"/%2",
        b"/%zz",
        b"/%00",
        b"/%0a",
        b"/%0A",
        b"/%0d",
        b"/%0D",
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(path):
    """What was matched must be what the upstream resolves."""
    assert 400 == status_of(check_target, path, b"")


@pytest.mark.requirement("S-37")
@pytest.mark.parametrize("query", [b"", b"a=b&c", b"?", b"/../", b"%zz%00", b";", b'\\[]{}|^`"<>'])
def test_a_query_passes_as_it_is(query):
    """Its inner form is the application's."""
    check_target(b"/", query)


@pytest.mark.parametrize("query", [b"a b", b"a#b", b"\x00", b"\r\n", b"\x7f", b"\xe9"])
def test_a_query_with_a_byte_that_no_target_has_is_refused(query):
    """Such a byte would end the target or be read differently."""
    assert 400 == status_of(check_target, b"/", query)


@pytest.mark.requirement("H-46")
def test_a_target_over_the_limit_is_refused_with_414():
    """Path and query count together."""
    assert 414 == status_of(check_target, b"/" + b"a" * (MAX_TARGET_BYTES - 1), b"b")


@pytest.mark.requirement("H-06")
@pytest.mark.parametrize(
    "host",
    [
        b"a.test",
        b"a.test:80",
        b"a.test:",
        b"127.0.0.1",
        b"[::1]",
        b"[2001:db8::1]:8080",
        b"a_b",
        b"a%2Fb",
        b"a" * 255 + b":65535",
    ],
)
def test_a_host_and_an_optional_port_pass(host):
    """RFC 9110 leaves much room for names."""
    check_host(host)


@pytest.mark.requirement("H-06")
@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"a.test/b",
        b"u@a.test",
        b"a.test:80:80",
        b"a.test:x",
        b"a.test:123456",
        b"a b",
        b"a,b:c",
        b"[::1",
        b"::1",
        b"[g::1]",
        b"a%2",
        b"a\x00",
        b"caf\xe9",
        b"a?b",
        b"a#b",
        b"a" * (MAX_HOST_BYTES + 1),
    ],
)
def test_what_is_not_one_host_is_refused(host):
    """Whoever reads it differently could be sent elsewhere."""
    assert 400 == status_of(check_host, host)
