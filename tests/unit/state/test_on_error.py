"""``_state/on_error.py``."""

import pytest

from proxyroutes._state.on_error import read_on_error
from proxyroutes.exceptions import GatewayError, UpstreamConnectError, UpstreamTimeoutError


def handle(error, request):
    """A handler."""


def other(error, request):
    """Another one."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        (handle, [(GatewayError, handle)]),
        ({UpstreamTimeoutError: handle}, [(UpstreamTimeoutError, handle)]),
        (
            [handle, None, ({UpstreamConnectError: other}, [handle])],
            [(GatewayError, handle), (UpstreamConnectError, other), (GatewayError, handle)],
        ),
        (max, [(GatewayError, max)]),
    ],
    ids=["nothing", "function", "by class", "nested", "no signature"],
)
def test_handlers_are_read_in_order(value, expected):
    """From every form in which they may be given."""
    assert expected == [(one.kind, one.handle) for one in read_on_error(value)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("handle", "is a function of the error and the request"),
        ({ValueError: handle}, "a GatewayError or one of its subclasses"),
        ({"GatewayError": handle}, "a GatewayError or one of its subclasses"),
        (lambda error: None, "takes the error and the request"),
        (lambda error, request, third: None, "takes the error and the request"),
    ],
    ids=["text", "other class", "name of a class", "one argument", "three arguments"],
)
def test_what_is_no_handler_is_refused(value, reason):
    """With what is meant."""
    with pytest.raises(TypeError, match=reason):
        read_on_error(value)
