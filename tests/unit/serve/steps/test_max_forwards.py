"""How far an OPTIONS request may go."""

import pytest

from proxyroutes import Proxy
from proxyroutes._serve.failures import problem
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.match import split_path
from proxyroutes.exceptions import ClientRequestError
from tests.unit.serve.scripted import make_scope, stub


def head_of(method, *values, methods=None):
    """The forwarded head of a request with these values."""
    proxy = Proxy()
    proxy.route("/<path>", upstream="http://up", methods=methods)(stub)
    scope = make_scope(method, b"/x", *((b"max-forwards", value) for value in values))
    received = list(scope["headers"])
    found = proxy.compiled().index.match(split_path(b"/x"), 0, method, {})
    head = make_head(scope, found.plan, found, read_request(scope, found.plan, found))

    assert received == scope["headers"]
    return [value for name, value in head.fields if name == b"max-forwards"]


@pytest.mark.requirement("H-39")
@pytest.mark.parametrize(
    ("method", "values", "expected"),
    [
        ("OPTIONS", [], []),
        ("OPTIONS", [b"1"], [b"0"]),
        ("OPTIONS", [b"010"], [b"9"]),
        ("GET", [b"0"], [b"0"]),
        ("POST", [b"x"], [b"x"]),
    ],
)
def test_one_hop_is_taken_off(method, values, expected):
    """Of OPTIONS alone; for other methods the field has no meaning."""
    assert expected == head_of(method, *values)


@pytest.mark.requirement("H-39")
@pytest.mark.parametrize(
    ("methods", "allow"),
    [
        (None, b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        (["OPTIONS", "GET"], b"GET, OPTIONS"),
    ],
    ids=["every-method", "some"],
)
def test_at_the_last_hop_the_gateway_answers(methods, allow):
    """With what its route serves, and no content."""
    with pytest.raises(ClientRequestError) as caught:
        head_of("OPTIONS", b"0", methods=methods)
    status, fields, body = problem(caught.value)

    assert (204, allow, b"") == (status, dict(fields)[b"allow"], body)


@pytest.mark.parametrize("values", [[b"x"], [b""], [b"-1"], [b"1", b"2"], [b"9" * 19]])
def test_what_is_no_number_is_refused(values):
    """Nobody knows how far it may go."""
    with pytest.raises(ClientRequestError) as caught:
        head_of("OPTIONS", *values)

    assert 400 == caught.value.status_code
