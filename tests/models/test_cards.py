"""Models as people read them: the catalog, and what else lies on this machine."""

import pytest

from llmbench.errors import BadParams, Missing
from llmbench.models import cards
from llmbench.models.predict import spec_of
from tests.gguf_bytes import small_model
from tests.gguf_models import model_file
from tests.ollama_folders import add_tag


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    return tmp_path


def test_tags_that_are_here_stand_in_the_list(folder):
    file = model_file(folder / "tiny.gguf", spec_of("builtin:tiny"))
    add_tag(folder, "qwen2.5:0.5b", file.read_bytes())
    add_tag(folder, "tiny:f16", file.read_bytes(), place="registry.ollama.ai/anna")
    add_tag(folder, "broken:1b", small_model()).unlink()
    rows = {row["name"]: row for row in cards.models()}
    assert rows["qwen2.5-0.5b"]["use"] == "ollama:qwen2.5:0.5b or shape:qwen2.5-0.5b"
    assert rows["qwen2.5-1.5b"]["use"] == "shape:qwen2.5-1.5b"
    assert "ollama:qwen2.5:0.5b" not in rows
    tiny = rows["ollama:anna/tiny:f16"]
    assert (tiny["use"], tiny["parameters"]) == ("ollama:anna/tiny:f16", 3_409_664)
    assert "damaged" in rows["ollama:broken:1b"]["use"]


def test_a_file_and_a_tag_have_a_card(folder):
    file = model_file(folder / "tiny.gguf", spec_of("builtin:tiny"))
    add_tag(folder, "tiny:f16", file.read_bytes())
    for name in ("builtin:tiny", f"gguf:{file}", "ollama:tiny:f16"):
        [card] = cards.models(name)
        assert (card["name"], card["parameters"], card["use"]) == (name, 3_409_664, name)
        assert card["predicted_bytes"]["float32"][2048] > 4 * 3_409_664


def test_what_is_nowhere_is_said(folder):
    with pytest.raises(Missing, match="llmbench pull ollama:absent:1b"):
        cards.models("ollama:absent:1b")
    with pytest.raises(BadParams):
        cards.models("builtin:tini")
    assert cards.models("ollama:qwen2.5:0.5b")[0]["name"] == "qwen2.5-0.5b"
