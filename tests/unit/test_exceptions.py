"""The tree of errors: what each one answers, and what it never shows."""

import pytest

from proxyroutes import exceptions
from proxyroutes.exceptions import (
    BuildError,
    ClientRequestError,
    DeclarationError,
    DuplicateRouteError,
    GatewayError,
    NoDestinationError,
    PathTemplateError,
    PolicyError,
    ProxyRoutesError,
    RateLimitError,
    RelayInterruptedError,
    Side,
    Stage,
    StubError,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)

FAILURES = [
    pytest.param(NoDestinationError, 503, Stage.SELECT, Side.GATEWAY, id="no-destination"),
    pytest.param(RateLimitError, 429, Stage.SELECT, Side.CLIENT, id="rate-limit"),
    pytest.param(UpstreamConnectError, 502, Stage.CONNECT, Side.UPSTREAM, id="connect"),
    pytest.param(UpstreamTimeoutError, 504, Stage.RESPONSE_HEAD, Side.UPSTREAM, id="timeout"),
    pytest.param(UpstreamProtocolError, 502, Stage.RESPONSE_HEAD, Side.UPSTREAM, id="protocol"),
    pytest.param(ClientRequestError, 400, Stage.SELECT, Side.CLIENT, id="client"),
    pytest.param(RelayInterruptedError, 502, Stage.RESPONSE_BODY, Side.UPSTREAM, id="interrupted"),
]


@pytest.mark.parametrize(("kind", "status", "stage", "side"), FAILURES)
def test_a_failure_answers_every_question(kind, status, stage, side):
    """Which status, which stage, which side, was anything sent, which destination."""
    error = kind("why")

    assert (status, stage, side, False, None) == (
        error.status_code,
        error.stage,
        error.side,
        error.sent,
        error.destination,
    )


@pytest.mark.parametrize(("kind", "status", "stage", "side"), FAILURES)
def test_a_failures_text_is_for_logs(kind, status, stage, side):
    """Detail, stage, side and whether anything was sent stand in one line."""
    assert f"why stage={stage.value} side={side.value} sent=False" == str(kind("why"))


def test_a_failure_without_detail_is_its_title():
    """There is always something to read."""
    assert "the upstream could not be reached stage=connect side=upstream sent=False" == str(
        UpstreamConnectError()
    )


def test_a_failure_is_told_where_it_happened():
    """What a transport did not know is added, what it said stays."""
    known = UpstreamConnectError("x", sent=True, destination="http://a")
    unknown = UpstreamConnectError("x").at(destination="http://b", sent=False)

    assert (("http://a", True), ("http://b", False), True) == (
        (known.at(destination="http://b", sent=False).destination, known.sent),
        (unknown.destination, unknown.sent),
        str(unknown).endswith("destination=http://b"),
    )


def test_a_failure_overrides_its_defaults():
    """Stage and side are said where they differ."""
    error = UpstreamTimeoutError("x", stage=Stage.CONNECT, side=Side.CLIENT, retry_after=2.0)

    assert (Stage.CONNECT, Side.CLIENT, 2.0) == (error.stage, error.side, error.retry_after)


def test_the_root_of_failures_is_never_raised():
    """A bare one would answer no question."""
    with pytest.raises(TypeError, match="never raised bare"):
        GatewayError("x")


def test_a_refused_request_has_its_own_status():
    """One class stands for every 4xx of the gateway's own."""
    error = ClientRequestError(
        "x", status_code=413, title="Content too large", fields=((b"allow", b"GET"),)
    )

    assert (413, "Content too large", ((b"allow", b"GET"),)) == (
        error.status_code,
        error.title,
        error.fields,
    )


def test_a_refused_request_has_a_title_without_saying_it():
    """The class's title stands in."""
    assert "The request cannot be forwarded" == ClientRequestError("x").title


@pytest.mark.parametrize(
    "kind",
    [PathTemplateError, StubError, DuplicateRouteError, PolicyError],
    ids=lambda kind: kind.__name__,
)
def test_a_mistake_is_a_declaration_error(kind):
    """Mistakes have one root below the package's."""
    assert (True, True) == (issubclass(kind, DeclarationError), issubclass(kind, ProxyRoutesError))


def test_a_build_error_lists_every_mistake():
    """One line each, with its place."""
    error = BuildError("cannot", [DeclarationError("a", location="x.py:1"), StubError("b")])

    assert "cannot (2)\n  - x.py:1: a\n  - b" == str(error)


def test_a_build_error_is_split_into_build_errors():
    """``except*`` gives the same kind of group."""
    error = BuildError("cannot", [DeclarationError("a"), StubError("b")])

    assert (BuildError, BuildError) == tuple(type(part) for part in error.split(StubError))


def test_every_error_is_exported():
    """The module's names are all of them."""
    found = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }

    assert set() == found - set(exceptions.__all__)


def test_slugs_are_unique():
    """A problem's type names one kind of failure."""
    slugs = [kind.values[0].slug for kind in FAILURES]

    assert len(slugs) == len(set(slugs))
