"""Rotary positions: how far each pair of dimensions turns from one token to the next."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench.errors import Unsupported

KINDS = ("default", "linear", "llama3", "longrope", "factors")


@dataclass(frozen=True)
class Rope:
    """Radians a position of each pair of the R dimensions that turn, (R/2,) float32."""

    near: np.ndarray  # for sequences of up to `trained` tokens
    far: np.ndarray  # for longer ones
    trained: float = math.inf
    stretch: float = 1.0  # what cosines and sines are multiplied by


def rope_of(config: Mapping[str, Any], head_dim: int) -> Rope:
    """The rotation that `config` asks for. Raises: Unsupported for another scaling than `KINDS`.

    Source: Su et al., RoFormer, arXiv 2104.09864, section 3.2.2.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    turning = int(head_dim * _share(config, rope) + 1e-6)  # of a head's dimensions
    exponents = np.arange(0, turning, 2, dtype=np.float32) / np.float32(turning)
    plain = (1.0 / np.float32(theta) ** exponents).astype(np.float32)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("longrope", "su"):  # its first name
        return _longrope(plain, rope, config)
    scaled = _scaled(kind, plain, rope)
    return Rope(scaled, scaled)


def _share(config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    """The share of a head's dimensions that turn: all of them but in some Phi models."""
    if config.get("model_type") != "phi3":
        return 1.0
    return rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0


def _scaled(kind: str, plain: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    """The frequencies of the kinds that are the same for every length."""
    if kind == "default":
        return plain
    if kind == "linear":  # Chen et al., Position Interpolation, arXiv 2306.15595
        return plain / np.float32(rope["factor"])
    if kind == "llama3":
        return _llama3(plain, rope)
    if kind == "factors":  # what a GGUF file keeps of Llama 3's rule: one divisor a pair
        return plain / np.asarray(rope["factors"], np.float32)
    raise Unsupported(f"models: rotary scaling {kind!r} is not one that edge has",
                      how=f"it has {', '.join(KINDS)}")  # fmt: skip


def _llama3(plain: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    """Long waves slowed by `factor`, short ones kept, between them blended.

    Source: Grattafiori et al., The Llama 3 Herd of Models; arXiv 2407.21783, and its code.
    """
    trained, slow, fast = (rope[name] for name in (
        "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))  # fmt: skip
    turns = trained * plain / (2 * math.pi)  # within the context first trained for
    share = np.clip((turns - slow) / (fast - slow), 0, 1)
    scaled = (1 - share) * plain / rope["factor"] + share * plain
    return scaled.astype(np.float32)


def _longrope(plain: np.ndarray, rope: Mapping[str, Any], config: Mapping[str, Any]) -> Rope:
    """One divisor a pair up to the context first trained for, another beyond.

    A sequence that grows past that length goes on with the other divisors; keys in the cache keep
    theirs, as in transformers. Source: Ding et al., LongRoPE, arXiv 2402.13753.
    """
    most = config["max_position_embeddings"]
    trained = next(filter(None, (source.get("original_max_position_embeddings")
                                 for source in (rope, config))), most)  # fmt: skip
    growth = rope.get("factor") or most / trained
    stretch = rope.get("attention_factor")
    if stretch is None:
        stretch = math.sqrt(1 + math.log(growth) / math.log(trained)) if growth > 1 else 1.0
    near, far = (plain / np.asarray(rope[name], np.float32)
                 for name in ("short_factor", "long_factor"))  # fmt: skip
    return Rope(near, far, trained, stretch)
