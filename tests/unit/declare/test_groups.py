"""Decorators and groups: they record, inherit, override, and never raise by themselves before the build."""

import pytest

from proxyroutes import Proxy, Timeouts
from proxyroutes._declare.groups import UNSET, Registry, RouteGroup
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes.exceptions import DeclarationError
from proxyroutes.settings import Forwarding

UPSTREAM = "http://127.0.0.1:9"


@pytest.fixture
def registry():
    """An empty registry."""
    return Registry()


@pytest.fixture
def root(registry):
    """The outermost group."""
    return RouteGroup(registry, "", {})


async def stub() -> None:
    """Say nothing."""


def only(registry):
    """The one spec of a registry."""
    (spec,) = registry.specs
    return spec


def test_a_decorator_gives_the_stub_back(root):
    """The decorated name is still the stub itself."""
    assert stub is root.route("/x", upstream=UPSTREAM)(stub)


def test_a_websocket_decorator_gives_the_stub_back(root):
    """The decorated name is still the stub itself."""
    assert stub is root.websocket("/x", upstream=UPSTREAM)(stub)


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
def test_a_shortcut_is_a_route_of_one_method(root, registry, method):
    """``proxy.get`` and its like are ``route`` with that one method."""
    getattr(root, method)("/x", upstream=UPSTREAM, rewrite="/y", name="named", summary="Short")(
        stub
    )
    spec = only(registry)

    assert ((method.upper(),), "/y", "named", "Short") == (
        spec.methods,
        spec.rewrite,
        spec.name,
        spec.summary,
    )


def test_routes_are_recorded_in_declared_order(root, registry):
    """Groups and websockets keep their place among the others."""
    root.get("/a", upstream=UPSTREAM)(stub)
    root.group("/b").get("/c", upstream=UPSTREAM)(stub)
    root.websocket("/d", upstream=UPSTREAM)(stub)
    root.get("/e", upstream=UPSTREAM)(stub)

    assert ["/a", "/b/c", "/d", "/e"] == [spec.path for spec in registry.specs]


def test_a_spec_cannot_be_changed(root, registry):
    """Specs are frozen values."""
    root.get("/x", upstream=UPSTREAM)(stub)
    with pytest.raises(AttributeError):
        only(registry).path = "/y"


def test_defaults_of_a_route(root, registry):
    """What is not said has the default of the contract."""
    root.route("/x", upstream=UPSTREAM)(stub)
    spec = only(registry)

    assert (None, None, "destination", "rewrite", None, (), None, None, (), (), True) == (
        spec.methods,
        spec.rewrite,
        spec.host,
        spec.location,
        spec.forwarding,
        spec.identity_headers,
        spec.timeouts,
        spec.max_body_bytes,
        spec.dependencies,
        spec.tags,
        spec.include_in_schema,
    )


def test_a_group_gives_what_a_route_does_not_say(root, registry):
    """Settings of a group are those of its routes."""
    timeouts = Timeouts(total=1.0)
    forwarding = Forwarding(mode="off")
    group = root.group(
        "/g",
        upstream=UPSTREAM,
        timeouts=timeouts,
        forwarding=forwarding,
        host="preserve",
        max_body_bytes=7,
    )
    group.get("/x")(stub)
    spec = only(registry)

    assert (UPSTREAM, timeouts, forwarding, "preserve", 7) == (
        spec.upstream,
        spec.timeouts,
        spec.forwarding,
        spec.host,
        spec.max_body_bytes,
    )


def test_a_route_overrides_its_group(root, registry):
    """The narrower setting wins."""
    group = root.group(
        "/g", upstream=UPSTREAM, host="preserve", timeouts=Timeouts(total=1.0), max_body_bytes=7
    )
    group.get(
        "/x", upstream="http://other", host="destination", timeouts=None, max_body_bytes=None
    )(stub)
    spec = only(registry)

    assert ("http://other", "destination", None, None) == (
        spec.upstream,
        spec.host,
        spec.timeouts,
        spec.max_body_bytes,
    )


def test_a_nested_group_overrides_its_parent(root, registry):
    """Groups nest: prefixes add up, and the innermost setting wins."""
    root.group("/a", upstream=UPSTREAM, host="preserve").group("/b", host="example.org").get("/c")(
        stub
    )
    spec = only(registry)

    assert ("/a/b/c", UPSTREAM, "example.org") == (spec.path, spec.upstream, spec.host)


def test_a_group_leaves_its_parent_alone(root, registry):
    """What a group says holds below it only."""
    root.group("/a", host="preserve", tags=["a"])
    root.get("/x", upstream=UPSTREAM)(stub)

    assert ("destination", ()) == (only(registry).host, only(registry).tags)


def test_dependencies_tags_and_identity_fields_add_up(root, registry):
    """These three are taken from every level, the outermost first."""
    group = root.group("/a", dependencies=[1], tags=["a"], identity_headers=["x-a"])
    nested = group.group("/b", dependencies=[2], tags=["b"], identity_headers=["x-b"])
    nested.get("/c", upstream=UPSTREAM, dependencies=[3], tags=["c"], identity_headers=["x-c"])(
        stub
    )
    spec = only(registry)

    assert ((1, 2, 3), ("a", "b", "c"), ("x-a", "x-b", "x-c")) == (
        spec.dependencies,
        spec.tags,
        spec.identity_headers,
    )


def test_a_group_without_prefix_only_shares(root, registry):
    """A group may have no prefix of its own."""
    root.group(upstream=UPSTREAM).get("/x")(stub)

    assert "/x" == only(registry).path


def test_the_empty_path_is_the_groups_prefix_itself(root, registry):
    """As in FastAPI, no path at all names the prefix."""
    root.group("/g").get("", upstream=UPSTREAM)(stub)

    assert "/g" == only(registry).path


@pytest.mark.parametrize("path", ["x", "", 7, None], ids=["no-slash", "empty", "number", "none"])
def test_what_is_no_path_is_kept_for_the_build(root, registry, path):
    """A decorator records whatever it was given."""
    root.get(path, upstream=UPSTREAM)(stub)

    assert path == only(registry).path


def test_a_path_without_slash_does_not_melt_into_the_prefix(root, registry):
    """``/api`` and ``users`` do not become ``/apiusers``."""
    root.group("/api").get("users", upstream=UPSTREAM)(stub)

    assert "users" == only(registry).path


@pytest.mark.parametrize(
    ("prefix", "used", "words"),
    [
        pytest.param("api", "/api", "write '/api', not 'api'", id="no-slash"),
        pytest.param("/api/", "/api", "write '/api', not '/api/'", id="slash-at-end"),
        pytest.param("/", "", "leave it out", id="slash-alone"),
    ],
)
def test_a_bad_prefix_is_recorded(root, registry, prefix, used, words):
    """The mistake is kept for the build, and its routes are read as if it had been written well."""
    root.group(prefix).get("/x", upstream=UPSTREAM)(stub)
    (problem,) = registry.problems

    assert (f"{used}/x", True) == (only(registry).path, words in problem)


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        pytest.param(
            "timeout", "a group has no keyword 'timeout'; did you mean 'timeouts'?", id="close"
        ),
        pytest.param("xyz", "a group has no keyword 'xyz'", id="far"),
    ],
)
def test_an_unknown_keyword_of_a_group_is_recorded(root, registry, keyword, words):
    """A typing error in a keyword is not swallowed."""
    root.group("/g", **{keyword: 1})

    assert [words] == registry.problems


@pytest.mark.parametrize("keyword", ["dependencies", "tags", "identity_headers"])
@pytest.mark.parametrize("value", ["x", 7], ids=["str", "number"])
def test_a_lone_value_where_a_list_is_meant_is_recorded(root, registry, keyword, value):
    """The mistake is kept with the route, and nothing raises."""
    root.get("/x", upstream=UPSTREAM, **{keyword: value})(stub)

    assert (f"{keyword}: a list is meant, not one value: write [{value!r}]",) == only(
        registry
    ).problems


def test_a_lone_value_of_a_group_is_recorded(root, registry):
    """A group has no stub; its mistake is kept with its prefix."""
    root.group("/g", tags="x")

    assert ["group '/g': tags: a list is meant, not one value: write ['x']"] == registry.problems


def test_a_lone_dependency_of_a_websocket_is_recorded(root, registry):
    """WebSocket routes are read as strictly."""
    root.websocket("/x", upstream=UPSTREAM, dependencies=7)(stub)

    assert ("dependencies: a list is meant, not one value: write [7]",) == only(registry).problems


@pytest.mark.parametrize("methods", ["GET", 7], ids=["str", "number"])
def test_methods_that_are_no_list_are_kept_for_the_build(root, registry, methods):
    """A decorator never raises by itself."""
    root.route("/x", upstream=UPSTREAM, methods=methods)(stub)

    assert methods == only(registry).methods


def test_a_websocket_is_recorded(root, registry):
    """A WebSocket route is a spec of its own, with what its group gives."""
    timeouts = Timeouts(idle=1.0)
    group = root.group("/g", upstream=UPSTREAM, dependencies=[1], timeouts=timeouts)
    group.websocket(
        "/live/<path>", rewrite="/<path>", allowed_origins=["http://a"], dependencies=[2], name="n"
    )(stub)
    spec = only(registry)

    assert (WebSocketSpec, "/g/live/<path>", UPSTREAM, (1, 2), timeouts, ("http://a",), "n") == (
        type(spec),
        spec.path,
        spec.upstream,
        spec.dependencies,
        spec.options["timeouts"],
        spec.options["allowed_origins"],
        spec.name,
    )


def test_a_websocket_overrides_its_groups_timeouts(root, registry):
    """The narrower setting wins for WebSockets too."""
    root.group("/g", timeouts=Timeouts(idle=1.0)).websocket(
        "/x", upstream=UPSTREAM, timeouts=None
    )(stub)

    assert None is only(registry).options["timeouts"]


@pytest.mark.parametrize("kind", ["route", "websocket"])
def test_a_decorator_after_the_build_raises(kind):
    """What nobody would ever serve is refused at once, with its place."""
    proxy = Proxy()
    proxy.build_router()
    with pytest.raises(DeclarationError, match="after the build") as caught:
        getattr(proxy, kind)("/x", upstream=UPSTREAM)(stub)

    assert caught.value.location.startswith(__file__)


def test_a_decorator_of_a_group_after_the_build_raises():
    """Groups that were made before the build are closed too."""
    proxy = Proxy()
    group = proxy.group("/g")
    proxy.build_router()
    with pytest.raises(DeclarationError):
        group.get("/x", upstream=UPSTREAM)(stub)


def test_one_stub_may_have_several_routes(root, registry):
    """Decorators stack."""
    root.get("/a", upstream=UPSTREAM)(root.get("/b", upstream=UPSTREAM)(stub))

    assert ["/b", "/a"] == [spec.path for spec in registry.specs if isinstance(spec, RouteSpec)]


def test_what_is_not_said_reads_as_inherited():
    """The mark of an unsaid keyword has a name for documentation."""
    assert "inherited" == repr(UNSET)


def test_a_proxy_says_how_many_routes_it_has():
    """The repr counts what was declared."""
    proxy = Proxy()
    proxy.get("/x", upstream=UPSTREAM)(stub)

    assert "<Proxy 1 routes>" == repr(proxy)
