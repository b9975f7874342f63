"""Path templates and rewrites: both spellings, typed segments, and what is refused with which words."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyroutes._declare.templates import CONVERTERS, parse_rewrite, parse_template
from proxyroutes.exceptions import PathTemplateError


@pytest.mark.parametrize(
    ("angled", "braced"),
    [
        pytest.param("/users/<name>", "/users/{name}", id="one-segment"),
        pytest.param("/users/<int:name>", "/users/{name:int}", id="int"),
        pytest.param("/users/<float:name>", "/users/{name:float}", id="float"),
        pytest.param("/users/<uuid:name>", "/users/{name:uuid}", id="uuid"),
        pytest.param("/users/<path:rest>", "/users/{rest:path}", id="rest"),
        pytest.param("/users/<str:name>", "/users/{name:str}", id="explicit-str"),
        pytest.param("/<a>/x/<int:b>/<path:c>", "/{a}/x/{b:int}/{c:path}", id="several"),
        pytest.param("/<a>/x/{b:int}", "/{a}/x/<int:b>", id="mixed"),
    ],
)
def test_both_spellings_are_the_same_template(angled, braced):
    """Angle brackets and FastAPI's braces declare the same segments."""
    assert parse_template(angled).segments == parse_template(braced).segments


def test_bare_path_is_short_for_the_rest():
    """``<path>`` alone is ``<path:path>``."""
    assert parse_template("/<path:path>").segments == parse_template("/<path>").segments


def test_bare_path_in_braces_is_one_segment():
    """FastAPI's spelling means what it means in FastAPI."""
    segment = parse_template("/{path}").segments[0]

    assert "str" == segment.converter.name


def test_names_are_in_order():
    """Parameters are listed as they stand in the path."""
    assert ("b", "a", "rest") == parse_template("/<b>/<int:a>/<path:rest>").names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/", "/", id="root"),
        pytest.param("/a%20b/<int:n>", "/a b/{n:int}", id="decoded-literal"),
        pytest.param("/<a>/<path>", "/{a}/{path:path}", id="rest"),
        pytest.param("/%7Bx%7D", "/x", id="braces-vanish"),
    ],
)
def test_starlette_spelling_is_made_for_fastapi(text, expected):
    """FastAPI is given the template in its own spelling, decoded."""
    assert expected == parse_template(text).starlette_path


def test_openapi_spelling_has_names_only():
    """OpenAPI knows no converters."""
    assert "/a%20b/{n}/{path}" == parse_template("/a%20b/<int:n>/<path>").openapi_path


@pytest.mark.parametrize(
    ("text", "literals"),
    [
        pytest.param("/caf%C3%A9", [b"caf\xc3\xa9"], id="encoded"),
        pytest.param("/café", [b"caf\xc3\xa9"], id="written-out"),
        pytest.param("/a;v=1/b,c", [b"a;v=1", b"b,c"], id="subdelimiters"),
        pytest.param("/a//b/", [b"a", b"", b"b", b""], id="empty-segments"),
    ],
)
def test_literals_are_decoded_once(text, literals):
    """A literal is compared as decoded bytes."""
    assert literals == [segment.literal for segment in parse_template(text).segments]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("users", "a path starts with a slash: write '/users'", id="no-slash"),
        pytest.param("", "a path starts with a slash: write '/'", id="empty"),
        pytest.param(7, "a path is a string: 7", id="no-string"),
        pytest.param(
            "/<it:n>", "unknown converter 'it'; did you mean 'int'?", id="close-converter"
        ),
        pytest.param(
            "/{n:in}",
            "unknown converter 'in'; did you mean 'int'?",
            id="close-converter-in-braces",
        ),
        pytest.param(
            "/<zzz:n>",
            "unknown converter 'zzz' (there are float, int, path, str, uuid)",
            id="far-converter",
        ),
        pytest.param(
            "/<path>/x", "<path> takes the rest of the path and must come last", id="rest-not-last"
        ),
        pytest.param(
            "/<path>/x", "for a single segment write <str:path>", id="rest-not-last-cure"
        ),
        pytest.param("/<path>/", "must come last", id="slash-behind-rest"),
        pytest.param("/<a>/<a>", "parameter 'a' stands twice", id="repeated-name"),
        pytest.param("/<a-b>", "a parameter's name is a Python name, not 'a-b'", id="bad-name"),
        pytest.param("/<>", "a parameter's name is a Python name, not ''", id="no-name"),
        pytest.param(
            "/{:int}", "a parameter's name is a Python name, not ''", id="no-name-in-braces"
        ),
        pytest.param(
            "/v<n>",
            "a parameter is a whole segment between two slashes, not 'v<n>'",
            id="part-of-segment",
        ),
        pytest.param("/<a", "a parameter is a whole segment", id="unclosed"),
        pytest.param("/a b", "percent-encode what a path cannot hold: 'a b'", id="space"),
        pytest.param("/a%zz", "percent-encode what a path cannot hold", id="bad-escape"),
        pytest.param("/a?b", "percent-encode what a path cannot hold", id="query"),
        pytest.param("/a/../b", "no dot segment", id="dots"),
        pytest.param("/a/%2e", "no dot segment", id="encoded-dot"),
        pytest.param("/a%2Fb", "hides no slash", id="hidden-slash"),
        pytest.param("/a%00", "hides no slash", id="nul"),
    ],
)
def test_a_bad_template_says_what_to_write_instead(text, words):
    """The message names the mistake and its cure."""
    with pytest.raises(PathTemplateError) as caught:
        parse_template(text)

    assert words in caught.value.problem


@pytest.mark.parametrize(
    ("path", "rewrite", "words"),
    [
        pytest.param("/<user>", "/<usr>", "did you mean <user>?", id="close-name"),
        pytest.param("/<user>", "/<zzz>", "does not have (it has <user>)", id="far-name"),
        pytest.param("/x", "/<zzz>", "does not have (it has none)", id="no-names"),
        pytest.param("/<user>", "/<it:user>", "rewrite: unknown converter 'it'", id="converter"),
        pytest.param("/<user>", "x", "rewrite: a path starts with a slash", id="no-slash"),
    ],
)
def test_a_bad_rewrite_says_what_to_write_instead(path, rewrite, words):
    """The message names the rewrite, the path and its names."""
    with pytest.raises(PathTemplateError) as caught:
        parse_rewrite(rewrite, parse_template(path))

    assert words in caught.value.problem


def test_a_rewrite_may_leave_out_and_repeat_parameters():
    """A rewrite uses any of the path's names, as often as it likes."""
    rewrite = parse_rewrite("/v2/<b>/<b>", parse_template("/<a>/<b>"))

    assert ("b", "b") == rewrite.names


@pytest.mark.parametrize(
    ("path", "rewrite", "kinds"),
    [
        pytest.param("/<path:rest>", "/v2/<rest>", ["path"], id="rest-by-name"),
        pytest.param("/<str:path>", "/v2/<path>", ["str"], id="segment-that-is-called-path"),
        pytest.param("/<int:n>/<path>", "/<path>/<n>", ["path", "int"], id="rest-in-the-middle"),
    ],
)
def test_a_rewrites_parameters_are_of_the_paths_kind(path, rewrite, kinds):
    """A name means what it means in the path."""
    segments = parse_rewrite(rewrite, parse_template(path)).segments

    assert kinds == [segment.converter.name for segment in segments if segment.name is not None]


@pytest.mark.parametrize(
    ("earlier", "later", "covered"),
    [
        pytest.param("/a", "/a", True, id="same"),
        pytest.param("/%61", "/a", True, id="same-when-decoded"),
        pytest.param("/a", "/b", False, id="other-literal"),
        pytest.param("/<x>", "/a", True, id="segment-over-literal"),
        pytest.param("/<x>", "/", False, id="segment-is-not-empty"),
        pytest.param("/a", "/<x>", False, id="literal-over-segment"),
        pytest.param("/<x>", "/<int:y>", True, id="segment-over-int"),
        pytest.param("/<float:x>", "/<int:y>", True, id="float-over-int"),
        pytest.param("/<int:x>", "/<float:y>", False, id="int-over-float"),
        pytest.param("/<int:x>", "/7", True, id="int-over-number"),
        pytest.param("/<int:x>", "/seven", False, id="int-over-word"),
        pytest.param("/<path>", "/a/b", True, id="rest-over-all"),
        pytest.param("/<path>", "/", True, id="rest-over-root"),
        pytest.param("/a/<path>", "/a", False, id="rest-needs-its-slash"),
        pytest.param("/a/<x>", "/a/<path>", False, id="segment-over-rest"),
        pytest.param("/a/<path>", "/a/<int:x>/<path>", True, id="rest-over-rest"),
        pytest.param("/a", "/a/b", False, id="shorter"),
        pytest.param("/a/b", "/a", False, id="longer"),
    ],
)
def test_covering_is_decided_by_templates(earlier, later, covered):
    """One template covers another where it takes every path of it."""
    assert covered == parse_template(earlier).covers(parse_template(later))


@pytest.mark.parametrize(
    ("kind", "text", "taken"),
    [
        pytest.param("int", "0042", True, id="int"),
        pytest.param("int", "-1", False, id="negative"),
        pytest.param("int", "٣", False, id="arabic-digit"),
        pytest.param("int", "9" * 640, True, id="longest-number"),
        pytest.param("int", "9" * 641, False, id="number-that-python-refuses"),
        pytest.param("float", "1.5", True, id="float"),
        pytest.param("float", "1.", False, id="float-without-fraction"),
        pytest.param("uuid", "12345678-1234-1234-1234-123456789abc", True, id="uuid"),
        pytest.param("uuid", "1234", False, id="no-uuid"),
        pytest.param("str", "x", True, id="str"),
        pytest.param("str", "", False, id="empty"),
    ],
)
def test_converters_take_what_they_can_convert(kind, text, taken):
    """A typed segment takes its own kind and nothing else."""
    assert taken == CONVERTERS[kind].takes(text)


@given(st.text(alphabet="0123456789.", min_size=1, max_size=20))
def test_what_a_number_takes_is_convertible(text):
    """No taken text makes its conversion fail."""
    for kind in ("int", "float"):
        converter = CONVERTERS[kind]
        if converter.takes(text):
            converter.convert(text)


def test_uuid_is_converted():
    """FastAPI's parameter gets a UUID."""
    text = "12345678-1234-1234-1234-123456789abc"

    assert UUID(text) == CONVERTERS["uuid"].convert(text)
