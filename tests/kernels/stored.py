"""Matrices as files store them, and what the CPU engine documents that it makes of them.

The `gguf` package is the judge of every layout: what a block means is found by giving it blocks of
which all but one part is one or zero.
"""

import shutil
from collections.abc import Sequence

import gguf
import numpy as np
import pytest

PLAIN = ("F32", "F16", "BF16")
WHOLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
KINDS = PLAIN + WHOLE
# all that there are; a machine may have fewer
ISAS = ("scalar", "avx2", "avx512_vnni", "avx512", "amx")
BLOCKS = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24),
          "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}  # numbers, bytes  # fmt: skip
FACTOR = {"Q6_K": 208}  # byte of a block where its float16 factor stands; elsewhere the first
OFFSET = {"Q4_1": 2, "Q5_1": 2, "Q4_K": 2, "Q5_K": 2}  # and of that of its offsets
K_PARTS = {"Q4_K": (slice(4, 16), slice(16, 144)), "Q5_K": (slice(4, 16), slice(16, 176)),
           "Q6_K": (slice(192, 208), slice(0, 192))}  # scales, values  # fmt: skip
GROUP = 32  # columns that share a scale
MANY = 32  # tokens from which on amx has tiles for all but F32 and F16

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)


def random_raw(kind: str, rows: int, cols: int, seed: int = 1) -> np.ndarray:
    """(rows, bytes of a row) uint8: every bit pattern of values, finite factors of either sign."""
    rng = np.random.default_rng(seed)
    if kind in PLAIN:
        return plain_raw(kind, rng, rows, cols)
    numbers, nbytes = BLOCKS[kind]
    blocks = rng.integers(0, 256, (rows, cols // numbers, nbytes), np.uint8)
    for at in {FACTOR.get(kind, 0), OFFSET.get(kind, FACTOR.get(kind, 0))}:
        size = rng.uniform(-1, 1, blocks.shape[:2]) / (40 if kind in K_PARTS else 1)
        put_half(blocks, at, size)
    return blocks.reshape(rows, -1)


def plain_raw(kind: str, rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Rows of ordinary numbers, and in between rows of every size from tiny to large."""
    values = rng.normal(0, 1, (rows, cols))
    values[1::2] *= 2.0 ** rng.integers(-30, 14, values[1::2].shape)
    stored = gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType[kind])
    return np.ascontiguousarray(stored).view(np.uint8).reshape(rows, -1)


def put_half(blocks: np.ndarray, at: int, values: np.ndarray | float) -> None:
    """Write float16 `values` (rows, blocks) at byte `at` of blocks (rows, blocks, bytes)."""
    halves = np.broadcast_to(np.asarray(values, "<f2"), blocks.shape[:2])
    blocks[:, :, at : at + 2] = np.ascontiguousarray(halves)[..., None].view(np.uint8)


def read(kind: str, raw: np.ndarray) -> np.ndarray:
    """(rows, cols) float32: what the gguf package reads."""
    if kind in ("F32", "F16"):  # its own view of these wants their dtype
        return raw.view({"F32": "<f4", "F16": "<f2"}[kind]).astype(np.float32)
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])


def held(kind: str, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two float64 (rows, cols) whose sum is what matrix.h holds: scaled values, and offsets.

    Factors times a K-quant's own scales are rounded to float16; nothing else is rounded.
    """
    if kind in PLAIN:
        return read(kind, raw).astype(np.float64), np.zeros((1, 1))
    if kind in K_PARTS:
        return held_k(kind, raw)
    if kind not in OFFSET:
        return read(kind, raw).astype(np.float64), np.zeros((1, 1))
    return tuple(read(kind, changed(kind, raw, gone)).astype(np.float64)
                 for gone in ({OFFSET[kind]: 0.0}, {0: 0.0}))  # fmt: skip


def held_k(kind: str, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`held` of Q4_K, Q5_K and Q6_K."""
    factor, offset = FACTOR.get(kind, 0), OFFSET.get(kind)
    scales, values = K_PARTS[kind]
    unit = {factor: 1.0} | ({offset: 0.0} if offset else {})
    ones = bytes([0x11] * 128 + [0xAA] * 64) if kind == "Q6_K" else (
        bytes([0] * (32 if kind == "Q5_K" else 0) + [0x11] * 128))  # fmt: skip
    alike = bytes([1] * 16) if kind == "Q6_K" else bytes([1] * 8 + [0x11] * 4)
    of_group = read(kind, changed(kind, raw, unit, [(values, ones)]))  # the whole scale of each
    whole = read(kind, changed(kind, raw, unit, [(scales, alike)])).astype(np.float64)
    scaled = whole * half(of_group * halves(kind, raw, factor))
    if not offset:
        return scaled, np.zeros((1, 1))
    steps = read(kind, changed(kind, raw, {factor: 0.0, offset: 1.0}))
    return scaled, half(steps * halves(kind, raw, offset))


def changed(kind: str, raw: np.ndarray, factors: dict[int, float],
            parts: Sequence[tuple[slice, bytes]] = ()) -> np.ndarray:  # fmt: skip
    """`raw` with other float16 numbers or bytes in each of its blocks."""
    blocks = raw.reshape(len(raw), -1, BLOCKS[kind][1]).copy()
    for at, value in factors.items():
        put_half(blocks, at, value)
    for place, content in parts:
        blocks[:, :, place] = np.frombuffer(content, np.uint8)
    return blocks.reshape(len(raw), -1)


def halves(kind: str, raw: np.ndarray, at: int) -> np.ndarray:
    """(rows, cols) float32: the float16 number at byte `at` of each number's block."""
    numbers, nbytes = BLOCKS[kind]
    stored = np.ascontiguousarray(raw.reshape(len(raw), -1, nbytes)[:, :, at : at + 2])
    return stored.view("<f2")[..., 0].astype(np.float32).repeat(numbers, 1)


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, ties to even; by way of float32."""
    kind = gguf.GGMLQuantizationType.BF16
    narrow = gguf.quants.quantize(values.astype(np.float32), kind)
    return gguf.quants.dequantize(narrow, kind).astype(np.float64)


def int8(x: np.ndarray) -> np.ndarray:
    """Rounded to whole numbers up to 127, in groups of 32 with one float32 scale."""
    groups = x.reshape(len(x), -1, GROUP)
    most = np.abs(groups).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        factor = np.where(most > 0, np.float32(127) / most, np.float32(0)).astype(np.float32)
    whole = np.rint(groups * factor).astype(np.float64)
    return (whole * (most / np.float32(127)).astype(np.float64)).reshape(x.shape)


def expected(
    kind: str, raw: np.ndarray, x: np.ndarray, isa: str = "scalar"
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, rows) float64 each: the product, and how far float32 sums may be from it.

    F32 and F16 take their inputs as they are, BF16 rounded to bfloat16, the others as whole
    numbers. With many inputs amx has all but the first two in bfloat16, weights and inputs.
    """
    scaled, offset = held(kind, raw)
    sizes, allowed = np.abs(scaled) + np.abs(offset), 1e-5
    weights = scaled + offset
    if kind in ("F32", "F16"):
        taken = x.astype(np.float64)
    elif isa == "amx" and len(x) >= MANY:
        taken, weights = bf16(x), bf16(weights)
    elif kind == "BF16":
        taken = bf16(x)
    else:
        taken, allowed = int8(x), 2.0**-24 * (x.shape[1] / GROUP + 8)
    return taken @ weights.T, allowed * (np.abs(taken) @ sizes.T) + 1e-30


def inputs(tokens: int, cols: int, seed: int = 2) -> np.ndarray:
    """(tokens, cols) float32 as after a norm, with a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (tokens, cols))
    x[:, :: max(1, cols // 3)] *= 20
    return x.astype(np.float32)
