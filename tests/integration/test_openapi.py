"""The gateway's part of the application's OpenAPI document."""

from collections import Counter
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from starlette.testclient import TestClient

from proxyroutes import Proxy

UPSTREAM = "http://127.0.0.1:9"


class Item(BaseModel):
    """A thing."""

    name: str


def document_of(*proxies, **inclusion):
    """The document of an application; warnings are errors."""
    app = FastAPI()
    for proxy in proxies:
        app.include_router(proxy.build_router(), **inclusion)
    return app.openapi()


def operation_ids(document):
    """Every operation id."""
    return [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]


@pytest.fixture
def proxy():
    """A proxy without routes."""
    return Proxy()


def test_a_route_is_documented_by_its_stub(proxy):
    """Description from the docstring, summary and tags as declared, path as OpenAPI spells it."""

    @proxy.get("/users/<int:user>/<path>", upstream=UPSTREAM, tags=["users"], summary="Users")
    async def users_api() -> None:
        """Forward the users API.

        Everything of it.
        """

    operation = document_of(proxy)["paths"]["/users/{user}/{path}"]["get"]

    assert (
        "Forward the users API.\n\nEverything of it.",
        "Users",
        ["users"],
        "users_api_get",
    ) == (
        operation["description"],
        operation["summary"],
        operation["tags"],
        operation["operationId"],
    )


def test_a_summary_is_made_of_the_stubs_name(proxy):
    """As FastAPI makes it."""

    @proxy.get("/x", upstream=UPSTREAM)
    async def users_api() -> None: ...

    assert "Users Api" == document_of(proxy)["paths"]["/x"]["get"]["summary"]


def test_path_parameters_are_documented_with_their_types(proxy):
    """Those that the stub does not name too."""

    @proxy.get("/<a>/<int:b>/<float:c>/<uuid:d>/<path>", upstream=UPSTREAM)
    async def typed(a: str, q: Annotated[int, Query(ge=1)] = 1) -> None: ...

    (path,) = document_of(proxy)["paths"].values()
    parameters = {
        one["name"]: (
            one["in"],
            one["required"],
            one["schema"].get("type"),
            one["schema"].get("format"),
        )
        for one in path["get"]["parameters"]
    }

    assert {
        "a": ("path", True, "string", None),
        "b": ("path", True, "integer", None),
        "c": ("path", True, "number", None),
        "d": ("path", True, "string", "uuid"),
        "path": ("path", True, "string", None),
        "q": ("query", False, "integer", None),
    } == parameters


@pytest.mark.parametrize(
    ("methods", "documented"),
    [
        pytest.param(None, {"get", "post", "put", "patch", "delete"}, id="every-method"),
        pytest.param(["GET", "HEAD"], {"get", "head"}, id="named"),
        pytest.param(["OPTIONS", "PROPFIND", "QUERY"], {"options"}, id="what-openapi-knows"),
    ],
)
def test_methods_are_documented(proxy, methods, documented):
    """The named ones, or the five usual ones."""

    @proxy.route("/x", upstream=UPSTREAM, methods=methods)
    async def methodical() -> None: ...

    assert documented == set(document_of(proxy)["paths"]["/x"])


def test_failures_of_a_gateway_are_documented(proxy):
    """502, 503 and 504, as problem+json."""

    @proxy.get("/x", upstream=UPSTREAM)
    async def failing() -> None: ...

    responses = document_of(proxy)["paths"]["/x"]["get"]["responses"]

    assert ({"200", "502", "503", "504"}, [["application/problem+json"]] * 3) == (
        set(responses),
        [list(responses[status]["content"]) for status in ("502", "503", "504")],
    )


def test_a_gateways_response_is_not_null(proxy):
    """``-> None`` is not what a client gets."""

    @proxy.get("/x", upstream=UPSTREAM)
    async def silent() -> None: ...

    content = document_of(proxy)["paths"]["/x"]["get"]["responses"]["200"]["content"]

    assert {"application/json": {"schema": {}}} == content


def test_responses_may_be_described(proxy):
    """Declared ones are added, and replace ours."""

    @proxy.get(
        "/x",
        upstream=UPSTREAM,
        responses={
            200: {"model": Item},
            404: {"description": "Gone"},
            502: {"description": "Mine"},
        },
    )
    async def described() -> None: ...

    document = document_of(proxy)
    responses = document["paths"]["/x"]["get"]["responses"]

    assert ("#/components/schemas/Item", "Gone", "Mine", True) == (
        responses["200"]["content"]["application/json"]["schema"]["$ref"],
        responses["404"]["description"],
        responses["502"]["description"],
        "Item" in document["components"]["schemas"],
    )


def test_a_body_parameter_is_documented(proxy):
    """A stub's model is the request's body."""

    @proxy.post("/x", upstream=UPSTREAM, max_body_bytes=100)
    async def create(item: Item) -> None: ...

    body = document_of(proxy)["paths"]["/x"]["post"]["requestBody"]

    assert "#/components/schemas/Item" == body["content"]["application/json"]["schema"]["$ref"]


def test_security_is_documented(proxy):
    """A dependency of a route or its inclusion is a requirement of its operations."""

    @proxy.get("/x", upstream=UPSTREAM, dependencies=[Depends(APIKeyHeader(name="X-Key"))])
    async def guarded() -> None: ...

    document = document_of(
        proxy, dependencies=[Depends(APIKeyHeader(name="X-Other", scheme_name="Other"))]
    )

    assert {"APIKeyHeader", "Other"} == {
        name for one in document["paths"]["/x"]["get"]["security"] for name in one
    }


def test_a_route_may_be_left_out(proxy):
    """``include_in_schema=False``, for a route, a group or the inclusion."""

    @proxy.get("/x", upstream=UPSTREAM, include_in_schema=False)
    async def hidden() -> None: ...

    group = proxy.group("/g", include_in_schema=False)
    group.get("/y", upstream=UPSTREAM)(hidden)

    assert {} == document_of(proxy)["paths"]


def test_an_inclusion_may_be_left_out(proxy):
    """The inclusion's word holds."""

    @proxy.get("/x", upstream=UPSTREAM)
    async def hidden() -> None: ...

    assert {} == document_of(proxy, include_in_schema=False)["paths"]


def test_an_inclusions_tags_and_prefix_hold(proxy):
    """They are added to the declared ones."""

    @proxy.get("/x", upstream=UPSTREAM, tags=["own"])
    async def tagged() -> None: ...

    document = document_of(proxy, prefix="/api/{tenant}", tags=["included"])
    operation = document["paths"]["/api/{tenant}/x"]["get"]

    assert ["included", "own"] == operation["tags"]


def test_operation_ids_are_unique_within_a_proxy(proxy):
    """Stubs of one name are numbered, whatever the others are called."""
    for path, name in (("/a", "users"), ("/b", "users"), ("/c", "users_2"), ("/d", "users_2")):

        async def stub() -> None: ...

        stub.__name__ = name
        proxy.route(path, upstream=UPSTREAM)(stub)

    ids = operation_ids(document_of(proxy))

    assert (20, 1) == (len(ids), max(Counter(ids).values()))


def test_operation_ids_are_unique_over_inclusions(proxy):
    """One inclusion has the plain ids, every further one has its path in them."""

    @proxy.route("/x/<name>", upstream=UPSTREAM, methods=["GET", "PUT"])
    async def users() -> None: ...

    router, app, outer = proxy.build_router(), FastAPI(), APIRouter()
    for prefix in ("/a", "/b"):
        app.include_router(router, prefix=prefix)
    outer.include_router(router, prefix="/c")
    app.include_router(outer)
    ids = set(operation_ids(app.openapi()))
    suffixed = {one for one in ids if one.endswith("_x_name")}

    assert ({"users_get", "users_put"}, 4) == (ids - suffixed, len(suffixed))


def test_operation_ids_are_stable(proxy):
    """The same document twice, and for a second application."""

    @proxy.route("/x", upstream=UPSTREAM)
    async def users() -> None: ...

    first, second = FastAPI(), FastAPI()
    for app in (first, second):
        app.include_router(proxy.build_router())

    assert operation_ids(first.openapi()) == operation_ids(second.openapi())


def test_documents_do_not_take_part_in_matching(proxy):
    """A document-only route serves nothing, and the document itself is served."""
    inner = FastAPI()
    inner.get("/x")(lambda: "upstream")

    @proxy.get("/x", upstream=inner)
    async def served() -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    with TestClient(app) as client:
        answered = (client.get("/x").json(), list(client.get("/openapi.json").json()["paths"]))

    assert ("upstream", ["/x"]) == answered


def test_a_websocket_is_not_documented(proxy):
    """OpenAPI has no place for it."""

    @proxy.websocket("/live", upstream=UPSTREAM)
    async def live() -> None: ...

    assert {} == document_of(proxy)["paths"]


def test_a_literal_with_escapes_is_documented(proxy):
    """The path is there, in whatever spelling FastAPI has for it."""

    @proxy.get("/a%20b/<name>", upstream=UPSTREAM)
    async def spaced() -> None: ...

    assert ["/a b/{name}"] == list(document_of(proxy)["paths"])
