"""The command line: ``proxyroutes``, and ``python -m proxyroutes``.

What only ``proxyroutes[standard]`` installs is imported when it is used, so that this module can say what is missing.
"""

import asyncio
import difflib
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Annotated, Any, NoReturn

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Router

from proxyroutes import __version__
from proxyroutes._operate.demo import check_demo, report, run_demo
from proxyroutes._operate.routes_table import Table, route_table
from proxyroutes.exceptions import BuildError
from proxyroutes.proxy import Proxy

__all__ = ["main"]

_EXTRAS = frozenset({"rich", "typer", "uvicorn"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all is well, 1 if what was asked failed, 2 if it was not understood.

    Args:
        arguments: The words behind the command's name; None takes the process's own.

    Raises:
        SystemExit: Always.
    """
    try:
        app = _make_app()
        app(args=None if arguments is None else list(arguments), prog_name="proxyroutes")
    except ImportError as error:
        if error.name not in _EXTRAS:
            raise
        _fail(f'{error.name} is not installed: pip install "proxyroutes[standard]"', status=2)


def _fail(message: str, *, status: int) -> NoReturn:
    print(f"proxyroutes: {message}", file=sys.stderr)
    raise SystemExit(status)


def _make_app() -> Callable[..., Any]:
    import typer  # noqa: PLC0415 - an extra

    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    def show_version(asked: bool) -> None:
        if asked:
            print(f"proxyroutes {__version__}")
            raise typer.Exit

    @app.callback()
    def options(
        *,
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Show the version."
            ),
        ] = False,
    ) -> None:
        """The API gateway that you declare in Python."""

    @app.command()
    def demo(
        *,
        check: Annotated[
            bool, typer.Option("--check", help="Make the requests, print what came of them, exit.")
        ] = False,
        port: Annotated[
            int, typer.Option(min=0, max=65_535, help="The gateway's port; 0 is a free one.")
        ] = 0,
    ) -> None:
        """Run a gateway over two upstreams, all of them here on loopback, until Ctrl-C."""
        _demo(check=check, port=port)

    @app.command()
    def routes(
        place: Annotated[
            str,
            typer.Argument(
                metavar="MODULE:ATTR", help="A Proxy, an app, or a function that makes one."
            ),
        ],
    ) -> None:
        """Print the compiled route table, in the order in which routes are matched."""
        _routes(place)

    return app


def _print_table(table: Table) -> None:
    """With lines and colour for a reader, plain for a file or a pipe."""
    if not sys.stdout.isatty():
        print(table.to_text())
        return
    import rich.console  # noqa: PLC0415 - an extra
    import rich.table  # noqa: PLC0415 - an extra
    import rich.text  # noqa: PLC0415 - an extra

    shown = rich.table.Table(header_style="bold")
    for name in table.header:
        shown.add_column(name, overflow="fold")
    for row in table.rows:
        # A cell is never markup: an IPv6 address has brackets of its own.
        shown.add_row(*(rich.text.Text(cell) for cell in row))
    rich.console.Console().print(shown)


# demo


def _demo(*, check: bool, port: int) -> None:
    try:
        if not check:
            asyncio.run(run_demo(Proxy(), port=port, say=_say))
            return
        observations = asyncio.run(check_demo(Proxy(), port=port))
    except KeyboardInterrupt:
        # Only where the event loop handles no signals, or during the check.
        raise SystemExit(130 if check else 0) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        _fail(f"cannot listen on port {port} of 127.0.0.1: {reason}", status=1)
    _print_table(report(observations))
    failed = sum(not one.passed for one in observations)
    if failed:
        _fail(f"{failed} of {len(observations)} are not as they should be", status=1)


def _say(text: str) -> None:
    # Flushed, because whoever reads a pipe waits for the addresses.
    print(text, flush=True)


# routes


class _PlaceError(Exception):
    """The place does not name what is meant; the text says what would."""


def _routes(place: str) -> None:
    try:
        found = _find_routes(place)
        table = route_table(found)
    except _PlaceError as error:
        _fail(str(error), status=2)
    except BuildError as error:
        _fail(str(error), status=1)
    else:
        if not table.rows:
            _fail(
                f"{place} has no gateway route: declare one, and include proxy.build_router() in the app",
                status=1,
            )
        _print_table(table)


def _find_routes(place: str) -> Sequence[BaseRoute]:
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute or module_name.endswith(".py"):
        raise _PlaceError(f"write MODULE:ATTR, such as {_likely_place(place)}, not {place!r}")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path has strings
    module = _run_user_code(lambda: _import(module_name))
    value = _find_attribute(module, attribute)
    if not isinstance(value, Proxy | Starlette | Router):
        value = _call_factory(value, place)
    if isinstance(value, Proxy):
        return value.build_router().routes
    return list(value.routes)


def _likely_place(place: str) -> str:
    module_name, _, attribute = place.partition(":")
    name = module_name.removesuffix(".py").strip("./").replace("/", ".")
    if not attribute and name == module_name:
        name, _, attribute = name.rpartition(".") if "." in name else (name, "", "")
    return f"{name or 'gateway'}:{attribute or 'app'}"


def _run_user_code(run: Callable[[], Any]) -> Any:
    """Run what is not ours; its failure is shown without our own lines."""
    try:
        return run()
    except (_PlaceError, BuildError):
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
        raise _PlaceError(f"no module {missing!r} in {where}{hint}") from error


def _find_attribute(module: ModuleType, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            raise _PlaceError(_say_what_is_there(module, path, name, value)) from error
    return value


def _say_what_is_there(module: ModuleType, path: str, name: str, owner: Any) -> str:
    names = [known for known in dir(owner) if not known.startswith("_")]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        right = ".".join(close[0] if part == name else part for part in path.split("."))
        return f"{module.__name__} has no {path!r}; did you mean {module.__name__}:{right}?"
    return f"{module.__name__} has no {path!r}{_list_served(vars(module).items())}"


def _list_served(values: Iterable[tuple[str, Any]]) -> str:
    served = [name for name, value in values if isinstance(value, Proxy | Starlette | Router)]
    return f"; it has {', '.join(served)}" if served else ""


def _call_factory(value: Any, place: str) -> Any:
    if not callable(value):
        raise _PlaceError(
            f"{place} is of type {type(value).__name__!r}: a Proxy, an app or a function that makes one is meant"
        )
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError) as error:
        raise _PlaceError(f"{place} cannot be called without arguments: {error}") from error
    made = _run_user_code(value)
    if isinstance(made, Proxy | Starlette | Router):
        return made
    if inspect.iscoroutine(made):
        made.close()
    raise _PlaceError(
        f"{place} returned {type(made).__name__!r}: a function that makes a Proxy or an app is meant"
    )


if __name__ == "__main__":
    main()
