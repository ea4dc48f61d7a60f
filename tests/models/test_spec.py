"""A config.json becomes a spec, or is refused by name."""

import pytest

from llmbench.errors import Missing, Unsupported
from llmbench.models.spec import Spec, spec_from_catalog, spec_from_config

QWEN = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
}  # fmt: skip


def test_config_and_catalog_agree() -> None:
    assert spec_from_config(QWEN) == spec_from_catalog("qwen2.5-0.5b")


def test_head_dim_of_the_config_wins_over_the_quotient() -> None:
    assert spec_from_config(QWEN).head_dim == 64
    assert spec_from_config(QWEN | {"head_dim": 128}).head_dim == 128


def test_without_kv_heads_every_head_has_its_own() -> None:
    config = {k: v for k, v in QWEN.items() if k != "num_key_value_heads"}
    assert spec_from_config(config).n_kv_heads == 14


@pytest.mark.parametrize(
    ("changes", "biases"),
    [
        ({}, (True, False, False)),
        ({"model_type": "llama"}, (False, False, False)),
        ({"model_type": "llama", "attention_bias": True}, (True, True, False)),
        ({"model_type": "llama", "mlp_bias": True}, (False, False, True)),
        ({"model_type": "granite", "mlp_bias": True}, (False, False, True)),
        ({"model_type": "mistral", "attention_bias": True}, (False, False, False)),
    ],
)
def test_biases_follow_the_family(changes: dict, biases: tuple) -> None:
    spec = spec_from_config(QWEN | changes)
    assert (spec.qkv_bias, spec.o_bias, spec.mlp_bias) == biases


def test_experts_are_read_for_mixtral_only() -> None:
    routed = {"num_local_experts": 8, "num_experts_per_tok": 2}
    spec = spec_from_config(QWEN | routed | {"model_type": "mixtral"})
    assert (spec.n_experts, spec.n_experts_used) == (8, 2)
    assert spec_from_config(QWEN | routed).n_experts == 1


@pytest.mark.parametrize("kind", ["qwen2_moe", "deepseek_v3", "mamba", None])
def test_another_family_is_refused_by_name(kind: str | None) -> None:
    with pytest.raises(Unsupported, match=repr(kind)):
        spec_from_config(QWEN | {"model_type": kind})


def test_a_config_without_a_number_says_which() -> None:
    with pytest.raises(Missing, match="vocab_size"):
        spec_from_config({k: v for k, v in QWEN.items() if k != "vocab_size"})


def test_the_catalog_carries_the_trained_context() -> None:
    assert isinstance(spec_from_catalog("llama-2-7b"), Spec)
    assert spec_from_catalog("llama-2-7b").trained_context == 4096
