"""Decode beside one busy program: edge against Ollama and llama.cpp in the same trouble.

    python scripts/busy.py [--model shape:qwen2.5-0.5b] [--weights Q8_0] [--rounds 12] [--keep DIR]

Every engine holds the same file, in a process of its own, with as many threads as there are CPUs.
In each round each decodes 32 tokens alone and 32 beside a program that never waits, in random
order; prompts are new each time. Kept are all readings and a table: medians, and the ratio of edge
to each other, the geometric mean over rounds with Student's 95 % interval. A round holds one turn
of each, so ratios are paired. Needs `make llamacpp` and `make ollama`.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from llmbench import engines
from llmbench.hardware import machine, usable_cpus
from llmbench.models.requantize import export_any
from llmbench.models.source import find_model
from llmbench.profilers.clock import MonotonicClock
from llmbench.stats import mean_interval
from llmbench.timing import time_repeat

ENGINES = ("edge", "llamacpp", "ollama")
STATES = ("alone", "beside one busy program")
PROMPT, TOKENS = 32, 33  # the first new token belongs to the prompt
SETTLE_S = 0.5  # until the scheduler has placed a program that began
HELD: dict[str, Any] = {}  # the engine of this process, and its tokenizer


def load(engine: str, file: str, threads: int) -> str:
    """Load in a process that stays; what served, in words."""
    source = find_model(file)
    HELD.update(engine=engines.create(engine), tokenizer=source.tokenizer)
    served = HELD["engine"].load(source, {"threads": threads})
    return f"{served.impl}, {served.weight_format}"


def decode(seed: int) -> float:
    """Tokens a second of one answer to a prompt of its own."""
    first = HELD["tokenizer"].first
    some = random.Random(seed).choices(HELD["tokenizer"].plain_ids, k=PROMPT - len(first))
    ids = [*first, *some]
    raw, _ = time_repeat(HELD["engine"], [ids], TOKENS, clock=MonotonicClock())
    return (len(raw.step_ns) - 1) / (raw.step_ns[-1] - raw.step_ns[0]) * 1e9


def close() -> None:
    """Give the engine back."""
    HELD.pop("engine").close()


@contextmanager
def trouble(state: str) -> Iterator[None]:
    """A program that never waits, unless `state` is to be alone."""
    if state == STATES[0]:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        busy.kill()
        busy.wait()


def readings(file: str, rounds: int, threads: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """A row a turn: round, state, engine, tok/s. The first round warms up and is left out."""
    held = {name: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for name in ENGINES}
    draw, rows = random.Random(17), []
    try:
        served = {name: held[name].submit(load, name, file, threads).result() for name in ENGINES}
        for number in range(rounds + 1):
            for state in draw.sample(STATES, len(STATES)):
                for name in draw.sample(ENGINES, len(ENGINES)):
                    with trouble(state):
                        rate = held[name].submit(decode, draw.getrandbits(32)).result()
                    rows.append((number, state, name, rate))
                    print(f"{number}: {name} {state}: {rate:.3g} tok/s", file=sys.stderr)
        for name in ENGINES:
            held[name].submit(close).result()
    finally:
        for pool in held.values():
            pool.shutdown(cancel_futures=True)
    frame = pd.DataFrame(rows, columns=["round", "state", "engine", "decode_tok_per_s"])
    return frame[frame["round"] > 0], served


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a state: each engine's median with its extremes, edge against each other."""
    made = []
    for state in STATES:
        rates = frame[frame["state"] == state].pivot(
            index="round", columns="engine", values="decode_tok_per_s")  # fmt: skip
        row = {"state": state} | {
            name: f"{rates[name].median():.1f} ({rates[name].min():.1f}-{rates[name].max():.1f})"
            for name in ENGINES}  # fmt: skip
        for other in ENGINES[1:]:
            found = mean_interval((rates["edge"] / rates[other]).map(math.log))
            value, low, high = (math.exp(end) for end in (found.value, found.low, found.high))
            row[f"edge against {other}"] = f"{value:.2f} [{low:.2f}-{high:.2f}]"
        made.append(row)
    return pd.DataFrame(made)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="shape:qwen2.5-0.5b")
    parser.add_argument("--weights", default="Q8_0")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    threads = usable_cpus()
    with tempfile.TemporaryDirectory() as folder:
        file = export_any(asked.model, Path(folder) / "model.gguf", asked.weights)
        frame, served = readings(f"gguf:{file}", asked.rounds, threads)
    told = table(frame)
    print(told.to_string(index=False))
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
        frame.to_csv(asked.keep / "readings.csv", index=False)
        told.to_csv(asked.keep / "table.csv", index=False)
        about = {"model": asked.model, "weights": asked.weights, "threads": threads,
                 "rounds": asked.rounds, "prompt_tokens": PROMPT, "new_tokens": TOKENS,
                 "served": served, "machine": asdict(machine()),
                 "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        (asked.keep / "about.json").write_text(json.dumps(about, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
