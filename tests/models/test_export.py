"""GGUF files of model folders: the right values under the right names, or nothing at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llmbench.errors import BadParams, Missing, StoreFailed, Unsupported
from llmbench.models.export import KINDS, export
from llmbench.models.gguf_layout import in_pairs
from tests.families import FAMILIES, random_model, read_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return random_model(
        "llama", tmp_path_factory.mktemp("models") / "llama", tie_word_embeddings=True
    )


def source_tensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def values(tensor):
    from gguf.quants import dequantize

    return dequantize(tensor.data, tensor.tensor_type)


def test_f32_holds_the_very_values_of_the_folder(llama, tmp_path):
    tensors, keys = read_gguf(export(str(llama), tmp_path / "x.gguf", "F32"))
    stored = source_tensors(llama)
    assert len(tensors) == len(stored)
    np.testing.assert_array_equal(values(tensors["token_embd.weight"]),
                                  stored["model.embed_tokens.weight"])  # fmt: skip
    np.testing.assert_array_equal(values(tensors["blk.2.ffn_down.weight"]),
                                  stored["model.layers.2.mlp.down_proj.weight"])  # fmt: skip
    q = stored["model.layers.1.self_attn.q_proj.weight"]  # (heads · 32, 64): pairs are neighbours
    np.testing.assert_array_equal(values(tensors["blk.1.attn_q.weight"])[32:36],
                                  q[[32, 48, 33, 49]])  # fmt: skip
    assert keys["general.architecture"] == "llama" and keys["general.file_type"] == 0
    assert keys["llama.attention.head_count_kv"] == 2 and keys["llama.context_length"] == 256
    assert keys["llama.rope.dimension_count"] == keys["llama.attention.key_length"] == 32
    assert len(keys["tokenizer.ggml.tokens"]) == keys["llama.vocab_size"] == 4096


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_what_ggml_makes_of_it(kind, llama, tmp_path):
    from gguf import GGMLQuantizationType, quants

    tensors, keys = read_gguf(export(str(llama), tmp_path / "x.gguf", kind))
    asked = GGMLQuantizationType[kind]
    stored = source_tensors(llama)["model.layers.0.mlp.up_proj.weight"]
    tensor = tensors["blk.0.ffn_up.weight"]
    assert tensor.tensor_type == asked and keys["general.file_type"] == KINDS[kind]
    expected = quants.dequantize(quants.quantize(stored, asked), asked)
    np.testing.assert_array_equal(values(tensor), expected)
    flat = [t for t in tensors.values() if len(t.shape) == 1]
    assert len(flat) == 7 + 7 * 3  # norms and biases
    assert {t.tensor_type.name for t in flat} == {"F32"}


def test_values_do_not_depend_on_how_many_rows_are_read_at_a_time(llama, tmp_path, monkeypatch):
    from llmbench.models import export as room

    whole = export(str(llama), tmp_path / "whole.gguf", "Q8_0").read_bytes()
    monkeypatch.setattr(room, "CHUNK", 100)
    assert export(str(llama), tmp_path / "parts.gguf", "Q8_0").read_bytes() == whole


def test_rows_that_are_no_whole_blocks_are_written_in_f16_and_told(tmp_path):
    folder = random_model("llama", tmp_path / "m", intermediate_size=100)
    told = []
    tensors, _ = read_gguf(export(str(folder), tmp_path / "x.gguf", "Q4_0", tell=told.append))
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert [n for n, kind in kinds.items() if kind == "F16"] == [
        f"blk.{n}.ffn_down.weight" for n in range(3)]  # fmt: skip
    assert len(told) == 3 and "blk.0.ffn_down.weight is written in F16: its rows of 100" in told[0]


def test_bfloat16_and_float16_folders_are_read_exactly(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = random_model("gemma2", tmp_path / "m")
    whole = load_file(folder / "model.safetensors")
    for dtype in (torch.bfloat16, torch.float16):
        held = {name: tensor.to(dtype) for name, tensor in whole.items()}
        save_file(held, folder / "model.safetensors")
        tensors, _ = read_gguf(export(str(folder), tmp_path / "x.gguf", "F32", force=True))
        expected = held["model.layers.0.mlp.up_proj.weight"].float().numpy()
        np.testing.assert_array_equal(values(tensors["blk.0.ffn_up.weight"]), expected)
        norm = held["model.layers.0.pre_feedforward_layernorm.weight"].float().numpy()
        np.testing.assert_array_equal(values(tensors["blk.0.ffn_norm.weight"]), norm + 1)


def test_in_pairs_puts_halves_side_by_side():
    assert in_pairs(np.arange(8), 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_a_place_for_every_tensor(family, tmp_path):
    folder = random_model(family, tmp_path / "m")
    tensors, keys = read_gguf(export(str(folder), tmp_path / "x.gguf", "F16"))
    made = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
    assert len(set(tensors) - made) == len(source_tensors(folder))
    assert ("rope_freqs.weight" in tensors) == (family == "llama3")
    config = json.loads((folder / "config.json").read_text())
    assert keys["general.architecture"] == {"mistral": "llama"}.get(
        config["model_type"], config["model_type"])  # fmt: skip


def test_llama3_factors_divide_the_long_waves_only(tmp_path):
    folder = random_model("llama3", tmp_path / "m")
    tensors, _ = read_gguf(export(str(folder), tmp_path / "x.gguf", "F16"))
    factors = values(tensors["rope_freqs.weight"])
    assert factors[0] == 1 and factors[-1] == pytest.approx(8) and (np.diff(factors) >= 0).all()


CHANGES = {
    "an unknown family": ({"model_type": "gpt_neox"}, "model_type 'gpt_neox'"),
    "experts": ({"model_type": "mixtral"}, "model_type 'mixtral'"),
    "another activation": ({"hidden_act": "relu"}, "activation 'relu'"),
    "another rotary scaling": ({"rope_parameters": {"rope_type": "yarn"}}, "scaling 'yarn'"),
    "packed weights": ({"quantization_config": {}}, "quantised already"),
}


@pytest.mark.parametrize(("changes", "what"), CHANGES.values(), ids=CHANGES)
def test_what_llamacpp_would_compute_otherwise_is_refused(changes, what, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(Unsupported, match=what):
        export(str(folder), tmp_path / "x.gguf", "F16")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(("family", "changes", "what"), [
    ("gemma2", {"query_pre_attn_scalar": 77}, "query_pre_attn_scalar 77"),
    ("gemma2", {"attn_logit_softcapping": None}, "soft caps"),
    ("gemma2", {"layer_types": ["full_attention"] * 3}, "every other layer"),
    ("qwen2", {"head_dim": 32, "num_attention_heads": 4}, "heads of 32"),
])  # fmt: skip
def test_what_a_family_cannot_say_is_refused(family, changes, what, tmp_path):
    folder = random_model(family, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(Unsupported, match=what):
        export(str(folder), tmp_path / "x.gguf", "F16")


def test_a_window_that_llamacpp_does_not_keep_is_told(tmp_path):
    folder, told = random_model("mistral", tmp_path / "m", sliding_window=64), []
    export(str(folder), tmp_path / "x.gguf", "F16", tell=told.append)
    assert "no sliding window for mistral: past 64 tokens" in told[0]


def test_tensors_too_many_too_few_and_of_the_wrong_shape(llama, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(llama, tmp_path / "m")
    file, target = folder / "model.safetensors", tmp_path / "x.gguf"
    whole = load_file(file)
    save_file(whole | {"model.layers.0.extra.weight": np.zeros(3, np.float32)}, file)
    with pytest.raises(Unsupported, match=r"no place.*extra"):
        export(str(folder), target, "F16")
    save_file({n: t for n, t in whole.items() if n != "model.norm.weight"}, file)
    with pytest.raises(Missing, match=r"no tensor 'model\.norm\.weight'"):
        export(str(folder), target, "F16")
    save_file(whole | {"model.norm.weight": np.zeros(63, np.float32)}, file)
    with pytest.raises(Missing, match="shape"):
        export(str(folder), target, "F16")
    save_file(whole | {"model.norm.weight": np.zeros(64, np.int32)}, file)
    with pytest.raises(Unsupported, match="I32"):
        export(str(folder), target, "F16")
    save_file(whole | {"model.embed_tokens.weight": np.full((4096, 64), 1e5, np.float32)}, file)
    with pytest.raises(Unsupported, match="float16 cannot hold"):
        export(str(folder), target, "F16")
    save_file(whole, file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(Missing, match=r"ends inside the tensor|cannot be read"):
        export(str(folder), target, "F16")
    assert not target.exists()


def test_a_file_that_is_there_is_kept_unless_forced(llama, tmp_path):
    target = tmp_path / "x.gguf"
    target.write_text("mine")
    with pytest.raises(BadParams, match="there already"):
        export(str(llama), target, "Q8_0")
    assert target.read_text() == "mine"
    export(str(llama), target, "Q8_0", force=True)
    assert target.stat().st_size > 1000


def test_unknown_types_and_places_are_refused(llama, tmp_path):
    with pytest.raises(BadParams, match="no type 'Q9'"):
        export(str(llama), tmp_path / "x.gguf", "Q9")
    with pytest.raises(BadParams, match="none that exists"):
        export(str(llama), tmp_path / "nowhere" / "x.gguf", "F16")
    with pytest.raises(BadParams, match="folder"):
        export(str(llama), tmp_path, "F16")


def test_without_room_nothing_is_written(llama, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1 << 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(StoreFailed, match="MiB of disk"):
        export(str(llama), tmp_path / "x.gguf", "F16")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(llama, tmp_path):
    """A limit on the size of files stands for a full disk: writing ends with an OSError."""
    program = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
               "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
               "from llmbench.models.export import export; "
               "export(sys.argv[1], sys.argv[2], 'F16')")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, llama, tmp_path / "x.gguf"],
                          capture_output=True, text=True)  # fmt: skip
    assert "StoreFailed" in done.stderr and "cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time
from llmbench.models import export as room
before = room._checked
def slowly(*given):
    print("writing", flush=True); time.sleep(0.2)
    return before(*given)
room._checked = slowly
room.export(sys.argv[1], sys.argv[2], "F16", force=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_export_leaves_no_file_and_the_next_one_nothing_of_it(number, llama, tmp_path):
    target = tmp_path / "x.gguf"
    child = subprocess.Popen([sys.executable, "-c", SLOW, llama, target], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    child.stdout.readline()
    (part,) = tmp_path.iterdir()
    assert not target.exists()
    export(str(llama), target, "Q8_0")  # meanwhile: what is still written is let alone
    assert part.exists()
    child.send_signal(number)
    child.wait()
    assert part.exists() == (number == signal.SIGKILL)
    export(str(llama), target, "Q8_0", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_the_same_model_gives_the_same_bytes(llama, tmp_path):
    first = export(str(llama), tmp_path / "a.gguf", "Q8_0").read_bytes()
    time.sleep(0.01)
    assert export(str(llama), tmp_path / "b.gguf", "Q8_0").read_bytes() == first
    assert os.sep.encode() + b"tmp" not in first  # no path of this machine


def test_the_command_writes_tells_and_refuses(tmp_path):
    def run(*words):
        command = [sys.executable, "-m", "llmbench", "export", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    folder, target = (
        random_model("llama", tmp_path / "m", intermediate_size=100),
        tmp_path / "x.gguf",
    )
    done = run(folder, target, "--type", "Q8_0", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"file": str(target), "type": "Q8_0",
                                       "bytes": target.stat().st_size}  # fmt: skip
    assert "blk.2.ffn_down.weight is written in F16" in done.stderr
    again = run(folder, target)
    assert again.returncode == 2 and "--force" in again.stderr and not again.stdout
    assert run(folder, target, "--force").returncode == 0
    assert run("builtin:tinny", tmp_path / "y.gguf").returncode == 2
