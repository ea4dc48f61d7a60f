"""A model's tensors as its files store them: bytes through a memory map, nothing converted.

Names are those of a Hugging Face folder, for a GGUF file too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.models.gguf_weights import GgufWeights
from llmbench.models.header import TensorInfo
from llmbench.models.header.safetensors import read_safetensors
from llmbench.models.source import ModelSource

PLAIN_FLOATS = {"F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True)
class Stored:
    """One tensor: its type in ggml's words, its shape, and its rows (rows, bytes of a row)."""

    name: str  # in its file
    file: str
    kind: str
    shape: tuple[int, ...]
    rows: np.ndarray

    def part(self, first: int, end: int) -> "Stored":
        """Its rows from `first` to before `end`."""
        return Stored(
            self.name, self.file, self.kind, (end - first, *self.shape[1:]), self.rows[first:end]
        )

    def floats(self) -> np.ndarray:
        """The values as float32. Raises: Unsupported for a type of whole numbers and scales."""
        raw = np.ascontiguousarray(self.rows).reshape(-1)
        if self.kind == "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        if self.kind not in PLAIN_FLOATS:
            raise Unsupported(f"models: {self.name!r} of {self.file} is stored as {self.kind}",
                              why="a norm or a bias is read from F32, F16 and BF16 only",
                              how="export the model again")  # fmt: skip
        return raw.view(PLAIN_FLOATS[self.kind]).astype(np.float32)


class StoredWeights:
    """The tensors of a folder or of a GGUF file, by Hugging Face's names."""

    def __init__(self, model: ModelSource, config: Mapping[str, Any]) -> None:
        self._gguf = GgufWeights(model.header, config, None, "cpu") if model.file else None
        self.family = self._gguf.family if self._gguf else None  # in GGUF's words
        self._found: dict[str, tuple[TensorInfo, str, np.ndarray]] = {}
        for path in model.weight_files:
            header = model.header if model.file else read_safetensors(path)
            data = np.memmap(path, np.uint8, "r")
            for info in header.tensors:
                if info.name in self._found:
                    raise BadParams(f"models: tensor {info.name!r} stands in two files of "
                                    f"{model.name}", how="keep one set of weights")  # fmt: skip
                self._found[info.name] = info, path.name, data

    def __contains__(self, name: str) -> bool:
        return self._name(name) in self._found

    def take(self, name: str, *shape: int) -> Stored:
        """The tensor called `name`. Raises: Missing unless it is there and has `shape`."""
        stored = self._name(name)
        if stored not in self._found:
            raise Missing(f"models: there is no tensor {stored!r}",
                          how="fetch the model again; its config asks for this tensor")  # fmt: skip
        info, file, data = self._found[stored]
        if info.shape != shape:
            raise Missing(f"models: tensor {stored!r} has the shape {info.shape}, not {shape}",
                          why="its config and its weights do not belong together")  # fmt: skip
        raw = data[info.offset : info.offset + info.nbytes]
        return Stored(
            stored, file, info.kind, shape, raw.reshape(shape[0] if len(shape) > 1 else 1, -1)
        )

    def close(self) -> None:
        """Let go of the files: their pages count no longer as this process's memory."""
        self._found.clear()
        self._gguf = None

    def _name(self, name: str) -> str:
        return self._gguf.gguf_name(name) if self._gguf else name
