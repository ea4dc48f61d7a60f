"""How fast the library multiplies, beside what this machine reads and computes at the same time.

One token: bytes/s of a matrix that stands so often behind itself that one pass reads as much as a
whole step of the model does. So what lies in a cache in a step lies in it here, and no more. The
roof is a plain read of as many bytes, taken just before or after each reading. Left out are the
waits between operations, which a step has: the split of a step shows those.
Many tokens: operations/s of one such matrix. The roof is torch's matrix product in the same dtype.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from llmbench.errors import OutOfMemory
from llmbench.hardware import available_bytes
from llmbench.kernels.cpu import Packed, packed_bytes, read_bytes_per_s
from llmbench.kernels.made_up import arithmetic, made_up
from llmbench.models.spec import Spec
from llmbench.units import MiB, nbytes

MANY = 512  # tokens of a pass of a prompt; Source: LB_PASS_TOKENS
READING_S = 0.05  # of one reading at least
PROBE_S = 0.05
MOST_TIMES = 10_000
HEAD = "head"  # only a prompt's last token goes through it: it is not measured with many
TASKS = 9  # of a type and instruction set: five operations with one token, four with many
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Speed:
    """Readings of one operation; bytes/s of packed weights for one token, else operations/s."""

    operation: str
    weights: str
    isa: str
    threads: int
    tokens: int
    rows: int
    cols: int
    copies: int  # of the matrix, one behind the other
    read_bytes: int  # in one pass
    per_s: tuple[float, ...]
    roof_per_s: tuple[float, ...]  # one beside each reading, or one for all, or none
    roof: str  # what the roof is

    @property
    def median_per_s(self) -> float:
        """The middle reading."""
        return median(self.per_s)

    @property
    def of_roof(self) -> float | None:
        """0-1, median of the readings' own shares; above 1 where the roof is none for this."""
        if not self.roof_per_s:
            return None
        roofs = self.roof_per_s * (len(self.per_s) if len(self.roof_per_s) == 1 else 1)
        return median(own / roof for own, roof in zip(self.per_s, roofs, strict=True))

    def facts(self) -> dict[str, Any]:
        """All readings, and what follows from them."""
        return asdict(self) | {"unit": "B/s" if self.tokens == 1 else "FLOP/s",
                               "median_per_s": self.median_per_s, "of_roof": self.of_roof,
                               }  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """One operation that can be read again and again."""

    packed: Packed
    about: dict[str, Any]  # fields of a Speed
    work: float  # bytes or operations of one product
    times: int
    probe_bytes: int  # 0: no probe beside it

    def reading(self) -> float:
        """Bytes or operations a second."""
        tokens = self.about["tokens"]
        return self.work * self.times / self.packed.repeat_s(tokens, self.times)


def shapes(spec: Spec) -> dict[str, tuple[int, int]]:
    """Operation → (rows, cols) of the matrices that are multiplied together."""
    heads, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    return {"qkv": (heads + 2 * kv, spec.d_model), "o": (spec.d_model, heads),
            "gate_up": (2 * spec.d_ff, spec.d_model), "down": (spec.d_model, spec.d_ff),
            HEAD: (spec.vocab_size, spec.d_model)}  # fmt: skip


def step_bytes(spec: Spec, kind: str) -> int:
    """Packed bytes of weights that one step reads."""
    return sum(packed_bytes(kind, *shape) * (1 if name == HEAD else spec.n_layers)
               for name, shape in shapes(spec).items())  # fmt: skip


def speeds(
    spec: Spec, kinds: Sequence[str], isas: Sequence[str], threads: int, rounds: int,
    roofs: Mapping[str, float], tell: Tell,
) -> tuple[Speed, ...]:  # fmt: skip
    """Every operation of the model with 1 and with `MANY` tokens; in each round in a new order.

    `roofs`: operations/s by dtype. `tell` hears of each reading.
    Raises: BadParams for a type that the model's rows do not fit, OutOfMemory, Unsupported.
    """
    _check_memory(spec, kinds, isas)
    with ExitStack() as held:
        tasks = [task for kind in kinds for isa in isas for name in shapes(spec)
                 for task in _tasks(held, spec, name, kind, isa, threads)]  # fmt: skip
        taken: list[list[tuple[float, float]]] = [[] for _ in tasks]
        for number in range(rounds):
            draw = random.Random(number)
            for at in draw.sample(range(len(tasks)), len(tasks)):
                taken[at].append(_beside(tasks[at], threads, first=draw.random() < 0.5))
                tell(tasks[at].about["operation"])
    return tuple(_speed(task, pairs, roofs) for task, pairs in zip(tasks, taken, strict=True))


def _check_memory(spec: Spec, kinds: Sequence[str], isas: Sequence[str]) -> None:
    """Raises: OutOfMemory when the copies do not fit, or BadParams as `made_up`."""
    for kind in kinds:
        for _, cols in shapes(spec).values():
            made_up(kind, 1, cols)
    most = max(step_bytes(spec, kind) for kind in kinds)
    held = len(shapes(spec)) * len(isas) * sum(step_bytes(spec, kind) for kind in kinds)
    if held + 2 * most > available_bytes():
        raise OutOfMemory(f"kernels: copies of all weights need {nbytes(held + 2 * most)}",
                          how="fewer --weights or --isa at a time, or a smaller model"
                          )  # fmt: skip


def _tasks(
    held: ExitStack, spec: Spec, name: str, kind: str, isa: str, threads: int
) -> list[_Task]:
    """The operation with one token, through many copies; and with many tokens."""
    rows, cols = shapes(spec)[name]
    raw = made_up(kind, rows, cols)
    whole = max(step_bytes(spec, kind), MiB)
    found = []
    for tokens in (1, MANY) if name != HEAD else (1,):
        copies = math.ceil(whole / packed_bytes(kind, rows, cols)) if tokens == 1 else 1
        stack = Packed(kind, rows * copies, cols, np.tile(raw, (copies, 1)), isa, threads)
        packed = held.enter_context(stack)
        read = packed_bytes(kind, rows * copies, cols)
        about = {"operation": name, "weights": kind, "isa": isa, "threads": threads,
                 "tokens": tokens, "rows": rows, "cols": cols, "copies": copies,
                 "read_bytes": read}  # fmt: skip
        work = read if tokens == 1 else 2 * rows * cols * tokens
        packed.repeat_s(tokens, 1)  # the first touches what was never touched
        times = min(MOST_TIMES, math.ceil(READING_S / packed.repeat_s(tokens, 1)))
        found.append(_Task(packed, about, work, times, whole if tokens == 1 else 0))
    return found


def _beside(task: _Task, threads: int, *, first: bool) -> tuple[float, float]:
    """A reading, and the probe taken before (`first`) or after it; NaN where it has none."""

    def probe() -> float:
        return (
            read_bytes_per_s(task.probe_bytes, threads, PROBE_S) if task.probe_bytes else math.nan
        )

    roof = probe() if first else math.nan
    task.packed.repeat_s(task.about["tokens"], 1)  # so that caches hold what a stream leaves there
    own = task.reading()
    return own, roof if first else probe()


def _speed(task: _Task, pairs: list[tuple[float, float]], roofs: Mapping[str, float]) -> Speed:
    own, beside = zip(*pairs, strict=True)
    if task.probe_bytes:
        return Speed(**task.about, per_s=own, roof_per_s=beside,
                     roof=f"reading {nbytes(task.probe_bytes)}")  # fmt: skip
    dtype = arithmetic(task.about["weights"], task.about["isa"], MANY)
    known = (roofs[dtype],) if dtype in roofs else ()
    return Speed(**task.about, per_s=own, roof_per_s=known, roof=f"torch matmul in {dtype}")
