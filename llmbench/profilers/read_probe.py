"""How fast memory is read now, over as many bytes as a model's weights: taken beside a turn.

A cache that holds some of the weights from step to step holds as much of this buffer, so the two
may be compared. The roofs of `profilers.probes` are of a buffer far beyond every cache.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llmbench.errors import Missing
from llmbench.kernels import cpu
from llmbench.units import MiB

LEAST_BYTES = 64 * MiB  # less would be read from a core's own cache
SECONDS, LEAST_PASSES = 0.2, 2


def read_bytes_per_s(nbytes: int, threads: int, seconds: float = SECONDS) -> float:
    """Bytes/s that `threads` threads read of a buffer of `nbytes`, the best of some passes.

    Our own library reads, which asks for memory ahead as its kernels do; without it numpy does.
    Raises: MemoryError, OutOfMemory.
    """
    nbytes = max(nbytes, LEAST_BYTES)
    try:
        return cpu.read_bytes_per_s(nbytes, threads, seconds)
    except Missing:  # no compiler: nor is our engine, whose share of this is asked for
        return numpy_read_bytes_per_s(nbytes, threads, seconds)


def numpy_read_bytes_per_s(nbytes: int, threads: int, seconds: float) -> float:
    """The same by numpy, which reads a word at a time and may not reach what memory can do.

    One pass goes first, uncounted; then they follow each other for `seconds`, at least two. The
    buffer is released. Raises: MemoryError.
    """
    buffer = np.ones(nbytes // 8, np.uint64)  # written, so that pages are its own
    parts = np.array_split(buffer, threads)
    took = []
    with ThreadPoolExecutor(threads) as pool:
        until = None
        while until is None or len(took) < LEAST_PASSES or time.perf_counter() < until:
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # one load a word; lets other threads run
            end = time.perf_counter()
            if until is None:
                until = end + seconds
            else:
                took.append(end - start)
    return buffer.nbytes / min(took)
