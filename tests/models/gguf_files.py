"""GGUF files as llama.cpp's converters write them, made from Hugging Face folders.

The rules of the converters are written here a second time, from their side: what the reader undoes.
"""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

from tests.models.gguf_vocabularies import byte_level

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "mixtral": "llama"}
PLAIN = {"F32", "F16", "BF16"}


def write_gguf(path: Path, folder: Path, kind: str = "F32", *, drop=(), metadata=(), tensors=()):
    """Write the model of `folder` into `path`, its matrices stored as `kind`.

    `drop` names tensors and keys left out; `metadata` and `tensors` are added or replace others.
    """
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    architecture = ARCHITECTURES.get(family, family)
    metadata = dict(metadata)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", architecture))
    told = numbers(config) | OWN.get(architecture, lambda config: {})(config)
    keys = {f"{architecture}.{key}": value for key, value in told.items()} | vocabulary(folder)
    for key, value in (keys | metadata).items():
        if key not in drop and value is not None:
            add(writer, key, value)
    stored = renamed(config, folder) | extra(config) | dict(tensors)
    for name, values in stored.items():
        if name not in drop:
            store(writer, name, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, key, value):
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string"}
    if isinstance(value, list | tuple):
        writer.add_array(key, list(value))
    else:
        getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def store(writer, name, values, kind):
    """One tensor; vectors stay in F32 as everywhere, and `values` may be (bytes, kind) already."""
    if isinstance(values, tuple):
        data, kind = values
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        return
    kind = "F32" if values.ndim == 1 else kind
    quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType[kind])


def numbers(config):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    found = {
        "block_count": config["num_hidden_layers"], "context_length":
        config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"], "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
        "rope.dimension_count": int(head_dim * (rope.get("partial_rotary_factor") or 1.0)),
        "attention.key_length": config.get("head_dim"),
        "attention.value_length": config.get("head_dim"),
    }  # fmt: skip
    if rope.get("rope_type") in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    return found


def gemma2(config):
    return {"attn_logit_softcapping": config["attn_logit_softcapping"],
            "final_logit_softcapping": config["final_logit_softcapping"],
            "attention.sliding_window": config["sliding_window"],
            "rope.dimension_count": None}  # fmt: skip


def granite(config):
    return {"attention.scale": config["attention_multiplier"],
            "embedding_scale": config["embedding_multiplier"],
            "residual_scale": config["residual_multiplier"],
            "logit_scale": config["logits_scaling"]}  # fmt: skip


def phi3(config):
    rope = config["rope_parameters"]
    longrope = rope.get("rope_type") == "longrope"
    trained = rope.get("original_max_position_embeddings")
    growth = max(1, config["max_position_embeddings"] / (trained or 1))
    return {"attention.sliding_window": config.get("sliding_window") or 0,
            "rope.scaling.original_context_length": trained,
            "rope.scaling.type": "longrope" if longrope else None,
            "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(growth) / np.log(trained)))
            if longrope else None}  # fmt: skip


OWN = {"gemma2": gemma2, "granite": granite, "phi3": phi3}


def vocabulary(folder):
    """The tokenizer's keys; nothing for a folder without one."""
    path = folder / "tokenizer.json"
    return byte_level(json.loads(path.read_text()), "gpt-2") if path.is_file() else {}


def extra(config):
    """Rotary factors, which are tensors."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":
        return {f"rope_factors_{name}.weight": np.float32(rope[f"{name}_factor"])
                for name in ("long", "short")}  # fmt: skip
    if rope.get("rope_type") != "llama3":
        return {}
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    trained, slow, fast = (rope[name] for name in (
        "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))  # fmt: skip
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    smooth = (trained / waves - slow) / (fast - slow)
    blended = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = np.where(waves < trained / fast, 1, np.where(waves > trained / slow, rope["factor"],
                                                           blended))  # fmt: skip
    return {"rope_freqs.weight": factors.astype(np.float32)}


def renamed(config, folder):
    """Every tensor by the name that the gguf package gives it, as converters store it."""
    family = config["model_type"]
    architecture = ARCHITECTURES.get(family, family)
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    found = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            values = file.get_tensor(name).float().numpy()
            found[names.get_name(name, (".weight", ".bias"))] = converted(config, name, values)
    return found


def converted(config, name, values):
    if config["model_type"] == "gemma2" and name.endswith("norm.weight"):
        return values + 1
    heads = {"q_proj": config["num_attention_heads"],
             "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])  # fmt: skip
    if heads is None or config["model_type"] not in ("llama", "mistral", "granite"):
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
