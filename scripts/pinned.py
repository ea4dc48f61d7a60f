"""Do threads that are tied to a core of their own decode, or read a prompt, faster?

    python scripts/pinned.py [--weights Q8_0] [--rounds 20] [--keep DIR]

For edge, impl cpu, on two models. In each round, in random order, its threads are free to move or
tied, alone or beside a program that never waits, and each time one prompt is read and some tokens
are decoded. Kept are all readings and a table: medians, and the ratio tied / free, the geometric
mean over rounds with Student's 95 % interval. A round holds one turn of each, so ratios are paired.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from busy import STATES, trouble

from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.hardware import machine
from llmbench.models.requantize import export_any
from llmbench.models.source import find_model
from llmbench.stats import mean_interval

MODELS = ("shape:smollm-135m", "shape:qwen2.5-0.5b")
WAYS = ("free", "tied")
PROMPT, TOKENS = 512, 32
RATES = ("decode_tok_per_s", "prompt_tok_per_s")


def tasks() -> set[int]:
    """The threads of this process."""
    return set(map(int, os.listdir("/proc/self/task")))


def place(threads: list[int], way: str, cpus: list[int]) -> None:
    """Tie each thread to a CPU of its own, or let all move."""
    for thread, cpu in zip(threads, cpus, strict=True):
        os.sched_setaffinity(thread, {cpu} if way == "tied" else set(cpus))


def turn(decoder: CpuDecoder, draw: random.Random) -> tuple[float, float]:
    """Tokens a second of TOKENS decoding steps, and of the prompt before them."""
    ids = np.array([draw.choices(range(decoder.spec.vocab_size), k=PROMPT)], np.int32)
    decoder.begin(1, PROMPT + TOKENS)
    begun = time.perf_counter()
    ids = decoder.greedy(ids)[:, None]
    read = time.perf_counter()
    for _ in range(TOKENS):
        ids = decoder.greedy(ids)[:, None]
    return TOKENS / (time.perf_counter() - read), PROMPT / (read - begun)


def readings(model: str, file: str, rounds: int) -> pd.DataFrame:
    """A row a turn. The first round warms up and is left out."""
    cpus, before, draw, rows = sorted(os.sched_getaffinity(0)), tasks(), random.Random(17), []
    with closing(CpuDecoder(find_model(file), "auto", "auto", len(cpus))) as decoder:
        threads = [os.getpid(), *sorted(tasks() - before)]
        for number in range(rounds + 1):
            for state in draw.sample(STATES, len(STATES)):
                for way in draw.sample(WAYS, len(WAYS)):
                    with trouble(state):
                        place(threads, way, cpus)
                        rows.append((model, number, state, way, *turn(decoder, draw)))
                        place(threads, "free", cpus)
                    told = ", ".join(f"{rate:.3g}" for rate in rows[-1][-2:])
                    print(f"{number}: {model} {state}, {way}: {told} tok/s", file=sys.stderr)
    frame = pd.DataFrame(rows, columns=["model", "round", "state", "way", *RATES])
    return frame[frame["round"] > 0]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a model, state and rate."""
    made = []
    for (model, state), rows in frame.groupby(["model", "state"]):
        for rate in RATES:
            both = rows.pivot(index="round", columns="way", values=rate)
            found = mean_interval((both["tied"] / both["free"]).map(math.log))
            value, low, high = (math.exp(end) for end in (found.value, found.low, found.high))
            made.append({"model": model, "state": state, "rate": rate}
                        | {way: f"{both[way].median():.1f}" for way in WAYS}
                        | {"tied / free": f"{value:.2f} [{low:.2f}-{high:.2f}]"})  # fmt: skip
    return pd.DataFrame(made)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="Q8_0")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {model: export_any(model, Path(folder) / f"{number}.gguf", asked.weights)
                 for number, model in enumerate(MODELS)}  # fmt: skip
        frame = pd.concat(readings(model, f"gguf:{file}", asked.rounds)
                          for model, file in files.items())  # fmt: skip
    told = table(frame)
    print(told.to_string(index=False))
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
        frame.to_csv(asked.keep / "readings.csv", index=False)
        told.to_csv(asked.keep / "table.csv", index=False)
        about = {"weights": asked.weights, "rounds": asked.rounds, "prompt_tokens": PROMPT,
                 "new_tokens": TOKENS, "machine": asdict(machine()),
                 "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        (asked.keep / "about.json").write_text(json.dumps(about, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
