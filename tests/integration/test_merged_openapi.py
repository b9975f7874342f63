"""Upstreams' OpenAPI documents as part of the gateway's own."""

import asyncio
import json
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer
from openapi_spec_validator import validate
from pydantic import BaseModel, create_model

from proxyroutes import HealthMonitor, Proxy, UpstreamPool
from proxyroutes.testing import ManualClock, RecordingUpstream, open_client
from proxyroutes.transports import ASGITransport


class Maker(BaseModel):
    """Who has made something."""

    name: str


class Item(BaseModel):
    """What the shop sells."""

    name: str
    maker: Maker


def make_shop():
    """An upstream with parameters, components, tags and security."""
    shop = FastAPI(openapi_tags=[{"name": "admin", "description": "For those who sell."}])
    login = OAuth2PasswordBearer(tokenUrl="v2/token")

    @shop.get("/v2/items/{item_id}", tags=["admin"])
    def show(item_id: int, verbose: bool = False) -> Item: ...

    @shop.put("/v2/items/{item_id}")
    def change(item_id: int, item: Item, token: Annotated[str, Depends(login)]) -> Item: ...

    @shop.post("/v2/token")
    def log_in() -> None: ...

    @shop.get("/internal/stock")
    def stock() -> None: ...

    return shop


def make_pool(app, name="shop", **options):
    """A pool that asks an application in this process."""
    return UpstreamPool(
        name, [options.pop("url", "http://shop:1")], transport=ASGITransport(app), **options
    )


def make_app(proxy, **inclusion):
    """The proxy's routes in an application."""
    app = FastAPI(title="gateway")

    @app.get("/own")
    def own() -> None: ...

    app.include_router(proxy.build_router(), **inclusion)
    return app


async def document_of(app):
    """The document as a client gets it, and that it is a valid one."""
    async with open_client(app) as client:
        document = (await client.get("/openapi.json")).json()
    validate(document)
    return document


def operations(document):
    """Method and path of each operation."""
    return sorted(
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    )


@pytest.fixture
def shop():
    """A pool with the shop behind it."""
    return make_pool(make_shop())


@pytest.fixture
def proxy(shop):
    """A gateway that leads to a part of the shop."""
    proxy = Proxy()

    @proxy.route("/api/<path>", upstream=shop, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(shop)
    return proxy


async def test_only_what_is_routed_is_documented(proxy):
    """Under the public paths, beside the gateway's own."""
    document = await document_of(make_app(proxy))
    actual = [one for one in operations(document) if "{path}" not in one]

    assert [
        "GET /api/items/{item_id}",
        "GET /own",
        "POST /api/token",
        "PUT /api/items/{item_id}",
    ] == actual


async def test_a_stubs_own_entry_gives_way(proxy):
    """Methods that the upstream has are shown as the upstream describes them, and no longer as any path."""
    document = await document_of(make_app(proxy))

    assert {"patch", "delete"} == set(document["paths"]["/api/{path}"])


async def test_inclusions_prefix_paths(shop):
    """With what the inclusion asks for: a parameter of its prefix, a dependency of its own."""
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=shop, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(shop)
    key = APIKeyHeader(name="x-key")
    app = make_app(proxy, prefix="/{tenant}", dependencies=[Depends(key)])
    document = await document_of(app)
    operation = document["paths"]["/{tenant}/api/items/{item_id}"]["get"]
    names = [(one["name"], one["in"]) for one in operation["parameters"]]

    assert {("item_id", "path"), ("verbose", "query"), ("tenant", "path")} == set(names)
    assert [{"APIKeyHeader": []}] == operation["security"]


async def test_security_of_both_sides_is_asked_for(proxy):
    """Who changes an item needs the gateway's key and the shop's token."""
    app = make_app(proxy, dependencies=[Depends(APIKeyHeader(name="x-key"))])
    document = await document_of(app)
    security = document["paths"]["/api/items/{item_id}"]["put"]["security"]
    scheme = document["components"]["securitySchemes"]["shop_OAuth2PasswordBearer"]

    assert [{"APIKeyHeader": [], "shop_OAuth2PasswordBearer": []}] == security
    # There it is relative to a document that stands elsewhere.
    assert "/api/token" == scheme["flows"]["password"]["tokenUrl"]


async def test_components_tags_and_ids_have_names_of_their_own(proxy):
    """Those that are needed, those that they need too, and no others."""
    document = await document_of(make_app(proxy))
    schemas = document["components"]["schemas"]
    operation = document["paths"]["/api/items/{item_id}"]["get"]

    assert "#/components/schemas/shop_Item" in json.dumps(operation)
    assert "#/components/schemas/shop_Maker" in json.dumps(schemas["shop_Item"])
    assert "Item" not in schemas
    assert "shop_show_v2_items__item_id__get" == operation["operationId"]
    assert ["shop: admin"] == operation["tags"]
    assert {"name": "shop: admin", "description": "For those who sell."} in document["tags"]
    assert ["shop"] == document["paths"]["/api/token"]["post"]["tags"]


async def test_two_upstreams_do_not_meet():
    """Both have an Item, and each operation its own."""
    other = create_model("Item", size=(int, ...))
    warehouse = FastAPI()

    @warehouse.get("/items", response_model=list[other])
    def sizes(): ...

    shop, store = make_pool(make_shop()), make_pool(warehouse, "ware house")
    proxy = Proxy()

    @proxy.get("/shop/<path>", upstream=shop, rewrite="/v2/<path>")
    async def shop_api() -> None: ...

    @proxy.get("/store/<path>", upstream=store, rewrite="/<path>")
    async def store_api() -> None: ...

    proxy.merge_openapi(shop, prefix="s")
    proxy.merge_openapi(store)
    document = await document_of(make_app(proxy))

    assert ["GET /own", "GET /shop/items/{item_id}", "GET /store/items"] == operations(document)
    assert {"s_Item", "ware_house_Item"} <= set(document["components"]["schemas"])


async def test_without_a_rewrite_paths_are_the_upstreams(shop):
    """Captures of the route stand for parameters of the document, whatever they are called."""
    proxy = Proxy()

    @proxy.get("/v2/items/<int:number>", upstream=shop)
    async def item(x_token: Annotated[str, Header()]) -> None: ...

    proxy.merge_openapi(shop)
    document = await document_of(make_app(proxy))
    operation = document["paths"]["/v2/items/{item_id}"]["get"]
    names = {(one["name"], one["in"]) for one in operation["parameters"]}

    assert ["GET /own", "GET /v2/items/{item_id}"] == operations(document)
    assert {("item_id", "path"), ("verbose", "query"), ("x-token", "header")} == names
    assert {"502", "503", "504", "200", "422"} == set(operation["responses"])


async def test_what_an_earlier_route_takes_is_not_documented(shop):
    """It is not served from there."""
    proxy = Proxy()

    @proxy.get("/api/items/<int:id>", upstream="http://elsewhere:1")
    async def elsewhere() -> None: ...

    @proxy.route("/api/<path>", upstream=shop, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(shop)
    document = await document_of(make_app(proxy))

    assert ["get"] == list(document["paths"]["/api/items/{id}"])[:1]
    assert "elsewhere_get" == document["paths"]["/api/items/{id}"]["get"]["operationId"]
    assert (
        "shop_change_v2_items__item_id__put"
        == document["paths"]["/api/items/{id}"]["put"]["operationId"]
    )


async def test_a_route_outside_of_the_document_stays_there(shop):
    """What its author has hidden is not shown by its upstream."""
    proxy = Proxy()

    @proxy.route("/api/<path>", upstream=shop, rewrite="/v2/<path>", include_in_schema=False)
    async def api() -> None: ...

    proxy.merge_openapi(shop)

    assert ["GET /own"] == operations(await document_of(make_app(proxy)))


async def test_base_paths_and_servers_are_not_part_of_what_is_forwarded():
    """A document may name them in its servers, in its paths, or not at all."""
    document = {
        "openapi": "3.1.0",
        "info": {"title": "a", "version": "1"},
        "servers": [{"url": "https://a.test/base"}],
        "paths": {"/items": {"get": {"responses": {"200": {"description": "ok"}}}}},
    }
    upstream = RecordingUpstream()
    upstream.answer(json=document)
    pool = make_pool(upstream, url="http://a:1/base")
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=pool, rewrite="/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(pool)
    merged = await document_of(make_app(proxy))

    assert ["GET /api/items", "GET /own"] == operations(merged)
    upstream.assert_forwarded("GET", "/base/openapi.json", headers={"accept": "application/json"})


async def test_a_document_of_the_older_kind_is_said_in_new_words():
    """OpenAPI 3.0 has words that 3.1 has no longer."""
    older = {
        "openapi": "3.0.3",
        "info": {"title": "a", "version": "1"},
        "paths": {
            "/a/{id}": {
                "parameters": [{"$ref": "#/components/parameters/Id"}],
                "get": {
                    "responses": {
                        "200": {
                            "description": "ok",
                            "content": {
                                "application/json": {"schema": {"$ref": "#/components/schemas/A"}}
                            },
                        }
                    }
                },
            }
        },
        "components": {
            "parameters": {
                "Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
            },
            "schemas": {
                "A": {
                    "type": "object",
                    "nullable": True,
                    "properties": {
                        "n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                        "m": {"type": "integer", "maximum": 9, "exclusiveMaximum": False},
                        "b": {"$ref": "#/components/schemas/B"},
                    },
                    "example": {"$ref": "no reference"},
                },
                "B": {
                    "oneOf": [{"$ref": "#/components/schemas/A"}],
                    "discriminator": {"propertyName": "k", "mapping": {"a": "A"}},
                },
                "C": {"type": "string"},
            },
        },
    }
    upstream = RecordingUpstream()
    upstream.answer(json=older)
    pool = make_pool(upstream)
    proxy = Proxy()

    @proxy.get("/x/<name>", upstream=pool, rewrite="/a/<name>")
    async def one() -> None: ...

    proxy.merge_openapi(pool)
    merged = await document_of(make_app(proxy))
    schemas = merged["components"]["schemas"]
    properties = schemas["shop_A"]["properties"]

    assert ["object", "null"] == schemas["shop_A"]["type"]
    assert {"type": "integer", "exclusiveMinimum": 0} == properties["n"]
    assert {"type": "integer", "maximum": 9} == properties["m"]
    assert {"$ref": "no reference"} == schemas["shop_A"]["example"]
    assert {"a": "#/components/schemas/shop_A"} == schemas["shop_B"]["discriminator"]["mapping"]
    assert "shop_C" not in schemas
    assert "GET /x/{id}" in operations(merged)


BROKEN = {
    "no-document": (404, b""),
    "no-json": (200, b"<html>"),
    "deep": (200, b"[" * 100_000),
    "a-list": (200, b"[]"),
    "swagger": (200, b'{"swagger": "2.0"}'),
    "odd-paths": (200, b'{"openapi": "3.1.0", "paths": []}'),
    "lost-reference": (
        200,
        b'{"openapi": "3.1.0", "paths": {"/v2/a": {"get": {"responses": {"200": {"$ref": "#/components/responses/X"}}}}}}',
    ),
    "foreign-reference": (
        200,
        b'{"openapi": "3.1.0", "paths": {"/v2/a": {"get": {"responses": {"200": {"$ref": "http://x/y"}}}}}}',
    ),
    "odd-parameters": (
        200,
        b'{"openapi": "3.1.0", "paths": {"/v2/a": {"get": {"parameters": [1]}}}}',
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_document_that_is_none_changes_nothing(name, caplog):
    """The application starts, documents its own routes, and says what was wrong."""
    status, content = BROKEN[name]
    upstream = RecordingUpstream()
    upstream.answer(status, body=content)
    pool = make_pool(upstream)
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=pool, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(pool)
    document = await document_of(make_app(proxy))

    assert ["GET /api/{path}", "GET /own"] == operations(document)
    assert "pool=shop path=/openapi.json" in caplog.text


async def test_a_document_without_an_end_is_given_up():
    """It is read up to a limit."""

    async def endless():
        while True:
            yield b" " * 1_000_000

    upstream = RecordingUpstream()
    upstream.answer(body=endless())
    pool = make_pool(upstream)
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=pool, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(pool)

    assert ["GET /api/{path}", "GET /own"] == operations(await document_of(make_app(proxy)))


async def test_a_document_that_comes_later_is_merged_then():
    """It is asked for again after a while, and so is one that has come."""
    clock = ManualClock()
    upstream = RecordingUpstream()
    upstream.answer(503)
    monitor = HealthMonitor(clock=clock)
    pool = make_pool(upstream, monitor=monitor)
    proxy = Proxy(monitor=monitor)

    @proxy.get("/api/<path>", upstream=pool, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(pool)
    seen = []
    async with open_client(make_app(proxy)) as client:

        async def look():
            seen.append(operations((await client.get("/openapi.json")).json())[0])

        await look()
        document = make_shop().openapi()
        upstream.answer(json=document)
        await clock.advance(10.0)
        await look()
        del document["paths"]["/v2/items/{item_id}"]
        upstream.answer(json=document)
        await clock.advance(300.0)
        await look()

    assert ["GET /api/{path}", "GET /api/items/{item_id}", "GET /api/{path}"] == seen
    assert 1 == len(asyncio.all_tasks())


async def test_the_next_destination_is_asked():
    """One that has no document is no reason to have none."""

    async def half(scope, receive, send):
        upstream = RecordingUpstream()
        if dict(scope["headers"])[b"host"] == b"a:1":
            upstream.answer(500)
        else:
            upstream.answer(json=make_shop().openapi())
        await upstream(scope, receive, send)

    pool = UpstreamPool("shop", ["http://a:1", "http://b:1"], transport=ASGITransport(half))
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=pool, rewrite="/v2/<path>")
    async def api() -> None: ...

    proxy.merge_openapi(pool)

    assert "GET /api/items/{item_id}" in operations(await document_of(make_app(proxy)))


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
async def test_each_inclusion_is_documented(proxy, times):
    """Under its own prefix, with ids of their own."""
    router = proxy.build_router()
    app = FastAPI()
    for number in range(times):
        app.include_router(router, prefix=f"/{number}")
    document = await document_of(app)
    items = [path for path in document["paths"] if path.endswith("/items/{item_id}")]

    assert [f"/{number}/api/items/{{item_id}}" for number in range(times)] == items


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "openapi.json"}, "begins with a slash"),
        ({"prefix": "a b"}, "letters, digits"),
        ({"prefix": ""}, "letters, digits"),
        ({"prefix": "shop"}, "the same prefix"),
    ],
    ids=["path", "space", "empty", "taken"],
)
def test_what_cannot_be_merged_is_said_at_once(proxy, options, message):
    """Where it is written."""
    with pytest.raises(ValueError, match=message):
        proxy.merge_openapi(make_pool(make_shop(), "other"), **options)


# The contract.


async def test_a_route_that_leads_nowhere_breaks_the_contract(shop):
    """With its place; those that lead somewhere do not."""
    proxy = Proxy()

    @proxy.get("/a/<int:id>", upstream=shop, rewrite="/v2/items/<id>")
    async def right() -> None: ...

    @proxy.get("/b", upstream=shop, rewrite="/v2/items/7")
    async def literal() -> None: ...

    @proxy.route("/c/<path>", upstream=shop, rewrite="/v2/<path>")
    async def below() -> None: ...

    @proxy.route("/d", upstream=shop, rewrite="/v2/gone", methods=["GET"])
    async def gone() -> None: ...

    @proxy.route("/e/<id>", upstream=shop, rewrite="/v2/items/<id>", methods=["DELETE", "HEAD"])
    async def wrong_method() -> None: ...

    proxy.merge_openapi(shop)
    breaches = await proxy.check_contract()

    assert 2 == len(breaches)
    assert "route 'gone' of pool 'shop' leads to /v2/gone" in breaches[0]
    assert "leads to DELETE /v2/items/<id>, and the upstream has only GET, PUT" in breaches[1]
    assert all("test_merged_openapi.py:" in breach for breach in breaches)


async def test_a_document_that_does_not_come_breaks_the_contract():
    """Nothing was compared."""
    upstream = RecordingUpstream()
    upstream.answer(404)
    pool = make_pool(upstream)
    proxy = Proxy()

    @proxy.get("/a", upstream=pool)
    async def one() -> None: ...

    proxy.merge_openapi(pool, "/docs.json")

    assert ("pool 'shop': no document at /docs.json: status 404",) == await proxy.check_contract()
