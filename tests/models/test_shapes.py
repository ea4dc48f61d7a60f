"""`shape:` models: the same bytes everywhere, the right tensors, only visible tokens."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from llmbench import catalog
from llmbench.errors import BadParams, LlmbenchError, StoreFailed, Unsupported
from llmbench.models import shapes
from llmbench.models.export import export
from llmbench.models.predict import predict
from llmbench.models.source import find_model, locate, peek_model
from llmbench.models.spec import spec_from_config
from llmbench.models.tokenizer import load_tokenizer
from llmbench.params import tier_models

SMALL = catalog.Architecture(model_type="qwen2", n_layers=2, n_heads=3, n_kv_heads=1, head_dim=14,
                             d_model=42, d_ff=59, vocab_size=4099, tie_word_embeddings=False,
                             qkv_bias=True, trained_context=64)  # fmt: skip
LESS = {  # of the two families whose layers differ from Llama's: the catalog's own, made small
    "phi-3.5-mini": {"n_layers": 2, "n_heads": 3, "n_kv_heads": 3, "d_model": 288, "d_ff": 100,
                     "vocab_size": 4099},
    "gemma-2-2b": {"n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "head_dim": 24, "d_model": 60,
                   "d_ff": 100, "vocab_size": 4099, "sliding_window": 5},
}  # fmt: skip
SMALL_SHA256 = "ea5166328c8e65aa7fbe3c9a155d306dd560cc236a446a717d42938cee4946ed"
QWEN_SHA256 = "c041e30a30a93a3b7e9a3edf270eede4c3df50f3f33d934d1c8ca14b149e89b9"
SMOLLM_SHA256 = "aa89e57582938f7863045bd5539fa7fee268f8d47132ae8aeb7bc2d607952c82"


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def small(tmp_path):
    shapes.write_shape(tmp_path, "smollm-135m", SMALL)
    return tmp_path


def test_the_same_bytes_on_every_machine(small):
    assert sha256(small / "model.safetensors") == SMALL_SHA256


def test_transformers_reads_every_tensor_and_misses_none(small):
    import torch
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        small, dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert {t.name: t.shape for t in shapes.tensors_of(SMALL)} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }


def test_edge_serves_it_as_transformers_does(small):
    from llmbench.engines.edge import EdgeEngine
    from llmbench.engines.transformers import TransformersEngine

    tables = []
    for engine, impl in ((EdgeEngine(), {"impl": "reference"}), (TransformersEngine(), {})):
        engine.load(find_model(str(small)), {"threads": 1} | impl)
        tables.append(engine.logprobs([5, 90, 1000, 77]))
    assert np.abs(tables[0] - tables[1]).max() < 1e-4


@pytest.fixture(scope="module", params=LESS)
def less(request, tmp_path_factory):
    """A folder, and the architecture of which it is made."""
    found = shapes.shape_architecture(request.param).model_copy(update=LESS[request.param])
    folder = tmp_path_factory.mktemp("shape")
    shapes.write_shape(folder, request.param, found)
    return folder, found


def test_phi_and_gemma_are_read_whole_by_transformers(less):
    import torch
    from transformers import AutoModelForCausalLM

    folder, found = less
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if found.tie_word_embeddings:
        assert expected.pop("lm_head.weight") == (found.vocab_size, found.d_model)
    assert {t.name: t.shape for t in shapes.tensors_of(found)} == expected
    assert spec_from_config(model.config.to_dict()).trained_context == found.trained_context


def test_edge_transformers_and_a_gguf_file_agree_on_phi_and_gemma(less, tmp_path):
    from llmbench.engines.edge import EdgeEngine
    from llmbench.engines.transformers import TransformersEngine

    folder, _ = less
    ids = [5, 90, 1000, 77, 300, 12, 4000, 901, 3]  # longer than Gemma's window
    file = export(str(folder), tmp_path / "x.gguf", "BF16")
    asked = [(EdgeEngine(), str(folder), {"attention_impl": "reference"}),
             (EdgeEngine(), f"gguf:{file}", {"attention_impl": "reference"}),
             (TransformersEngine(), str(folder), {"attention_impl": "eager"})]  # fmt: skip
    tables = []
    for engine, model, options in asked:
        engine.load(find_model(model), {"threads": 1} | options)
        tables.append(engine.logprobs(ids))
    assert np.abs(tables[2]).max() > 8.4  # ln 4099 is 8.3: not all alike
    for table in tables[:2]:
        assert np.abs(table - tables[2]).max() < 1e-4


def test_gemma_has_what_sets_it_apart():
    config = shapes.config_of(shapes.shape_architecture("gemma-2-2b"))
    assert {name: config[name] for name in (
        "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
        "sliding_window", "hidden_activation", "max_position_embeddings")} == {
        "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "sliding_window": 4096,
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192}  # fmt: skip


def test_longrope_is_left_out_and_the_length_that_is_left_is_told():
    config = shapes.config_of(shapes.shape_architecture("phi-3.5-mini"))
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert config["max_position_embeddings"] == 4096 and config["sliding_window"] is None
    assert catalog.model("phi-3.5-mini").architecture.trained_context == 131072
    told = predict("shape:phi-3.5-mini", context_len=8192).why
    assert "trained to 4096 tokens, not 8192" in told
    assert "trained" not in predict("hf:microsoft/Phi-3.5-mini-instruct", context_len=8192).why


def test_mistral_has_no_window():
    """Without a word of it transformers and edge take one of 4096, which version 0.3 has not."""
    assert shapes.config_of(shapes.shape_architecture("mistral-7b"))["sliding_window"] is None


def test_every_model_of_the_tiers_has_a_shape_that_is_foretold_unmade(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    names = tier_models("shape:all")
    assert len(names) == 10
    for name in names:
        assert peek_model(name).sha256 == ""
        assert predict(name, context_len=512).parameters == catalog.model(name[6:]).parameters
    assert not (tmp_path / "cache").exists()


def test_weights_are_spread_as_wanted():
    for tensor in (t for t in shapes.tensors_of(SMALL) if t.std and t.size > 500):
        values = b"".join(shapes.values_of(tensor, "seed"))
        wide = (np.frombuffer(values, "<u2").astype(np.uint32) << 16).view(np.float32)
        assert wide.size == tensor.size
        assert 0.7 * tensor.std < wide.std() < 1.45 * tensor.std


def test_ids_that_are_no_visible_text_are_never_chosen(small):
    from llmbench.engines.edge import EdgeEngine

    tokenizer = load_tokenizer(small)
    visible = set(shapes.visible_ids(load_tokenizer(shapes.TINY)))
    assert 0 not in visible and max(visible) < 4096
    assert tokenizer.vocab_size == SMALL.vocab_size
    engine = EdgeEngine()
    engine.load(find_model(str(small)), {"threads": 1, "impl": "reference"})
    found = [step[0] for step in engine.stream([tokenizer.encode("Hello world")], 40) if step]
    assert set(found) <= visible
    head = engine.decoder.model.head.float()
    assert not head[4096:].any() and not head[0].any() and head[sorted(visible)].any(1).all()


def test_no_text_gives_a_padded_id(small):
    tokenizer = load_tokenizer(small)
    text = "<|unused_4097|> and some words, 123 ünïcödé"
    assert max(tokenizer.encode(text)) < 4096


def test_a_name_is_checked_without_making_anything(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    assert locate("shape:smollm-135m") == tmp_path / "shapes" / "smollm-135m-v1"
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadParams, match="smollm-135m"):
        locate("shape:smollm-135")
    with pytest.raises(Unsupported, match="mixtral"):
        locate("shape:mixtral-8x22b")


def test_an_ended_attempt_leaves_nothing_that_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes, "shape_architecture", lambda name: SMALL)
    monkeypatch.setattr(shapes, "values_of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        shapes.make_shape("shape:smollm-135m")
    assert not list((tmp_path / "shapes").iterdir())


def test_made_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes, "shape_architecture", lambda name: SMALL)
    first = find_model("shape:smollm-135m")
    assert first.sha256 == SMALL_SHA256
    monkeypatch.setattr(shapes, "write_shape", None)
    assert find_model("shape:smollm-135m") == first
    assert [p.name for p in (tmp_path / "shapes").iterdir()] == ["smollm-135m-v1"]


def test_no_room_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes.shutil, "disk_usage", lambda _: type("", (), {"free": 5 << 20}))
    with pytest.raises(StoreFailed, match=r"320 MiB of disk, 5 are free"):
        shapes.make_shape("shape:smollm-135m")


def test_those_that_are_promised_exist():
    assert {"smollm-135m", "qwen2.5-0.5b", "llama-3.2-1b"} <= set(shapes.known_shapes())
    for name in shapes.known_shapes():
        made = shapes.tensors_of(shapes.shape_architecture(name))
        stated = catalog.model(name).parameters
        assert stated is None or sum(tensor.size for tensor in made) == stated


@pytest.mark.slow
def test_smollm_has_the_bytes_that_are_written_here(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    source = find_model("shape:smollm-135m")
    assert source.sha256 == SMOLLM_SHA256
    assert json.loads((source.folder / "config.json").read_text())["vocab_size"] == 49152


@pytest.mark.slow
def test_qwen_has_the_bytes_that_are_written_here(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    try:
        folder = find_model("shape:qwen2.5-0.5b").folder
        assert sha256(folder / "model.safetensors") == QWEN_SHA256
        spec = spec_from_config(json.loads((folder / "config.json").read_text()))
        assert (spec.n_layers, spec.d_model, spec.n_heads, spec.n_kv_heads) == (24, 896, 14, 2)
        assert (spec.vocab_size, spec.tied, spec.qkv_bias) == (151936, True, True)
    finally:
        shutil.rmtree(tmp_path)  # 1 GB that pytest would keep for three sessions


def test_a_read_only_cache_is_an_error_for_people(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(LlmbenchError, match="LLMBENCH_CACHE"):
        shapes.make_shape("shape:smollm-135m")
