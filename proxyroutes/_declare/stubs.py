"""What is known of a stub when it is declared: where it stands, and whether it says anything.

Only code objects are read; a stub is never called and its annotations are not resolved here.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

from attrs import frozen

__all__ = ["StubFacts", "find_function", "read_stub"]

# A body of `...`, `pass` or a docstring compiles to these and nothing else. In a coroutine, 3.12 and later wrap it in a
# handler that turns StopIteration into RuntimeError.
_SILENT_OPERATIONS = frozenset(
    {
        "CACHE",
        "CALL_INTRINSIC_1",
        "COPY_FREE_VARS",
        "GEN_START",
        "LOAD_CONST",
        "MAKE_CELL",
        "NOP",
        "NOT_TAKEN",
        "POP_TOP",
        "RERAISE",
        "RESUME",
        "RETURN_CONST",
        "RETURN_GENERATOR",
        "RETURN_VALUE",
    }
)
_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


@frozen(kw_only=True)
class StubFacts:
    """What a stub's code tells.

    Attributes:
        name: Its name.
        location: ``file:line`` of its definition.
        speaks: Whether its body may do something. Unknown counts as speaking.
        is_generator: Whether it is a generator, which a stub may not be.
        is_async: Whether it is a coroutine function.
        parameters: Whether it has parameters.
    """

    name: str
    location: str
    speaks: bool
    is_generator: bool
    is_async: bool
    parameters: bool


def _is_silent(code: CodeType) -> bool:
    returned: object = None
    for instruction in dis.get_instructions(code):
        if instruction.opname not in _SILENT_OPERATIONS:
            return False
        if instruction.opname in {"LOAD_CONST", "RETURN_CONST"}:
            returned = instruction.argval
        if instruction.opname in {"RETURN_CONST", "RETURN_VALUE"} and returned is not None:
            return False
    return True


def find_function(stub: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind wrappers, partial applications and callable objects."""
    function: Callable[..., Any] = inspect.unwrap(stub)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    if not hasattr(function, "__code__"):
        call: Callable[..., Any] = inspect.unwrap(type(function).__call__)
        return call if inspect.isfunction(call) else function
    return function


def read_stub(stub: Callable[..., Any]) -> StubFacts:
    """Read a stub's facts from its code object."""
    function = find_function(stub)
    code = getattr(function, "__code__", None)
    wrapped = function is not stub
    name = getattr(stub, "__name__", type(stub).__name__)
    if not isinstance(code, CodeType):
        return StubFacts(
            name=name,
            location="",
            speaks=True,
            is_generator=False,
            is_async=False,
            parameters=True,
        )
    is_async = inspect.iscoroutinefunction(stub) or inspect.iscoroutinefunction(function)
    return StubFacts(
        name=name,
        location=f"{code.co_filename}:{code.co_firstlineno}",
        # A wrapper made by another decorator may do anything.
        speaks=wrapped or not _is_silent(code),
        is_generator=inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function),
        is_async=is_async,
        parameters=bool(code.co_argcount or code.co_kwonlyargcount or code.co_flags & _VARIADIC),
    )
