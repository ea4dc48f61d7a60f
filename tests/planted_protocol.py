"""Frames of a planted comparison: engines, sizes of models, lengths, known ratios and noise."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tests import synthetic

AUDIT = {"prefixes": [1], "next_ids": [[3]], "next_logprobs": [[-0.5]], "prompt_s": 1.0,
         "again_s": 1.0}  # fmt: skip
ENGINES = {"edge": 1.0, "ollama": 1.5, "llamacpp": 1.3}  # times as slow as the planted time
BASE_S = 4e-3
TINY = {"shape:smollm-135m": 2**27}  # weight bytes


def rows(
    *, engines: Mapping[str, float] = ENGINES, weights: Mapping[str, int] = TINY,
    exponent: float = 1.0, lengths: Sequence[int] = (),
    per_doubling: float = 1.0, process_runs: int = 5, blocks: int = 5, wobble: float = 0.002,
    block_noise: float = 0.001, length_noise: float = 0.0,
    model_noise: Mapping[str, float] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A frame of the study `ollama_comparison`; the first engine is the target.

    A token takes 4 ms at 2**27 weight bytes and grows with them to the power `exponent`.
    `per_doubling`: what each doubling of the length beyond 64 multiplies its ratio by. `wobble`:
    deviation of process runs, `length_noise` of lengths within them, `block_noise` of blocks
    (`model_noise` instead, of some models). The first baseline has a twin. Without `lengths` two
    named texts are asked.
    """
    random = np.random.default_rng(5)
    sides = [(name, slow, False) for name, slow in engines.items()]
    sides.append((*list(engines.items())[1], True))
    made = []
    for model, weight_bytes in weights.items():
        noise = (model_noise or {}).get(model, block_noise)
        for engine, slow, twin in sides:
            grid = synthetic.rows(
                engine=engine, model=model, batch_sizes=(1,), context_lens=lengths or (9, 21),
                process_runs=process_runs, blocks=blocks, noise=0.0,
            )  # fmt: skip
            run = np.exp(random.normal(0, wobble, process_runs))[grid["process_run"]]
            block = np.exp(random.normal(0, noise, (process_runs, blocks)))
            drift = random.normal(0, length_noise, (process_runs, len(lengths) or 2))
            place = pd.factorize(grid["context_len"])[0]
            run = run * np.exp(drift)[grid["process_run"], place]
            factor = slow * run * block[grid["process_run"], grid["block"]]
            if engine != next(iter(engines)):
                factor = factor * per_doubling ** np.log2(grid["context_len"] / 64)
            made.append(
                _timed(
                    grid,
                    BASE_S * (weight_bytes / 2**27) ** exponent * factor,
                    factor,
                    twin,
                    weight_bytes,
                )
            )
    frame = pd.concat(made, ignore_index=True).sample(frac=1, random_state=3)
    frame = frame.sort_values(["process_run", "block", "model", "context_len"], kind="stable")
    frame["sequence"] = range(len(frame))
    frame["prompt"] = "exact" if lengths else frame["context_len"].map({9: "hello", 21: "quantum"})
    return frame.reset_index(drop=True)


def _timed(
    grid: pd.DataFrame, tpot: pd.Series, factor: pd.Series, twin: bool, weight_bytes: int
) -> pd.DataFrame:
    frame = grid.assign(study="ollama_comparison", twin=twin, others_cpu_s=0.0, tpot_s=tpot,
                        decode_tok_per_s=1 / tpot, ttft_s=0.02 * factor,
                        weight_bytes=float(weight_bytes),
                        step_weight_bytes=float(weight_bytes))  # fmt: skip
    frame["e2e_s"] = frame["ttft_s"] + 15 * frame["tpot_s"]
    frame["mbu"] = (frame["weight_bytes"] + frame["kv_read_bytes"]) / tpot / 40e9
    frame["rss_peak_bytes"] = frame["peak_bytes"] = frame["weight_bytes"] + 200 * 2**20
    frame["itl_s"] = pd.Series([np.full(15, t) for t in tpot], index=frame.index, dtype=object)
    frame["prompt_sha256"] = [f"{n}/{b}" for n, b in zip(frame["context_len"], frame["block"],
                                                         strict=True)]  # fmt: skip
    frame["audit"] = [AUDIT if i == 0 else None for i in range(len(frame))]
    frame["build"], frame["isa"] = "CPU : AVX2 = 1", [("avx2",)] * len(frame)
    frame["versions"] = "v 1"
    frame["served_window"] = np.where(frame["engine"] == "ollama", 4096.0, np.nan)
    frame["served_threads"], frame["served_device"] = frame["threads"], frame["device"]
    frame["layer_classes"] = [{} for _ in range(len(frame))]
    return frame
