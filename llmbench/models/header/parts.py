"""What a header consists of, whatever the format of the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Skipped:
    """Stands for an array of `count` texts that was walked over and not built."""

    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and how it is stored."""

    name: str
    shape: tuple[int, ...]  # row-major: (out, in); a GGUF file stores it reversed
    kind: str  # the type's name: "F32", "Q8_0", "Q4_K", ...
    offset: int  # bytes from the start of the file
    nbytes: int


@dataclass(frozen=True)
class Header:
    """Everything that a weight file says before its first weight."""

    path: Path
    version: int  # of GGUF; 0 for safetensors, which has none
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]  # in the order of the file
    data_offset: int  # bytes from the start of the file
    alignment: int  # bytes
