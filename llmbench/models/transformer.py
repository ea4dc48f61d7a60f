"""Decoders of Llama's kind in plain PyTorch: the readable truth that other code is held to.

What a family does otherwise than Llama stands in `models.families`, as numbers.
Shapes: B rows, T new tokens, S keys in the cache, H heads, G key/value heads, D head size, C width,
V vocabulary. Source: Touvron et al., LLaMA, arXiv 2302.13971; Su et al., RoFormer, arXiv
2104.09864; Ainslie et al., GQA, arXiv 2305.13245; Shazeer, GLU variants, arXiv 2002.05202.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llmbench.models.attention import attention, chosen
from llmbench.models.families import Traits, traits_of
from llmbench.models.rope import rope_of
from llmbench.models.spec import Spec


class Weights(Protocol):
    """Where tensors come from: a folder's safetensors, or a GGUF file."""

    def take(self, name: str, *shape: int) -> Any:
        """The tensor called `name`. Raises: Missing unless it is there and has `shape`."""
        ...


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


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """x (B, H, T, D) with the halves of its first R dimensions turned by cos and sin (T, R/2)."""
    import torch

    half = cos.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def times(x: Any, factor: float) -> Any:
    """x · factor, and x itself for a factor of one."""
    return x if factor == 1 else x * factor


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer: weights as (out, in), biases or None."""

    attention_norm: Any
    q: tuple[Any, Any]
    k: tuple[Any, Any]
    v: tuple[Any, Any]
    o: tuple[Any, Any]
    after_attention_norm: Any  # None in most families
    mlp_norm: Any
    gate: tuple[Any, Any]
    up: tuple[Any, Any]
    down: tuple[Any, Any]
    after_mlp_norm: Any  # None in most families


class Transformer:
    """The whole decoder. Raises: Unsupported for another family, Missing for a lacking tensor."""

    def __init__(self, config: Mapping[str, Any], weights: Weights, impl: str) -> None:
        import torch

        self.spec, self.traits = traits_of(config)
        spec, self.eps = self.spec, config.get("rms_norm_eps", 1e-6)
        self.rope = rope_of(config, spec.head_dim)  # before any weight: it may refuse
        self.embedding = weights.take("model.embed_tokens.weight", spec.vocab_size, spec.d_model)
        self.attention_impl = chosen(impl, self.traits.scores, self.embedding)
        self.attend = attention(self.attention_impl, self.traits.scores, self.embedding.device.type)
        self.layers = [_layer(spec, self.traits, weights, n) for n in range(spec.n_layers)]
        self.norm = weights.take("model.norm.weight", spec.d_model)
        self.head = self.embedding if spec.tied else weights.take(
            "lm_head.weight", spec.vocab_size, spec.d_model)  # fmt: skip
        self.radians = [torch.from_numpy(part).to(self.embedding.device)
                        for part in (self.rope.near, self.rope.far)]  # fmt: skip

    def tensors(self) -> list[Any]:
        """Every tensor once; a tied head is the embedding."""
        parts = [part for layer in self.layers for part in vars(layer).values()]
        flat = [t for part in parts for t in (part if isinstance(part, tuple) else (part,))]
        head = [] if self.spec.tied else [self.head]
        return [self.embedding, self.norm, *head, *(t for t in flat if t is not None)]

    def forward(self, ids: Any, cache: KVCache, last_only: bool = True) -> Any:
        """Logits (B, V) after the last of `ids` (B, T), or (B, T, V) after each; grows `cache`."""
        from torch.nn.functional import embedding, linear

        x = times(embedding(ids, self.embedding), self.traits.embedding_scale)  # (B, T, C)
        turn = self._turn(cache.used, cache.used + ids.shape[1], x)
        for number, layer in enumerate(self.layers):
            x = self._block(layer, number, x, turn, cache)
        cache.used += ids.shape[1]
        x = x[:, -1] if last_only else x
        logits = times(linear(self._norm(x, self.norm), self.head), self.traits.logit_scale)
        cap = self.traits.logit_cap
        return cap * (logits / cap).tanh() if cap else logits

    def _turn(self, start: int, end: int, like: Any) -> tuple[Any, Any]:
        """Cosines and sines (T, R/2) of the positions from `start` to before `end`."""
        import torch

        radians = self.radians[end > self.rope.trained]
        angles = torch.arange(start, end, device=like.device)[:, None].float() * radians
        stretch = self.rope.stretch
        return (angles.cos() * stretch).to(like.dtype), (angles.sin() * stretch).to(like.dtype)

    def _block(self, layer: Layer, number: int, x: Any, turn: tuple, cache: KVCache) -> Any:
        """The stream (B, T, C) with what attention and MLP add to it."""
        scale = self.traits.residual_scale
        mixed = self._attention(layer, number, self._norm(x, layer.attention_norm), turn, cache)
        x = x + times(self._norm(mixed, layer.after_attention_norm), scale)
        made = self._mlp(layer, self._norm(x, layer.mlp_norm))
        return x + times(self._norm(made, layer.after_mlp_norm), scale)

    def _attention(self, layer: Layer, number: int, x: Any, turn: tuple, cache: KVCache) -> Any:
        """Project, rotate, append to the cache, attend, project back: (B, T, C)."""
        from torch.nn.functional import linear

        rows, new, _ = x.shape
        q, k, v = (
            linear(x, *w).view(rows, new, -1, self.spec.head_dim).transpose(1, 2)
            for w in (layer.q, layer.k, layer.v)
        )
        k, v = cache.append(number, rotate(k, *turn), v)
        scores = self.traits.scores[number]
        if scores.window:  # what no query sees any more
            k, v = (t[:, :, -(scores.window + new - 1) :] for t in (k, v))
        group = self.spec.n_heads // self.spec.n_kv_heads  # query heads that share a key head
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = self.attend(rotate(q, *turn), k, v, scores)  # (B, H, T, D)
        return linear(mixed.transpose(1, 2).reshape(rows, new, -1), *layer.o)

    def _mlp(self, layer: Layer, x: Any) -> Any:
        """down(activation(gate x) · up x)."""
        from torch.nn.functional import gelu, linear, silu

        gate = linear(x, *layer.gate)
        gate = silu(gate) if self.traits.activation == "silu" else gelu(gate, approximate="tanh")
        return linear(gate * linear(x, *layer.up), *layer.down)

    def _norm(self, x: Any, weight: Any) -> Any:
        """RMSNorm in float32, or x where there is none. Source: arXiv 1910.07467, equation 4."""
        if weight is None:
            return x
        wide = x.float()
        wide = wide * (wide.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        if self.traits.one_plus_norm:
            return (wide * (1 + weight.float())).to(x.dtype)
        return weight * wide.to(x.dtype)


def _layer(spec: Spec, traits: Traits, weights: Weights, number: int) -> Layer:
    heads, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    c, ff, before = spec.d_model, spec.d_ff, f"model.layers.{number}"

    def dense(name: str, out: int, wide: int, biased: bool) -> tuple[Any, Any]:
        bias = weights.take(f"{before}.{name}.bias", out) if biased else None
        return weights.take(f"{before}.{name}.weight", out, wide), bias

    def dense_of(names: str, outs: tuple[int, ...], biased: bool, fused: str) -> list:
        if not traits.fused:
            return [dense(n, out, c, biased) for n, out in zip(names.split(), outs, strict=True)]
        whole, _ = dense(fused, sum(outs), c, False)
        return [(rows, None) for rows in whole.split(outs)]

    def norm(name: str) -> Any:
        return weights.take(f"{before}.{name}_layernorm.weight", c)

    q, k, v = dense_of("self_attn.q_proj self_attn.k_proj self_attn.v_proj", (heads, kv, kv),
                       spec.qkv_bias, "self_attn.qkv_proj")  # fmt: skip
    gate, up = dense_of("mlp.gate_proj mlp.up_proj", (ff, ff), spec.mlp_bias, "mlp.gate_up_proj")
    four = traits.four_norms
    return Layer(
        attention_norm=norm("input"), q=q, k=k, v=v,
        o=dense("self_attn.o_proj", c, heads, spec.o_bias),
        after_attention_norm=norm("post_attention") if four else None,
        mlp_norm=norm("pre_feedforward" if four else "post_attention"), gate=gate, up=up,
        down=dense("mlp.down_proj", c, ff, spec.mlp_bias),
        after_mlp_norm=norm("post_feedforward") if four else None,
    )  # fmt: skip
