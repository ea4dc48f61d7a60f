"""A catalog architecture → the config.json and the tensors of its `shape:` model.

Tensor names and shapes are those of transformers' modelling code of each family. Longrope's
factors, which are learned, are not made up: such a model has no rotary scaling, and counts as
trained for the length up to which it was trained before its context was stretched. Which angles
are turned changes neither time nor memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmbench.catalog import Architecture

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
            "mistral": "MistralForCausalLM", "phi3": "Phi3ForCausalLM",
            "gemma2": "Gemma2ForCausalLM"}  # fmt: skip
SCALINGS = {None, "llama3"}
FIRST_TRAINED = 4096  # tokens; of Phi-3.5: original_max_position_embeddings of its config.json
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # of Llama 3.2  # fmt: skip
PLAIN_NORMS = ("input_layernorm", "post_attention_layernorm")
GEMMA_NORMS = (*PLAIN_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Tensor:
    """One tensor to be made: its name, shape, and how large its values are."""

    name: str
    shape: tuple[int, ...]
    std: float  # wanted; 0: all ones

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def unstretched(a: Architecture) -> Architecture:
    """`a`, with longrope left out: no scaling, trained for the first length."""
    if a.rope_scaling != "longrope":
        return a
    return a.model_copy(update={"rope_scaling": None, "trained_context": FIRST_TRAINED})


def tensors_of(a: Architecture) -> list[Tensor]:
    """Every tensor of the architecture, in the order in which they stand in the file."""
    c = a.d_model
    made = [Tensor("model.embed_tokens.weight", (a.vocab_size, c), 0.02)]
    for layer in range(a.n_layers):
        made += _layer(a, f"model.layers.{layer}")
    made.append(Tensor("model.norm.weight", (c,), 0.0))
    if not a.tie_word_embeddings:
        made.append(Tensor("lm_head.weight", (a.vocab_size, c), 1 / math.sqrt(c)))
    return made


def _layer(a: Architecture, before: str) -> Iterator[Tensor]:
    """Linear layers, their biases, then norms."""
    dense = _fused(a) if a.model_type == "phi3" else _dense(a)
    for name, shape in dense.items():
        yield Tensor(f"{before}.{name}.weight", shape, 1 / math.sqrt(shape[1]))
    for name in ("q_proj", "k_proj", "v_proj") if a.qkv_bias else ():
        yield Tensor(f"{before}.self_attn.{name}.bias", (dense[f"self_attn.{name}"][0],), 0.1)
    for name in GEMMA_NORMS if a.model_type == "gemma2" else PLAIN_NORMS:
        yield Tensor(f"{before}.{name}.weight", (a.d_model,), 0.0)


def _dense(a: Architecture) -> dict[str, tuple[int, int]]:
    """Name → (out, in) of a layer's linear layers."""
    heads, kv, c = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, a.d_model
    return {"self_attn.q_proj": (heads, c), "self_attn.k_proj": (kv, c),
            "self_attn.v_proj": (kv, c), "self_attn.o_proj": (c, heads),
            "mlp.gate_proj": (a.d_ff, c), "mlp.up_proj": (a.d_ff, c),
            "mlp.down_proj": (c, a.d_ff)}  # fmt: skip


def _fused(a: Architecture) -> dict[str, tuple[int, int]]:
    """The same of Phi-3, where Q, K and V are one matrix, gate and up another."""
    heads, kv, c = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, a.d_model
    return {"self_attn.qkv_proj": (heads + 2 * kv, c), "self_attn.o_proj": (c, heads),
            "mlp.gate_up_proj": (2 * a.d_ff, c), "mlp.down_proj": (c, a.d_ff)}  # fmt: skip


def config_of(a: Architecture) -> dict[str, Any]:
    """The config.json that transformers reads."""
    theta = a.rope_theta or 10_000.0
    scaling = LLAMA3 if a.rope_scaling == "llama3" else {"rope_type": "default"}
    return {
        "architectures": [FAMILIES[a.model_type]], "model_type": a.model_type,
        "hidden_size": a.d_model, "intermediate_size": a.d_ff, "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads, "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.head_dim, "vocab_size": a.vocab_size, "hidden_act": "silu",
        "max_position_embeddings": a.trained_context or 4096, "rms_norm_eps": 1e-5,
        "rope_theta": theta, "rope_parameters": scaling | {"rope_theta": theta},
        "tie_word_embeddings": bool(a.tie_word_embeddings), "dtype": "bfloat16",
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "use_cache": True,
    } | _besides(a)  # fmt: skip


def _besides(a: Architecture) -> dict[str, Any]:
    """What only some families have; without its window Mistral's code would take one of 4096.

    Gemma 2's are those of its 2B model. Source: arXiv 2408.00118, table 1, and its config.json.
    """
    if a.model_type in ("mistral", "phi3"):
        return {"sliding_window": a.sliding_window}
    if a.model_type == "gemma2":
        act = "gelu_pytorch_tanh"
        return {"hidden_act": act, "hidden_activation": act, "sliding_window": a.sliding_window,
                "query_pre_attn_scalar": a.head_dim, "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0}  # fmt: skip
    return {}
