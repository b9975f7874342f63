"""Hooks of the whole suite."""

import pytest

from tests.conformance.page import ConformancePlugin, read_catalogue


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the conformance page."""
    parser.addoption(
        "--conformance",
        choices=["write", "check"],
        help="write docs/reference/conformance.md, or only compare it, which every whole run does",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Note which test shows which line of the conformance list."""
    config.pluginmanager.register(ConformancePlugin(config, read_catalogue()), "conformance")
