"""A fake engine with a planted law: it tests the workbench itself, and stands for no real engine.

Times are slept, so everything above it is exercised for real. Prefill of T tokens in B rows takes
`floor_s + unit_s * B * law(T)`; a decode step takes `decode_s`. Faults are planted by option.
"""

import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from llmbench.engines.base import PREFILL_DONE
from llmbench.errors import OutOfMemory, Unsupported
from llmbench.models.gguf_cache import ExportType
from llmbench.models.source import ModelSource
from llmbench.record import Noun, Served

LAWS: dict[str, Callable[[int], float]] = {
    "constant": lambda n: 1.0,
    "n": lambda n: float(n),
    "n log n": lambda n: n * math.log2(max(n, 2)),
    "n^2": lambda n: float(n) ** 2,
}


class FakeOptions(Noun):
    """What is planted. Sizes are B * T tokens of a prompt; a size of 0 plants nothing."""

    law: Literal["constant", "n", "n log n", "n^2"] = "n"
    floor_s: float = Field(0.0, ge=0)
    unit_s: float = Field(1e-6, ge=0)
    decode_s: float = Field(1e-4, ge=0)
    load_s: float = Field(0.0, ge=0)
    run_noise: float = Field(0.0, ge=0)  # standard deviation of a process run's log factor
    noise: float = Field(0.0, ge=0)  # standard deviation of a repeat's log factor
    drift: float = 0.0  # relative growth a second since loading
    jump_probability: float = Field(0.0, ge=0, le=1)  # of a repeat that takes `jump` times as long
    jump: float = Field(3.0, gt=0)
    oom_above: int = Field(0, ge=0)
    wrong_above: int = Field(0, ge=0)  # other tokens in odd process runs
    crash_above: int = Field(0, ge=0)
    crash: Literal["SIGKILL", "SIGSEGV", "exit"] = "SIGKILL"
    hang_above: int = Field(0, ge=0)
    vocab_size: int = Field(256, ge=2)
    weights: ExportType | None = None  # told as the format that serves; none are read
    process_seed: int = 0  # set by the worker: seeds the noise of this process run


class FakeEngine:
    """Yields tokens made from the prompt, at planted times. `sleep` is a clock's, in seconds."""

    name = "fake"
    capabilities = frozenset({"batch", "prefill_mark", "next_logprobs", "logprobs"})
    Options = FakeOptions

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._slept_s = 0.0

    def imports(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Take the planted law from `options`; the model's weights are not read."""
        device, threads = options.pop("device", "cpu"), options.pop("threads", 1)
        if device != "cpu":
            raise Unsupported(f"engine fake sleeps on the CPU; it has no device {device!r}")
        self.options = FakeOptions(**options)
        self._noise = random.Random(self.options.process_seed)
        self._run_factor = math.exp(self._noise.gauss(0, self.options.run_noise))
        self._sleep(self.options.load_s)
        return Served(engine=self.name, impl="sleep", weight_bytes=0,
                      weight_format=self.options.weights or "none", threads=threads, device=device,
                      load_s=self.options.load_s)  # fmt: skip

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Sleep the planted times and yield (B,) tokens a step."""
        rows, length = len(prompt_ids), len(prompt_ids[0])
        self._planted_faults(rows * length)
        factor, planted = self._factor(), self.options
        self._take((planted.floor_s + planted.unit_s * rows * LAWS[planted.law](length)) * factor)
        yield PREFILL_DONE
        wrong = self._above(planted.wrong_above, rows * length) and planted.process_seed % 2
        for step in range(output_tokens):
            if step:
                self._take(planted.decode_s * factor)
            yield [(sum(ids[-8:]) + step + wrong) % planted.vocab_size for ids in prompt_ids]

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """A uniform distribution over the vocabulary."""
        size = self.options.vocab_size
        return {token: -math.log(size) for token in range(min(top, size))}

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32 of a uniform distribution."""
        size = self.options.vocab_size
        return np.full((len(ids), size), -math.log(size), dtype=np.float32)

    def synchronize(self) -> None:
        """Nothing runs beside the caller."""

    def close(self) -> None:
        """Nothing is held."""

    def _take(self, seconds: float) -> None:
        self._slept_s += seconds
        self._sleep(seconds)

    def _factor(self) -> float:
        planted = self.options
        factor = self._run_factor * math.exp(self._noise.gauss(0, planted.noise))
        if self._noise.random() < planted.jump_probability:
            factor *= planted.jump
        return factor * (1 + planted.drift * self._slept_s)

    @staticmethod
    def _above(limit: int, size: int) -> bool:
        return bool(limit) and size > limit

    def _planted_faults(self, size: int) -> None:
        planted = self.options
        if self._above(planted.oom_above, size):
            raise OutOfMemory(f"planted: {size} tokens are more than {planted.oom_above}")
        if self._above(planted.crash_above, size):
            if planted.crash == "exit":
                os._exit(0)
            os.kill(os.getpid(), getattr(signal, planted.crash))
        if self._above(planted.hang_above, size):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(3600)
