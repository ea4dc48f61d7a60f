"""Without the `gguf` package the command that brings it is told, by everything that needs it."""

import pytest

import llmbench
from llmbench.errors import Missing
from llmbench.models import gguf_package
from llmbench.models.export import export


def test_its_lack_is_told_with_the_command(tmp_path, monkeypatch):
    made = export("builtin:tiny", tmp_path / "made.gguf", "F16")
    monkeypatch.setattr(gguf_package, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"llmbench\[gguf\]"):
        export("builtin:tiny", tmp_path / "m.gguf", "F16")
    with pytest.raises(Missing, match=r"llmbench\[gguf\]"):
        llmbench.load(f"gguf:{made}", "edge", impl="reference")
