"""The dependencies of a silent stub that only let a request pass or not, run from what FastAPI has read of them.

FastAPI reads every signature once, and then asks each dependency at every request anew whether it is a generator, a
coroutine, limited, overridden. Where none of that can be, the same calls are made here in the same order, with the same
arguments: nothing is left out (DESIGN §3). Only a tree whose every part is known is taken, and only where all that FastAPI
would run between route and stub is its own; of any other, ``read`` gives None, and FastAPI runs it. What surrounds them,
exit stacks and the application's handlers, is FastAPI's in any case.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen
from fastapi import routing
from fastapi.dependencies import utils
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

__all__ = ["Dependencies"]

_PLACES = {
    "path_params": "path_params",
    "query_params": "query_params",
    "header_params": "headers",
    "cookie_params": "cookies",
}
"""Lists of a dependant's parameters, in the order in which FastAPI reads them, and where a request has their values."""

_KNOWN = frozenset(
    {
        "name",
        "call",
        "path",
        "use_cache",
        "dependencies",
        "request_param_name",
        "http_connection_param_name",
        *_PLACES,
    }
)
"""What may be said of a dependant; anything else has to be what it is in one that says nothing."""


@frozen(eq=False)
class _Step:
    """One dependency, or the stub itself.

    Attributes:
        call: What is called.
        name: The parameter of the caller that gets its value, or None.
        may_repeat: Whether the same call stands in the tree more than once.
        uses_cache: Whether a value that is there already is taken.
        steps: What it depends on itself.
        fields: Its parameters, and the attribute of the request that has their values.
        requests: Names of parameters that get the request.
    """

    call: Callable[..., Any]
    name: str | None
    may_repeat: bool
    uses_cache: bool
    steps: tuple[_Step, ...]
    fields: tuple[tuple[list[Any], str], ...]
    requests: tuple[str, ...] = ()


class _Solving:
    """The dependencies of one request, being run.

    Attributes:
        request: The request.
        errors: What is wrong with parameters.
        values: What calls have given that stand in the tree more than once.
    """

    # Most requests have none.
    errors: Sequence[Any] = ()

    def __init__(self, request: Request) -> None:
        self.request = request
        self.values: dict[Any, Any] = {}


class Dependencies:
    """The dependencies of one route in one inclusion.

    Args:
        root: The stub.
        dependant: What FastAPI has read of it.
        provider: Has the overrides of the application, or None.
    """

    def __init__(self, root: _Step, dependant: Any, provider: Any) -> None:
        self._root = root
        self._dependant = dependant
        self._provider = provider
        # FastAPI reads these at every request: who adds to one of them later is heard, too.
        self._live = [
            getattr(each, name)
            for each in (*_all_of(dependant), dependant)
            for name in ("dependencies", *_PLACES)
        ]
        self._seen = [list(live) for live in self._live]

    @classmethod
    def read(cls, context: Any) -> Dependencies | None:
        """Read those of a route's effective context; None where FastAPI has to run them."""
        dependant = getattr(context, "dependant", None)
        provider = getattr(context, "dependency_overrides_provider", None)
        if dependant is None or not _all_is_fastapis_own():
            return None
        if dependant.call is not getattr(context, "endpoint", None):
            return None
        try:
            calls = [each.call for each in _all_of(dependant)]
            root = _read_stub(dependant, {call for call in calls if calls.count(call) > 1})
        except (_UnknownError, TypeError):
            # The second is of a call that cannot be hashed.
            return None
        return cls(root, dependant, provider)

    def hold(self) -> bool:
        """Whether they still are what was read, and the application puts no others in their place, as tests do."""
        if getattr(self._provider, "dependency_overrides", None):
            return False
        # Of the same things: they are compared by identity first, and it stops at the first difference.
        return self._live == self._seen

    async def solve(self, request: Request) -> None:
        """Run them.

        Raises:
            RequestValidationError: If a parameter is not what it has to be.
        """
        solving = _Solving(request)
        await _solve(self._root, solving)
        if solving.errors:
            raise RequestValidationError(
                solving.errors, endpoint_ctx=_describe(self._dependant, request)
            )


class _UnknownError(Exception):
    """A dependant is not of the kind that is known here."""


_SEAMS: tuple[tuple[Any, str], ...] = (
    (routing, "request_response"),
    (routing, "get_request_handler"),
    (routing, "run_endpoint_function"),
    (routing.APIRoute, "handle"),
    (routing.APIRoute, "get_route_handler"),
)
"""What instrumentations put something of their own in the place of, to be on the way of every request."""


def _all_is_fastapis_own() -> bool:
    """Whether nothing of anybody else is on the way that is not taken."""
    solve = getattr(utils, "solve_dependencies", None)
    return (
        all(_is_from(routing, getattr(place, name, None)) for place, name in _SEAMS)
        and _is_from(utils, solve)
        and getattr(routing, "solve_dependencies", None) is solve
        and _is_from(utils, getattr(utils, "request_params_to_args", None))
        and hasattr(routing, "_extract_endpoint_context")
    )


def _is_from(module: Any, function: Any) -> bool:
    # Its module's name may be copied to what is put in its place; its globals are not.
    return getattr(function, "__globals__", None) is vars(module)


def _describe(dependant: Any, request: Request) -> Any:
    """Where the stub is, for the message of an error."""
    described = routing._extract_endpoint_context(dependant.call)  # noqa: SLF001 - as in FastAPI's own message.
    if dependant.path:
        mount = request.scope.get("root_path", "").rstrip("/")
        described["path"] = f"{request.method} {mount}{dependant.path}"
    return described


def _all_of(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield from _all_of(inner)
        yield inner


def _read_stub(dependant: Any, repeated: set[Any]) -> _Step:
    """What FastAPI does before it calls a stub: the stub itself has nothing to say, but its parameters are checked."""
    # FastAPI notes a scope of its own for endpoints, and every one of ours asks for a response.
    if not _is_known(dependant, besides=("scope", "response_param_name")):
        raise _UnknownError
    steps = tuple(_read(inner, repeated) for inner in dependant.dependencies)
    return _Step(
        dependant.call,
        name=None,
        may_repeat=False,
        uses_cache=False,
        steps=steps,
        fields=_fields_of(dependant),
    )


def _read(dependant: Any, repeated: set[Any]) -> _Step:
    call = dependant.call
    # Ours look for more of a call than there is without FastAPI's path.
    own = str(getattr(call, "__module__", "")).startswith("proxyroutes.")
    if own or not _is_known(dependant) or not _is_coroutine_function(call):
        raise _UnknownError
    requests = (dependant.request_param_name, dependant.http_connection_param_name)
    return _Step(
        dependant.call,
        name=dependant.name,
        may_repeat=dependant.call in repeated,
        uses_cache=dependant.use_cache,
        steps=tuple(_read(inner, repeated) for inner in dependant.dependencies),
        fields=_fields_of(dependant),
        requests=tuple(name for name in requests if name is not None),
    )


def _fields_of(dependant: Any) -> tuple[tuple[list[Any], str], ...]:
    places = ((getattr(dependant, name), place) for name, place in _PLACES.items())
    return tuple((fields, place) for fields, place in places if fields)


@functools.cache
def _defaults(kind: type) -> Mapping[str, Any]:
    """What the attributes of a dependant are that nothing is said of, without those that are known."""
    silent = kind()
    return {
        each.name: getattr(silent, each.name)
        for each in dataclasses.fields(kind)
        if each.name not in _KNOWN
    }


def _is_known(dependant: Any, *, besides: Sequence[str] = ()) -> bool:
    kind = type(dependant)
    if not dataclasses.is_dataclass(kind) or not all(hasattr(dependant, name) for name in _KNOWN):
        return False
    # A later release may say something new by an attribute that is not known here.
    return all(
        # A list without entries, as a security scheme has one of scopes, says nothing either.
        (getattr(dependant, name) or None) == (value or None)
        for name, value in _defaults(kind).items()
        if name not in besides
    )


def _is_coroutine_function(call: Any) -> bool:
    """Whether FastAPI awaits it; said only of functions and methods that nothing is wrapped around."""
    if not inspect.isroutine(call):
        if inspect.isclass(call) or isinstance(call, functools.partial):
            return False
        if hasattr(call, "__wrapped__") or "__call__" in getattr(call, "__dict__", ()):
            return False
        call = getattr(type(call), "__call__", None)  # noqa: B004 - not whether, but what is called.
    return (
        inspect.isfunction(getattr(call, "__func__", call))
        and inspect.iscoroutinefunction(call)
        and not hasattr(call, "__wrapped__")
    )


async def _solve(step: _Step, solving: _Solving) -> dict[str, Any] | None:
    """The arguments of a step, or None where something is wrong with them."""
    arguments: dict[str, Any] = {}
    wrong = False
    for inner in step.steps:
        given = await _solve(inner, solving) if inner.steps else _read_request(inner, solving, {})
        if given is None:
            wrong = True
            continue
        if not inner.may_repeat:
            value = await inner.call(**given)
        elif inner.uses_cache and inner.call in solving.values:
            value = solving.values[inner.call]
        else:
            value = await inner.call(**given)
            solving.values.setdefault(inner.call, value)
        if inner.name is not None:
            arguments[inner.name] = value
    given = _read_request(step, solving, arguments)
    return None if wrong else given


def _read_request(
    step: _Step, solving: _Solving, arguments: dict[str, Any]
) -> dict[str, Any] | None:
    """Add what a step takes from the request to its arguments; None where something is wrong with it."""
    request = solving.request
    known = len(solving.errors)
    for fields, place in step.fields:
        values, errors = utils.request_params_to_args(fields, getattr(request, place))
        arguments.update(values)
        if errors:
            solving.errors = [*solving.errors, *errors]
    for name in step.requests:
        arguments[name] = request
    return arguments if len(solving.errors) == known else None
