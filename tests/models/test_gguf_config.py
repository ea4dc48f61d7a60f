"""A GGUF header becomes the config of a Hugging Face folder, or says what it lacks."""

from pathlib import Path

import numpy as np
import pytest

from llmbench.errors import Missing, Unsupported
from llmbench.models.gguf_config import config_of
from llmbench.models.header import Header, TensorInfo
from llmbench.models.source import find_model
from llmbench.models.spec import spec_from_config
from tests.models.gguf_files import write_gguf

NUMBERS = {"block_count": 3, "context_length": 512, "embedding_length": 64,
           "feed_forward_length": 96, "attention.head_count": 4, "attention.head_count_kv": 2,
           "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip


def header(kind="llama", tensors=("token_embd.weight",), path="x.gguf", **changes):
    told = {f"{kind}.{key.replace('__', '.')}": value
            for key, value in (NUMBERS | changes).items() if value is not None}  # fmt: skip
    shape = {"token_embd.weight": (300, 64)}
    infos = tuple(TensorInfo(name, shape.get(name, (64,)), "F32", 0, 256) for name in tensors)
    return Header(Path(path), 3, {"general.architecture": kind} | told, infos, 0, 32)


def test_builtin_tiny_has_the_config_of_its_folder(tmp_path):
    folder = find_model("builtin:tiny")
    made = find_model(f"gguf:{write_gguf(tmp_path / 'tiny.gguf', folder.folder)}").config
    ours = {key: folder.config[key] for key in made if key in folder.config}
    assert len(ours) > 12
    assert ours | {"rms_norm_eps": made["rms_norm_eps"]} == made | {
        key: made[key] for key in made if key not in ours
    }
    assert made["rms_norm_eps"] == pytest.approx(folder.config["rms_norm_eps"])
    assert spec_from_config(made) == spec_from_config(folder.config)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {}, {"model_type": "llama", "vocab_size": 300, "tie_word_embeddings": True}),
        ("llama", {"attention__sliding_window": 128}, {"model_type": "mistral",
                                                       "sliding_window": 128}),
        ("llama", {"expert_count": 8, "expert_used_count": 2},
         {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}),
        ("llama", {"attention.head_count_kv": (2, 2, 2)}, {"num_key_value_heads": 2}),
        ("llama", {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0},
         {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0}}),
        ("llama", {"rope__scale_linear": 2.0},
         {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}}),
        ("llama", {"rope__scaling__type": "none", "rope__scaling__factor": 2.0},
         {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
        ("granite", {"attention__scale": 0.5, "residual_scale": 0.25, "embedding_scale": 3.0,
                     "logit_scale": 8.0},
         {"attention_multiplier": 0.5, "residual_multiplier": 0.25, "embedding_multiplier": 3.0,
          "logits_scaling": 8.0}),
        ("granite", {}, {"attention_multiplier": 0.25, "residual_multiplier": 1.0}),
        ("granite", {"rope__scaling__finetuned": False},
         {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "none"}}),
        ("gemma2", {}, {"query_pre_attn_scalar": 16, "sliding_window": 4096,
                        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                        "layer_types": ["sliding_attention", "full_attention",
                                        "sliding_attention"]}),
        ("gemma2", {"attention__sliding_window_pattern": (False, True, False)},
         {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("gemma2", {"block_count": 46, "attention__key_length": 8},
         {"query_pre_attn_scalar": 16, "head_dim": 8}),
        ("phi3", {"attention__sliding_window": 0}, {"sliding_window": None}),
        ("phi3", {"rope__dimension_count": 12},
         {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.75,
                              "rope_type": "default"}}),
        ("mamba", {"attention.head_count": None, "attention.head_count_kv": None},
         {"model_type": "mamba", "num_hidden_layers": 3}),
    ],
)  # fmt: skip
def test_keys_become_what_transformers_calls_them(kind, changes, expected):
    made = config_of(header(kind, **changes))
    assert {key: made.get(key) for key in expected} == expected


def test_tensors_tell_what_no_key_says():
    made = config_of(header(tensors=("token_embd.weight", "output.weight", "blk.0.attn_q.bias",
                                     "blk.0.ffn_up.bias")))  # fmt: skip
    assert not made["tie_word_embeddings"] and made["attention_bias"] and made["mlp_bias"]


def test_rotary_factors_are_read_from_their_tensor(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"before.." + np.arange(64, dtype="<f4").tobytes())
    found = header(tensors=("rope_freqs.weight",), path=path)
    info = found.tensors[0]
    placed = Header(path, 3, found.metadata, (TensorInfo(info.name, (64,), "F32", 8, 256),), 0, 32)
    rope = config_of(placed)["rope_parameters"]
    assert rope["rope_type"] == "factors" and rope["factors"] == list(range(64))
    odd = Header(path, 3, found.metadata, (TensorInfo(info.name, (64,), "Q8_0", 8, 68),), 0, 32)
    with pytest.raises(Unsupported, match=r"rope_freqs\.weight"):
        config_of(odd)


@pytest.mark.parametrize("value", ["three", 0, (3, 4, 5), True])
def test_a_number_that_is_none_is_left_out_and_named_by_who_needs_it(value):
    made = config_of(header(block_count=value))
    assert "num_hidden_layers" not in made
    with pytest.raises(Missing, match="num_hidden_layers"):
        spec_from_config(made)


def test_a_file_without_an_architecture_is_refused():
    with pytest.raises(Unsupported, match="architecture"):
        config_of(Header(Path("x.gguf"), 3, {}, (), 0, 32))


def test_a_header_without_the_numbers_of_its_family_is_refused_by_its_own_key():
    with pytest.raises(Missing, match=r"'embedding_length'"):
        config_of(header("granite", embedding_length=None))
