"""``proxyroutes._operate.routes_table``."""

from typing import Annotated
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter, Depends, FastAPI

from proxyroutes import Destination, ForwardedRequest, Proxy, Timeouts, UpstreamPool
from proxyroutes._operate.routes_table import Table, route_table

URL = "http://127.0.0.1:9001"


async def login() -> str:
    """A dependency that is a function."""
    return "ann"


class Admin:
    async def __call__(self) -> None:
        """A dependency that is an object."""


def cells(routes, column):
    """One column of the table of these routes."""
    table = route_table(routes)
    position = table.header.index(column)
    return [row[position] for row in table.rows]


def declare(path="/api/<path>", **options):
    """A proxy with one route."""
    proxy = Proxy()

    @proxy.route(path, **{"upstream": URL, **options})
    async def api() -> None: ...

    return proxy


def table_of(path="/api/<path>", **options):
    """The table of one route, its columns by name."""
    table = route_table(declare(path, **options).build_router().routes)
    return dict(zip(table.header, table.rows[0], strict=True))


def test_routes_stand_in_declared_order():
    """The first row is the first that is asked."""
    proxy = Proxy()

    @proxy.get("/users/me", upstream=URL)
    async def me() -> None: ...

    @proxy.get("/users/<name>", upstream=URL)
    async def user() -> None: ...

    @proxy.route("/<path>", upstream=URL)
    async def rest() -> None: ...

    actual = cells(proxy.build_router().routes, "stub")

    assert ["me", "user", "rest"] == actual


def test_a_plain_route_has_the_plain_columns():
    """Columns in which no route has anything to say are left out."""
    actual = table_of()

    assert {
        "methods": "any",
        "path": "/api/<path>",
        "stub": "api",
        "upstream": "127.0.0.1:9001",
        "destinations": URL,
    } == actual


@pytest.mark.parametrize(
    ("options", "column", "expected"),
    [
        ({"methods": ["POST", "GET"]}, "methods", "GET,POST"),
        ({"name": "users"}, "stub", "users"),
        ({"path": "/<int:id>/<name>"}, "path", "/<int:id>/<name>"),
        ({"path": "/{id:int}"}, "path", "/{id:int}"),
        ({"path": "/v1/<path>", "rewrite": "/v2/<path>"}, "rewrite", "/v2/<path>"),
        ({"path": "/<a>/<b>", "rewrite": "/<b>/of/<a>"}, "rewrite", "/<b>/of/<a>"),
        ({"timeouts": Timeouts(idle=None, total=30)}, "timeouts", "idle=none total=30s"),
        ({"timeouts": Timeouts(connect=0.5)}, "timeouts", "connect=0.5s"),
        ({"dependencies": [Depends(login)]}, "dependencies", "login"),
        ({"dependencies": [Depends(Admin()), Depends(login)]}, "dependencies", "Admin, login"),
        ({"upstream": lambda request: UpstreamPool("a", [URL])}, "destinations", ""),
        (
            {"upstream": lambda request: UpstreamPool("a", [URL])},
            "upstream",
            "(chosen for each request)",
        ),
        ({"upstream": FastAPI()}, "destinations", "(in process)"),
        ({"upstream": [URL, "http://[::1]/b"]}, "destinations", f"{URL}, http://[::1]/b"),
        (
            {"upstream": UpstreamPool("users", [Destination(URL, weight=3)])},
            "destinations",
            f"{URL} (weight 3)",
        ),
        ({"upstream": UpstreamPool("users", [URL])}, "upstream", "users"),
        (
            {"upstream": UpstreamPool("users", [URL], timeouts=Timeouts(total=9))},
            "timeouts",
            "total=9s",
        ),
    ],
)
def test_a_cell_says_what_was_declared(options, column, expected):
    """Each setting is told as it comes out."""
    actual = table_of(**options)[column]

    assert expected == actual


def test_a_routes_own_timeouts_come_before_the_pools():
    """What is shown is what counts."""
    pool = UpstreamPool("users", [URL], timeouts=Timeouts(total=9))
    actual = table_of(upstream=pool, timeouts=Timeouts(total=5))["timeouts"]

    assert "total=5s" == actual


def test_a_parameter_that_decides_is_a_dependency():
    """A stub's own ``Depends()`` is shown; what proxyroutes gives it is not."""
    proxy = Proxy()

    @proxy.get("/me", upstream=URL)
    async def me(request: ForwardedRequest, user: Annotated[str, Depends(login)]) -> None: ...

    actual = cells(proxy.build_router().routes, "dependencies")

    assert ["login"] == actual


def test_an_inclusion_adds_its_prefix_and_dependencies():
    """Two inclusions of one router are two rows, each with what holds for it."""
    router = declare().build_router()
    app = FastAPI()
    app.include_router(router)
    app.include_router(router, prefix="/{tenant}/v1", dependencies=[Depends(login)])
    actual = (cells(app.routes, "path"), cells(app.routes, "dependencies"))

    assert (["/api/<path>", "/<tenant>/v1/api/<path>"], ["", "login"]) == actual


def test_a_dependency_is_named_once():
    """Required by inclusion and route it is still one."""
    app = FastAPI()
    router = declare(dependencies=[Depends(login)]).build_router()
    app.include_router(router, dependencies=[Depends(login)])
    actual = cells(app.routes, "dependencies")

    assert ["login"] == actual


def test_nested_routers_and_mounted_apps_are_looked_into():
    """Wherever a route is served from, its row has the whole path; a router's own prefix is not put before a mount."""
    outer = APIRouter(prefix="/outer")
    outer.include_router(declare("/one").build_router(prefix="/inner"))
    mounted = FastAPI()
    mounted.include_router(declare("/two").build_router())
    outer.mount("/mounted", mounted)
    app = FastAPI()
    app.include_router(outer, prefix="/v1")
    app.mount("/mounted", mounted)
    actual = cells(app.routes, "path")

    assert ["/v1/outer/inner/one", "/v1/mounted/two", "/mounted/two"] == actual


def test_routes_of_others_are_left_out():
    """The app's own endpoints and the document's routes have no row."""
    app = FastAPI()

    @app.get("/own")
    def own() -> None: ...

    @app.websocket("/own")
    async def own_socket() -> None: ...

    actual = route_table(app.routes).rows

    assert () == actual


def test_a_websocket_route_is_shown_for_what_it_is():
    """With its pool, as any other route."""
    proxy = Proxy()

    @proxy.websocket("/live/<int:room>/<path>", upstream=URL)
    async def live() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router(), prefix="/p")
    actual = [row[:4] for row in route_table(app.routes).rows]

    assert [("WS", "/p/live/<int:room>/<path>", "live", urlsplit(URL).netloc)] == actual


def test_text_is_aligned_and_has_every_column():
    """What is empty is a dash, and no line ends in white space."""
    table = Table(("name", "value"), (("a", ""), ("longer", "1")))

    assert "name    value\na       -\nlonger  1" == table.to_text()
