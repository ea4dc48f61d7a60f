"""The C++ of the CPU engine under AddressSanitizer and UndefinedBehaviorSanitizer.

    python -m tests.kernels.under_sanitizers

Builds the library with both, proves that each sees a mistake, then drives every type and
instruction set: products, and forwards of small models of odd sizes. Any report is a failure. No
torch inside.
"""

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmbench.kernels import cpu
from llmbench.kernels.build import cpu_library
from llmbench.kernels.recipe import find_compiler
from tests.kernels import past_the_end
from tests.kernels.stored import KINDS, PLAIN, random_raw

RUNTIMES = ("libasan.so", "libubsan.so")
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
           "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99"}  # fmt: skip
SEEN = 99  # how a process ends in which one of them saw something


@dataclass(frozen=True)
class Shape:
    """What a small model of two layers is made of."""

    heads: int
    kv: int
    size: int
    width: int
    ff: int
    kind: str = "F32"
    vocab: int = 77
    tied: bool = False
    turned: int | None = None  # dimensions of a head that turn; none: all
    neighbours: bool = False
    activation: int = 0
    kv_type: int = 0
    window: int = 0
    cap: float = 0.0
    biases: bool = False
    four: bool = False  # norms a layer


ODD = (
    Shape(7, 1, 6, 33, 45, window=5, biases=True),
    Shape(3, 3, 10, 31, 47, kv_type=1, cap=3.0, activation=1, four=True, tied=True),
    Shape(6, 2, 18, 50, 17, neighbours=True, turned=8, window=100, vocab=16),
    Shape(12, 1, 40, 64, 1, kv_type=1, biases=True, vocab=1),
    Shape(8, 8, 2, 1, 100, tied=True),
)
BLOCKS = Shape(3, 1, 32, 64, 96, vocab=50, biases=True)
SUPER = Shape(8, 2, 64, 256, 512, vocab=40, window=9, tied=True)
PASSES = (  # rows, room, then the tokens of each forward
    (1, 7, (3, 1, 1, 2)), (4, 40, (33, 1, 1)), (9, 20, (17, 1)), (1, 1, (1,)), (33, 4, (1, 1)),
)  # fmt: skip
LONG = ((1, 531, (513, 1, 17)), (2, 530, (511, 1, 1, 1)))  # passes and splits
AT_LENGTH = ("F32", "Q8_0")


def shapes() -> Iterator[Shape]:
    """Odd sizes in the plain types, and every type of blocks."""
    for kind in PLAIN:
        yield from (replace(shape, kind=kind) for shape in ODD)
    for kind in KINDS:
        if kind not in PLAIN:
            yield replace(SUPER if kind.endswith("_K") else BLOCKS, kind=kind)


class Model:
    """A model of made-up weights in the library; a context manager."""

    def __init__(self, shape: Shape, isa: str, threads: int) -> None:
        self.shape, self.library, self.handle = shape, cpu.library(), cpu.Handle()
        made = dict(self.matrices())
        sizes = sum(cpu.packed_bytes(shape.kind, *size) for size in made.values())
        self.check(self.library.lb_open(ctypes.byref(self.spec()), isa.encode(), threads, sizes,
                                        ctypes.byref(self.handle)))  # fmt: skip
        for seed, ((slot, layer), size) in enumerate(made.items()):
            raw = ordinary(shape.kind, *size, seed)
            self.check(self.library.lb_matrix(self.handle, slot, layer, cpu.NUMBER_OF[shape.kind],
                                              *size, raw.ctypes.data))  # fmt: skip
        for (slot, layer), values in self.vectors():
            self.check(self.library.lb_vector(self.handle, slot, layer, values.size,
                                              values.ctypes.data))  # fmt: skip
        for layer, window in enumerate((shape.window, 0)):
            self.check(self.library.lb_scores(self.handle, layer, 0.3, shape.cap, window))
        self.check(self.library.lb_ready(self.handle))

    def spec(self) -> cpu.Spec:
        s = self.shape
        return cpu.Spec(
            n_layers=2, n_heads=s.heads, n_kv_heads=s.kv, head_dim=s.size, d_model=s.width,
            d_ff=s.ff, vocab_size=s.vocab, tied=s.tied, rope_dims=self.turned(),
            rope_neighbours=s.neighbours, activation=s.activation, kv_type=s.kv_type,
            rope_trained=16, eps=1e-5, embedding_scale=1.5, residual_scale=0.1, logit_scale=1.0,
            logit_cap=s.cap * 2, rope_stretch=1.1,
        )  # fmt: skip

    def turned(self) -> int:
        return self.shape.size if self.shape.turned is None else self.shape.turned

    def sizes(self) -> list[tuple[int, int]]:
        """(rows, columns) of a layer's matrices, in the order of their slots."""
        s = self.shape
        q, kv = s.heads * s.size, s.kv * s.size
        return [(q, s.width), (kv, s.width), (kv, s.width), (s.width, q), (s.ff, s.width),
                (s.ff, s.width), (s.width, s.ff)]  # fmt: skip

    def matrices(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        for layer, (slot, size) in itertools.product(range(2), enumerate(self.sizes())):
            yield (slot, layer), size
        for slot in (7,) if self.shape.tied else (7, 8):
            yield (slot, 0), (self.shape.vocab, self.shape.width)

    def vectors(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        rng = np.random.default_rng(5)
        angles = 100.0 ** -np.linspace(0, 1, self.turned() // 2)
        yield (cpu.Slot.ROPE_NEAR, 0), angles.astype(np.float32)
        yield (cpu.Slot.ROPE_FAR, 0), (angles / 3).astype(np.float32)
        yield (cpu.Slot.NORM, 0), rng.normal(1, 0.1, self.shape.width).astype(np.float32)
        for layer in range(2):
            for slot in range(4 if self.shape.four else 2):
                yield (slot, layer), rng.normal(1, 0.1, self.shape.width).astype(np.float32)
            for slot, (rows, _) in enumerate(self.sizes() if self.shape.biases else []):
                yield (cpu.BIAS + slot, layer), rng.normal(0, 1, rows).astype(np.float32)

    def forward(self, rows: int, count: int, every: bool) -> None:
        """One forward, its output in buffers of its very size; raises when it is no number."""
        ids = np.random.default_rng(count).integers(0, self.shape.vocab, (rows, count), np.int32)
        best = np.full(rows, -1, np.int32)
        shape = (rows, count, self.shape.vocab) if every else (rows, self.shape.vocab)
        logits = np.full(shape, np.nan, np.float32)
        self.check(self.library.lb_forward(self.handle, ids.ctypes.data, rows, count, every,
                                           best.ctypes.data, logits.ctypes.data))  # fmt: skip
        if not np.isfinite(logits).all() or best.min() < 0:
            raise SystemExit(f"{self.shape}: {rows} rows, {count} tokens: no number was written")

    def check(self, code: int) -> None:
        cpu.check(code, str(self.shape))

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: Any) -> None:
        self.library.lb_close(self.handle)


def ordinary(kind: str, rows: int, cols: int, seed: int) -> np.ndarray:
    """Raw rows whose products float16 can hold: every other one of the plain types is wild."""
    if kind in PLAIN:
        return np.ascontiguousarray(random_raw(kind, 2 * rows, cols, seed)[::2])
    return random_raw(kind, rows, cols, seed)


def drive() -> None:
    """Everything, in this process; a line for what was done."""
    past_the_end.main([])
    for isa, shape in itertools.product(cpu.isas(), shapes()):
        with Model(shape, isa, threads=3) as model:
            passes = PASSES + (LONG if shape.kind in AT_LENGTH else ())
            for number, (rows, room, counts) in enumerate(passes):
                model.check(model.library.lb_begin(model.handle, rows, room))
                for count in counts:
                    model.forward(rows, count, every=bool((number + count) % 2))
        print(isa, shape.kind, shape.width, flush=True)


def blunder() -> None:
    """Read a row more than a buffer of the heap holds: AddressSanitizer's."""
    cpu.Packed("F32", 5, 64, random_raw("F32", 4, 64))


def crooked() -> None:
    """Read a vector of float32 from an odd address: UndefinedBehaviorSanitizer's."""
    with Model(BLOCKS, "scalar", threads=1) as model:
        gains = np.zeros(4 * BLOCKS.width + 1, np.uint8)
        model.check(model.library.lb_vector(model.handle, 0, 0, BLOCKS.width,
                                            gains[1:].ctypes.data))  # fmt: skip


def started(word: str) -> subprocess.CompletedProcess[str]:
    """This module in a process that begins with the sanitizers' libraries."""
    command = find_compiler().command
    found = [subprocess.run([*command, f"-print-file-name={name}"], capture_output=True, text=True,
                            check=True).stdout.strip() for name in RUNTIMES]  # fmt: skip
    env = os.environ | OPTIONS | {"LD_PRELOAD": " ".join(found), "PYTHONMALLOC": "malloc"}
    again = [sys.executable, "-m", "tests.kernels.under_sanitizers", word]
    return subprocess.run(again, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Build, and start both processes; or be one of them. The exit code."""
    if arguments:
        library = cpu_library(sanitize=True)
        cpu.cpu_library = lambda: library
        {"drive": drive, "blunder": blunder, "crooked": crooked}[arguments[0]]()
        return 0
    print(f"library  {cpu_library(sanitize=True)}", flush=True)
    for mistake, word in (("blunder", "heap-buffer-overflow"), ("crooked", "misaligned address")):
        seen = started(mistake)
        if seen.returncode != SEEN or word not in seen.stdout:
            print(f"a mistake was not seen, {seen.returncode}:\n{seen.stdout}")
            return 1
    done = started("drive")
    clean = not done.returncode and "runtime error" not in done.stdout
    print(done.stdout if not clean else f"{len(done.stdout.splitlines())} cases, no report")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
