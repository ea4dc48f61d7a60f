"""GGUF files of real architectures, their weights a hole that takes no room on the disk."""

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path

from llmbench.models.spec import Spec
from tests.gguf_bytes import F32, GGML_F32, TEXT, U32, gguf, key, tensor, written

GGML_F16 = 1


def keys_of(spec: Spec) -> list[bytes]:
    """The keys that llama.cpp's converter writes for such a model."""
    arch = {"mistral": "llama", "mixtral": "llama"}.get(spec.model_type, spec.model_type)
    numbers = {"block_count": spec.n_layers, "context_length": spec.trained_context,
               "embedding_length": spec.d_model, "feed_forward_length": spec.d_ff,
               "attention.head_count": spec.n_heads, "attention.head_count_kv": spec.n_kv_heads,
               "attention.key_length": spec.head_dim, "attention.value_length": spec.head_dim,
               "rope.dimension_count": spec.head_dim}  # fmt: skip
    if spec.n_experts > 1:
        numbers |= {"expert_count": spec.n_experts, "expert_used_count": spec.n_experts_used}
    return [key("general.architecture", TEXT, arch), key(f"{arch}.rope.freq_base", F32, 1e6),
            *(key(f"{arch}.{name}", U32, number) for name, number in numbers.items())]  # fmt: skip


def tensors_of(spec: Spec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, as llama.cpp's converter lays them out."""
    width = spec.d_model
    yield "token_embd.weight", (spec.vocab_size, width)
    for layer in range(spec.n_layers):
        for name, shape in layer_of(spec):
            yield f"blk.{layer}.{name}", shape
    yield "output_norm.weight", (width,)
    if not spec.tied:
        yield "output.weight", (spec.vocab_size, width)


def layer_of(spec: Spec) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, q, kv = spec.d_model, spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    norms = ["attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"]
    yield from ((f"{name}.weight", (width,)) for name in norms[: spec.norms_per_layer])
    if spec.model_type == "phi3":
        yield "attn_qkv.weight", (q + 2 * kv, width)
    else:
        sizes = {"attn_q": q, "attn_k": kv, "attn_v": kv}
        yield from ((f"{name}.weight", (rows, width)) for name, rows in sizes.items())
        yield from ((f"{n}.bias", (rows,)) for n, rows in sizes.items() if spec.qkv_bias)
    yield "attn_output.weight", (width, q)
    if spec.n_experts > 1:
        yield "ffn_gate_inp.weight", (spec.n_experts, width)
        yield from ((f"ffn_{part}_exps.weight", (spec.n_experts, spec.d_ff, width))
                    for part in ("gate", "up", "down"))  # fmt: skip
    elif spec.model_type == "phi3":
        yield from (
            ("ffn_up.weight", (2 * spec.d_ff, width)),
            ("ffn_down.weight", (width, spec.d_ff)),
        )
    else:
        yield from ((f"ffn_{part}.weight", (spec.d_ff, width)) for part in ("gate", "up"))
        yield "ffn_down.weight", (width, spec.d_ff)


def model_file(path: Path, spec: Spec, more: tuple[bytes, ...] = (),
               other: tuple[tuple[str, tuple[int, ...]], ...] = ()) -> Path:  # fmt: skip
    """A GGUF file of `spec` in F16 with norms in F32, `more` keys and `other` tensors in F32."""
    infos, end = [], 0
    for name, shape in [*tensors_of(spec), *other]:
        plain = len(shape) == 1
        infos.append(tensor(name, shape, GGML_F32 if plain else GGML_F16, end))
        end = -(-(end + prod(shape) * (4 if plain else 2)) // 32) * 32
    written(path, gguf([*keys_of(spec), *more], infos))
    os.truncate(path, path.stat().st_size + end)
    return path
