"""A process that dies when the library touches what lies behind a buffer: run by the tests.

    python -m tests.kernels.past_the_end [--break]

Every buffer ends at a page that may not be touched. A line for each type and instruction set.
"""

import ctypes
import json
import mmap
import sys

import numpy as np

from llmbench.kernels import cpu
from tests.kernels.stored import KINDS, inputs, random_raw

LIBC = ctypes.CDLL(None, use_errno=True)
ROWS, TOKENS = (1, 15, 17, 33, 530), (1, 2, 9, 33, 1)  # the last: walks of two streams
WALKS = (0, 1)


def at_the_end(content: np.ndarray, keep: list[mmap.mmap]) -> np.ndarray:
    """A copy of `content` whose last byte is the last before a page that may not be touched."""
    pages = -(-content.nbytes // mmap.PAGESIZE) + 1
    area = mmap.mmap(-1, pages * mmap.PAGESIZE)
    keep.append(area)
    whole = np.frombuffer(area, np.uint8)
    last = (pages - 1) * mmap.PAGESIZE
    guard = ctypes.c_void_p(whole.ctypes.data + last)
    if LIBC.mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = whole[last - content.nbytes : last].view(content.dtype).reshape(content.shape)
    copy[...] = content
    return copy


def drive(kind: str, isa: str, keep: list[mmap.mmap]) -> None:
    """Pack, products and rows of some odd sizes, all in buffers that end at a guard."""
    cols = {True: 512, False: 96 if kind.startswith("Q") else 63}[kind.endswith("_K")]
    for rows, tokens in zip(ROWS, TOKENS, strict=True):
        raw = at_the_end(random_raw(kind, rows, cols), keep)
        x = at_the_end(inputs(tokens, cols), keep)
        y = at_the_end(np.full((tokens, rows), np.nan, np.float32), keep)
        out = at_the_end(np.full(cols, np.nan, np.float32), keep)
        with cpu.Packed(kind, rows, cols, raw, isa, 2) as packed:
            library, handle = cpu.library(), packed._handle
            for walk in WALKS:
                cpu.check(library.lb_product(handle, x.ctypes.data, tokens, walk, y.ctypes.data),
                          "product")  # fmt: skip
            cpu.check(library.lb_row(handle, rows - 1, out.ctypes.data), "row")
        if not (np.isfinite(y).all() and np.isfinite(out).all()):
            raise SystemExit(f"{kind} {isa}: something was not written")


def main(arguments: list[str]) -> None:
    keep: list[mmap.mmap] = []
    if "--break" in arguments:  # one row more than there is
        raw = at_the_end(random_raw("F32", 4, 1024), keep)
        cpu.Packed("F32", 5, 1024, raw)
    for kind in KINDS:
        for isa in cpu.isas():
            drive(kind, isa, keep)
            print(json.dumps([kind, isa]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
