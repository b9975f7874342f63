"""``MODULE:ATTR``: from the words on a command line to the gateway that they name, and to what would have been meant."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from attrs import frozen

from proxyroutes.exceptions import BuildError

__all__ = ["Place", "PlaceError", "load", "run_user_code"]


class PlaceError(Exception):
    """The place does not name what is meant; the text says what would."""


@frozen
class Place:
    """What was named.

    Attributes:
        text: As it was written.
        module: The module in which it was found.
        value: It, or what its factory has made.
    """

    text: str
    module: ModuleType
    value: Any


def load(place: str, served: tuple[type[Any], ...]) -> Place:
    """Import what a place names, and call it where it is a factory.

    Args:
        place: ``MODULE:ATTR``; the current directory comes first.
        served: What may be meant.

    Raises:
        PlaceError: If it names something else, or nothing.
        BuildError: If the gateway cannot be built.
        SystemExit: If the module or the factory fails; its traceback was printed.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute or module_name.endswith(".py"):
        raise PlaceError(f"write MODULE:ATTR, such as {_likely_place(place)}, not {place!r}")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path has strings
    module = run_user_code(lambda: _import(module_name))
    value = _find_attribute(module, attribute, served)
    if not isinstance(value, served):
        value = _call_factory(value, place, served)
    return Place(place, module, value)


def _likely_place(place: str) -> str:
    module_name, _, attribute = place.partition(":")
    name = module_name.removesuffix(".py").strip("./").replace("/", ".")
    if not attribute and name == module_name:
        name, _, attribute = name.rpartition(".") if "." in name else (name, "", "")
    return f"{name or 'gateway'}:{attribute or 'app'}"


def run_user_code(run: Callable[[], Any]) -> Any:
    """Run what is not ours; its failure is shown without our own lines.

    Raises:
        SystemExit: If it fails.
    """
    try:
        return run()
    except (PlaceError, BuildError):
        raise
    except Exception as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename in _OUR_FRAMES:
            frames = frames.tb_next
        traceback.print_exception(error.with_traceback(frames))
        raise SystemExit(1) from error


_OUR_FRAMES = frozenset(
    {
        __file__,
        importlib.__file__,
        "<frozen importlib._bootstrap>",
        "<frozen importlib._bootstrap_external>",
    }
)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise
        parent, _, last = missing.rpartition(".")
        where = f"package {parent!r}" if parent else "the current directory and on sys.path"
        # Of top-level modules only those are likely that are here.
        search = getattr(sys.modules[parent], "__path__", ()) if parent else [sys.path[0]]
        known = [module.name for module in pkgutil.iter_modules(search)]
        close = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        hint = f"; did you mean {'.'.join(filter(None, (parent, close[0])))!r}?" if close else ""
        raise PlaceError(f"no module {missing!r} in {where}{hint}") from error


def _find_attribute(module: ModuleType, path: str, served: tuple[type[Any], ...]) -> Any:
    value: Any = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            raise PlaceError(_say_what_is_there(module, path, name, value, served)) from error
    return value


def _say_what_is_there(
    module: ModuleType, path: str, name: str, owner: Any, served: tuple[type[Any], ...]
) -> str:
    names = [known for known in dir(owner) if not known.startswith("_")]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        right = ".".join(close[0] if part == name else part for part in path.split("."))
        return f"{module.__name__} has no {path!r}; did you mean {module.__name__}:{right}?"
    return f"{module.__name__} has no {path!r}{_list_served(vars(module).items(), served)}"


def _list_served(values: Iterable[tuple[str, Any]], served: tuple[type[Any], ...]) -> str:
    names = [name for name, value in values if isinstance(value, served)]
    return f"; it has {', '.join(names)}" if names else ""


def _call_factory(value: Any, place: str, served: tuple[type[Any], ...]) -> Any:
    if not callable(value):
        raise PlaceError(
            f"{place} is of type {type(value).__name__!r}: a Proxy, an app or a function that makes one is meant"
        )
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError) as error:
        raise PlaceError(f"{place} cannot be called without arguments: {error}") from error
    made = run_user_code(value)
    if isinstance(made, served):
        return made
    if inspect.iscoroutine(made):
        made.close()
    raise PlaceError(
        f"{place} returned {type(made).__name__!r}: a function that makes a Proxy or an app is meant"
    )
