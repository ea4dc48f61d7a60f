"""Measured roofs of this machine's CPU: what memory and arithmetic really reach, now.

Memory is read and copied in a cache, around the last one and far beyond it, matrices are multiplied
in each dtype, with one thread and with all: in random order, again and again. Only other programs
can lower a reading, so the best counts; the others are kept and show how the machine swings.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil

from llmbench.errors import OutOfMemory
from llmbench.hardware import Roofs, cpu_flags, load_average, machine
from llmbench.profilers.clock import busy_cpu_s
from llmbench.profilers.memory import available_bytes
from llmbench.units import KiB, MiB, nbytes

CACHES_OVER = 4  # the buffer is so many last-level caches, to be read from memory
LEAST_BUFFER = 512 * MiB
MATMUL_SIZES = (2048, 1024, 512)  # the largest of which one product takes no longer than LONG_S
LONG_S, TRIAL_SIZE = 0.25, 256
LEAST_TRAFFIC = 128 * MiB  # of one reading: a small buffer is gone over so often
LEAST_ROUNDS = 3
PRIVATE_CACHE = 512 * KiB  # of a core, where the machine does not tell
# Instructions without which a CPU does not compute in a dtype by itself. Source: Linux cpufeatures
NATIVE = {"float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
          "int8": {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}}  # fmt: skip
ROOFS = ("float32", "bfloat16", "float16")  # floating point; int8 counts whole-number operations


@dataclass
class Reading:
    """One thing measured again and again: a working set in bytes or a dtype, and how many threads.

    A copy reads one half of its working set and writes the other: both halves are counted.
    """

    what: str  # "read", "copy" (bytes/s) or "matmul" (2·n³ operations a product, per second)
    of: int | str
    threads: int
    per_s: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """What nothing has beaten."""
        return max(self.per_s)


@dataclass
class _Task:
    reading: Reading
    work: float  # bytes or operations of one call
    call: Callable[[], Any]
    calls: int = 1

    def take(self, torch: Any) -> None:
        """Add a reading, in bytes or operations a second."""
        torch.set_num_threads(self.reading.threads)
        if self.calls > 1:
            self.call()  # into the cache
        start = time.perf_counter()
        for _ in range(self.calls):
            self.call()
        self.reading.per_s.append(self.calls * self.work / (time.perf_counter() - start))


def measure_roofs(
    threads: int,
    seconds: float = 5.0,
    *,
    buffer_bytes: int | None = None,
    matmul_size: int | None = None,
) -> Roofs:
    """Bytes/s read from memory and FLOP/s by dtype of `threads` CPU threads; all readings in `raw`.

    Rounds go on for about `seconds`, at least three after one that is thrown away; in each, every
    reading is taken once, in an order of its own, so that a drift meets all. A dtype that the CPU
    can compute in float32 too has at least the roof of float32.
    Raises: OutOfMemory when the buffer does not fit.
    Source: McCalpin, STREAM, which counts bytes so and reports the best of its repetitions.
    """
    import torch

    size = buffer_bytes or max(LEAST_BUFFER, CACHES_OVER * _cache("L3", "L2"))
    if 2 * size > available_bytes():
        raise OutOfMemory(f"probe: a buffer of {nbytes(size)} needs twice that in free memory")
    before, load, witness = torch.get_num_threads(), load_average(), _Witness()
    torch.set_num_threads(threads)
    try:
        tasks = [*_memory_tasks(torch, size, threads), *_matmul_tasks(torch, matmul_size, threads)]
        _take(torch, tasks, seconds)
    finally:
        torch.set_num_threads(before)
    return _roofs([task.reading for task in tasks], size, threads,
                  {"load_average": load, "others_busy_share": witness.share(),
                   "taken_at": datetime.now(UTC).isoformat(timespec="seconds")})  # fmt: skip


class _Witness:
    """How much of the machine other programs used since this was made."""

    def __init__(self) -> None:
        self.busy, self.own, self.at = busy_cpu_s(), time.process_time(), time.perf_counter()

    def share(self) -> float:
        """Their CPU time as a share of all cores' time, 0-1."""
        others = busy_cpu_s() - self.busy - (time.process_time() - self.own)
        there = (time.perf_counter() - self.at) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, others / there))


def _roofs(readings: list[Reading], size: int, threads: int, taken: dict[str, Any]) -> Roofs:
    """The roofs that count: those of the largest buffer and of `threads` threads."""
    [memory] = [r for r in readings if (r.what, r.of, r.threads) == ("read", size, threads)]
    products = {r.of: r for r in readings if r.what == "matmul" and r.threads == threads}
    flops = {dtype: max(products[dtype].best, products["float32"].best)
             for dtype in ROOFS if dtype in products}  # fmt: skip
    raw = {"threads": threads, "buffer_bytes": size, "read_bytes_per_s": memory.per_s,
           "matmul_flops_per_s": products["float32"].per_s, **taken,
           "readings": [asdict(reading) for reading in readings]}  # fmt: skip
    how = (f"measured: {len(memory.per_s)} float32 sums and matmuls, {threads} threads, the best; "
           f"{taken['taken_at']}")  # fmt: skip
    return Roofs(memory.best, flops["float32"], how, raw, flops)


def _take(torch: Any, tasks: list[_Task], seconds: float) -> None:
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds <= LEAST_ROUNDS or time.perf_counter() < until:
        for task in random.Random(rounds).sample(tasks, len(tasks)):
            task.take(torch)
        if not rounds:
            for task in tasks:
                task.reading.per_s.clear()
        rounds += 1


def _memory_tasks(torch: Any, size: int, threads: int) -> Iterator[_Task]:
    """Sums over, and copies within, buffers of three sizes, with one thread and with all."""
    whole = torch.ones(size // 4, dtype=torch.float32)
    for working_set in _working_sets(size):
        buffer = whole[: working_set // 4]
        half = buffer[: len(buffer) // 2]
        other = buffer[len(buffer) // 2 :][: len(half)]
        out = torch.empty(1)  # nothing is allocated while the clock runs
        calls = {"read": lambda b=buffer, o=out: torch.sum(b, 0, keepdim=True, out=o),
                 "copy": lambda b=half, o=other: o.copy_(b)}  # fmt: skip
        for what, call in calls.items():
            moved = buffer.nbytes if what == "read" else 2 * half.nbytes
            for n in sorted({1, threads}):
                yield _Task(Reading(what, working_set, n), moved, call,
                            math.ceil(min(LEAST_TRAFFIC, size) / working_set))  # fmt: skip


def _working_sets(size: int) -> list[int]:
    """Bytes: half of a core's own cache, the last cache, and `size`; each once."""
    own, last = _cache("L2", "L1d") or PRIVATE_CACHE, _cache("L3", "L2")
    return sorted({n for n in (own // 2, last) if 0 < n < size} | {size})


def _cache(*levels: str) -> int:
    """Bytes of the first of `levels` that the machine tells of; 0 when it tells of none."""
    known = machine().cache_bytes
    return next((known[level] for level in levels if level in known), 0)


def _matmul_tasks(torch: Any, size: int | None, threads: int) -> Iterator[_Task]:
    """Square products in every dtype that this CPU computes in, with one thread and with all."""
    for dtype in (*ROOFS, "int8"):
        if not NATIVE.get(dtype, cpu_flags()) & cpu_flags() and dtype in NATIVE:
            continue
        made = _product(torch, dtype, size)
        if made is None:
            continue
        n, call = made
        for count in sorted({1, threads}):
            yield _Task(Reading("matmul", dtype, count), 2 * n**3, call)


def _product(torch: Any, dtype: str, size: int | None) -> tuple[int, Callable[[], Any]] | None:
    """A size and a product of two such matrices; None where torch has no honest one."""
    if dtype == "int8" and not _whole_numbers_are_exact(torch):
        return None

    def product_of(n: int) -> Callable[[], Any]:
        left, right = (torch.ones(n, n, dtype=getattr(torch, dtype)) for _ in range(2))
        if dtype == "int8":
            return lambda: torch._int_mm(left, right)
        out = torch.empty_like(left)
        return lambda: torch.matmul(left, right, out=out)

    n = size or _fitting(product_of(TRIAL_SIZE))
    return n, product_of(n)


def _fitting(trial: Callable[[], Any]) -> int:
    """The largest size whose product should take no longer than LONG_S, from a small trial."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        trial()
        seconds.append(time.perf_counter() - start)
    least = min(seconds)
    foreseen = {n: least * (n / TRIAL_SIZE) ** 3 for n in MATMUL_SIZES}
    return next((n for n, s in foreseen.items() if s <= LONG_S), MATMUL_SIZES[-1])


def _whole_numbers_are_exact(torch: Any) -> bool:
    """Whether torch multiplies int8 matrices into whole 32-bit sums here."""
    if not hasattr(torch, "_int_mm"):
        return False
    left, right = (torch.arange(64 * 64).mul(k).sub(128).to(torch.int8).view(64, 64)
                   for k in (37, 91))  # fmt: skip
    try:
        found = torch._int_mm(left, right)
    except RuntimeError:
        return False
    return found.dtype == torch.int32 and torch.equal(found.long(), left.long() @ right.long())
