"""The families beyond Llama against transformers, as `test_edge` does it for Llama and Qwen2."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from llmbench.engines.edge import EdgeEngine
from llmbench.engines.transformers import TransformersEngine
from llmbench.errors import Unsupported
from llmbench.models.attention import chosen
from llmbench.models.families import Scores
from llmbench.models.source import find_model
from tests.engines.test_edge import CLOSE, assert_same, greedy, loaded

WINDOW = 7  # shorter than every prompt of `assert_same` but one
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0,
            "short_factor": [1.0, 1.3, 1.7, 2.1],
            "long_factor": [1.5, 2.5, 4.0, 6.5]}  # fmt: skip
LONG = dict(rope_parameters=LONGROPE, original_max_position_embeddings=32)  # then the long ones
GRANITE = dict(embedding_multiplier=6.5, attention_multiplier=0.21, residual_multiplier=0.3,
               logits_scaling=3.7)  # fmt: skip
SHAPES = {  # name: family, heads, kv heads, head size (None: width / heads), width, d_ff, the rest
    "granite": ("Granite", 9, 3, None, 54, 77, GRANITE),
    "granite, biases, untied": ("Granite", 3, 3, None, 30, 47,
                                GRANITE | dict(attention_bias=True, mlp_bias=True)),
    "gemma2": ("Gemma2", 4, 2, 14, 52, 61, dict(sliding_window=WINDOW, query_pre_attn_scalar=11)),
    "gemma2, low caps": ("Gemma2", 3, 1, 10, 33, 45,
                         dict(sliding_window=WINDOW, attn_logit_softcapping=1.5,
                              final_logit_softcapping=2.5)),
    "gemma2, no caps, layers of its own": (
        "Gemma2", 3, 3, 10, 33, 45,
        dict(attn_logit_softcapping=None, final_logit_softcapping=None, sliding_window=WINDOW,
             layer_types=["full_attention", "full_attention", "sliding_attention"])),
    "phi3": ("Phi3", 6, 2, None, 48, 67, {}),
    "phi3, window": ("Phi3", 5, 5, None, 50, 67, dict(sliding_window=WINDOW)),
    "phi3, longrope": ("Phi3", 6, 3, None, 48, 67, LONG),
    "phi3, half of it turns": ("Phi3", 4, 2, None, 64, 67,
                               LONG | dict(rope_parameters=LONGROPE | {
                                   "partial_rotary_factor": 0.5})),
    "mistral, window": ("Mistral", 6, 2, 8, 44, 67, dict(sliding_window=WINDOW)),
    "mistral, no window": ("Mistral", 6, 2, 8, 44, 67, dict(sliding_window=None)),
    "qwen2, windows from the second layer": (
        "Qwen2", 6, 2, None, 48, 67,
        dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
    "linear rope": ("Llama", 4, 2, 8, 32, 67,
                    dict(rope_parameters={"rope_type": "linear", "factor": 4.0,
                                          "rope_theta": 1e4})),
}  # fmt: skip


def written(folder, family, heads, kv, size, width, ff, rest):
    """A random model of transformers with three layers; every parameter differs from its start."""
    import torch
    import transformers

    sized = {} if size is None else {"head_dim": size}
    config = getattr(transformers, f"{family}Config")(
        hidden_size=width, intermediate_size=ff, num_hidden_layers=3, num_attention_heads=heads,
        num_key_value_heads=kv, vocab_size=211, max_position_embeddings=128, pad_token_id=0,
        tie_word_embeddings=family == "Gemma2", **sized, **rest)  # fmt: skip
    torch.manual_seed(5)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        drawn = torch.randn_like(parameter) * 0.25
        parameter.data = 1 + drawn if "norm" in name and family != "Gemma2" else drawn
    model.save_pretrained(folder)
    return find_model(str(folder))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_random_model_equals_transformers(shape, tmp_path):
    source = written(tmp_path / "model", *shape)
    assert_same(source, attention_of(shape), attention_impl="reference")


def attention_of(shape):
    """What transformers needs: it has no sdpa for a model that may have soft caps."""
    return "eager" if shape[0] == "Gemma2" else "sdpa"


def test_an_attention_that_transformers_has_not_for_a_family_is_named(tmp_path):
    source = written(tmp_path / "model", *SHAPES["gemma2"])
    with pytest.raises(Unsupported, match="sdpa") as told:
        loaded(TransformersEngine, source)
    assert "attention_impl: eager" in told.value.how


def test_longrope_changes_its_factors_while_a_text_grows(tmp_path):
    source = written(tmp_path / "model", *SHAPES["phi3, longrope"])
    ours, theirs = (loaded(kind, source) for kind in (EdgeEngine, TransformersEngine))
    assert ours.decoder.model.rope.trained == 32
    rows = [list(range(first, first + 26)) for first in (5, 60, 150)]
    assert greedy(ours, rows, 14) == greedy(theirs, rows, 14)
    assert np.abs(ours.logprobs(rows[0]) - theirs.logprobs(rows[0])).max() < CLOSE


@pytest.mark.parametrize("impl", ["sdpa-math", "sdpa-flash"])
@pytest.mark.parametrize(
    "name", ["mistral, window", "phi3, window", "granite", "gemma2, no caps, layers of its own"]
)
def test_what_has_no_soft_cap_runs_on_every_attention(name, impl, tmp_path):
    shape = SHAPES[name]
    assert_same(written(tmp_path / "model", *shape), attention_of(shape), attention_impl=impl)


@pytest.mark.parametrize("impl", ["sdpa-math", "sdpa-flash"])
def test_an_attention_without_soft_caps_is_refused_not_replaced(impl, tmp_path):
    source = written(tmp_path / "model", *SHAPES["gemma2"])
    with pytest.raises(Unsupported, match=f"{impl} has no soft cap") as told:
        loaded(EdgeEngine, source, attention_impl=impl)
    assert "reference" in told.value.how


@pytest.mark.parametrize(("shape", "serves"), [("gemma2", "reference"), ("phi3", "sdpa-flash"),
                                               ("mistral, window", "sdpa-flash")])  # fmt: skip
def test_auto_is_the_fastest_attention_that_can_serve_and_is_told(shape, serves, tmp_path):
    source = written(tmp_path / "model", *SHAPES[shape])
    engine = loaded(EdgeEngine, source, attention_impl="auto")
    assert engine.served.attention_impl == serves
    ids = list(range(20, 45))
    named = loaded(EdgeEngine, source, attention_impl=serves)
    assert (engine.logprobs(ids) == named.logprobs(ids)).all()


@pytest.mark.parametrize(
    ("capability", "itemsize", "window", "serves"),
    [((7, 5), 2, None, "reference"), ((8, 0), 2, None, "sdpa-flash"), ((8, 9), 4, None,
      "reference"), ((9, 0), 2, 64, "reference")],
)  # fmt: skip
def test_auto_on_a_gpu_asks_what_flash_needs(capability, itemsize, window, serves, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    like = SimpleNamespace(device=SimpleNamespace(type="cuda"), itemsize=itemsize)
    assert chosen("auto", (Scores(1.0, None, window),), like) == serves
    assert chosen("sdpa-flash", (Scores(1.0, None, window),), like) == "sdpa-flash"


@pytest.mark.parametrize(
    ("shape", "name", "value"),
    [
        ("gemma2", "attn_logit_softcapping", 1.0),
        ("gemma2", "final_logit_softcapping", 1.0),
        ("gemma2", "sliding_window", 3),
        ("gemma2", "query_pre_attn_scalar", 300),
        ("granite", "embedding_multiplier", 1.0),
        ("granite", "attention_multiplier", 1.0),
        ("granite", "residual_multiplier", 1.0),
        ("granite", "logits_scaling", 1.0),
    ],
)
def test_each_number_of_a_family_matters(shape, name, value, tmp_path):
    source = written(tmp_path / "model", *SHAPES[shape])
    ids = list(range(20, 45))
    before = loaded(EdgeEngine, source, attention_impl="reference").logprobs(ids)
    path = source.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    after = loaded(EdgeEngine, source, attention_impl="reference").logprobs(ids)
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("shape", ["gemma2", "qwen2, windows from the second layer"])
def test_a_config_without_layer_types_means_those_of_its_family(shape, tmp_path):
    source = written(tmp_path / "model", *SHAPES[shape])
    ids, config = list(range(20, 45)), source.config
    told = loaded(EdgeEngine, source, attention_impl="reference").logprobs(ids)
    assert len(set(config.pop("layer_types"))) == 2
    (source.folder / "config.json").write_text(json.dumps(config))
    assert (loaded(EdgeEngine, source, attention_impl="reference").logprobs(ids) == told).all()


def test_a_mixture_of_experts_is_sent_to_the_engines_that_run_it(tmp_path):
    source = written(tmp_path / "model", *SHAPES["mistral, no window"])
    path = source.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}))  # fmt: skip
    with pytest.raises(Unsupported, match="mixture of experts") as told:
        loaded(EdgeEngine, source)
    assert "llamacpp" in told.value.how and "ollama" in told.value.how
