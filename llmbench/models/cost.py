"""FLOPs, bytes and memory of prefill and decode, from a spec alone.

A multiply-add counts as two FLOPs. Norms, rotary embedding, softmax, activation functions and
residual sums are left out of the FLOPs: they are below 1 % at these widths.
Shapes: B batch, T new tokens, S keys in cache, H heads, D head dim, C model dim, V vocabulary.
"""

from dataclasses import dataclass

from llmbench.models.spec import Spec


@dataclass(frozen=True)
class Parameters:
    """Parameters by what is done with them. Source: tensor shapes in transformers' code."""

    embedding: int  # V·C, of which a step reads one row per batch row
    head: int  # V·C, 0 when tied to the embedding
    linear: int  # weights of attention and MLP, all experts: what quantisers quantise
    linear_rows: int  # output rows of those weights, all experts: one scale each in int8
    router: int
    norms: int
    biases: int
    linear_active: int  # as `linear`, with the experts one token uses

    @property
    def total(self) -> int:
        """Every stored parameter."""
        layers = self.linear + self.router + self.norms + self.biases
        return self.embedding + self.head + layers

    @property
    def active(self) -> int:
        """Parameters that take part in one token; equals `total` without experts."""
        return self.total - self.linear + self.linear_active


def parameters(spec: Spec) -> Parameters:
    """Parameters of the whole model."""
    attention, attention_rows = _attention(spec)
    expert, expert_rows = 3 * spec.d_model * spec.d_ff, 2 * spec.d_ff + spec.d_model
    table = spec.vocab_size * spec.d_model
    routed = spec.n_experts > 1
    return Parameters(
        embedding=table,
        head=0 if spec.tied else table,
        linear=spec.n_layers * (attention + spec.n_experts * expert),
        linear_rows=spec.n_layers * (attention_rows + spec.n_experts * expert_rows),
        router=spec.n_layers * spec.d_model * spec.n_experts if routed else 0,
        norms=(spec.n_layers * spec.norms_per_layer + 1) * spec.d_model,
        biases=spec.n_layers * _biases(spec),
        linear_active=spec.n_layers * (attention + spec.n_experts_used * expert),
    )


def _attention(spec: Spec) -> tuple[int, int]:
    """Weights and output rows of q, k, v and o of one layer."""
    q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    return spec.d_model * (2 * q + 2 * kv), q + 2 * kv + spec.d_model


def _biases(spec: Spec) -> int:
    qkv = (spec.n_heads + 2 * spec.n_kv_heads) * spec.head_dim if spec.qkv_bias else 0
    mlp = 2 * spec.d_ff + spec.d_model if spec.mlp_bias else 0
    return qkv + (spec.d_model if spec.o_bias else 0) + mlp * spec.n_experts


def kv_bytes_per_token(spec: Spec, itemsize: int) -> int:
    """Bytes the KV cache holds per token and row: 2·layers·kv_heads·head_dim·itemsize.

    Layers with a sliding window are counted whole: a cache that drops old keys holds less.
    """
    heads = spec.n_layers * spec.n_kv_heads
    return cached_bytes_per_token(heads, spec.head_dim, spec.head_dim, itemsize)


def cached_bytes_per_token(heads: int, key_size: int, value_size: int, itemsize: int) -> int:
    """Bytes of one token's keys and values in `heads` KV heads, counted over all layers.

    Source: Pope et al., Efficiently Scaling Transformer Inference, arXiv 2211.05102, section 3.3.
    """
    return heads * (key_size + value_size) * itemsize


def kv_read_bytes(spec: Spec, context_len: int, itemsize: int) -> int:
    """KV bytes that one decode step reads per row, with `context_len` tokens in the cache."""
    return context_len * kv_bytes_per_token(spec, itemsize)


def prefill_flops(
    spec: Spec,
    prompt_tokens: int,
    batch_size: int = 1,
    *,
    causal: bool = True,
    head_positions: int = 1,
) -> int:
    """FLOPs of one prefill of (B, T). The head is computed for the last `head_positions` only.

    `causal` counts the T(T+1)/2 pairs that count; a kernel that masks after the product does T².
    Source: Chowdhery et al., PaLM, arXiv 2204.02311, appendix B, split by layer kind.
    """
    pairs = prompt_tokens * (prompt_tokens + 1) // 2 if causal else prompt_tokens**2
    row = (
        prompt_tokens * _linear_flops(spec)
        + attention_flops(spec, pairs)
        + head_positions * _head_flops(spec)
    )
    return batch_size * row


def decode_flops(spec: Spec, context_len: int, batch_size: int = 1) -> int:
    """FLOPs of one decode step of (B, 1), whose token attends to `context_len` keys and itself."""
    attention = attention_flops(spec, context_len + 1)
    return batch_size * (_linear_flops(spec) + attention + _head_flops(spec))


def _linear_flops(spec: Spec) -> int:
    """Per token: 2 for each weight of the layers that the token uses."""
    p = parameters(spec)
    return 2 * (p.linear_active + p.router)


def attention_flops(spec: Spec, pairs: int) -> int:
    """QKᵀ and PV over all layers for `pairs` of query and key: 4·layers·H·D each."""
    return 4 * spec.n_layers * spec.n_heads * spec.head_dim * pairs


def _head_flops(spec: Spec) -> int:
    return 2 * spec.d_model * spec.vocab_size


@dataclass(frozen=True)
class Format:
    """How weights are stored: the layers' linear weights in one way, all other tensors in another.

    The head, the embedding, norms, biases and a router stay in `kept_itemsize` bytes.
    Experts count as linear weights. A library that fuses them into one 3-D parameter (transformers
    5 does) may leave them in 16 bits: whether they are quantised is for a load to show.
    """

    name: str
    bytes_per_weight: float  # of the layers' linear weights, block scales included
    bytes_per_row: int  # scales per output row
    kept_itemsize: int  # bytes; the head, embedding, norms, biases and router

    def linear_bytes(self, weights: int, rows: int) -> int:
        """Bytes of linear layers with `weights` weights in `rows` output rows."""
        return round(weights * self.bytes_per_weight) + rows * self.bytes_per_row


# Source: bitsandbytes. int8: one float32 scale per row (Dettmers et al., arXiv 2208.07339). nf4: 4
# bits, an 8-bit scale per block of 64 and a float32 per 256 of those scales (double quantisation,
# Dettmers et al., arXiv 2305.14314, section 3); without it the scale per block is a float32.
FORMATS = {
    f.name: f
    for f in (
        Format("float32", 4, 0, 4),
        Format("bfloat16", 2, 0, 2),
        Format("float16", 2, 0, 2),
        Format("int8", 1, 4, 2),
        Format("nf4", 0.5 + 1 / 64 + 4 / (64 * 256), 0, 2),
        Format("nf4-single", 0.5 + 4 / 64, 0, 2),
    )
}


def weight_bytes(spec: Spec, stored: Format) -> int:
    """Bytes of all weights as stored in memory."""
    p = parameters(spec)
    kept = p.total - p.linear
    return stored.linear_bytes(p.linear, p.linear_rows) + kept * stored.kept_itemsize


def weight_read_bytes(spec: Spec, stored: Format, batch_size: int = 1) -> int:
    """Weight bytes that one decode step reads at least.

    One row of the embedding per batch row, not the table; a tied head reads the table once. Of
    experts those that one token uses: other rows of a batch may need more.
    Source: Databricks, LLM Inference Performance Engineering (MBU), for tensors really read.
    """
    p = parameters(spec)
    attention_rows = _attention(spec)[1]
    rows = spec.n_layers * (attention_rows + spec.n_experts_used * (2 * spec.d_ff + spec.d_model))
    table = p.embedding if spec.tied else p.head + batch_size * spec.d_model
    kept = p.norms + p.biases + p.router + table
    return stored.linear_bytes(p.linear_active, rows) + kept * stored.kept_itemsize


def activation_bytes(spec: Spec, new_tokens: int, batch_size: int, itemsize: int) -> int:
    """Estimate of the largest working memory of one pass over (B, T), weights and KV cache apart.

    Live at once in the wider half of a layer: the residual stream and its normed copy (2·C) with
    either q, k, v and the attention's output, or the MLP's gate, up and their product (3·d_ff per
    expert used); and the logits of the last position, also as float32. Attention scores are never
    held (a fused kernel). Allocator slack is not counted.
    """
    heads = (2 * spec.n_heads + 2 * spec.n_kv_heads) * spec.head_dim
    widest = 2 * spec.d_model + max(heads, 3 * spec.d_ff * spec.n_experts_used)
    logits = spec.vocab_size * (itemsize + 4)
    return batch_size * (new_tokens * widest * itemsize + logits)
