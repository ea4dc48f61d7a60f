"""The library of `kernels/cpu` in this process: its functions with their types, errors as ours.

Every name and meaning is that of `kernels/cpu/llmbench_cpu.h`.
"""

import ctypes
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int, c_int32, c_size_t
from ctypes import c_void_p as Handle
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np

from llmbench.errors import BadParams, LlmbenchError, OutOfMemory, Unsupported
from llmbench.kernels.build import cpu_library
from llmbench.models.header.ggml_types import TYPES

NUMBER_OF = {kind.name: number for number, kind in TYPES.items()}  # of a type in ggml's list
KV_TYPES = {"f16": 0, "f32": 1}
KV_BYTES = {"f16": 2, "f32": 4}  # of one number
BAD, NO_MEMORY, NOT_FINITE, NO_ISA = 1, 2, 3, 4  # codes
MATRICES = ("q", "k", "v", "o", "gate", "up", "down", "embedding", "head")
VECTORS = ("attention_norm", "mlp_norm", "after_attention_norm", "after_mlp_norm", "norm",
           "rope_near", "rope_far")  # fmt: skip
BIAS = 16
PARTS = ("embed", "inputs", "qkv", "place", "attend", "o", "gate_up", "down", "head")


class Slot(IntEnum):
    """Where a vector goes that no matrix has."""

    NORM, ROPE_NEAR, ROPE_FAR = 4, 5, 6


class Spec(Structure):
    """lb_spec."""

    _fields_ = [(name, c_int32) for name in (
        "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size", "tied",
        "rope_dims", "rope_neighbours", "activation", "kv_type", "rope_trained")] + [
        (name, c_float) for name in ("eps", "embedding_scale", "residual_scale", "logit_scale",
                                     "logit_cap", "rope_stretch")]  # fmt: skip


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "lb_error": (c_char_p, []),
    "lb_isas": (c_char_p, []),
    "lb_bytes": (c_size_t, [c_int, c_int, c_int]),
    "lb_open": (c_int, [POINTER(Spec), c_char_p, c_int, c_size_t, POINTER(Handle)]),
    "lb_isa": (c_char_p, [Handle]),
    "lb_matrix": (c_int, [Handle, c_int, c_int, c_int, c_int, c_int, Handle]),
    "lb_vector": (c_int, [Handle, c_int, c_int, c_int, Handle]),
    "lb_scores": (c_int, [Handle, c_int, c_float, c_float, c_int]),
    "lb_ready": (c_int, [Handle]),
    "lb_begin": (c_int, [Handle, c_int, c_int]),
    "lb_forward": (c_int, [Handle, Handle, c_int, c_int, c_int, Handle, Handle]),
    "lb_timing": (None, [Handle, c_int]),
    "lb_seconds": (None, [Handle, POINTER(c_double)]),
    "lb_close": (None, [Handle]),
    "lb_pack": (c_int, [c_int, c_int, c_int, Handle, c_char_p, c_int, POINTER(Handle)]),
    "lb_product": (c_int, [Handle, Handle, c_int, c_int, Handle]),
    "lb_row": (c_int, [Handle, c_int, Handle]),
    "lb_repeat": (c_int, [Handle, c_int, c_int, POINTER(c_double)]),
    "lb_free": (None, [Handle]),
    "lb_read": (c_int, [c_size_t, c_int, c_double, POINTER(c_double)]),
}


@cache
def library() -> ctypes.CDLL:
    """The library, built when it is not there yet. Raises: Missing (no compiler, no sources)."""
    loaded = ctypes.CDLL(str(cpu_library()))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def isas() -> tuple[str, ...]:
    """The instruction sets that this CPU and this build have, best first."""
    return tuple(library().lb_isas().decode().split())


def packed_bytes(kind: str, rows: int, cols: int) -> int:
    """Bytes that a matrix of a type takes in memory; 0 when this type cannot be held."""
    return library().lb_bytes(NUMBER_OF.get(kind, -1), rows, cols)


def check(code: int, what: str) -> None:
    """Raises: what `code` means, in the library's own words."""
    if not code:
        return
    why = library().lb_error().decode()
    if code == NO_MEMORY:
        raise OutOfMemory(f"{what}: no memory for it")
    if code == NOT_FINITE:
        raise BadParams(f"{what}: {why}", why="its bytes are damaged, or were never a model's",
                        how="fetch the file again, and compare its sha256")  # fmt: skip
    if code == NO_ISA:
        raise Unsupported(f"{what}: {why}", how="isa: auto, or one of these")
    raise (BadParams if code == BAD else LlmbenchError)(f"{what}: {why}")


def pointer(array: np.ndarray) -> int:
    """The address of a contiguous array."""
    assert array.flags.c_contiguous
    return array.ctypes.data


class Packed:
    """One matrix by itself, packed for an instruction set; a context manager that frees it."""

    def __init__(self, kind: str, rows: int, cols: int, raw: np.ndarray, isa: str = "auto",
                 threads: int = 1) -> None:  # fmt: skip
        self.rows, self.cols, self._handle = rows, cols, Handle()
        check(library().lb_pack(NUMBER_OF.get(kind, -1), rows, cols, pointer(raw), isa.encode(),
                                threads, byref(self._handle)), "kernels")  # fmt: skip

    def product(self, x: np.ndarray, walk: int = 0) -> np.ndarray:
        """(tokens, rows) float32: x (tokens, cols) float32 times the matrix, one by `walk`."""
        x = np.ascontiguousarray(x, np.float32)
        assert x.shape[1] == self.cols
        y = np.full((len(x), self.rows), np.nan, np.float32)
        check(library().lb_product(self._handle, pointer(x), len(x), walk, pointer(y)),
              "kernels")  # fmt: skip
        return y

    def row(self, row: int) -> np.ndarray:
        """(cols,) float32: one row, as it is held."""
        out = np.full(self.cols, np.nan, np.float32)
        check(library().lb_row(self._handle, row, pointer(out)), "kernels")
        return out

    def repeat_s(self, tokens: int, times: int) -> float:
        """Seconds that `times` products with `tokens` inputs take, one behind the other."""
        seconds = c_double()
        check(library().lb_repeat(self._handle, tokens, times, byref(seconds)), "kernels")
        return seconds.value

    def __enter__(self) -> "Packed":
        return self

    def __exit__(self, *_: object) -> None:
        library().lb_free(self._handle)
        self._handle = Handle()


def read_bytes_per_s(nbytes: int, threads: int, seconds: float) -> float:
    """Bytes/s that `threads` read from a buffer of `nbytes`: the best pass in about `seconds`."""
    told = c_double()
    check(library().lb_read(nbytes, threads, seconds, byref(told)), "kernels")
    return told.value
