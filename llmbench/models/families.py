"""What sets a family's decoder apart from Llama's, as one table of numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.errors import Unsupported
from llmbench.models.spec import Spec, spec_from_config

FAMILIES = ("llama", "qwen2", "mistral", "granite", "gemma2", "phi3")
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}  # name in a config: ours


@dataclass(frozen=True)
class Scores:
    """How one layer makes weights of q·k: times `scale`, soft cap, then the mask and softmax."""

    scale: float
    cap: float | None = None  # cap · tanh(x / cap)
    window: int | None = None  # keys that a query sees, itself included; None: all before it


@dataclass(frozen=True)
class Traits:
    """A decoder's differences; the defaults are Llama's."""

    scores: tuple[Scores, ...]  # a layer
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what a block adds to the stream
    logit_scale: float = 1.0
    logit_cap: float | None = None
    one_plus_norm: bool = False  # RMS norms multiply by 1 + weight
    four_norms: bool = False  # also after attention and MLP
    activation: str = "silu"
    fused: bool = False  # q, k, v in one tensor, gate and up in another


def traits_of(config: Mapping[str, Any]) -> tuple[Spec, Traits]:
    """Spec and traits of a family that edge computes. Raises: Unsupported, with why.

    Source: transformers' modelling code of each family; Gemma 2, arXiv 2408.00118, table 1.
    """
    kind = config.get("model_type")
    if config.get("num_local_experts"):
        raise Unsupported(f"models: edge runs no mixture of experts, and this {kind} model is one",
                          how="run it on llamacpp or ollama")  # fmt: skip
    if kind not in FAMILIES:
        raise Unsupported(f"models: edge has no family {kind!r}",
                          how=f"families: {', '.join(FAMILIES)}; llamacpp and ollama have "
                              "more")  # fmt: skip
    gemma = kind == "gemma2"
    asked = config.get("hidden_activation" if gemma else "hidden_act") or (
        "gelu_pytorch_tanh" if gemma else "silu")  # fmt: skip
    if asked not in ACTIVATIONS:
        raise Unsupported(f"models: edge has no activation {asked!r}",
                          how=f"it has {', '.join(ACTIVATIONS)}")  # fmt: skip
    spec = spec_from_config(config)
    return spec, _traits(kind, config, spec, ACTIVATIONS[asked])


def _traits(kind: str, config: Mapping[str, Any], spec: Spec, activation: str) -> Traits:
    scale, windows = 1 / math.sqrt(spec.head_dim), _windows(kind, config, spec.n_layers)
    if kind == "granite":
        return Traits(
            _scores(config.get("attention_multiplier", 1.0), None, windows),
            embedding_scale=config.get("embedding_multiplier", 1.0),
            residual_scale=config.get("residual_multiplier", 1.0),
            logit_scale=1 / config.get("logits_scaling", 1.0), activation=activation,
        )  # fmt: skip
    if kind == "gemma2":
        scale = config.get("query_pre_attn_scalar", 256) ** -0.5
        return Traits(
            _scores(scale, config.get("attn_logit_softcapping", 50.0), windows),
            embedding_scale=math.sqrt(spec.d_model),
            logit_cap=config.get("final_logit_softcapping", 30.0), one_plus_norm=True,
            four_norms=True, activation=activation,
        )  # fmt: skip
    return Traits(_scores(scale, None, windows), activation=activation, fused=kind == "phi3")


def _scores(scale: float, cap: float | None, windows: list[int | None]) -> tuple[Scores, ...]:
    return tuple(Scores(scale, cap, window) for window in windows)


def _windows(kind: str, config: Mapping[str, Any], layers: int) -> list[int | None]:
    """The window of each layer. Source: the families' configuration code in transformers."""
    window = config.get("sliding_window", 4096 if kind in ("mistral", "gemma2") else None)
    if kind in ("llama", "granite") or (kind == "qwen2" and not config.get("use_sliding_window")):
        window = None
    slides = [True] * layers
    if kind == "gemma2":
        slides = [layer % 2 == 0 for layer in range(layers)]
    if kind == "qwen2":
        slides = [layer >= config.get("max_window_layers", 28) for layer in range(layers)]
    if kind in ("gemma2", "qwen2") and config.get("layer_types"):
        slides = [name == "sliding_attention" for name in config["layer_types"]]
    return [window if slid else None for slid in slides]
