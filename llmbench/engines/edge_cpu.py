"""`impl: cpu` of edge: a decoder in C++ of our own (`kernels/cpu`), driven by a model's numbers."""

import warnings
from collections.abc import Mapping
from ctypes import byref, c_double
from itertools import chain
from typing import Any

import numpy as np

from llmbench.errors import ServesSlowly, Unsupported
from llmbench.hardware import usable_cpus
from llmbench.kernels import cpu
from llmbench.kernels.build import cpu_build
from llmbench.models.cost import kv_bytes_per_token
from llmbench.models.families import Traits, traits_of
from llmbench.models.gguf_weights import INTERLEAVED
from llmbench.models.rope import Rope, rope_of
from llmbench.models.source import ModelSource
from llmbench.models.spec import Spec
from llmbench.models.stored_as import PLAIN, stored_as
from llmbench.models.stored_weights import Stored, StoredWeights

Matrices = dict[tuple[str, int], Stored]
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}


class CpuDecoder:
    """A model in the library's memory, and at most one cache of keys and values."""

    def __init__(self, model: ModelSource, isa: str, kv_type: str, threads: int) -> None:
        """Raises: Unsupported, Missing, BadParams, OutOfMemory."""
        if threads > (cpus := usable_cpus()):
            warnings.warn(f"engine edge, impl cpu: {threads} threads on {cpus} CPUs wait for each "
                          f"other; threads: {cpus} is faster", ServesSlowly,
                          stacklevel=2)  # fmt: skip
        config = model.config
        self.spec, self.traits = traits_of(config)
        self.rope = rope_of(config, self.spec.head_dim)  # before any weight: it may refuse
        self.library, self._handle = cpu.library(), cpu.Handle()
        weights = StoredWeights(model, config)
        matrices = matrices_of(self.spec, self.traits, weights)
        _check_kinds(matrices)
        vectors = vectors_of(self.spec, self.traits, weights)
        sizes = [cpu.packed_bytes(stored.kind, *stored.shape) for stored in matrices.values()]
        self.kinds = {stored.kind for stored in matrices.values()}
        self.kv_type = ("f32" if self.kinds == {"F32"} else "f16") if kv_type == "auto" else kv_type
        asked = _spec(self.spec, self.traits, self.rope, config, self.kv_type,
                      weights.family in INTERLEAVED)  # fmt: skip
        code = self.library.lb_open(byref(asked), isa.encode(), threads, sum(sizes),
                                    byref(self._handle))  # fmt: skip
        cpu.check(code, "engine edge, impl cpu")
        if isa == "auto" and self.isa == "scalar":
            warnings.warn("engine edge, impl cpu: this CPU has none of the instruction sets that "
                          "it is written for (on x86-64 AVX2 with FMA and F16C is the least), so "
                          "the portable code serves, which is many times slower; isa: scalar asks "
                          "for it without this word", ServesSlowly, stacklevel=2)  # fmt: skip
        self.weight_bytes, self.threads = sum(sizes), threads
        looked_up = 0 if self.spec.tied else sizes[list(matrices).index(("embedding", 0))]
        self.step_weight_bytes = self.weight_bytes - looked_up  # of it a token needs one row
        self.weight_format = _format_of(model, self.kinds)
        self._fill(matrices, vectors)
        weights.close()

    @property
    def isa(self) -> str:
        """The instruction set that serves."""
        return self.library.lb_isa(self._handle).decode()

    def begin(self, rows: int, tokens: int) -> None:
        """An empty cache with room for `tokens` in each of `rows`. Raises: OutOfMemory."""
        self._check(self.library.lb_begin(self._handle, rows, tokens))

    def greedy(self, ids: np.ndarray) -> np.ndarray:
        """(B,) the likeliest token after ids (B, T), which go behind what the cache holds."""
        best = np.full(len(ids), -1, np.int32)
        self._forward(ids, False, best, None)
        return best

    def logits(self, ids: np.ndarray, every: bool = False) -> np.ndarray:
        """(B, V) float32 logits after the last of ids (B, T), or (B, T, V) after each."""
        shape = (*ids.shape, self.spec.vocab_size) if every else (len(ids), self.spec.vocab_size)
        out = np.full(shape, np.nan, np.float32)
        self._forward(ids, every, None, out)
        return out

    def synchronize(self) -> None:
        """All is done when a call returns."""

    def served(self) -> dict[str, Any]:
        """What the record says of it."""
        return {
            "attention_impl": "tiled", "weight_format": self.weight_format,
            "weight_bytes": self.weight_bytes, "step_weight_bytes": self.step_weight_bytes,
            "kv_format": {"f16": "float16", "f32": "float32"}[self.kv_type],
            "kv_bytes_per_token": kv_bytes_per_token(self.spec, cpu.KV_BYTES[self.kv_type]),
            "threads": self.threads, "device": "cpu",
            "build": f"isa {self.isa} | {cpu_build().version}",
        }  # fmt: skip

    def timed(self, on: bool) -> None:
        """Start to time the parts of what is computed, from zero; or stop."""
        self.library.lb_timing(self._handle, on)

    def seconds(self) -> dict[str, float]:
        """Seconds of each part since `timed(True)`."""
        told = (c_double * len(cpu.PARTS))()
        self.library.lb_seconds(self._handle, told)
        return dict(zip(cpu.PARTS, told, strict=True))

    def close(self) -> None:
        """Give the memory back."""
        if self._handle:
            self.library.lb_close(self._handle)
        self._handle = cpu.Handle()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _forward(self, ids: np.ndarray, every: bool, best: Any, logits: Any) -> None:
        ids = np.ascontiguousarray(ids, np.int32)
        out = [None if array is None else cpu.pointer(array) for array in (best, logits)]
        self._check(
            self.library.lb_forward(self._handle, cpu.pointer(ids), *ids.shape, every, *out)
        )

    def _fill(self, matrices: Matrices, vectors: Mapping[tuple[int, int], np.ndarray]) -> None:
        """Give the library every tensor; it keeps its own copies."""
        for (name, layer), stored in matrices.items():
            code = self.library.lb_matrix(
                self._handle, cpu.MATRICES.index(name), layer, cpu.NUMBER_OF[stored.kind],
                *stored.shape, cpu.pointer(stored.rows))  # fmt: skip
            cpu.check(code, f"engine edge, impl cpu: tensor {stored.name!r} of {stored.file}")
        rotations = {(cpu.Slot.ROPE_NEAR, 0): self.rope.near, (cpu.Slot.ROPE_FAR, 0): self.rope.far}
        for (slot, layer), values in chain(vectors.items(), rotations.items()):
            values = np.ascontiguousarray(values, np.float32)
            self._check(self.library.lb_vector(self._handle, slot, layer, values.size,
                                               cpu.pointer(values)))  # fmt: skip
        for layer, scores in enumerate(self.traits.scores):
            self._check(self.library.lb_scores(self._handle, layer, scores.scale, scores.cap or 0,
                                               scores.window or 0))  # fmt: skip
        self._check(self.library.lb_ready(self._handle))

    def _check(self, code: int) -> None:
        cpu.check(code, "engine edge, impl cpu")


def matrices_of(spec: Spec, traits: Traits, weights: StoredWeights) -> Matrices:
    """Every matrix by slot and layer, (out, in) as stored."""
    c, ff = spec.d_model, spec.d_ff
    heads, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    found: Matrices = {}

    def take(slots: str, outs: tuple[int, ...], names: str, fused: str, layer: int) -> None:
        """Into `slots`: tensors of their own, or parts of the one that a family fuses them in."""
        before = f"model.layers.{layer}."
        if traits.fused:
            whole, first = weights.take(f"{before}{fused}.weight", sum(outs), c), 0
        for slot, out, name in zip(slots.split(), outs, names.split(), strict=True):
            if traits.fused:
                found[slot, layer] = whole.part(first, first + out)
                first += out
            else:
                found[slot, layer] = weights.take(f"{before}{name}.weight", out, c)

    for n in range(spec.n_layers):
        take("q k v", (heads, kv, kv), "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
             "self_attn.qkv_proj", n)  # fmt: skip
        take("gate up", (ff, ff), "mlp.gate_proj mlp.up_proj", "mlp.gate_up_proj", n)
        found["o", n] = weights.take(f"model.layers.{n}.self_attn.o_proj.weight", c, heads)
        found["down", n] = weights.take(f"model.layers.{n}.mlp.down_proj.weight", c, ff)
    found["embedding", 0] = weights.take("model.embed_tokens.weight", spec.vocab_size, c)
    if not spec.tied:
        found["head", 0] = weights.take("lm_head.weight", spec.vocab_size, c)
    return found


def vectors_of(
    spec: Spec, traits: Traits, weights: StoredWeights
) -> dict[tuple[int, int], np.ndarray]:
    """Norms and biases by slot and layer, float32; norms as what they multiply by."""
    c, four = spec.d_model, traits.four_norms
    plus = 1.0 if traits.one_plus_norm and not weights.family else 0.0  # a GGUF file has it added
    norms = {"attention_norm": "input", "mlp_norm": "pre_feedforward" if four else "post_attention"}
    if four:
        norms |= {"after_attention_norm": "post_attention", "after_mlp_norm": "post_feedforward"}
    heads, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    biases = {("q", "self_attn.q_proj", heads): spec.qkv_bias,
              ("k", "self_attn.k_proj", kv): spec.qkv_bias,
              ("v", "self_attn.v_proj", kv): spec.qkv_bias,
              ("o", "self_attn.o_proj", c): spec.o_bias,
              ("gate", "mlp.gate_proj", spec.d_ff): spec.mlp_bias,
              ("up", "mlp.up_proj", spec.d_ff): spec.mlp_bias,
              ("down", "mlp.down_proj", c): spec.mlp_bias}  # fmt: skip
    found = {(int(cpu.Slot.NORM), 0): weights.take("model.norm.weight", c).floats() + plus}
    for n in range(spec.n_layers):
        for slot, name in norms.items():
            stored = weights.take(f"model.layers.{n}.{name}_layernorm.weight", c)
            found[cpu.VECTORS.index(slot), n] = stored.floats() + plus
        for (slot, name, out), there in biases.items():
            if there:
                stored = weights.take(f"model.layers.{n}.{name}.bias", out)
                found[cpu.BIAS + cpu.MATRICES.index(slot), n] = stored.floats()
    return found


def _format_of(model: ModelSource, kinds: set[str]) -> str:
    """How the weights are stored, in the words of records."""
    if model.file:
        return stored_as(model.header)
    return PLAIN.get(next(iter(kinds)), "unknown") if len(kinds) == 1 else "mixed"


def _spec(spec: Spec, traits: Traits, rope: Rope, config: Mapping[str, Any], kv_type: str,
          neighbours: bool) -> cpu.Spec:  # fmt: skip
    return cpu.Spec(
        **{name: getattr(spec, name) for name in (
            "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size")},
        tied=spec.tied, rope_dims=2 * rope.near.size, rope_neighbours=neighbours,
        activation=ACTIVATIONS[traits.activation], kv_type=cpu.KV_TYPES[kv_type],
        rope_trained=0 if np.isinf(rope.trained) else int(rope.trained),
        eps=config.get("rms_norm_eps", 1e-6), embedding_scale=traits.embedding_scale,
        residual_scale=traits.residual_scale, logit_scale=traits.logit_scale,
        logit_cap=traits.logit_cap or 0, rope_stretch=rope.stretch,
    )  # fmt: skip


def _check_kinds(matrices: Matrices) -> None:
    """Raises: Unsupported naming a matrix of a type that the library does not hold."""
    for (name, layer), stored in matrices.items():
        if not cpu.packed_bytes(stored.kind, *stored.shape):
            raise Unsupported(f"engine edge, impl cpu: matrix {name} of layer {layer} is stored as "
                              f"{stored.kind}", why="it holds F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                              "Q5_0, Q5_1, Q4_K, Q5_K and Q6_K",
                              how="another file, or llamacpp or ollama")  # fmt: skip
