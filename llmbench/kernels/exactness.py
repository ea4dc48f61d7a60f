"""Whether the library multiplies right: every type and instruction set that is here.

First the weights as they are held, each beside the one that is stored; then products, beside
float64 of the weights as held and, where tiles multiply, rounded to bfloat16. Inputs are whole
numbers that every form of input holds exactly, with 127 in each group, times a power of two. So all
that a product may lose it loses in its sums, and its bound is close: one wrong value stands out.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmbench.kernels.cpu import Packed
from llmbench.kernels.made_up import arithmetic, block_values, made_up
from llmbench.models.gguf_package import check_gguf_package

ROWS, COLS = 100, 547  # no multiples of 16 and 32; a type with blocks has as many as fit in
TOKENS = (1, 3, 37)  # one, few, and more than a tile that is not full
ROUNDOFF = 2.0**-24  # of float32
GROUP, ROUNDINGS_A_GROUP = 32, 2  # columns whose products are whole numbers; their scale, offset
SPARE = 8  # roundings of one value beside those of the sum
PACKED_ROUNDOFF = 2.0**-11  # of float16, in which scales are held; ggml multiplies two in float32
PRODUCTS_OF_SCALES = ("Q4_K", "Q5_K", "Q6_K")
WITH_OFFSET = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")


@dataclass(frozen=True)
class Checked:
    """What was compared, and where it came nearest to its bound, or passed it."""

    what: str  # "weights": as held, beside gguf's dequantised; "product": beside float64
    weights: str
    isa: str
    tokens: int | None
    error: float
    bound: float
    of_bound: float  # the largest error / bound; infinite when a result is no number

    @property
    def right(self) -> bool:
        """Whether no error passes its bound."""
        return self.of_bound <= 1

    def facts(self) -> dict[str, Any]:
        """As plain values; what is no finite number is None."""
        told = {name: value if not isinstance(value, float) or math.isfinite(value) else None
                for name, value in asdict(self).items()}  # fmt: skip
        return told | {"right": self.right}


def checked(kinds: Sequence[str], isas: Sequence[str], threads: int) -> Iterator[Checked]:
    """A row for the weights and for each number of tokens, of each type and instruction set.

    Bounds: of a sum, Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    Raises: Missing without the gguf package, which dequantises; Unsupported for an isa not here.
    """
    check_gguf_package()
    for kind in kinds:
        cols = COLS // block_values(kind) * block_values(kind)
        raw = made_up(kind, ROWS, cols)
        stored, size = _dequantised(raw, kind), _sizes(raw, kind)
        for isa in isas:
            with Packed(kind, ROWS, cols, raw, isa, threads) as packed:
                held = np.array([packed.row(row) for row in range(ROWS)], np.float64)
                may_lose = PACKED_ROUNDOFF * size * (kind in PRODUCTS_OF_SCALES)
                yield _row("weights", kind, isa, None, np.abs(held - stored), may_lose)
                for tokens in TOKENS:
                    bound = _roundings(kind, isa, tokens, cols) * ROUNDOFF * size
                    x, weights = _inputs(tokens, cols), _multiplied(held, kind, isa, tokens)
                    error = np.abs(packed.product(x) - x @ weights.T)
                    yield _row("product", kind, isa, tokens, error, np.abs(x) @ bound.T)


def _row(what: str, kind: str, isa: str, tokens: int | None, error: np.ndarray,
         bound: np.ndarray) -> Checked:  # fmt: skip
    """The entry nearest to its bound. A bound of 0 is kept by an error of 0 alone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error == 0, 0.0, error / bound)
    share[~np.isfinite(error)] = np.inf
    at = np.unravel_index(np.argmax(share), share.shape)
    return Checked(what, kind, isa, tokens, float(error[at]), float(bound[at]), float(share[at]))


def _roundings(kind: str, isa: str, tokens: int, cols: int) -> int:
    """How often a sum is rounded at most: whole numbers are exact until a group is scaled."""
    whole = arithmetic(kind, isa, tokens) == "int8"
    return (ROUNDINGS_A_GROUP * math.ceil(cols / GROUP) if whole else cols) + SPARE


def _multiplied(held: np.ndarray, kind: str, isa: str, tokens: int) -> np.ndarray:
    """The weights in the numbers in which they are multiplied: bfloat16, to nearest even."""
    if arithmetic(kind, isa, tokens) != "bfloat16":
        return held
    bits = held.astype(np.float32).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def _inputs(tokens: int, cols: int) -> np.ndarray:
    """(tokens, cols) that neither bytes with a scale nor bfloat16 round."""
    draw = np.random.default_rng(tokens)
    whole = draw.integers(-127, 128, (tokens, cols))
    whole[:, ::16] = 127
    return whole * 2.0 ** draw.integers(-9, 3, (tokens, 1))


def _dequantised(raw: np.ndarray, kind: str) -> np.ndarray:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return dequantize(raw, GGMLQuantizationType[kind]).astype(np.float64)


def _sizes(raw: np.ndarray, kind: str) -> np.ndarray:
    """(rows, cols): at least the sizes of the terms that a value is the sum of.

    A value with an offset is scale · stored + offset, of which both may be larger than it. The
    largest value of a made-up matrix is at least the largest offset, where a stored 0 meets it.
    """
    values = np.abs(_dequantised(raw, kind))
    return values + 2 * values.max() * (kind in WITH_OFFSET)
