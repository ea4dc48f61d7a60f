"""Markers of tests that need something which not every machine has, and their skips."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest

from llmbench.engines.ollama_server import find_binary
from llmbench.errors import Missing


def _has_ollama() -> bool:
    try:
        return bool(find_spec("ollama") and find_binary())
    except Missing:
        return False


NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "llamacpp": ("llama-cpp-python; make llamacpp", lambda: find_spec("llama_cpp") is not None),
    "ollama": ("the ollama package and a server's program; make ollama", _has_ollama),
}


def pytest_configure(config: pytest.Config) -> None:
    for name, (what, _) in NEEDS.items():
        config.addinivalue_line("markers", f"{name}: needs {what}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("alone") and not item.get_closest_marker("slow"):
            raise pytest.UsageError(f"{item.nodeid} is alone and not slow: make test runs its "
                                    "tests side by side")  # fmt: skip
    for name, (what, here) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not here():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"not here: {what}"))
