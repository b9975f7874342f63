"""What is known of a stub from its code object: silence, its place, its kind."""

import functools

import pytest

from proxyroutes._declare.stubs import find_function, read_stub


async def dots() -> None: ...  # noqa: D103 - a docstring is another test's.


async def passes() -> None:  # noqa: D103 - a docstring is another test's.
    pass


async def documented() -> None:
    """Say nothing."""


async def documented_with_dots() -> None:
    """Say nothing."""


def synchronous() -> None:
    """Say nothing."""


async def returns_none() -> None:  # noqa: D103 - a docstring is another test's.
    return None


async def with_parameters(a: int, *, b: str = "x") -> None:
    """Say nothing."""


async def returns_value() -> int:
    """Say something."""
    return 7


async def returns_false() -> bool:
    """Say something."""
    return False


def returns_text() -> str:
    """Say something."""
    return "x"


async def calls() -> None:
    """Say something."""
    print("x")


async def raises() -> None:
    """Say something."""
    raise ValueError


async def reads_parameter(a: int) -> None:
    """Say something."""
    a  # noqa: B018 - it is what speaks.


async def assigns() -> None:
    """Say something."""
    x = 1  # noqa: F841 - it is what speaks.


def decorate(function):
    """Wrap, as any decorator may."""

    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)

    return wrapper


class Callable:
    """A callable object."""

    async def __call__(self) -> None:
        """Say nothing."""


class Bare:
    """A callable object whose call is no function of Python."""

    __call__ = functools.partial(print)


@pytest.mark.parametrize(
    "stub",
    [dots, passes, documented, documented_with_dots, synchronous, returns_none, with_parameters],
    ids=lambda stub: stub.__name__,
)
def test_a_stub_with_an_empty_body_says_nothing(stub):
    """``...``, ``pass`` and a docstring are silence."""
    assert not read_stub(stub).speaks


@pytest.mark.parametrize(
    "stub",
    [returns_value, returns_false, returns_text, calls, raises, reads_parameter, assigns],
    ids=lambda stub: stub.__name__,
)
def test_any_other_body_speaks(stub):
    """What may do something is called."""
    assert read_stub(stub).speaks


@pytest.mark.parametrize(
    "stub",
    [decorate(documented), functools.partial(documented), Callable(), Bare(), print],
    ids=["wrapped", "partial", "callable-object", "bare-object", "builtin"],
)
def test_a_stub_that_is_not_plain_speaks(stub):
    """Unknown counts as speaking: a wrapper may do anything."""
    assert read_stub(stub).speaks


def test_a_method_of_closure_cells_is_still_silent():
    """A stub within a function is read like any other."""
    captured = 7

    async def stub() -> None:
        """Say nothing."""

    async def speaking() -> int:
        return captured

    assert (False, True) == (read_stub(stub).speaks, read_stub(speaking).speaks)


@pytest.mark.parametrize(
    "stub",
    [documented, decorate(documented), functools.partial(documented)],
    ids=["plain", "wrapped", "partial"],
)
def test_the_place_is_that_of_the_innermost_function(stub):
    """The place is file and line of what the user wrote."""
    line = documented.__code__.co_firstlineno

    assert f"{__file__}:{line}" == read_stub(stub).location


def test_a_callable_object_has_the_place_of_its_call():
    """An object is where its ``__call__`` is."""
    line = Callable.__call__.__code__.co_firstlineno

    assert f"{__file__}:{line}" == read_stub(Callable()).location


def test_what_has_no_code_has_no_place():
    """A built-in function stands nowhere."""
    assert "" == read_stub(print).location


@pytest.mark.parametrize(
    ("stub", "is_async"),
    [
        pytest.param(documented, True, id="async"),
        pytest.param(synchronous, False, id="sync"),
        pytest.param(decorate(synchronous), True, id="async-wrapper-of-sync"),
        pytest.param(functools.partial(documented), True, id="partial"),
        pytest.param(Callable(), True, id="callable-object"),
        pytest.param(print, False, id="builtin"),
    ],
)
def test_coroutine_functions_are_known(stub, is_async):
    """What is awaited is told from what is run in a thread."""
    assert is_async == read_stub(stub).is_async


def generator():
    """Yield."""
    yield 1


async def async_generator():
    """Yield."""
    yield 1


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        pytest.param(generator, True, id="sync"),
        pytest.param(async_generator, True, id="async"),
        pytest.param(functools.partial(generator), True, id="partial"),
        pytest.param(documented, False, id="none"),
    ],
)
def test_generators_are_known(stub, expected):
    """A stub that yields is told from others."""
    assert expected == read_stub(stub).is_generator


def test_the_name_of_an_object_is_its_type():
    """What has no name is called by its class."""
    assert "Callable" == read_stub(Callable()).name


def test_the_function_behind_wrappers_is_found():
    """Wrappers and partial applications are looked through, in any order."""
    stub = functools.partial(decorate(functools.partial(documented)))

    assert documented is find_function(stub)
