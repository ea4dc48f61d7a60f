"""A GGUF header → the config that a Hugging Face folder of the same model would have.

Keys of the config are those of Hugging Face, so that specs, costs and engines read one language. An
architecture that has no translation here keeps its own name and the numbers that all have: whoever
needs more refuses it by that name. Source: docs/gguf.md of ggml; what llama.cpp takes for a key
that is not there, from its `load_arch_hparams`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llmbench.errors import Missing, Unsupported
from llmbench.models.header import Header, TensorInfo

NUMBERS = {  # ours: theirs, behind the architecture's name
    "num_hidden_layers": "block_count", "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length", "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}  # fmt: skip
IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id",
       "pad_token_id": "padding_token_id"}  # fmt: skip
SMALL = 1 << 16  # bytes; no tensor of rotary factors is near it


def config_of(header: Header) -> dict[str, Any]:
    """The config of the model in this file. Raises: Unsupported when it names no architecture."""
    kind = header.metadata.get("general.architecture")
    if not isinstance(kind, str):
        raise Unsupported(f"models: {header.path.name} does not name its architecture",
                          how="give a file of a language model")  # fmt: skip
    told, tensors = _Told(header.metadata, kind), {info.name: info for info in header.tensors}
    config = {"model_type": kind, "hidden_act": "silu"}
    config |= {ours: told.number(theirs) for ours, theirs in NUMBERS.items()}
    config |= {ours: header.metadata.get(f"tokenizer.ggml.{name}") for ours, name in IDS.items()}
    config |= {"vocab_size": _vocabulary(told, header, tensors),
               "tie_word_embeddings": "output.weight" not in tensors,
               "attention_bias": "blk.0.attn_q.bias" in tensors,
               "mlp_bias": "blk.0.ffn_up.bias" in tensors}  # fmt: skip
    config = {name: value for name, value in config.items() if value is not None}
    config["rope_parameters"] = _rope(told, config, header, tensors)
    return config | OWN.get(kind, lambda told, config: {})(told, config)


class _Told:
    """What a header says of its architecture."""

    def __init__(self, metadata: Mapping[str, Any], kind: str) -> None:
        self.metadata, self.kind = metadata, kind

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.kind}.{key}", default)

    def number(self, key: str) -> Any:
        """The number; None where there is none, zero, or not one for all layers."""
        found = self.get(key)
        if isinstance(found, tuple):  # one a layer
            found = found[0] if len(set(found)) == 1 else None
        return found if type(found) in (int, float) and found else None


def _vocabulary(told: _Told, header: Header, tensors: Mapping[str, TensorInfo]) -> int | None:
    """Rows of the embedding, as a folder's config counts them."""
    if "token_embd.weight" in tensors:
        return tensors["token_embd.weight"].shape[0]
    return told.get("vocab_size") or len(header.metadata.get("tokenizer.ggml.tokens", ())) or None


def _llama(told: _Told, config: dict[str, Any]) -> dict[str, Any]:
    """Llama, Mistral and Mixtral share a name in GGUF."""
    if config.get("num_local_experts"):
        return {"model_type": "mixtral"}
    window = told.number("attention.sliding_window")
    return {"model_type": "mistral", "sliding_window": window} if window else {}


def _granite(told: _Told, config: dict[str, Any]) -> dict[str, Any]:
    scale = told.get("attention.scale") or _head_dim(config) ** -0.5
    return {
        "attention_multiplier": scale, "embedding_multiplier": told.get("embedding_scale") or 1.0,
        "residual_multiplier": told.get("residual_scale") or 1.0,
        "logits_scaling": told.get("logit_scale") or 1.0,
    }  # fmt: skip


def _gemma2(told: _Told, config: dict[str, Any]) -> dict[str, Any]:
    """The scale of the scores is not in the file: llama.cpp knows the 27B model by its layers."""
    large = config.get("num_hidden_layers") == 46
    scalar = config["hidden_size"] // config["num_attention_heads"] if large else _head_dim(config)
    pattern = told.get("attention.sliding_window_pattern", 2)  # every so manyth sees all keys
    if isinstance(pattern, int):
        pattern = [(layer + 1) % pattern for layer in range(config.get("num_hidden_layers", 0))]
    return {
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in pattern],
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": told.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": told.get("final_logit_softcapping", 30.0),
        "sliding_window": told.number("attention.sliding_window") or 4096,
        "tie_word_embeddings": True,
    }  # fmt: skip


def _phi3(told: _Told, config: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp leaves this family's windows out; transformers, and so edge, keep them."""
    return {"sliding_window": told.number("attention.sliding_window")}


def _qwen2(told: _Told, config: dict[str, Any]) -> dict[str, Any]:
    return {"use_sliding_window": False}


OWN: dict[str, Callable[[_Told, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama, "granite": _granite, "gemma2": _gemma2, "phi3": _phi3, "qwen2": _qwen2,
}  # fmt: skip


def _head_dim(config: Mapping[str, Any]) -> int:
    try:
        return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    except KeyError as error:
        lacking = NUMBERS[error.args[0]]
        raise Missing(f"models: the header of a {config['model_type']} file has no {lacking!r}",
                      how="fetch the file again") from None  # fmt: skip


# -- rotary positions ------------------------------------------------------------------------------


def _rope(
    told: _Told, config: Mapping[str, Any], header: Header, tensors: Mapping[str, TensorInfo]
) -> dict[str, Any]:
    """The rotation in Hugging Face's words, and `factors` for Llama 3's rule, which is a tensor."""
    rope: dict[str, Any] = {"rope_theta": told.get("rope.freq_base") or 10_000.0}
    turning = told.number("rope.dimension_count")
    if turning and turning != _head_dim(config):
        rope["partial_rotary_factor"] = turning / _head_dim(config)
        if told.kind != "phi3":
            return rope | {"rope_type": "partial"}
    if "rope_freqs.weight" in tensors:
        return rope | {"rope_type": "factors",
                       "factors": _floats(header, tensors["rope_freqs.weight"])}  # fmt: skip
    if "rope_factors_long.weight" in tensors:
        return rope | _longrope(told, header, tensors)
    factor = told.get("rope.scaling.factor") or told.get("rope.scale_linear") or 1.0
    if told.get("rope.scaling.finetuned") is False and told.kind == "granite":
        return rope | {"rope_type": "none"}
    kind = told.get("rope.scaling.type", "linear")
    return rope | ({"rope_type": "default"} if kind == "none" or factor == 1 else
                   {"rope_type": kind, "factor": factor})  # fmt: skip


def _longrope(told: _Told, header: Header, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": _floats(header, tensors["rope_factors_short.weight"]),
        "long_factor": _floats(header, tensors["rope_factors_long.weight"]),
        "original_max_position_embeddings": told.get("rope.scaling.original_context_length"),
        "attention_factor": told.get("rope.scaling.attn_factor", 1.0),
    }  # fmt: skip


def _floats(header: Header, info: TensorInfo) -> list[float]:
    """The values of a small F32 tensor. Raises: Unsupported for another type or a large one."""
    import numpy as np

    if info.kind != "F32" or info.nbytes > SMALL:
        raise Unsupported(f"models: {info.name} of {header.path.name} is {info.kind} with "
                          f"{info.nbytes} bytes; rotary factors are a few F32 numbers")  # fmt: skip
    return np.fromfile(header.path, "<f4", info.nbytes // 4, offset=info.offset).tolist()
