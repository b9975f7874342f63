"""What users may import: complete, sorted, described, and found in the reference."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import proxyroutes
from proxyroutes import exceptions

CHECKOUT = Path(__file__).parent.parent
REFERENCE = CHECKOUT / "docs" / "reference"
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]

MODULES = [
    "proxyroutes",
    *(
        f"proxyroutes.{module.name}"
        for module in pkgutil.iter_modules(proxyroutes.__path__)
        if module.name[0] != "_"
    ),
]
NAMES = [
    (module, name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if name != "__version__"
]

# The part of the contract that this release has, at the place where examples and users import it from.
CONTRACT = {
    "Destination",
    "Forward",
    "ForwardedRequest",
    "HealthCheck",
    "HealthMonitor",
    "Limits",
    "Match",
    "Proxy",
    "Retry",
    "Timeouts",
    "UpstreamPool",
}


def sort_key(name: str) -> tuple[int, str]:
    """Constants first, then classes, then the rest, as the linter sorts them."""
    if name.isupper():
        return 0, name
    return (1 if name[0].isupper() else 2), name


def documented_names() -> set[str]:
    """Last parts of what the reference's ``:::`` lines show; a module shows its ``__all__``."""
    names: set[str] = set()
    for page in REFERENCE.glob("*.md"):
        for dotted in re.findall(
            r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if dotted in MODULES:
                names.update(importlib.import_module(dotted).__all__)
            else:
                names.add(dotted.rpartition(".")[2])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_all_is_sorted(module):
    """``__all__`` is in the order that the linter keeps."""
    actual = importlib.import_module(module).__all__

    assert sorted(actual, key=sort_key) == list(actual)


@pytest.mark.parametrize("module", MODULES)
def test_all_has_no_name_twice(module):
    """``__all__`` is a set."""
    actual = importlib.import_module(module).__all__

    assert len(set(actual)) == len(actual)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_can_be_imported(module, name):
    """Every name in ``__all__`` is there."""
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", MODULES)
def test_all_is_complete(module):
    """Every class that a public module defines without a leading underscore is in its ``__all__``."""
    loaded = importlib.import_module(module)
    defined = {
        name
        for name, value in vars(loaded).items()
        if inspect.isclass(value) and value.__module__ == module and not name.startswith("_")
    }
    actual = defined - set(loaded.__all__)

    assert set() == actual


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_class_or_function_has_a_docstring(module, name):
    """Every public class and function has a docstring of its own."""
    value = getattr(importlib.import_module(module), name)
    described = inspect.isclass(value) or inspect.isfunction(value)
    actual = (
        vars(value).get("__doc__", getattr(value, "__doc__", None)) if described else "an alias"
    )

    assert actual


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_is_in_the_reference(module, name):
    """Every public name is shown by a page of the reference."""
    actual = documented_names()

    assert name in actual


def test_a_name_means_one_thing():
    """A name that two public modules export is the same object in both."""
    seen: dict[str, set[int]] = {}
    for module, name in NAMES:
        seen.setdefault(name, set()).add(id(getattr(importlib.import_module(module), name)))
    actual = {name for name, objects in seen.items() if len(objects) > 1}

    assert set() == actual


def test_the_contract_is_exported_by_the_package():
    """What every user needs is imported from ``proxyroutes`` itself."""
    actual = CONTRACT - set(proxyroutes.__all__)

    assert set() == actual


def test_the_package_is_typed():
    """Type checkers read the package's own annotations."""
    assert (Path(proxyroutes.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_imports_what_exists(page):
    """Every Python block of the documents parses, and imports only names that are there."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    missing = {
        f"{statement.module}.{alias.name}"
        for block in blocks
        for statement in ast.walk(ast.parse(block))
        if isinstance(statement, ast.ImportFrom)
        and statement.module.partition(".")[0] == "proxyroutes"
        for alias in statement.names
        if not hasattr(importlib.import_module(statement.module), alias.name)
    }

    assert set() == missing


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_includes_its_examples(page):
    """The marks that include whole files are spelled as the builder knows them: any other spelling is shown as it is."""
    text = page.read_text(encoding="utf-8")

    assert len(re.findall(r"8\s*<\s*--", text)) == len(
        re.findall(r'^--8<-- "', text, re.MULTILINE)
    )


def test_every_problem_type_has_its_page():
    """The address in a problem's ``type`` leads to a page that says what it means."""
    errors = [getattr(exceptions, name) for name in exceptions.__all__]
    expected = {
        error.slug
        for error in errors
        if issubclass(error, exceptions.GatewayError) and "slug" in vars(error)
    } - {exceptions.GatewayError.slug, exceptions.RelayInterruptedError.slug}
    actual = {page.stem for page in (CHECKOUT / "docs" / "problems").glob("*.md")}

    assert set() == expected - actual
