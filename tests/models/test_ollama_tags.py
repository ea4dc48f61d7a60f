"""`ollama:<tag>` is the file that a server's manifest names, or an error that says what to do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.errors import BadParams, LlmbenchError, Missing, Unsupported
from llmbench.models.ollama_tags import tags_here
from llmbench.models.predict import spec_of
from llmbench.models.source import find_model, locate
from llmbench.params import make_study
from tests.gguf_bytes import small_model
from tests.gguf_models import model_file
from tests.ollama_folders import add_tag, manifest_of

TAG = "small:1b"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """No models but those of the test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return tmp_path


@pytest.fixture
def folder(home) -> Path:
    return home / ".ollama/models"


def refused(name: str = f"ollama:{TAG}", find=locate) -> LlmbenchError:
    with pytest.raises(LlmbenchError) as caught:
        find(name)
    return caught.value


def test_a_tag_is_the_file_of_its_weights(folder):
    blob = add_tag(folder, TAG, small_model())
    source = find_model(f"ollama:{TAG}")
    assert (source.name, source.file, source.folder) == (f"ollama:{TAG}", blob, None)
    assert blob.name == f"sha256-{source.sha256}"
    assert make_study("scaling", {"models": [f"ollama:{TAG}"]}).models == [f"ollama:{TAG}"]


@pytest.mark.parametrize(
    ("name", "tag", "place"),
    [("small", "small:latest", "registry.ollama.ai/library"),
     ("anna/small:1b", TAG, "registry.ollama.ai/anna"),
     ("hub.example/anna/Small-1B-GGUF:Q4_K_M", "Small-1B-GGUF:Q4_K_M", "hub.example/anna"),
     ("hub.example:8080/anna/small", "small:latest", "hub.example:8080/anna")],
)  # fmt: skip
def test_short_and_long_names(folder, name, tag, place):
    blob = add_tag(folder, tag, small_model(), place=place)
    assert locate(f"ollama:{name}") == blob
    [listed] = tags_here()
    assert locate(f"ollama:{listed}") == blob
    assert len(listed) == len(name if ":" in name.rpartition("/")[2] else f"{name}:latest")


@pytest.mark.parametrize("place", ["OLLAMA_MODELS", "cache"])
def test_the_folders_that_are_looked_into(home, monkeypatch, place):
    if place == "OLLAMA_MODELS":
        monkeypatch.setenv(place, str(home / "own"))
    blob = add_tag(home / {"cache": "cache/ollama/models"}.get(place, "own"), TAG, small_model())
    assert locate(f"ollama:{TAG}") == blob


@pytest.mark.parametrize(
    "tag", ["", "../../x", "..", "a/../b", "/etc/passwd", "a//b", "a:b:c", "a:", ":a", "a\\b",
            "a b", "a:..", "a/b/c/d", ".a", "a\n", "a@sha256:0", "x" * 81, "ä"],
)  # fmt: skip
def test_what_is_no_tag_is_refused(folder, tag):
    (folder / "manifests").mkdir(parents=True)
    error = refused(f"ollama:{tag}")
    assert isinstance(error, BadParams) and "is no Ollama tag" in error.what


def test_a_tag_that_is_not_here_names_the_command_and_what_is_near(folder):
    error = refused()
    assert isinstance(error, Missing)
    assert error.how == f"llmbench pull ollama:{TAG}" and str(folder) in error.why
    for tag in ("small:2b", "other:70b", "llmbench-0123:latest"):
        add_tag(folder, tag, small_model())
    assert tags_here() == ["other:70b", "small:2b"]
    error = refused()
    assert error.how == f"llmbench pull ollama:{TAG}; here are ollama:small:2b"
    with pytest.raises(BadParams, match=f"llmbench pull ollama:{TAG}"):
        make_study("scaling", {"models": [f"ollama:{TAG}"]})
    assert refused(find=spec_of).how == error.how


def test_weights_that_are_lost_short_or_other_are_said(folder):
    blob = add_tag(folder, TAG, small_model())
    blob.write_bytes(small_model()[:-1] + b"x")
    assert "another sha256" in refused(find=find_model).why
    blob.write_bytes(small_model()[:-1])
    short = refused()
    assert isinstance(short, BadParams)
    assert f"has {len(small_model()) - 1:,} bytes of {len(small_model())}" in short.why
    assert f"llmbench pull ollama:{TAG}" in short.how
    blob.unlink()
    assert "is missing" in refused().why


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"layers": 3}', '{"layers": [3]}', "\udcff", "[" * 100_000],
)  # fmt: skip
def test_a_manifest_that_is_none_is_damage(folder, text):
    add_tag(folder, TAG, small_model())
    manifest_of(folder, TAG).write_bytes(text.encode(errors="surrogateescape"))
    assert "is damaged on this disk" in refused().what


@pytest.mark.parametrize("digest", ["sha256:../../../x", "sha256:" + "0" * 63, "md5:0", None, 3])
def test_a_digest_that_leads_elsewhere_is_damage(folder, digest):
    add_tag(folder, TAG, small_model(), others=())
    manifest = manifest_of(folder, TAG)
    told = json.loads(manifest.read_text())
    told["layers"][0]["digest"] = digest
    manifest.write_text(json.dumps(told))
    assert "names no sha256" in refused().why


@pytest.mark.parametrize("others", [("adapter",), ("model",)])
def test_more_than_one_file_of_weights_is_unsupported(folder, others):
    add_tag(folder, TAG, small_model(), others=others)
    assert isinstance(refused(), Unsupported)


def test_one_name_for_two_models_is_refused_and_for_one_twice_is_not(home, folder):
    blobs = [add_tag(place, TAG, small_model()) for place in (folder, home / "cache/ollama/models")]
    assert locate(f"ollama:{TAG}") == blobs[0]
    other = add_tag(folder, TAG, small_model() + b"x")
    assert f"gguf:{other} or gguf:{blobs[1]}" in refused().how


def test_a_file_that_is_no_gguf_is_refused(folder):
    add_tag(folder, TAG, b"no GGUF at all")
    assert isinstance(refused(find=find_model), BadParams)


def test_the_catalog_tells_of_a_tag_that_is_not_here_and_the_file_of_one_that_is(home, folder):
    assert spec_of("ollama:qwen2.5:0.5b").n_layers == 24
    spec = replace(spec_of("ollama:qwen2.5:0.5b"), n_layers=2, vocab_size=100)
    add_tag(folder, "qwen2.5:0.5b", model_file(home / "m.gguf", spec).read_bytes())
    assert spec_of("ollama:qwen2.5:0.5b").n_layers == 2
