"""Affinity: whom a token or a field names, and whom it does not."""

import random
import re
from collections import Counter

import pytest
from attrs import define, evolve
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes.policies import CookieAffinity, HeaderAffinity
from proxyroutes.testing import ManualClock
from proxyroutes.typing import ForwardedHead


@define(frozen=True)
class Member:
    """A destination."""

    identity: bytes
    weight: int = 1
    in_flight: int = 0
    latency: float | None = None


MEMBERS = tuple(Member(b"http://10.0.0.%d:8080" % number) for number in range(1, 9))
SECRET = "a secret that nobody can guess...."


def bound(recipe=None, pool="pool", **keywords):
    """The affinity of one pool, as another process would have it too."""
    recipe = recipe or CookieAffinity(**{"secret": SECRET, **keywords})
    return recipe.bind(pool=pool, clock=ManualClock(), random=random.Random(1))


def head_of(*fields, secure=False):
    """A request with these fields."""
    return ForwardedHead(b"GET", b"/", list(fields), None, None, secure)


def cookie_of(affinity, member):
    """Name and value of what is set for a destination."""
    ((name, value),) = affinity.fields(member, head_of())
    assert b"set-cookie" == name
    return value.partition(b";")[0]


@pytest.mark.requirement("R-42")
def test_a_cookie_names_its_destination_in_every_process():
    """Whatever else the client sends, in one field or several."""
    for member in MEMBERS:
        cookie = cookie_of(bound(), member)
        for fields in (
            [(b"cookie", cookie)],
            [(b"cookie", b"a=b; " + cookie + b"; c=d")],
            [(b"cookie", b"a=b"), (b"accept", b"x"), (b"cookie", cookie)],
        ):
            assert member is bound().find(MEMBERS, head_of(*fields))


def test_it_holds_when_the_pool_changes():
    """Others come and go."""
    cookie = cookie_of(bound(), MEMBERS[3])
    affinity = bound()
    for members in (MEMBERS, MEMBERS[2:5], (*reversed(MEMBERS), Member(b"http://new"))):
        assert MEMBERS[3] is affinity.find(members, head_of((b"cookie", cookie)))

    assert None is affinity.find(MEMBERS[:3], head_of((b"cookie", cookie)))


@pytest.mark.requirement("R-42")
def test_nothing_of_the_address_can_be_read_from_it():
    """Not even by who guesses it."""
    values = {cookie_of(bound(), member).partition(b"=")[2] for member in MEMBERS}
    others = {cookie_of(bound(secret="another"), member).partition(b"=")[2] for member in MEMBERS}

    assert 8 == len(values)
    assert not values & others
    assert all(re.fullmatch(rb"[\w-]{12}\.[\w-]{32}", value) for value in values)


@pytest.mark.requirement("R-42")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda name, label, sign: b"",
        lambda name, label, sign: name + b"=",
        lambda name, label, sign: name + b"=" + label,
        lambda name, label, sign: name + b"=" + label + b".",
        lambda name, label, sign: name + b"=" + label + b"." + sign[:-1],
        lambda name, label, sign: name + b"=" + label + b"." + sign + b"a",
        lambda name, label, sign: name + b"=" + label + b"." + sign.swapcase(),
        lambda name, label, sign: name + b"=" + label + b".\xff\x00",
        lambda name, label, sign: b"x" + name + b"=" + label + b"." + sign,
        lambda name, label, sign: name + b"=http://10.0.0.1:8080." + sign,
    ],
)
def test_one_that_is_not_ours_is_none(spoil):
    """It is no error either."""
    affinity = bound()
    name, _, value = cookie_of(affinity, MEMBERS[0]).partition(b"=")
    label, _, sign = value.partition(b".")

    assert None is affinity.find(MEMBERS, head_of((b"cookie", spoil(name, label, sign))))


def test_one_destinations_signature_is_no_others():
    """Nobody can choose."""
    affinity = bound()
    name, _, first = cookie_of(affinity, MEMBERS[0]).partition(b"=")
    second = cookie_of(affinity, MEMBERS[1]).partition(b"=")[2]
    mixed = name + b"=" + first.partition(b".")[0] + b"." + second.partition(b".")[2]

    assert None is affinity.find(MEMBERS, head_of((b"cookie", mixed)))


@given(st.binary(max_size=80))
def test_no_bytes_are_an_error(value):
    """Whatever a client sends."""
    affinity = bound(name="a")

    assert None is affinity.find(MEMBERS, head_of((b"cookie", value), (b"cookie", b"a=" + value)))


def test_two_pools_do_not_share_a_cookie():
    """By its name; and by its signature, where the name is given."""
    assert bound(pool="a")._name != bound(pool="b")._name
    cookie = cookie_of(bound(pool="a", name="n"), MEMBERS[0])

    assert None is bound(pool="b", name="n").find(MEMBERS, head_of((b"cookie", cookie)))


def test_a_secret_can_be_replaced():
    """The old one is still understood, the new one signs."""
    old, new = bound(secret="old"), bound(secret=["new", b"old"])
    cookie = cookie_of(old, MEMBERS[2])

    assert MEMBERS[2] is new.find(MEMBERS, head_of((b"cookie", cookie)))
    assert cookie_of(new, MEMBERS[2]) == cookie_of(bound(secret="new"), MEMBERS[2])
    assert None is old.find(MEMBERS, head_of((b"cookie", cookie_of(new, MEMBERS[2]))))


@pytest.mark.requirement("R-42")
@pytest.mark.parametrize(
    ("keywords", "secure", "expected"),
    [
        ({}, False, b"Path=/; HttpOnly; SameSite=Lax"),
        ({}, True, b"Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": True}, False, b"Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": False}, True, b"Path=/; HttpOnly; SameSite=Lax"),
        ({"same_site": "strict"}, False, b"Path=/; HttpOnly; SameSite=Strict"),
        ({"same_site": "none"}, False, b"Path=/; HttpOnly; SameSite=None; Secure"),
        ({"max_age": 60, "path": "/a"}, False, b"Path=/a; HttpOnly; SameSite=Lax; Max-Age=60"),
    ],
)
def test_a_cookie_says_who_may_have_it(keywords, secure, expected):
    """No script ever, other sites no more than is asked for, and https where it is spoken."""
    ((_, value),) = bound(**keywords).fields(MEMBERS[0], head_of(secure=secure))

    assert expected == value.partition(b"; ")[2]


@pytest.mark.parametrize(
    "keywords",
    [
        {"secret": ""},
        {"secret": []},
        {"secret": ["a", ""]},
        {"name": "a b"},
        {"name": ""},
        {"on_loss": "fail"},
        {"same_site": "Lax"},
        {"same_site": "none", "secure": False},
        {"max_age": 0},
        {"path": "a"},
        {"path": "/; Domain=evil"},
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(keywords):
    """Where it is written."""
    with pytest.raises(ValueError):
        CookieAffinity(**{"secret": SECRET, **keywords})


def test_a_recipe_does_not_show_its_secret():
    """Not in a log, not in a traceback."""
    assert SECRET not in repr(CookieAffinity(secret=SECRET))


# Header affinity.


def test_a_field_names_its_destination_in_every_process():
    """By its value alone, and evenly."""
    first, second = bound(HeaderAffinity("X-Tenant")), bound(HeaderAffinity("x-tenant"))
    found = Counter()
    for number in range(4000):
        head = head_of((b"x-tenant", b"%d" % number))
        member = first.find(MEMBERS, head)
        assert member is second.find(MEMBERS, head)
        found[member.identity] += 1

    assert 8 == len(found)
    assert 200 < min(found.values()) <= max(found.values()) < 1000


def test_a_change_of_the_pool_moves_few_values():
    """Those of the one that is gone."""
    affinity = bound(HeaderAffinity("x-tenant"))
    heads = [head_of((b"x-tenant", b"%d" % number)) for number in range(500)]
    before = [affinity.find(MEMBERS, head) for head in heads]
    after = [affinity.find(MEMBERS[1:], head) for head in heads]
    moved = [old for old, new in zip(before, after, strict=True) if old is not new]

    assert {MEMBERS[0]} == set(moved)


def test_without_the_field_there_is_no_affinity():
    """And nothing is ever said of it to the client."""
    affinity = bound(HeaderAffinity("x-tenant"))
    alone = evolve(MEMBERS[0])

    assert None is affinity.find(MEMBERS, head_of((b"x-other", b"1")))
    assert alone is affinity.find((alone,), head_of((b"x-tenant", b"1")))
    assert [] == affinity.fields(MEMBERS[0], head_of())


@pytest.mark.parametrize(("name", "keywords"), [("", {}), ("a b", {}), ("a", {"on_loss": "x"})])
def test_a_header_recipe_is_checked(name, keywords):
    """Where it is written."""
    with pytest.raises(ValueError):
        HeaderAffinity(name, **keywords)
