"""Matrices with made-up values in every type that the library holds, as files store them."""

from collections.abc import Sequence

import numpy as np

from llmbench.errors import BadParams, Unsupported
from llmbench.kernels.cpu import NUMBER_OF, isas, packed_bytes
from llmbench.models.gguf_weights import SCALES
from llmbench.models.header.ggml_types import TYPES

LEAST_SCALE, MOST_SCALE = 0.01, 0.02  # what is made of them in float16 stays a normal number
FLOATS = ("F32", "F16", "BF16")
BY_TILES = 32  # tokens from which on amx multiplies by tiles; Source: MANY in kernels/cpu/isa.h


def kinds() -> tuple[str, ...]:
    """The types that the library holds, floating point first. Raises: as `cpu.library`."""
    held = [kind for kind in NUMBER_OF if packed_bytes(kind, 1, block_values(kind))]
    return tuple(sorted(held, key=lambda kind: kind not in FLOATS))


def block_values(kind: str) -> int:
    """Of how many values a block is made: a row has a multiple of it."""
    return TYPES[NUMBER_OF[kind]].block_values


def check_kind(kind: str) -> None:
    """Raises: BadParams naming the types that the library holds."""
    if kind not in kinds():
        raise BadParams(f"kernels: weights: {kind!r} is no type that impl cpu holds",
                        how=f"one of {', '.join(kinds())}")  # fmt: skip


def isas_of(asked: Sequence[str]) -> tuple[str, ...]:
    """Instruction sets, each once; "auto" is the best that is here. Raises: Unsupported."""
    here = isas()
    for isa in asked:
        if isa not in (*here, "auto"):
            raise Unsupported(f"kernels: isa: this CPU and this build have no {isa}",
                              how=f"auto, or one of {', '.join(here)}")  # fmt: skip
    return tuple(dict.fromkeys(here[0] if isa == "auto" else isa for isa in asked))


def arithmetic(kind: str, isa: str, tokens: int) -> str:
    """The dtype in which a matrix and so many inputs are multiplied; its name is torch's.

    Source: wanted_of in kernels/cpu/step.h.
    """
    if kind in ("F32", "F16"):
        return "float32"
    return "bfloat16" if kind == "BF16" or (isa == "amx" and tokens >= BY_TILES) else "int8"


def made_up(kind: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """(rows, bytes of a row) uint8: any bit pattern in the values, scales small and positive.

    Raises: BadParams when `cols` is no multiple of the type's block.
    """
    block = TYPES[NUMBER_OF[kind]]
    if cols % block.block_values:
        raise BadParams(f"kernels: rows of {cols} values cannot be stored as {kind}",
                        why=f"it has blocks of {block.block_values}",
                        how="other --weights for this model")  # fmt: skip
    draw = np.random.default_rng(seed)
    if kind in FLOATS:
        values = draw.standard_normal((rows, cols), np.float32)
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        return values.astype({"F32": "<f4", "F16": "<f2"}[kind]).view(np.uint8)
    blocks = draw.integers(0, 256, (rows, cols // block.block_values, block.block_bytes), np.uint8)
    for at in SCALES[kind]:
        scales = draw.uniform(LEAST_SCALE, MOST_SCALE, blocks.shape[:2]).astype("<f2")
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)
