"""A study of an engine that is not on this machine ends before anything is made."""

import pytest

from llmbench import engines
from llmbench.errors import Missing
from llmbench.params import make_study
from llmbench.sweep import measure_study


@pytest.mark.parametrize(("module", "remedy"), [
    ("llama_cpp", "make llamacpp"), ("ollama", r"llmbench\[ollama\]"),
])  # fmt: skip
def test_a_package_that_is_not_here_is_said_with_what_brings_it(
    module, remedy, tmp_path, monkeypatch
):
    name = "llamacpp" if module == "llama_cpp" else module
    found = engines.find_spec
    monkeypatch.setattr(engines, "find_spec", lambda one: None if one == module else found(one))
    study = make_study("ollama_comparison", {"target": "edge", "baselines": [name]})
    with pytest.raises(Missing, match=f"engine {name} is not installed here: no {module}") as told:
        measure_study("ollama_comparison", study, outputs=tmp_path)
    assert told.value.how and remedy.replace("\\", "") in told.value.how
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_looked_for_unless_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_OLLAMA", str(tmp_path / "absent"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    with pytest.raises(Missing, match="no program ollama"):
        engines.check_installed("ollama", {})
    engines.check_installed("ollama", {"host": "127.0.0.1:1"})
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    engines.check_installed("ollama", {})
