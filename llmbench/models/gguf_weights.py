"""A GGUF file → torch tensors by the names of a Hugging Face folder, dequantised as they are taken.

llama.cpp stores a few tensors otherwise than Hugging Face, and that is undone here. Source: the
converters of llama.cpp (`conversion/*.py`); how each type stores numbers: `gguf.quants`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.models.gguf_package import check_gguf_package
from llmbench.models.header import Header, TensorInfo

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
INTERLEAVED = ("llama", "granite")  # rows of q and k: the two halves of a head, in turn
HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
PART = 1 << 22  # values dequantised at a time
# where in a block its scales stand: float16
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # fmt: skip
F16_ODD = 0x7C00  # all bits of the exponent: infinite, or no number
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm",
         "lm_head": "output"}  # fmt: skip
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
FOUR_NORMS = {"post_attention_layernorm": "post_attention_norm",
              "pre_feedforward_layernorm": "ffn_norm",
              "post_feedforward_layernorm": "post_ffw_norm"}  # fmt: skip


class GgufWeights:
    """The tensors of a GGUF file, by Hugging Face's names, in the wanted dtype.

    Only the bytes of the tensors that are taken are read, through a memory map.
    Raises: Unsupported when any tensor is stored in a type that is not one of `KINDS`.
    """

    def __init__(self, header: Header, config: Mapping[str, Any], dtype: Any, device: str) -> None:
        self.header, self._config, self.dtype, self.device = header, config, dtype, device
        self.family = header.metadata.get("general.architecture")
        self._tensors = {info.name: info for info in header.tensors}
        self._bytes = np.memmap(header.path, np.uint8, "r")
        _check_kinds(header)

    def __contains__(self, name: str) -> bool:
        return self.gguf_name(name) in self._tensors

    def take(self, name: str, *shape: int) -> Any:
        """The tensor called `name`, in the wanted dtype.

        Raises: Missing unless it has `shape`, BadParams when it holds what is no finite number.
        """
        stored, file = self.gguf_name(name), self.header.path.name
        info = self._tensors.get(stored)
        if info is None:
            raise Missing(f"models: {file} has no tensor {stored!r}, which is {name!r} here",
                          how="fetch the file again; its header asks for this tensor")  # fmt: skip
        if info.shape != shape:
            raise Missing(
                f"models: tensor {stored!r} of {file} has the shape {info.shape}, not {shape}",
                why="its header and its weights do not belong together",
            )
        return self._as_folder(info).to(self.device, self.dtype)

    def gguf_name(self, name: str) -> str:
        """What the tensor is called in the file: `blk.0.attn_q.weight`; as it is where unknown."""
        stem, _, kind = name.rpartition(".")
        if stem in WHOLE:
            return f"{WHOLE[stem]}.{kind}"
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        names = LAYER | FOUR_NORMS if self.family == "gemma2" else LAYER
        return f"blk.{number}.{names[part]}.{kind}" if part in names else name

    def _dequantised(self, info: TensorInfo, dtype: Any) -> Any:
        """The values as stored, converted a part at a time so that no whole copy is held."""
        import torch

        made = torch.empty(math.prod(info.shape), dtype=dtype)
        place = 0
        for values in self._parts(info):
            made[place : place + values.size] = torch.from_numpy(values)
            place += values.size
        return made.view(info.shape)

    def _parts(self, info: TensorInfo) -> Iterator[np.ndarray]:
        """float32 values in the order of the file. Raises: BadParams for one that is not finite."""
        check_gguf_package()
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = math.prod(info.shape[:-1])
        stored = self._bytes[info.offset : info.offset + info.nbytes].reshape(rows, -1)
        some = max(1, PART // info.shape[-1])
        for first in range(0, rows, some):
            part = np.array(stored[first : first + some])  # one aligned read, writable for torch
            if not _scales_finite(part, info.kind):
                raise _no_number(info, self.header)
            values = dequantize(part, GGMLQuantizationType[info.kind]).reshape(-1)
            if info.kind not in SCALES and not _all_finite(values):
                raise _no_number(info, self.header)
            yield values

    def _as_folder(self, info: TensorInfo) -> Any:
        """The values as a Hugging Face folder has them."""
        import torch

        if self.family == "gemma2" and info.name.endswith("norm.weight"):
            return self._dequantised(info, torch.float32) - 1  # stored: what the norm multiplies by
        values = self._dequantised(info, self.dtype)
        part = info.name.rpartition(".")[0].rpartition(".")[2]
        if self.family not in INTERLEAVED or part not in HEADS:
            return values
        heads = self._config[HEADS[part]]
        halves = values.view(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
        return halves.transpose(1, 2).reshape(values.shape)


def _scales_finite(part: np.ndarray, kind: str) -> bool:
    """Whether the 16-bit scales of all blocks are finite; their values are then, too."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind not in SCALES:
        return True
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    words = part.view("<u2").reshape(-1, size // 2)
    return not any(((words[:, at // 2] & F16_ODD) == F16_ODD).any() for at in SCALES[kind])


def _all_finite(values: np.ndarray) -> bool:
    """Whether all are finite: where their sum is, which is quickly made, each of them is."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _no_number(info: TensorInfo, header: Header) -> BadParams:
    return BadParams(f"models: tensor {info.name!r} of {header.path.name} holds values that are no "
                     "finite numbers", why="its bytes are damaged, or were never a model's",
                     how="fetch the file again, and compare its sha256")  # fmt: skip


def _check_kinds(header: Header) -> None:
    """Raises: Unsupported naming a tensor of another type, and the types that can be read."""
    for info in header.tensors:
        if info.kind not in KINDS:
            raise Unsupported(f"models: tensor {info.name!r} of {header.path.name} is stored as "
                              f"{info.kind}", why=f"edge and transformers read {', '.join(KINDS)}",
                              how="run it on llamacpp or ollama, or use a file in one of these "
                                  "types")  # fmt: skip
