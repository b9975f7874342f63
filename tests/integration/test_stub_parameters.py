"""Every kind of parameter that FastAPI knows, on a stub: solved before anything is sent, documented, forwarded unchanged."""

import json
from datetime import datetime
from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

import pytest
from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
)
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer, SecurityScopes
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from proxyroutes import ForwardedRequest, Proxy
from tests.integration.support import eventually, make_request, refusing_destination

BOUNDARY = "Content-Type: multipart/form-data; boundary=b"
URLENCODED = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
FORM = (
    '--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nmine\r\n'
    '--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    "Content-Type: text/plain\r\n\r\nthe content\r\n--b--\r\n"
)


@pytest.fixture
def proxy():
    """A proxy without routes."""
    return Proxy(via="gw")


@pytest.fixture
def include(serving, proxy):
    """Serve what was declared."""

    async def start(**options):
        app = FastAPI()
        app.include_router(proxy.build_router())
        return await serving(app, **options)

    return start


class Color(Enum):
    """One of two."""

    RED = "red"
    BLUE = "blue"


class Page(BaseModel):
    """A model of query parameters."""

    model_config = {"extra": "forbid"}
    limit: int = 10
    sort: Literal["up", "down"] = "up"


class Trace(BaseModel):
    """A model of header fields."""

    x_trace: str
    x_tag: list[str] = []


class Item(BaseModel):
    """A body."""

    name: str
    at: datetime | None = None


async def test_every_place_of_a_request(include, proxy, echo):
    """Path, query, header and cookie: converted, repeated, aliased, from models, with defaults."""
    got = {}

    @proxy.get("/x/<name>/<uuid:key>/<color>", upstream=echo.url)
    async def takes(
        name: Annotated[str, Path(max_length=3)],
        key: UUID,
        color: Color,
        page: Annotated[Page, Query()],
        trace: Annotated[Trace, Header()],
        session: Annotated[str | None, Cookie(alias="sid")] = None,
    ) -> None:
        got.update(locals())

    key = "6f2b3b3e-55a8-4b36-a3d6-5b3f5b8f5b3f"
    served = await include()
    seen = await served.see(
        f"/x/abc/{key}/red?limit=3&sort=down",
        "X-Trace: t",
        "X-Tag: a",
        "X-Tag: b",
        "Cookie: sid=s",
    )
    refused = [
        await served.status(f"/x/{path}/{key}/{color}?{query}", *lines)
        for path, color, query, lines in (
            ("abcd", "red", "limit=3", ("X-Trace: t",)),
            ("abc", "green", "limit=3", ("X-Trace: t",)),
            ("abc", "red", "limit=x", ("X-Trace: t",)),
            ("abc", "red", "other=1", ("X-Trace: t",)),
            ("abc", "red", "limit=3", ()),
        )
    ]

    assert (
        "abc",
        UUID(key),
        Color.RED,
        Page(limit=3, sort="down"),
        Trace(x_trace="t", x_tag=["a", "b"]),
        "s",
    ) == tuple(got[name] for name in ("name", "key", "color", "page", "trace", "session"))
    assert (f"/x/abc/{key}/red?limit=3&sort=down", ["a", "b"], [422] * 5, 1) == (
        seen.target,
        seen.all("x-tag"),
        refused,
        len(echo.requests),
    )


async def test_what_fastapi_gives_itself(include, proxy, echo):
    """Request, connection, response, background tasks and security scopes."""
    got = {}
    oauth = OAuth2PasswordBearer("token", scopes={"read": "read"})

    def user(scopes: SecurityScopes, token: Annotated[str, Depends(oauth)]) -> str:
        if token != "good":
            raise HTTPException(401)
        return f"{token} {scopes.scope_str}"

    @proxy.get("/x", upstream=echo.url)
    async def takes(
        request: Request,
        connection: HTTPConnection,
        response: Response,
        tasks: BackgroundTasks,
        who: Annotated[str, Security(user, scopes=["read"])],
        key: Annotated[str, Security(APIKeyHeader(name="X-Key"))],
    ) -> None:
        got.update(method=request.method, path=connection.url.path, who=who, key=key)
        response.headers["X-Added"] = "yes"
        tasks.add_task(got.update, ran=True)

    served = await include()
    refused = [
        await served.status("/x", "X-Key: k"),
        await served.status("/x", "X-Key: k", "Authorization: Bearer bad"),
        await served.status("/x", "Authorization: Bearer good"),
    ]
    before = echo.connections
    seen = await served.see("/x", "X-Key: k", "Authorization: Bearer good")
    await eventually(lambda: "ran" in got)

    assert ([401, 401, 401], 0, b"yes") == (refused, before, seen.reply.get("x-added"))
    assert {"method": "GET", "path": "/x", "who": "good read", "key": "k", "ran": True} == got


async def test_a_default_that_is_a_dependency(include, proxy, echo):
    """The older spelling, positional defaults, and a class as a dependency."""
    got = []

    class Common:
        def __init__(self, q: str = "none") -> None:
            self.q = q

    @proxy.get("/x", upstream=echo.url)
    def takes(
        common: Common = Depends(),  # noqa: B008 - the older spelling is what is tested.
        limit: int = Query(5),
        x: str = Header("n"),
    ) -> None:
        got.append((common.q, limit, x))

    served = await include()
    await served.see("/x?q=a&limit=6", "X: y")
    await served.see("/x")

    assert [("a", 6, "y"), ("none", 5, "n")] == got


@pytest.mark.parametrize(
    ("line", "body", "expected"),
    [
        (JSON, '{"item": {"name":  "n"}, "count": 2}', ("n", 2)),
        (JSON, '{"item": {"name": "n", "at": "2026-01-02T03:04:05Z"}, "count": 3}', ("n", 3)),
    ],
    ids=["spaces", "nested"],
)
async def test_several_body_parameters(include, proxy, echo, line, body, expected):
    """Each from its key; the bytes are those that were received."""
    got = []

    @proxy.put("/x", upstream=echo.url, max_body_bytes=200)
    async def takes(item: Item, count: Annotated[int, Body(gt=1)]) -> None:
        got.append((item.name, count))

    seen = await (await include()).see("/x", line, method="PUT", body=body)

    assert ([expected], body, str(len(body))) == (got, seen.body, seen.get("content-length"))


async def test_a_form_is_read_and_forwarded(include, proxy, echo):
    """URL-encoded; what is not valid is refused in the usual shape."""
    got = []

    @proxy.post("/x", upstream=echo.url, max_body_bytes=100)
    async def takes(name: Annotated[str, Form()], age: Annotated[int, Form(ge=18)]) -> None:
        got.append((name, age))

    served = await include()
    seen = await served.see("/x", URLENCODED, method="POST", body="age=20&name=%C3%BC+x&other=1")
    refused = await served.ask("/x", URLENCODED, method="POST", body="age=7&name=n")

    assert ([("ü x", 20)], "age=20&name=%C3%BC+x&other=1") == (got, seen.body)
    assert (422, ["body", "age"], 1) == (
        refused.status,
        json.loads(refused.body)["detail"][0]["loc"],
        echo.connections,
    )


@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "upload"])
async def test_a_file_is_read_and_forwarded(include, proxy, echo, as_bytes):
    """Every byte of the multipart body is forwarded as it came, boundary and all."""
    got = []
    if as_bytes:

        @proxy.post("/x", upstream=echo.url, max_body_bytes=1000)
        async def takes(title: Annotated[str, Form()], file: Annotated[bytes, File()]) -> None:
            got.append((title, file))

    else:

        @proxy.post("/x", upstream=echo.url, max_body_bytes=1000)
        async def uploads(title: Annotated[str, Form()], file: UploadFile) -> None:
            got.append((title, await file.read()))

    seen = await (await include()).see("/x", BOUNDARY, method="POST", body=FORM)

    assert ([("mine", b"the content")], FORM, BOUNDARY.partition(": ")[2]) == (
        got,
        seen.body,
        seen.get("content-type"),
    )


@pytest.mark.parametrize("line", ["Content-Length: 101", "Transfer-Encoding: chunked"])
async def test_a_form_over_the_limit_is_413(include, proxy, echo, line):
    """Before the stub is called."""

    @proxy.post("/x", upstream=echo.url, max_body_bytes=100)
    async def takes(name: Annotated[str, Form()]) -> None: ...

    content = "name=" + "x" * 96
    body = content if "Length" in line else f"65\r\n{content}\r\n0\r\n\r\n"
    client = await (await include()).connect()
    reply = await client.ask(
        make_request("/x", URLENCODED, line, method="POST", body=body), "POST"
    )

    assert (413, 0) == (reply.status, echo.connections)


async def test_a_body_that_was_read_goes_to_the_next_destination(include, proxy, echo):
    """It is kept, so that another one may be asked."""
    with refusing_destination() as dead:

        @proxy.post("/x", upstream=[dead, echo.url], max_body_bytes=100)
        async def takes(item: Item) -> None: ...

        served = await include()
        bodies = [
            (await served.see("/x", JSON, method="POST", body='{"name":  "n"}')).body
            for _ in range(4)
        ]

    assert ['{"name":  "n"}'] * 4 == bodies


async def test_bodies_are_documented(proxy):
    """Models, forms and files with their media types, and the 422."""

    @proxy.post("/json", upstream="http://127.0.0.1:9", max_body_bytes=100)
    async def takes_json(item: Item) -> None: ...

    @proxy.post("/form", upstream="http://127.0.0.1:9", max_body_bytes=100)
    async def takes_form(name: Annotated[str, Form()]) -> None: ...

    @proxy.post("/file", upstream="http://127.0.0.1:9", max_body_bytes=100)
    async def takes_file(file: UploadFile) -> None: ...

    app = FastAPI()
    app.include_router(proxy.build_router())
    paths = app.openapi()["paths"]
    actual = {
        path: (
            list(paths[path]["post"]["requestBody"]["content"]),
            "422" in paths[path]["post"]["responses"],
        )
        for path in ("/json", "/form", "/file")
    }

    assert {
        "/json": (["application/json"], True),
        "/form": (["application/x-www-form-urlencoded"], True),
        "/file": (["multipart/form-data"], True),
    } == actual


async def test_an_identity_field_is_the_stubs_alone(include, proxy, echo):
    """What the client sent of it is gone in every spelling, where the stub sets it and where it does not."""

    @proxy.get("/x", upstream=echo.url, identity_headers=["X-User-Id"])
    async def takes(forwarded: ForwardedRequest, as_user: str | None = None) -> None:
        if as_user is not None:
            forwarded.headers.add("X-User-Id", as_user)

    served = await include()
    forged = ("X-User-Id: root", "x-user-id: root", "X_User_Id: root", "X-User_Id: root")
    seen = [await served.see("/x", *forged), await served.see("/x?as_user=ann", *forged)]

    assert [[], [["x-user-id", "ann"]]] == [
        [pair for pair in one.headers if "user" in pair[0].lower()] for one in seen
    ]
