"""From a scope to a route, without a router."""

import json

import pytest

from proxyroutes._serve.dispatch import answer_partial, locate
from proxyroutes.exceptions import ClientRequestError
from tests.unit.serve.scripted import Server, make_route, make_scope


def index_of(**route):
    """The index of one route."""
    return make_route(**route).proxy.compiled().index


async def test_a_route_is_found_by_its_raw_path():
    """And by its method."""
    found = locate(
        index_of(path="/api/<path>", methods=["GET"]), make_scope("GET", b"/%61pi/x%2Fy")
    )

    assert (b"x%2Fy", True) == (found.captured(found.plan.captures[0]), found.full)


async def test_no_route_is_found_where_none_fits():
    """Somebody else may have one."""
    assert locate(index_of(path="/api"), make_scope("GET", b"/other")) is None


async def test_a_mount_is_not_part_of_the_path_that_is_matched():
    """``root_path`` says where it ends."""
    found = locate(index_of(path="/api"), make_scope("GET", b"/mount/api", root_path="/mount"))

    assert 1 == found.start


@pytest.mark.requirement("S-10")
@pytest.mark.parametrize("target", [b"*", b"x", b"http://evil.test/", b"@evil.test/"])
async def test_a_target_that_is_no_path_is_refused(target):
    """It belongs to no route."""
    with pytest.raises(ClientRequestError):
        locate(index_of(), make_scope("GET", target))


async def answered(scope, **route):
    """The answer to a request that does not fit in whole."""
    found = locate(index_of(**route), scope)
    server = Server()
    await answer_partial(found, scope, server.send)

    assert server.complete
    return server.status, dict(server.sent[0]["headers"]), server.body


async def test_another_method_is_answered_405_with_allow():
    """RFC 9110 asks for the list."""
    status, fields, body = await answered(
        make_scope("POST", b"/api"), path="/api", methods=["GET", "PUT"]
    )

    assert (405, b"GET, PUT", 405) == (status, fields[b"allow"], json.loads(body)["status"])


@pytest.mark.requirement("S-39")
@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"/api", b"/api/"),
        (b"/%61pi?a=b", b"/%61pi/?a=b"),
    ],
)
async def test_a_path_without_its_last_slash_is_redirected_by_a_relative_location(
    target, location
):
    """No host of the client's is repeated."""
    status, fields, body = await answered(make_scope("GET", target), path="/api/")

    assert (307, location, b"0", b"") == (
        status,
        fields[b"location"],
        fields[b"content-length"],
        body,
    )


@pytest.mark.requirement("S-14")
async def test_a_bad_target_is_refused_before_it_is_redirected():
    """No part of it gets into a ``Location``."""
    status, fields, _ = await answered(make_scope("GET", b"/a%0d%0ab"), path="/<name>/")

    assert (400, None) == (status, fields.get(b"location"))
