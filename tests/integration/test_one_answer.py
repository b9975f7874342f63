"""Router, lane and application alone come to one answer, whatever the routes, the application around them and the path."""

import asyncio
from urllib.parse import unquote

from fastapi import FastAPI
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from proxyroutes import BuildError, GatewayMiddleware, Match, Proxy

LITERALS = {"a": ("a", "%61"), "b": ("b",), "a b": ("a%20b",), "é": ("%C3%A9", "%c3%a9")}
CAPTURES = {
    "<x>": ("a", "b", "x;y", "a%2Fb", "A", "7"),
    "<int:n>": ("7", "-7", "a"),
    "<float:f>": ("1.5", "7", "b"),
    "<path>": ("a/b", "", "a//b", "7", "b/"),
}
ODD = ("", ".", "..", "%2e%2e", "%2E", "a%00", "%zz", "a%5cb", "b?q", "~", "%25")

segments = st.lists(
    st.sampled_from([*LITERALS, "<x>", "<int:n>", "<float:f>"]), max_size=2, unique=True
)
tails = st.sampled_from(["", "/", "/<path>", "/<path>"])
methods = st.sampled_from([None, None, ["GET"], ["POST"]])


def has_cookie(request):
    """A predicate that looks at what only it can."""
    return request.cookies.get("beta") == "1" and "x" not in request.path_params


matches = st.sampled_from(
    [
        None,
        None,
        Match(hosts=["gateway.test"]),
        Match(hosts=["*.gateway.test"]),
        Match(headers={"X-Beta": "1"}),
        Match(query={"beta": "1"}),
        Match(hosts=["gateway.test"], headers={"x-beta": "1"}),
        Match(when=has_cookie),
    ]
)
routes = st.lists(
    st.tuples(segments, tails, methods, matches),
    min_size=1,
    max_size=5,
    unique_by=lambda route: (tuple(route[0]), route[1], route[3]),
)
hosts = st.sampled_from(["gateway.test", "GATEWAY.test:8080", "a.gateway.test", "a..test", "b:x"])
fields = st.lists(
    st.sampled_from(
        [
            (b"x-beta", b"1"),
            (b"x-beta", b"0"),
            (b"cookie", b"a=b; beta=1"),
            (b"x-forwarded-host", b"gateway.test"),
            (b"host", b"other.test"),
        ]
    ),
    max_size=2,
)
queries = st.sampled_from(["", "", "?beta=1", "?beta=0&b%65ta=1", "?beta"])
foreign = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["route", "mount"]),
        st.sampled_from(["/a", "/b", "/a/b", "/{y}", "/{y:path}", "/a/{y}"]),
    ),
    max_size=2,
)


@st.composite
def tables(draw):
    """Routes, what is around them, and requests of which most are meant for one of the routes."""
    declared = draw(routes)
    requests = []
    for _ in range(draw(st.integers(1, 8))):
        names, tail, *_ = draw(st.sampled_from(declared))
        pieces = []
        for name in [*names, *(["<path>"] if "<path>" in tail else [])]:
            known = LITERALS.get(name) or CAPTURES[name]
            pieces.append(draw(st.sampled_from(known)))
        if draw(st.integers(0, 3)) == 0:
            pieces.insert(draw(st.integers(0, len(pieces))), draw(st.sampled_from(ODD)))
        path = "/" + "/".join(pieces) + ("/" if tail == "/" and draw(st.booleans()) else "")
        path += draw(queries)
        said = [(b"host", draw(hosts).encode()), *draw(fields)]
        requests.append(
            (draw(st.sampled_from(["GET", "GET", "POST", "HEAD", "BREW"])), path, said)
        )
    return declared, draw(foreign), requests


def upstream(name):
    """An upstream that says which route has asked it, and for what."""

    async def app(scope, receive, send):
        text = f"{name} {scope['raw_path'].decode('latin-1')}".encode()
        fields = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": text})

    return app


def make_proxy(declared):
    """A proxy with these routes."""
    proxy = Proxy()
    for number, (names, tail, allowed, match) in enumerate(declared):

        async def stub() -> None: ...

        path = "".join(f"/{name}" for name in names) + tail
        proxy.route(path or "/", upstream=upstream(number), methods=allowed, match=match)(stub)
    return proxy


def make_app(proxy, around, *, lane):
    """A FastAPI application around it, with foreign routes before and after."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if lane:
        app.add_middleware(GatewayMiddleware, proxy=proxy)

    def add(kind, path, number):
        answer = PlainTextResponse(f"foreign {number}")
        if kind == "route":
            app.add_api_route(path, lambda: answer, methods=["GET"])
        elif "{" not in path:
            app.mount(path, answer)

    for number, (before, kind, path) in enumerate(around):
        if before:
            add(kind, path, number)
    app.include_router(proxy.build_router())
    for number, (before, kind, path) in enumerate(around):
        if not before:
            add(kind, path, number)
    return app


async def ask(app, method, raw_path, said):
    """Status, ``Location``, ``Allow`` and content of an answer, as a server would ask for it."""
    sent = []
    path, _, query = raw_path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": list(said),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive():
        if not sent:
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    fields = dict(sent[0]["headers"])
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], fields.get(b"location"), fields.get(b"allow"), content


async def compare(declared, around, requests):
    """Ask all of them for the same."""
    try:
        proxy = make_proxy(declared)
        through_router = make_app(proxy, around, lane=False)
    except BuildError:
        assume(condition=False)
    through_lane = make_app(proxy, around, lane=True)
    alone = proxy.build_app()
    for request in requests:
        expected = await ask(through_router, *request)
        assert expected == await ask(through_lane, *request), request
        if not around:
            actual = await ask(alone, *request)
            # What is refused is told in different words with and without FastAPI.
            same = actual[:3] == expected[:3] and (actual[0] != 200 or actual[3] == expected[3])
            assert same, (request, actual, expected)


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(table=tables())
def test_router_lane_and_application_give_one_answer(table):
    """The same route, or the same refusal."""
    asyncio.run(compare(*table))
