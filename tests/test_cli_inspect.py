"""`llmbench inspect`: a card for people, a document for programs, a refusal that says where."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from llmbench.models.shapes import shape_folder, write_shape
from llmbench.models.spec import Spec
from tests.gguf_bytes import TEXT, array, gguf, key, small_model, tensor, written
from tests.gguf_models import model_file
from tests.models.test_shapes import SMALL
from tests.ollama_folders import add_tag
from tests.said import llmbench

MOE = Spec("mixtral", n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_model=32, d_ff=64,
           vocab_size=100, tied=False, n_experts=4, n_experts_used=2,
           trained_context=2048)  # fmt: skip
KEYS = {
    "file", "format", "file_bytes", "architecture", "name", "parameters", "parameters_active",
    "weight_bytes", "bits_per_weight", "quantization", "tensors", "n_layers", "n_heads",
    "n_kv_heads", "key_size", "value_size", "d_model", "d_ff", "d_ff_expert", "vocab_size",
    "n_experts", "n_experts_used", "sliding_window", "trained_context", "trained_context_pages",
    "page_rule", "causal", "recurrent", "rope", "vocabulary", "kv_bytes_per_token", "memory",
    "not_known", "notes",
}  # fmt: skip


def inspect(*words, code=0):
    done = llmbench("inspect", *words)
    assert done.returncode == code, done.stderr
    return done


def test_the_card_for_people(tmp_path):
    more = (key("general.name", TEXT, "Some Mixture"), key("tokenizer.ggml.model", TEXT, "llama"),
            array("tokenizer.ggml.tokens", TEXT, ["x"] * 99))  # fmt: skip
    said = inspect(model_file(tmp_path / "m.gguf", MOE, more)).stdout
    lines = [" ".join(line.split()) for line in said.splitlines()]
    parameters = 2 * (2 * 32 * (32 + 16) + 4 * 3 * 32 * 64 + 4 * 32 + 64) + 2 * 3200 + 32
    active = parameters - 2 * 2 * 3 * 32 * 64
    assert lines[0] == "Some Mixture"
    for line in (
        "architecture llama",
        f"parameters {parameters:,} (62.1 K), {active:,} of them in each token",
        "layers 2",
        "embedding 32 wide, vocabulary of 100",
        "heads 4 of size 8, KV heads 2",
        "experts 4, of which each token uses 2",
        "RoPE dimension 8, base 1,000,000, scaling none",
        "trained for 2,048 tokens, about 6 pages (250 words a page, 4 tokens for 3 words)",
        "tokenizer llama (SentencePiece BPE), 99 tokens, no chat template",
        "KV cache 128 B a token in F16",
        "norms F32 5 160 640 B 0.5 %",
        "2,048 122 KiB 256 KiB 378 KiB",
        "note the embedding has 100 rows, the tokenizer 99 tokens",
    ):
        assert line in lines, said
    assert max(map(len, said.splitlines()[2:])) <= 100


def test_the_document_has_stable_keys(tmp_path):
    told = json.loads(inspect(model_file(tmp_path / "m.gguf", MOE), "--json").stdout)
    assert set(told) == KEYS
    assert set(told["rope"]) == {"dimension", "base", "scaling", "factor", "original_context"}
    assert set(told["vocabulary"]) == {"kind", "pre_tokenizer", "tokens", "merges", "chat_template"}
    assert set(told["tensors"][0]) == {"tensor_class", "kind", "tensors", "values", "nbytes"}
    assert set(told["memory"][0]) == {"context_tokens", "weight_bytes", "kv_bytes", "total_bytes"}
    strange = written(tmp_path / "s.gguf", gguf([], [tensor("x", (1,))], bytes(4)))
    assert set(json.loads(inspect(strange, "--json").stdout)) == KEYS


@pytest.mark.parametrize("spec", [MOE, replace(MOE, model_type="gemma2", n_experts=1)])
def test_tables_hold_what_the_document_holds(tmp_path, spec):
    path = model_file(tmp_path / "m.gguf", spec)
    told, said = json.loads(inspect(path, "--json").stdout), inspect(path).stdout
    for row in told["tensors"]:
        assert f"{row['values']:,}" in said
    for need in told["memory"]:
        assert f"{need['context_tokens']:,}" in said


def test_a_broken_file_ends_with_2_and_says_where(tmp_path):
    path = written(tmp_path / "m.gguf", small_model()[:-1])
    done = inspect(path, code=2)
    assert done.stdout == ""
    assert f"llmbench: {path}: refused at byte" in done.stderr
    assert "1 bytes too early" in done.stderr
    assert "go on: fetch the file again" in done.stderr
    assert "cannot be read: No such file" in inspect(tmp_path / "absent.gguf", code=2).stderr


def test_every_name_of_a_model_has_its_card(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    blob = add_tag(tmp_path, "small:1b", small_model())
    by_path = json.loads(inspect(blob, "--json").stdout)
    for name in (f"gguf:{blob}", "ollama:small:1b"):
        assert json.loads(inspect(name, "--json").stdout) == by_path
    assert json.loads(inspect("builtin:tiny", "--json").stdout)["parameters"] == 3_409_664
    shape_folder("shape:smollm-135m").mkdir(parents=True)
    write_shape(shape_folder("shape:smollm-135m"), "smollm-135m", SMALL)
    assert json.loads(inspect("shape:smollm-135m", "--json").stdout)["n_layers"] == SMALL.n_layers


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("shape:smollm-135m", 3, "llmbench models shape:smollm-135m"),
     ("shape:smolm-135m", 2, "smollm-135m"),
     ("builtin:tini", 2, "did you mean builtin:tiny?"),
     ("gguf:absent.gguf", 2, "no file 'absent.gguf'"),
     ("ollama:absent:1b", 3, "llmbench pull ollama:absent:1b"),
     ("ollama:../../x", 2, "is no Ollama tag"),
     ("hf:Qwen/Qwen2.5-0.5B", 2, "llmbench pull Qwen/Qwen2.5-0.5B"),
     ("spectral:tiny", 2, "no model 'spectral:tiny'")],
)  # fmt: skip
def test_a_name_without_weights_here_ends_with_a_word(tmp_path, monkeypatch, name, code, said):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    assert said in inspect(name, code=code).stderr


def test_inspect_starts_light(tmp_path):
    """What costs half a second to import stays asleep."""
    path = model_file(tmp_path / "m.gguf", MOE)
    code = f"""
import sys
from llmbench.cli import commands
commands(['inspect', {str(path)!r}], standalone_mode=False)
print(*sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(said.stdout.splitlines()[-1].split())
    assert "llmbench.models.file_card" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "pydantic", "gguf", "transformers"}
