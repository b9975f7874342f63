"""Where code may live, what it may import, and how long it may be.

Imports are read with ``ast`` and not observed, so that lazy ones and those for type checkers count like all others.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyroutes

PACKAGE = Path(proxyroutes.__file__).parent

# What each part of the package may import besides itself. A part that is not here has no place in the layout.
BASE = frozenset({"exceptions", "settings", "typing"})
PLUGS = frozenset({"filters", "policies", "transports"})
RUNTIME = BASE | PLUGS | {"_state", "_declare", "_serve"}
MAY_IMPORT = {
    "exceptions": frozenset(),
    "settings": BASE,
    "typing": BASE,
    "server": BASE | {"transports"},
    "filters": BASE,
    "policies": BASE,
    "transports": BASE,
    "_state": BASE | PLUGS,
    "_declare": BASE | PLUGS | {"_state"},
    "_serve": BASE | PLUGS | {"_state"},
    "_build": RUNTIME,
    "_operate": RUNTIME | {"_build", "server"},
    "proxy": RUNTIME | {"_build", "_operate"},
    "__init__": RUNTIME | {"_build", "proxy"},
    "testing": RUNTIME | {"_build", "proxy", "__init__"},
    "__main__": RUNTIME | {"_build", "_operate", "proxy", "testing", "__init__"},
}

# Who may import what is not ours. Parts that are not named may not.
OUTSIDERS = {
    "fastapi": {"_build", "_operate", "proxy"},
    "starlette": set(MAY_IMPORT) - {"_serve", "_declare", "_state", "policies", "filters"} - BASE,
    "uvicorn": {"_operate", "server", "testing", "__main__"},
    "uvloop": {"_operate", "testing", "__main__"},
    "typer": {"_operate", "__main__"},
    "rich": {"_operate", "__main__"},
    "prometheus_client": {"_operate", "proxy"},
    "opentelemetry": {"transports"},
}

MODULE_LINES = 400
FUNCTION_LINES = 50
SERVE_LINES = 1600
# Sessions come on top: the 1,600 lines are what one has to read to know the way of an HTTP request.
SESSION_MODULES = frozenset({"proxyroutes._serve.session", "proxyroutes._serve.websocket"})
SESSION_LINES = 400
# What only routes that ask for it run: a plain request's reader need not know it.
STEPS = "proxyroutes._serve.steps"
STEPS_LINES = 2410

UNUSED_WORDS = {"inbound", "outbound", "backend", "target", "node", "manager", "helper", "util"}
# The one target that the glossary knows is the request target.
REQUEST_TARGETS = {"target", "check_target", "forwarded_target", "raw_target", "request_target"}

PATHS = {
    ".".join(("proxyroutes", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def part_of(module: str) -> str:
    """The folder or module directly below the package, ``__init__`` for the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def names_imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that an import statement or ``import_module()`` anywhere in the tree may load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def modules_imported(tree: ast.AST) -> set[str]:
    """Our own modules among what is imported; ``from package.module import name`` is the module."""
    found = set()
    for name in names_imported(tree):
        if name.split(".")[0] == "proxyroutes":
            found.add(name if name in TREES else name.rpartition(".")[0])
    return found


def docstring_lines(tree: ast.AST) -> set[int]:
    """Lines of docstrings, those below attributes and aliases too."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.update(range(node.lineno, node.end_lineno + 1))
    return lines


def code_lines(module: str) -> set[int]:
    """Lines that are not blank, comment or docstring."""
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(SOURCES[module]).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(TREES[module])


def function_length(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: set[int]) -> int:
    """Code lines of a body, and one for its signature: the contract decides how many keywords a declaration has."""
    return 1 + len(lines & set(range(function.body[0].lineno, function.end_lineno + 1)))


def words_of(identifier: str) -> set[str]:
    """The words of a name in either spelling, in lower case and singular."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier)
    return {word.removesuffix("s") for word in spaced.lower().split("_")}


def public_identifiers(module: str) -> Iterator[str]:
    """Names that others may write: of the module, its definitions and their parameters."""
    yield from module.split(".")
    for node in ast.walk(TREES[module]):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
        if isinstance(node, FUNCTIONS):
            arguments = node.args
            yield from (
                arg.arg for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            )
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """One closed way through the graph, or nothing."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(edges.get(module, ())):
            if cycle := visit(imported, [*way, module]):
                return cycle
        done.add(module)
        return []

    for module in edges:
        if cycle := visit(module, []):
            return cycle
    return []


@pytest.mark.parametrize("module", TREES)
def test_a_module_has_its_place_in_the_layout(module):
    """Every module is in a part of the package that the layer table names."""
    actual = part_of(module)

    assert actual in MAY_IMPORT


@pytest.mark.parametrize("module", TREES)
def test_imports_go_down_the_layers(module):
    """A module imports its own part of the package and the layers below it, nothing else of ours."""
    part = part_of(module)
    parts = {part_of(imported) for imported in modules_imported(TREES[module])}
    actual = parts - MAY_IMPORT[part] - {part}

    assert set() == actual


def test_imports_have_no_cycles():
    """No module reaches itself again, not even through a lazy import or one for type checkers."""
    edges = {name: modules_imported(tree) - {name} for name, tree in TREES.items()}
    actual = find_cycle(edges)

    assert [] == actual


def test_a_cycle_would_be_found():
    """The search sees a cycle that is not at its start."""
    actual = find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}})

    assert ["b", "c", "b"] == actual


@pytest.mark.parametrize("outsider", OUTSIDERS)
def test_a_framework_is_imported_where_it_belongs(outsider):
    """Frameworks and extras are imported in the parts that may know of them."""
    importers = {
        part_of(module)
        for module, tree in TREES.items()
        if any(name.split(".")[0] == outsider for name in names_imported(tree))
    }
    actual = importers - OUTSIDERS[outsider]

    assert set() == actual


def test_an_extra_is_imported_when_it_is_used():
    """What only [standard] installs is never imported at the top of a module, but of those that are for nothing else."""
    extras = {"uvicorn", "uvloop", "typer", "rich", "prometheus_client", "opentelemetry"}
    actual = {
        (module, name)
        for module, tree in TREES.items()
        if part_of(module) not in {"__main__", "server"}
        for statement in tree.body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for name in names_imported(statement)
        if name.split(".")[0] in extras
    }

    assert set() == actual


@pytest.mark.parametrize("module", TREES)
def test_a_module_has_a_docstring(module):
    """Every module says what it is for."""
    actual = ast.get_docstring(TREES[module])

    assert actual


@pytest.mark.parametrize("module", TREES)
def test_a_module_keeps_its_budget(module):
    """No module has more code than a reader can hold."""
    actual = len(code_lines(module))

    assert actual <= MODULE_LINES


@pytest.mark.parametrize("module", TREES)
def test_a_function_keeps_its_budget(module):
    """No function has more code than a page."""
    lines = code_lines(module)
    lengths = {
        node.name: function_length(node, lines)
        for node in ast.walk(TREES[module])
        if isinstance(node, FUNCTIONS)
    }
    actual = {name: length for name, length in lengths.items() if length > FUNCTION_LINES}

    assert {} == actual


def test_the_hot_path_keeps_its_budget():
    """All that runs per request stays readable in one sitting."""
    modules = {
        module for module in TREES if part_of(module) == "_serve" and not module.startswith(STEPS)
    } - SESSION_MODULES
    actual = sum(len(code_lines(module)) for module in modules)

    assert actual <= SERVE_LINES


def test_steps_keep_their_budget():
    """What routes may add to the way of a request stays in proportion to that way."""
    actual = sum(len(code_lines(module)) for module in TREES if module.startswith(STEPS))

    assert actual <= STEPS_LINES


def test_sessions_keep_their_budget():
    """What runs per session stays a small part of what runs per request."""
    actual = sum(len(code_lines(module)) for module in SESSION_MODULES)

    assert actual <= SESSION_LINES


@pytest.mark.parametrize("module", TREES)
def test_names_use_the_glossary(module):
    """No public name has a word for which the glossary has a better one."""
    actual = {
        name
        for name in public_identifiers(module)
        if not name.startswith("_")
        and name not in REQUEST_TARGETS
        and words_of(name) & UNUSED_WORDS
    }

    assert set() == actual


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("UpstreamPool", {"upstream", "pool"}),
        ("HTTPBackends", {"http", "backend"}),
        ("max_in_flight", {"max", "in", "flight"}),
    ],
    ids=["camel", "acronym", "snake"],
)
def test_a_name_is_split_into_words(identifier, expected):
    """Both spellings of a name give its words."""
    actual = words_of(identifier)

    assert expected == actual


def test_the_layer_table_has_no_cycle():
    """The table itself goes down only: base modules aside, no two parts may import each other."""
    edges = {part: set(below) - BASE for part, below in MAY_IMPORT.items() if part not in BASE}
    actual = find_cycle(edges)

    assert [] == actual


def test_every_private_folder_says_when_it_runs():
    """The first line of each private folder names the time at which its code runs."""
    expected = {
        "_declare": "RUNS AT IMPORT",
        "_build": "RUNS AT START-UP",
        "_state": "LIVES WITH THE APP",
        "_serve": "RUNS PER REQUEST",
        "_operate": "BESIDE THE REQUEST",
    }
    actual = {
        part: (ast.get_docstring(TREES[f"proxyroutes.{part}"]) or "").partition(".")[0]
        for part in expected
    }

    assert expected == actual
