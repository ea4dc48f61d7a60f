"""Markers of tests that need something which not every machine has."""

from importlib.util import find_spec

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "llamacpp: needs llama-cpp-python; make llamacpp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("llama_cpp") is None:
        skipped = pytest.mark.skip(reason="llama_cpp is not installed; make llamacpp")
        for item in items:
            if item.get_closest_marker("llamacpp"):
                item.add_marker(skipped)
