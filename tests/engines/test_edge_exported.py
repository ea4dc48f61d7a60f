"""What `export` writes, edge reads: a way there and back for every family and tokenizer."""

import numpy as np
import pytest

from llmbench.engines.edge import EdgeEngine
from llmbench.engines.transformers import TransformersEngine
from llmbench.errors import BadParams
from llmbench.models.export import export
from llmbench.models.source import find_model
from llmbench.models.tokenizer import load_tokenizer
from tests.engines.test_edge import greedy, loaded
from tests.families import FAMILIES, random_model
from tests.models.test_gguf_vocab import exported, texts
from tests.tokenizers_made_here import PRE, byte_level, sentencepiece

IDS = list(range(300, 345))  # longer than every window and every context first trained for


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_family_says_what_transformers_says_of_its_folder(family, tmp_path):
    folder = find_model(str(random_model(family, tmp_path / "model")))
    file = find_model(f"gguf:{export(folder.name, tmp_path / 'model.gguf', 'F32')}")
    caps = folder.config["model_type"] == "gemma2"
    ours = loaded(EdgeEngine, file, attention_impl="reference")
    theirs = loaded(TransformersEngine, folder, attention_impl="eager" if caps else "sdpa")
    assert np.abs(ours.logprobs(IDS) - theirs.logprobs(IDS)).max() < 1e-4
    assert greedy(ours, [IDS], 12) == greedy(theirs, [IDS], 12)


@pytest.mark.parametrize("kind", ["F32", "BF16"])  # its weights are bfloat16: nothing is lost
def test_builtin_tiny_comes_back_as_it_was(kind, tmp_path):
    file = find_model(f"gguf:{export('builtin:tiny', tmp_path / 'tiny.gguf', kind)}")
    folder = find_model("builtin:tiny")
    both = (loaded(EdgeEngine, source).logprobs(IDS) for source in (file, folder))
    assert np.abs(np.subtract(*both)).max() < 1e-5
    for text in texts():
        assert file.tokenizer.encode(text) == folder.tokenizer.encode(text)


@pytest.mark.parametrize("name", PRE)
def test_a_byte_level_tokenizer_comes_back(name, tmp_path):
    file, _ = exported(tmp_path / "model", tmp_path, byte_level(name), eos_token="<|endoftext|>")
    check(file, tmp_path / "model", texts())


@pytest.mark.parametrize("prefix", ["legacy", "first", "never", "gemma"])
def test_a_sentencepiece_tokenizer_comes_back(prefix, tmp_path):
    made = sentencepiece(prefix)
    file, _ = exported(tmp_path / "model", tmp_path, made, bos_token="<s>", eos_token="</s>")
    odd = (" ", "</s>") if prefix == "first" else ()  # a file cannot say it; llama.cpp differs too
    check(file, tmp_path / "model", [t for t in texts() if not t.startswith(odd)])


def check(file, folder, given):
    ours, theirs = find_model(f"gguf:{file}").tokenizer, load_tokenizer(folder)
    for text in given:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, repr(text)
        said = (tokenizer.decode(ids).lstrip(" ") for tokenizer in (ours, theirs))
        assert len(set(said)) == 1, repr(text)  # but for the space that stands for none, if any
    assert ours.special_ids == theirs.special_ids


def test_a_folder_in_another_type_is_its_exported_file(tmp_path):
    folder = find_model("builtin:tiny")
    file = find_model(f"gguf:{export('builtin:tiny', tmp_path / 'tiny.gguf', 'Q4_0')}")
    whole, read = (loaded(EdgeEngine, source).logprobs(IDS) for source in (folder, file))
    asked = loaded(EdgeEngine, folder, weights="Q4_0")
    assert asked.served.weight_format == "float32" and not np.allclose(read, whole, atol=0.01)
    assert np.array_equal(asked.logprobs(IDS), read)
    with pytest.raises(BadParams, match="has its own"):
        loaded(EdgeEngine, file, weights="Q8_0")


@pytest.mark.parametrize("engine", [EdgeEngine, TransformersEngine])
def test_the_sha256_of_the_very_file_is_told(engine, tmp_path):
    folder, made = find_model("builtin:tiny"), tmp_path / "tiny.gguf"
    file = find_model(f"gguf:{export('builtin:tiny', made, 'Q8_0')}")
    assert loaded(engine, folder).served.file_sha256 is None
    assert loaded(engine, file).served.file_sha256 == file.sha256
    assert loaded(engine, folder, weights="Q8_0").served.file_sha256 == file.sha256
    assert loaded(engine, folder, weights="F32").served.file_sha256 not in (None, file.sha256)
