"""A config.json → what a GGUF file says of the architecture, and which tensors it holds.

Names, keys and conventions are those that llama.cpp reads. Source: ggml-org/llama.cpp, `gguf-py`
(keys and tensor names), `conversion/` (row order of Q and K, norms) and `src/models/`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench.errors import Missing, Unsupported
from llmbench.models.rope import Rope, rope_of
from llmbench.models.spec import Spec, spec_from_config

# model_type → general.architecture
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "granite": "granite",
                 "gemma2": "gemma2", "phi3": "phi3"}  # fmt: skip
SCALINGS = {"llama": ("default", "linear", "llama3"), "qwen2": ("default", "linear"),
            "granite": ("default", "linear"), "gemma2": ("default",),
            "phi3": ("default", "longrope")}  # rotary scalings that are written  # fmt: skip
SQUARE = ("qwen2", "granite", "phi3")  # llama.cpp derives the head size: width / heads
PLAIN_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
               "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One tensor of the file: its name there, where it comes from, and what is done to it."""

    name: str
    source: str  # its name in the folder; empty: `values` are it
    shape: tuple[int, ...]  # row-major: (out, in)
    head_dim: int = 0  # rows of each head are put in the order of adjacent pairs; 0: kept
    add: float = 0.0
    values: np.ndarray | None = None


def spec_for_gguf(config: Mapping[str, Any]) -> Spec:
    """The spec of a model that can be written. Raises: Unsupported, with what llama.cpp lacks."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise Unsupported(f"models: no GGUF file is written of model_type {kind!r}",
                          how=f"families: {', '.join(ARCHITECTURES)}")  # fmt: skip
    spec = spec_from_config(config)
    for fault in _faults(kind, config, spec):
        raise Unsupported(f"models: {fault}", why="llama.cpp would compute something else")
    return spec


def _faults(kind: str, config: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    """What the file could not tell, or llama.cpp would not do."""
    act = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    wanted = "gelu_pytorch_tanh" if kind == "gemma2" else "silu"
    if act != wanted:
        yield f"the activation {act!r} of a {kind} model, where llama.cpp has {wanted}"
    if rope_kind(config) not in SCALINGS[ARCHITECTURES[kind]]:
        yield f"the rotary scaling {rope_kind(config)!r} of a {kind} model"
    if kind in SQUARE and spec.head_dim * spec.n_heads != spec.d_model:
        yield f"heads of {spec.head_dim} in a {kind} model of width {spec.d_model}"
    if "quantization_config" in config:
        yield "the folder's weights are quantised already"
    if kind == "gemma2":
        scalar = config.get("query_pre_attn_scalar", 256)
        if scalar != (spec.d_model // spec.n_heads if spec.n_layers == 46 else spec.head_dim):
            yield f"attention scaled by query_pre_attn_scalar {scalar}"
        if not config.get("attn_logit_softcapping") or not config.get("final_logit_softcapping"):
            yield "a gemma2 model without its two soft caps"
        turns = ("sliding_attention", "full_attention")
        if any(asked != turns[n % 2] for n, asked in enumerate(config.get("layer_types") or [])):
            yield "a gemma2 model whose windows are not those of every other layer"


def notes_on(config: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about what llama.cpp does otherwise from some length on."""
    window, kind = config.get("sliding_window"), config["model_type"]
    if rope_kind(config) == "longrope":
        yield ("llama.cpp takes the long factors whenever its context is longer than the first "
               "trained one, transformers when the text is")  # fmt: skip
    if kind == "qwen2" and not config.get("use_sliding_window"):
        return
    if window and kind in ("mistral", "qwen2", "phi3"):
        yield f"llama.cpp has no sliding window for {kind}: past {window} tokens it attends to all"


def rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary parameters, with `rope_theta` in any case."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    return {**rope, "rope_theta": theta}


def rope_kind(config: Mapping[str, Any]) -> str:
    """The name of the rotary scaling: default, linear, llama3, longrope."""
    rope = rope_parameters(config)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    return "longrope" if kind == "su" else kind  # its first name


def describe(writer: Any, config: Mapping[str, Any], spec: Spec) -> None:
    """Write the keys of the architecture. Raises: Missing when config.json lacks a number."""
    from gguf import RopeScalingType

    kind = config["model_type"]
    try:
        writer.add_block_count(spec.n_layers)
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(spec.d_model)
        writer.add_feed_forward_length(spec.d_ff)
        writer.add_head_count(spec.n_heads)
        writer.add_head_count_kv(spec.n_kv_heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(rope_parameters(config)["rope_theta"])
        if rope_kind(config) == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope_parameters(config)["factor"])
        if kind not in SQUARE:
            writer.add_key_length(spec.head_dim)
            writer.add_value_length(spec.head_dim)
        if ARCHITECTURES[kind] in ("llama", "granite"):
            writer.add_vocab_size(spec.vocab_size)
            writer.add_rope_dimension_count(spec.head_dim)
        {"granite": _describe_granite, "gemma2": _describe_gemma2, "phi3": _describe_phi3}.get(
            kind, lambda *_: None)(writer, config, spec)  # fmt: skip
    except KeyError as error:
        raise Missing(f"models: config.json of a {kind} model has no {error.args[0]!r}") from None


def _describe_granite(writer: Any, config: Mapping[str, Any], spec: Spec) -> None:
    """Granite's four multipliers; 1 where the config has none, as transformers takes it."""
    writer.add_attention_scale(config.get("attention_multiplier", 1.0))
    writer.add_embedding_scale(config.get("embedding_multiplier", 1.0))
    writer.add_residual_scale(config.get("residual_multiplier", 1.0))
    writer.add_logit_scale(config.get("logits_scaling", 1.0))


def _describe_gemma2(writer: Any, config: Mapping[str, Any], spec: Spec) -> None:
    """Both soft caps, and the window of every other layer, the first one first."""
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def _describe_phi3(writer: Any, config: Mapping[str, Any], spec: Spec) -> None:
    """Phi-3's first trained length, rotated dimensions and window (0: none)."""
    rope = rope_of(config, spec.head_dim)
    writer.add_rope_scaling_orig_ctx_len(_first_trained(config, rope))
    writer.add_rope_dimension_count(2 * rope.near.size)
    writer.add_sliding_window(config.get("sliding_window") or 0)
    if rope_kind(config) == "longrope":
        writer.add_rope_scaling_attn_factors(rope.stretch)


def _first_trained(config: Mapping[str, Any], rope: Rope) -> int:
    """Tokens up to which the near frequencies hold; without such, the whole trained context."""
    return int(rope.trained if np.isfinite(rope.trained) else config["max_position_embeddings"])


def tensors_of(config: Mapping[str, Any], spec: Spec) -> list[Planned]:
    """Every tensor of the file, in the order in which it stands there."""
    kind, c = config["model_type"], spec.d_model
    lift = 1.0 if kind == "gemma2" else 0.0  # gemma multiplies by 1 + weight, llama.cpp by weight
    made = [Planned("token_embd.weight", "model.embed_tokens.weight", (spec.vocab_size, c))]
    made += _rope_factors(config, spec.head_dim)
    for number in range(spec.n_layers):
        made += _layer(kind, spec, number, lift)
    made.append(Planned("output_norm.weight", "model.norm.weight", (c,), add=lift))
    if not spec.tied:
        made.append(Planned("output.weight", "lm_head.weight", (spec.vocab_size, c)))
    return made


def _layer(kind: str, spec: Spec, number: int, lift: float) -> Iterator[Planned]:
    """The norms and the linear layers, with their biases, of one layer."""
    here, there = f"blk.{number}", f"model.layers.{number}"
    norms = GEMMA_NORMS if kind == "gemma2" else PLAIN_NORMS
    for source, name in norms.items():
        yield Planned(f"{here}.{name}.weight", f"{there}.{source}.weight", (spec.d_model,),
                      add=lift)  # fmt: skip
    paired = spec.head_dim if ARCHITECTURES[kind] in ("llama", "granite") else 0
    for name, source, out, wide, biased in _fused(spec) if kind == "phi3" else _dense(spec):
        heads = paired if name in ("attn_q", "attn_k") else 0
        yield Planned(f"{here}.{name}.weight", f"{there}.{source}.weight", (out, wide), heads)
        if biased:
            yield Planned(f"{here}.{name}.bias", f"{there}.{source}.bias", (out,), heads)


def _dense(spec: Spec) -> Iterator[tuple[str, str, int, int, bool]]:
    """(name, source, out, in, biased) of each linear layer."""
    q, kv, c, ff = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim, spec.d_model,
                    spec.d_ff)  # fmt: skip
    yield "attn_q", "self_attn.q_proj", q, c, spec.qkv_bias
    yield "attn_k", "self_attn.k_proj", kv, c, spec.qkv_bias
    yield "attn_v", "self_attn.v_proj", kv, c, spec.qkv_bias
    yield "attn_output", "self_attn.o_proj", c, q, spec.o_bias
    yield "ffn_gate", "mlp.gate_proj", ff, c, spec.mlp_bias
    yield "ffn_up", "mlp.up_proj", ff, c, spec.mlp_bias
    yield "ffn_down", "mlp.down_proj", c, ff, spec.mlp_bias


def _fused(spec: Spec) -> Iterator[tuple[str, str, int, int, bool]]:
    """The same of Phi-3, where Q, K and V are one matrix, gate and up another."""
    q, kv, c = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim, spec.d_model
    yield "attn_qkv", "self_attn.qkv_proj", q + 2 * kv, c, False
    yield "attn_output", "self_attn.o_proj", c, q, False
    yield "ffn_up", "mlp.gate_up_proj", 2 * spec.d_ff, c, False
    yield "ffn_down", "mlp.down_proj", c, spec.d_ff, False


def _rope_factors(config: Mapping[str, Any], head_dim: int) -> Iterator[Planned]:
    """What each rotary frequency is divided by, (R/2,), where that is not one number for all."""
    rope, kind = rope_parameters(config), rope_kind(config)
    named: dict[str, Any] = {}
    if kind == "llama3":
        unscaled = {"rope_parameters": {"rope_theta": rope["rope_theta"]}}
        named["rope_freqs"] = rope_of(unscaled, head_dim).near / rope_of(config, head_dim).near
    if kind == "longrope":
        named |= {f"rope_factors_{n}": rope[f"{n}_factor"] for n in ("long", "short")}
    for name, factors in named.items():
        values = np.asarray(factors, np.float32)
        yield Planned(f"{name}.weight", "", values.shape, values=values)


def in_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """`rows` (n·D, ...) with each head's halves interleaved: (i, i + D/2) become neighbours.

    The folder's rotation turns halves, llama.cpp's turns neighbours; in this order they agree.
    """
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
