"""Markers of tests that need what not every machine has."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ollama: needs a real Ollama server's program: make ollama")
