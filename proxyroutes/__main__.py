"""The command line: ``proxyroutes``, and ``python -m proxyroutes``.

What only ``proxyroutes[standard]`` installs is imported when it is used, so that this module can say what is missing.
"""

import asyncio
import json
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Router

from proxyroutes import __version__
from proxyroutes._build.app import GatewayApp
from proxyroutes._operate.checks import (
    Finding,
    check_app,
    check_compiled,
    check_pools,
    find_unused_pools,
    to_findings,
)
from proxyroutes._operate.demo import check_demo, run_demo
from proxyroutes._operate.differences import compare, read_rows
from proxyroutes._operate.explain import make_scope
from proxyroutes._operate.inclusions import explain_app, find_gateways
from proxyroutes._operate.places import Place, PlaceError, load
from proxyroutes._operate.routes_table import Table, route_rows, route_table
from proxyroutes._operate.server import app_of, serve
from proxyroutes._operate.top import StatusError, fetch_snapshot, head_line, tables, watch
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.exceptions import BuildError, DeclarationError
from proxyroutes.proxy import Proxy

if TYPE_CHECKING:
    import typer

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

    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

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
            bool, typer.Option("--check", help="Go through it fast, a line for each step, exit.")
        ] = False,
        open_page: Annotated[
            bool, typer.Option("--open", help="Open the status page in a browser.")
        ] = False,
        port: Annotated[
            int, typer.Option(min=0, max=65_535, help="The gateway's port; 0 is a free one.")
        ] = 0,
    ) -> None:
        """Show a gateway over two upstreams, how one is lost and comes back; then serve until Ctrl-C."""
        _demo(check=check, port=port, open_page=open_page)

    _add_questions(app)
    _add_servers(app)
    return app


def _place() -> Any:
    import typer  # noqa: PLC0415 - an extra

    return typer.Argument(
        metavar="MODULE:ATTR", help="A Proxy, an app, or a function that makes one."
    )


def _headers() -> Any:
    import typer  # noqa: PLC0415 - an extra

    return typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A field; repeatable.")


def _add_questions(app: "typer.Typer") -> None:
    """The commands that look at declarations and send nothing."""
    import typer  # noqa: PLC0415 - an extra

    as_json: Any = typer.Option("--json", help="Print JSON.")

    @app.command()
    def routes(place: Annotated[str, _place()], *, json: Annotated[bool, as_json] = False) -> None:
        """Print the compiled route table, in the order in which routes are matched."""
        _routes(place, as_json=json)

    @app.command()
    def check(
        place: Annotated[str, _place()],
        *,
        strict: Annotated[
            bool, typer.Option("--strict", help="Warnings count as errors.")
        ] = False,
        contract: Annotated[
            bool,
            typer.Option(
                "--contract",
                help="Fetch the documents of merge_openapi, and find routes to what they do not have.",
            ),
        ] = False,
    ) -> None:
        """Look for what is wrong or doubtful in the route table; exit with 1 where there are errors."""
        _check(place, strict=strict, contract=contract)

    @app.command()
    def explain(
        place: Annotated[str, _place()],
        method: Annotated[str, typer.Argument(metavar="METHOD")],
        url: Annotated[
            str, typer.Argument(metavar="URL", help="A path with its query, or a whole URL.")
        ],
        *,
        header: Annotated[list[str] | None, _headers()] = None,
        json: Annotated[bool, as_json] = False,
    ) -> None:
        """Say what would be done with a request, and why; nothing is sent."""
        _explain(place, method, url, header or (), as_json=json)

    @app.command()
    def diff(
        old: Annotated[
            str,
            typer.Argument(
                metavar="OLD", help="MODULE:ATTR, or a .json file of 'proxyroutes routes --json'."
            ),
        ],
        new: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
    ) -> None:
        """Print what has changed from one route table to another; exit with 1 where something has."""
        _diff(old, new)


def _add_servers(app: "typer.Typer") -> None:
    """The commands that serve, or look at what serves."""
    import typer  # noqa: PLC0415 - an extra

    @app.command()
    def run(
        place: Annotated[str, _place()],
        *,
        host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
        port: Annotated[
            int, typer.Option(min=0, max=65_535, help="The TCP port; 0 is a free one.")
        ] = 8000,
        trusted: Annotated[
            str,
            typer.Option(
                metavar="ADDRESSES",
                help="Proxies in front whose X-Forwarded-* fields are believed, commas between.",
            ),
        ] = "",
        grace: Annotated[
            float, typer.Option(min=0.0, help="Seconds that running requests have at the end.")
        ] = 10.0,
    ) -> None:
        """Serve a gateway with uvicorn until Ctrl-C; a Proxy needs no app of its own."""
        _run(place, host=host, port=port, trusted=trusted, grace=grace)

    @app.command()
    def top(
        url: Annotated[
            str, typer.Argument(metavar="URL", help="What the status router is included under.")
        ],
        *,
        header: Annotated[list[str] | None, _headers()] = None,
        interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
        once: Annotated[bool, typer.Option("--once", help="Print one look and exit.")] = False,
    ) -> None:
        """Show the numbers of a running gateway's status page, live."""
        _top(url, header or (), interval=interval, once=once)


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


def _demo(*, check: bool, port: int, open_page: bool) -> None:
    browse = webbrowser.open if open_page else None
    try:
        if check:
            passed = asyncio.run(check_demo(Proxy(), port=port, say=_say))
        else:
            passed = asyncio.run(
                run_demo(Proxy(), port=port, say=_say, console=_console(), open_page=browse)
            )
    except KeyboardInterrupt:
        # Only where the event loop handles no signals, or during the check.
        raise SystemExit(130 if check else 0) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        _fail(f"cannot listen on port {port} of 127.0.0.1: {reason}", status=1)
    if not passed:
        _fail("a step was not as it should be", status=1)


def _console() -> Any:
    """The terminal, if there is one and what draws in it; else None, and plain lines do."""
    if not sys.stdout.isatty():
        return None
    try:
        import rich.console  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return rich.console.Console()


def _say(text: str) -> None:
    # Flushed, because whoever reads a pipe waits for the addresses.
    print(text, flush=True)


# What a place names


def _load(place: str, *more: type[Any]) -> Place:
    try:
        return load(place, (Proxy, Starlette, Router, *more))
    except PlaceError as error:
        _fail(str(error), status=2)


def _routes_of(value: Any) -> Sequence[BaseRoute]:
    return value.build_router().routes if isinstance(value, Proxy) else list(value.routes)


def _find_routes(place: str) -> Sequence[BaseRoute]:
    """The routes of what a place names.

    Raises:
        SystemExit: If there are none.
    """
    try:
        routes = _routes_of(_load(place).value)
    except BuildError as error:
        _fail(str(error), status=1)
    if not route_rows(routes):
        _fail(
            f"{place} has no gateway route: declare one, and include proxy.build_router() in the app",
            status=1,
        )
    return routes


# routes, diff


def _routes(place: str, *, as_json: bool) -> None:
    routes = _find_routes(place)
    if as_json:
        print(json.dumps(route_rows(routes), indent=2))
    else:
        _print_table(route_table(routes))


def _diff(old: str, new: str) -> None:
    differences = list(compare(_read_rows(old), _read_rows(new)))
    for one in differences:
        print(one.to_text())
    if differences:
        raise SystemExit(1)


def _read_rows(place: str) -> Sequence[Mapping[str, str]]:
    if not place.endswith(".json"):
        return route_rows(_find_routes(place))
    try:
        return read_rows(Path(place))
    except (OSError, ValueError) as error:
        _fail(f"cannot read {place}: {error}", status=2)


# explain


def _explain(place: str, method: str, url: str, headers: Sequence[str], *, as_json: bool) -> None:
    fields = _read_headers(headers)
    try:
        value = _load(place).value
        if isinstance(value, Proxy):
            explanation = value.explain(method, url, fields)
        else:
            explanation = explain_app(value.routes, make_scope(method, url, fields), url)
    except BuildError as error:
        _fail(str(error), status=1)
    print(json.dumps(explanation.to_dict(), indent=2) if as_json else explanation)


def _read_headers(headers: Sequence[str]) -> list[tuple[str, str]]:
    fields = []
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            _fail(f"write a header as 'Name: value', not {text!r}", status=2)
        fields.append((name.strip(), value.strip()))
    return fields


# check


def _check(place: str, *, strict: bool, contract: bool = False) -> None:
    try:
        found = _load(place)
        findings = sorted(_findings(found.value, found.module))
        if contract:
            findings += _contract_findings(found.value, found.module)
    except BuildError as error:
        findings = to_findings(
            [one for one in error.exceptions if isinstance(one, DeclarationError)]
        )
    for one in findings:
        print(one.to_text())
    errors = sum(one.level == "error" for one in findings)
    print(f"{place}: {_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}")
    if errors or (strict and findings):
        raise SystemExit(1)


def _contract_findings(value: Any, module: ModuleType) -> Iterator[Finding]:
    """Where routes lead that their upstreams do not have; of an app, by the proxies that stand beside it."""
    named = [one for one in vars(module).values() if isinstance(one, Proxy)]
    for proxy in [value] if isinstance(value, Proxy) else named:
        for breach in asyncio.run(proxy.check_contract()):
            location, _, text = breach.partition(": ")
            yield Finding("error", "contract", location, text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _findings(value: Any, module: ModuleType) -> Iterator[Finding]:
    routes = _routes_of(value)
    gateways = list(find_gateways(routes))
    known = {id(one.compiled): one.compiled for one in gateways}
    if not known:
        yield Finding("error", "no-gateway", module.__name__, "there is no gateway route here")
    used: list[UpstreamPool] = []
    for compiled in known.values():
        yield from check_compiled(compiled)
        used.extend(compiled.pools)
    yield from check_pools(dict.fromkeys(used))
    yield from find_unused_pools(module, used)
    yield from check_app(routes, gateways)


# run


def _run(place: str, *, host: str, port: int, trusted: str, grace: float) -> None:
    try:
        app = _app_of(_load(place, GatewayApp).value)
        trouble = serve(
            app,
            host=host,
            port=port,
            trusted=trusted,
            grace=grace,
            say=lambda text: _say(f"{place}: {text}"),
        )
    except BuildError as error:
        _fail(str(error), status=1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        _fail(f"cannot listen on port {port} of {host}: {reason}", status=1)
    except KeyboardInterrupt:
        # Before it served, or again while it stopped: that was no stop in good order.
        raise SystemExit(130) from None
    if trouble is not None:
        _fail(f"{place} {trouble}; what it logged says why", status=1)


def _app_of(value: Any) -> Any:
    """What is served: a proxy without FastAPI where none of its routes needs it."""
    if not isinstance(value, Proxy):
        return value
    try:
        return value.build_app()
    except BuildError:
        return app_of(value.build_router())


# top


def _top(url: str, headers: Sequence[str], *, interval: float, once: bool) -> None:
    with httpx.Client(headers=_read_headers(headers), trust_env=False) as client:

        def look() -> Mapping[str, Any]:
            return fetch_snapshot(client, url)

        try:
            if once or not sys.stdout.isatty():
                snapshot = look()
                print(head_line(snapshot))
                for title, table in tables(snapshot).items():
                    print(f"\n{title}\n{table.to_text()}")
            else:
                watch(look, interval)
        except StatusError as error:
            _fail(str(error), status=1)
        except KeyboardInterrupt:
            raise SystemExit(0) from None


if __name__ == "__main__":
    main()
