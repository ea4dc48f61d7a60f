"""A Llama or Qwen2 decoder in plain PyTorch: the readable truth that other code is held to.

Shapes: B rows, T new tokens, S keys in the cache, H heads, G key/value heads, D head size, C width,
V vocabulary. Source: Touvron et al., LLaMA, arXiv 2302.13971; Su et al., RoFormer, arXiv
2104.09864; Ainslie et al., GQA, arXiv 2305.13245; Shazeer, GLU variants, arXiv 2002.05202.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench.errors import Unsupported
from llmbench.models.spec import Spec, spec_from_config
from llmbench.models.weights import Weights

FAMILIES = ("llama", "qwen2", "mistral")


class KVCache:
    """Keys and values of every layer, allocated once: (layers, B, G, S, D) each."""

    def __init__(self, spec: Spec, rows: int, length: int, like: Any) -> None:
        shape = (spec.n_layers, rows, spec.n_kv_heads, length, spec.head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.used = 0  # tokens in every layer

    def append(self, layer: int, k: Any, v: Any) -> tuple[Any, Any]:
        """Keep k and v (B, G, T, D) behind what is there; all keys and values (B, G, S, D)."""
        end = self.used + k.shape[2]
        self.keys[layer, :, :, self.used : end] = k
        self.values[layer, :, :, self.used : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


# -- attention: q (B, H, T, D), k and v (B, H, S, D) → (B, H, T, D); the T last of S are the queries


def attend_reference(q: Any, k: Any, v: Any) -> Any:
    """softmax(q kᵀ / √D) v with a causal mask, the softmax in float32."""
    import torch

    new, seen = q.shape[2], k.shape[2]
    scores = (q @ k.transpose(2, 3)).float() / math.sqrt(q.shape[3])  # (B, H, T, S)
    ahead = torch.ones(new, seen, dtype=torch.bool, device=q.device).triu(seen - new + 1)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1).to(v.dtype) @ v


def attend_sdpa(backend: str) -> Callable[[Any, Any, Any], Any]:
    """PyTorch's scaled_dot_product_attention, held to one of its backends: MATH, FLASH_ATTENTION.

    Raises (when it runs): RuntimeError when this backend cannot serve; none other steps in.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q: Any, k: Any, v: Any) -> Any:
        new, seen = q.shape[2], k.shape[2]
        if new not in (1, seen):
            raise Unsupported("attention of several new tokens behind a filled cache is not needed")
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return scaled_dot_product_attention(q, k, v, is_causal=new > 1)

    return attend


def attend_skipped(q: Any, k: Any, v: Any) -> Any:
    """Each position's own value: no scores, no softmax. An ablation; its output is no model's."""
    return v[:, :, -q.shape[2] :]


def attention(impl: str) -> Callable[[Any, Any, Any], Any]:
    """The attention called `impl`."""
    if impl.startswith("sdpa-"):
        return attend_sdpa({"sdpa-math": "MATH", "sdpa-flash": "FLASH_ATTENTION"}[impl])
    return {"reference": attend_reference, "skipped": attend_skipped}[impl]


# -- rotary positions ------------------------------------------------------------------------------


def rope_frequencies(config: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """Radians a position of each pair of dimensions, (D/2,) float32.

    Raises: Unsupported for a scaling other than Llama 3's. Source: arXiv 2104.09864, section 3.2.2.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(theta) ** exponents).astype(np.float32)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return frequencies
    if kind == "llama3":
        return _llama3(frequencies, rope)
    raise Unsupported(f"models: rotary scaling {kind!r} is not one that edge has",
                      how="default and llama3 are supported")  # fmt: skip


def _llama3(frequencies: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    """Long waves slowed by `factor`, short ones kept, between them blended.

    Source: Grattafiori et al., The Llama 3 Herd of Models; arXiv 2407.21783, and its code.
    """
    trained, slow, fast = (rope[name] for name in (
        "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))  # fmt: skip
    turns = trained * frequencies / (2 * math.pi)  # within the context first trained for
    share = np.clip((turns - slow) / (fast - slow), 0, 1)
    scaled = (1 - share) * frequencies / rope["factor"] + share * frequencies
    return scaled.astype(np.float32)


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """x (B, H, T, D) with its halves turned by the angles of cos and sin (T, D/2)."""
    import torch

    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


# -- the model -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer: weights as (out, in), biases or None."""

    attention_norm: Any
    q: tuple[Any, Any]
    k: tuple[Any, Any]
    v: tuple[Any, Any]
    o: tuple[Any, Any]
    mlp_norm: Any
    gate: tuple[Any, Any]
    up: tuple[Any, Any]
    down: tuple[Any, Any]


class Transformer:
    """The whole decoder. Raises: Unsupported for another family, Missing for a lacking tensor."""

    def __init__(self, config: Mapping[str, Any], weights: Weights, impl: str) -> None:
        import torch

        self.spec, self.eps = _supported(config), config.get("rms_norm_eps", 1e-6)
        spec, self.attend = self.spec, attention(impl)
        self.embedding = weights.take("model.embed_tokens.weight", spec.vocab_size, spec.d_model)
        self.layers = [_layer(spec, weights, number) for number in range(spec.n_layers)]
        self.norm = weights.take("model.norm.weight", spec.d_model)
        self.head = self.embedding if spec.tied else weights.take(
            "lm_head.weight", spec.vocab_size, spec.d_model)  # fmt: skip
        frequencies = rope_frequencies(config, spec.head_dim)
        self.frequencies = torch.from_numpy(frequencies).to(self.embedding.device)

    def tensors(self) -> list[Any]:
        """Every tensor once; a tied head is the embedding."""
        parts = [part for layer in self.layers for part in vars(layer).values()]
        flat = [t for part in parts for t in (part if isinstance(part, tuple) else (part,))]
        head = [] if self.spec.tied else [self.head]
        return [self.embedding, self.norm, *head, *(t for t in flat if t is not None)]

    def forward(self, ids: Any, cache: KVCache, last_only: bool = True) -> Any:
        """Logits (B, V) after the last of `ids` (B, T), or (B, T, V) after each; grows `cache`."""
        import torch
        from torch.nn.functional import embedding, linear

        x = embedding(ids, self.embedding)  # (B, T, C)
        places = torch.arange(cache.used, cache.used + ids.shape[1], device=ids.device)
        angles = places[:, None].float() * self.frequencies  # (T, D/2)
        turn = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for number, layer in enumerate(self.layers):
            x = x + self._attention(layer, number, self._norm(x, layer.attention_norm), turn, cache)
            x = x + _mlp(layer, self._norm(x, layer.mlp_norm))
        cache.used += ids.shape[1]
        x = x[:, -1] if last_only else x
        return linear(self._norm(x, self.norm), self.head)

    def _attention(self, layer: Layer, number: int, x: Any, turn: tuple, cache: KVCache) -> Any:
        """Project, rotate, append to the cache, attend, project back: (B, T, C)."""
        from torch.nn.functional import linear

        rows, new, _ = x.shape
        q, k, v = (
            linear(x, *w).view(rows, new, -1, self.spec.head_dim).transpose(1, 2)
            for w in (layer.q, layer.k, layer.v)
        )
        k, v = cache.append(number, rotate(k, *turn), v)
        group = self.spec.n_heads // self.spec.n_kv_heads  # query heads that share a key head
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = self.attend(rotate(q, *turn), k, v)  # (B, H, T, D)
        return linear(mixed.transpose(1, 2).reshape(rows, new, -1), *layer.o)

    def _norm(self, x: Any, weight: Any) -> Any:
        """RMSNorm, in float32. Source: Zhang and Sennrich, arXiv 1910.07467, equation 4."""
        wide = x.float()
        wide = wide * (wide.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        return weight * wide.to(x.dtype)


def _mlp(layer: Layer, x: Any) -> Any:
    """down(silu(gate x) · up x)."""
    from torch.nn.functional import linear, silu

    return linear(silu(linear(x, *layer.gate)) * linear(x, *layer.up), *layer.down)


def _layer(spec: Spec, weights: Weights, number: int) -> Layer:
    heads, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    c, ff, before = spec.d_model, spec.d_ff, f"model.layers.{number}"

    def dense(name: str, out: int, wide: int, biased: bool) -> tuple[Any, Any]:
        bias = weights.take(f"{before}.{name}.bias", out) if biased else None
        return weights.take(f"{before}.{name}.weight", out, wide), bias

    return Layer(
        attention_norm=weights.take(f"{before}.input_layernorm.weight", c),
        q=dense("self_attn.q_proj", heads, c, spec.qkv_bias),
        k=dense("self_attn.k_proj", kv, c, spec.qkv_bias),
        v=dense("self_attn.v_proj", kv, c, spec.qkv_bias),
        o=dense("self_attn.o_proj", c, heads, spec.o_bias),
        mlp_norm=weights.take(f"{before}.post_attention_layernorm.weight", c),
        gate=dense("mlp.gate_proj", ff, c, spec.mlp_bias),
        up=dense("mlp.up_proj", ff, c, spec.mlp_bias),
        down=dense("mlp.down_proj", c, ff, spec.mlp_bias),
    )


def _supported(config: Mapping[str, Any]) -> Spec:
    """The spec of a family that this forward computes. Raises: Unsupported, with why."""
    kind, known = config.get("model_type"), ", ".join(FAMILIES)
    if kind not in FAMILIES:
        raise Unsupported(f"models: edge has no family {kind!r}", how=f"families: {known}")
    window = config.get("sliding_window")
    if window and (kind == "mistral" or config.get("use_sliding_window")):
        raise Unsupported(f"models: edge has no sliding window, and this model has one of {window}")
    if config.get("hidden_act", "silu") != "silu":
        raise Unsupported(f"models: edge has no activation {config['hidden_act']!r}, only silu")
    return spec_from_config(config)
