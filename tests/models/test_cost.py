"""Cost formulas against published counts, numbers worked by hand, and PyTorch's own counter."""

from dataclasses import replace

import pytest

from llmbench.models import cost
from llmbench.models.spec import Spec, spec_from_catalog

LLAMA = spec_from_catalog("llama-2-7b")
# Small enough to work by hand: C=8, H=2, KV=1, D=4, d_ff=16, V=10, one layer.
TOY = Spec("llama", 1, 2, 1, 4, 8, 16, 10, tied=False)


@pytest.mark.parametrize(
    ("name", "published"),
    [("llama-2-7b", 6_738_415_616), ("llama-3.1-8b", 8_030_261_248),
     ("qwen2.5-0.5b", 494_032_768), ("smollm-135m", 134_515_008),
     ("phi-3.5-mini", 3_821_079_552), ("gemma-2-2b", 2_614_341_888),
     ("llama-3.1-70b", 70_553_706_496)],
)  # fmt: skip
def test_parameters_are_the_published_count(name: str, published: int) -> None:
    assert cost.parameters(spec_from_catalog(name)).total == published


def test_mistral_7b_v01() -> None:
    spec = replace(spec_from_catalog("mistral-7b"), vocab_size=32000)
    assert cost.parameters(spec).total == 7_241_732_096


def test_experts_are_stored_all_and_used_in_part() -> None:
    p = cost.parameters(spec_from_catalog("mixtral-8x22b"))
    assert p.total == pytest.approx(140.6e9, rel=1e-3)
    assert p.active == pytest.approx(39.1e9, rel=2e-3)  # Mistral AI: 39B active of 141B
    dense = cost.parameters(LLAMA)
    assert dense.active == dense.total


def test_parts_of_a_toy_model_by_hand() -> None:
    p = cost.parameters(TOY)
    assert (p.embedding, p.head, p.router, p.biases) == (80, 80, 0, 0)
    assert p.linear == 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16
    assert p.linear_rows == (8 + 2 * 4 + 8) + (16 + 16 + 8)
    assert p.norms == 3 * 8
    assert cost.parameters(replace(TOY, tied=True)).head == 0
    biased = replace(TOY, qkv_bias=True, o_bias=True, mlp_bias=True)
    assert cost.parameters(biased).biases == 16 + 8 + 40


def test_kv_cache_of_llama_2_7b() -> None:
    assert cost.kv_bytes_per_token(LLAMA, 2) == 524_288
    assert cost.kv_read_bytes(LLAMA, 65536, 2) == 32 * 2**30


def test_kv_cache_counts_kv_heads_only() -> None:
    assert cost.kv_bytes_per_token(spec_from_catalog("llama-3.1-8b"), 2) == 131_072


def test_prefill_flops_by_hand() -> None:
    linear, head = 2 * 576, 2 * 8 * 10
    assert cost.prefill_flops(TOY, 3) == 3 * linear + 4 * 8 * 6 + head
    assert cost.prefill_flops(TOY, 3, causal=False) == 3 * linear + 4 * 8 * 9 + head
    assert cost.prefill_flops(TOY, 3, head_positions=3) == 3 * linear + 4 * 8 * 6 + 3 * head
    assert cost.prefill_flops(TOY, 3, 5) == 5 * cost.prefill_flops(TOY, 3)


def test_decode_is_the_next_row_of_a_prefill() -> None:
    """Prefill of T+1 tokens costs prefill of T and one decode step, heads apart."""
    head = 2 * LLAMA.d_model * LLAMA.vocab_size
    longer, shorter = cost.prefill_flops(LLAMA, 101), cost.prefill_flops(LLAMA, 100)
    assert cost.decode_flops(LLAMA, 100) - head == longer - shorter


def test_attention_equals_the_dense_part_at_twelve_widths() -> None:
    """With 4·d MLPs and causal attention the crossover is at n = 12·d; here by the exact sizes."""
    dense = 2 * cost.parameters(LLAMA).linear
    n = round(dense / (2 * LLAMA.n_layers * LLAMA.d_model)) - 1
    total = cost.prefill_flops(LLAMA, n) - 2 * LLAMA.d_model * LLAMA.vocab_size
    assert total == pytest.approx(2 * n * dense, rel=1e-6)
    assert n / LLAMA.d_model == pytest.approx(12, rel=0.02)


def test_decode_reads_one_embedding_row_or_the_tied_table() -> None:
    half = cost.FORMATS["float16"]
    total = cost.parameters(LLAMA).total
    table = 32000 * 4096
    assert cost.weight_read_bytes(LLAMA, half) == 2 * (total - table + 4096)
    assert cost.weight_read_bytes(LLAMA, half, 3) == 2 * (total - table + 3 * 4096)
    tied = spec_from_catalog("smollm-135m")
    assert cost.weight_read_bytes(tied, half) == 2 * cost.parameters(tied).total


def test_decode_reads_the_used_experts_only() -> None:
    spec, half = spec_from_catalog("mixtral-8x22b"), cost.FORMATS["float16"]
    table = 32768 * 6144
    expected = 2 * (cost.parameters(spec).active - table + 6144)
    assert cost.weight_read_bytes(spec, half) == expected


def test_quantised_bytes_by_hand() -> None:
    p = cost.parameters(TOY)
    kept = 2 * (p.total - p.linear)
    assert cost.weight_bytes(TOY, cost.FORMATS["int8"]) == p.linear + 4 * p.linear_rows + kept
    nf4 = cost.FORMATS["nf4"]
    per_weight = (64 * 4 + 8) / 64 / 8 + 4 / 16384  # bits of a block and its scale, then of those
    assert nf4.bytes_per_weight == pytest.approx(per_weight)
    assert cost.weight_bytes(TOY, nf4) == round(p.linear * per_weight) + kept


def test_activations_grow_with_rows_and_tokens() -> None:
    one = cost.activation_bytes(TOY, 10, 1, 2)
    assert cost.activation_bytes(TOY, 10, 3, 2) == 3 * one
    assert one == 10 * (2 * 8 + 3 * 16) * 2 + 10 * (2 + 4)


@pytest.fixture(scope="module")
def counted() -> tuple[Spec, int, int]:
    """A small model, and the FLOPs PyTorch counts in a prefill of (2, 12) and a decode step."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=50, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    spec = Spec("llama", 2, 4, 2, 16, 64, 96, 50, tied=False)
    ids = torch.zeros(2, 12, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as prefill:
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    with torch.no_grad(), FlopCounterMode(display=False) as decode:
        model(ids[:, :1], past_key_values=cache, use_cache=True)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters(spec).total
    return spec, prefill.get_total_flops(), decode.get_total_flops()


@pytest.mark.slow
def test_pytorch_counts_the_same_flops(counted: tuple[Spec, int, int]) -> None:
    """Eager attention multiplies the whole square before it masks; rotary tables are a matmul."""
    spec, prefill, decode = counted
    rotary = 2 * 2 * (spec.head_dim // 2)  # per position: an outer product of rank one, B rows
    ours = cost.prefill_flops(spec, 12, 2, causal=False)
    assert 0 <= prefill - ours <= 12 * rotary
    assert 0 <= decode - cost.decode_flops(spec, 12, 2) <= rotary


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("Qwen2", {}), ("Mistral", {}), ("Phi3", {"pad_token_id": 0}), ("Gemma2", {"head_dim": 8}),
     ("Granite", {"attention_bias": True, "mlp_bias": True}),
     ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
     ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})],
)  # fmt: skip
def test_parameters_are_those_of_the_real_classes(kind: str, changes: dict) -> None:
    import torch
    import transformers

    from llmbench.models.spec import spec_from_config

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, **changes,
    )  # fmt: skip
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    counted = sum(p.numel() for p in model.parameters())
    assert cost.parameters(spec_from_config(config.to_dict())).total == counted
