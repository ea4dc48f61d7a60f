"""Markers of tests that need something which not every machine has, and their skips."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmbench.engines.ollama_server import find_binary
from llmbench.errors import Missing
from llmbench.kernels.build import kernels_folder


def _has_ollama() -> bool:
    try:
        return bool(find_spec("ollama") and find_binary())
    except Missing:
        return False


NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "llamacpp": ("llama-cpp-python; make llamacpp", lambda: find_spec("llama_cpp") is not None),
    "ollama": ("the ollama package and a server's program; make ollama", _has_ollama),
}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds nothing but the kernels, which take long to compile, until the test."""
    kernels_folder().mkdir(parents=True, exist_ok=True)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "kernels").symlink_to(kernels_folder())
    monkeypatch.setenv("LLMBENCH_CACHE", str(cache))
    return cache


def pytest_configure(config: pytest.Config) -> None:
    os.environ["LLMBENCH_PATIENCE_S"] = "0"  # tests run side by side: no machine is ever quiet
    for name, (what, _) in NEEDS.items():
        config.addinivalue_line("markers", f"{name}: needs {what}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, needs in (("alone", "exhaustive"), ("exhaustive", "slow")):
            if item.get_closest_marker(name) and not item.get_closest_marker(needs):
                raise pytest.UsageError(f"{item.nodeid} is {name} and not {needs}: it would run "
                                        "where it must not")  # fmt: skip
    for name, (what, here) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not here():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"not here: {what}"))
