"""Frames of made-up rows with the documented columns: a planted law, known noise, faults."""

from pathlib import Path

import numpy as np
import pandas as pd

from llmbench import hardware, store
from llmbench.record import Memory, Point, Raw, Record, Repeat, Served, Witness
from llmbench.store.journal import encode

PREFILL = (2e-3, 6e-5, 4e-8)  # s: floor, per token, per token squared
WEIGHTS, KV = 80 * 2**20, 4096


def rows(
    *, run: str = "demo", fingerprint: str = "f00dcafe", engine: str = "transformers",
    model: str = "builtin:tiny", batch_sizes: tuple = (1, 4), context_lens: tuple = (64, 128, 256,
    512), process_runs: int = 6, blocks: int = 2, slower: float = 1.0, noise: float = 0.01,
    seed: int = 17,
) -> pd.DataFrame:  # fmt: skip
    """A frame of `ok` rows in the given circumstances."""
    random = np.random.default_rng(seed)
    grid = pd.MultiIndex.from_product(
        [range(process_runs), range(blocks), batch_sizes, context_lens],
        names=["process_run", "block", "batch_size", "context_len"],
    ).to_frame(index=False)
    n = len(grid)
    wobble = random.normal(1, noise, process_runs)[grid["process_run"]]
    wobble = slower * wobble * random.normal(1, noise, n)
    length, batch = grid["context_len"], grid["batch_size"]
    floor, linear, square = PREFILL
    frame = grid.assign(
        run=run, study="scaling", model=model, model_sha256="ab" * 32, engine=engine,
        prompt="exact", prompt_tokens=length, output_tokens=16, device="cpu", threads=2, seed=17,
        options="", weights="", child="", window=0, twin=False, audit=None,
        released=None, tree_rss_bytes=np.nan, received_tokens=16.0,
        repeat=0, status="ok", reason=None, measured_at="2026-03-01T10:00:00+00:00",
        sequence=range(n), environment="env-" + fingerprint, fingerprint=fingerprint,
        impl="eager", attention_impl="sdpa", weight_format="float32", weight_bytes=WEIGHTS,
        step_weight_bytes=float(WEIGHTS),
        served_threads=2.0, served_device="cpu", served_window=np.nan, versions="v 1",
        kv_bytes_per_token=KV, load_s=0.4, held_bytes=WEIGHTS,
        read_bytes_per_s=np.nan, warmup_s=0.1, preview=process_runs * blocks < 10,
        key=[f"{run}{fingerprint}{engine}{i}" for i in range(n)],
    )  # fmt: skip
    frame["prefill_s"] = (floor + linear * length * batch + square * length**2 * batch) * wobble
    frame["tpot_s"] = (4e-3 + 1e-6 * length * batch) * wobble
    frame["ttft_s"] = frame["prefill_s"] + 1e-4
    frame["e2e_s"] = frame["ttft_s"] + 15 * frame["tpot_s"]
    frame["prefill_tok_per_s"] = batch * length / frame["prefill_s"]
    frame["decode_tok_per_s"] = batch / frame["tpot_s"]
    frame["kv_read_bytes"] = KV * length
    frame["mbu"] = (WEIGHTS + batch * frame["kv_read_bytes"]) / frame["tpot_s"] / 40e9
    frame["mfu"] = np.nan
    frame["rss_before_load_bytes"] = 250 * 2**20
    frame["rss_after_load_bytes"] = 350 * 2**20
    frame["rss_peak_bytes"] = frame["peak_bytes"] = 350 * 2**20 + batch * length * 30_000
    frame["flags"] = pd.Series([("preview",) if p else () for p in frame["preview"]], dtype=object)
    frame["itl_s"] = pd.Series([np.full(15, t) for t in frame["tpot_s"]], dtype=object)
    return frame


def windows(
    *, sizes: tuple = (512, 1024, 2048), output_tokens: int = 32, process_runs: int = 6,
    base: int = 350 * 2**20, **where: object,
) -> pd.DataFrame:  # fmt: skip
    """Rows of `context_windows`: filled windows, whose peak is `base`, weights and their KV."""
    lens = tuple(size - output_tokens for size in sizes)
    frame = rows(batch_sizes=(1,), context_lens=lens, process_runs=process_runs, **where)
    window = frame["prompt_tokens"] + output_tokens
    peak = base + WEIGHTS + KV * window
    return frame.assign(
        study="context_windows", window=window, output_tokens=output_tokens,
        e2e_s=frame["ttft_s"] + (output_tokens - 1) * frame["tpot_s"],
        rss_peak_bytes=peak, peak_bytes=peak, key="windows" + frame["key"],
    )  # fmt: skip


def fail(frame: pd.DataFrame, status: str, reason: str, **where: int) -> pd.DataFrame:
    """`frame` with `status` and no measurements in the rows where the columns have these values."""
    frame = frame.copy()
    hit = (frame[list(where)] == pd.Series(where)).all(axis=1)
    measured = [c for c in frame if c.endswith(("_s", "_bytes")) and c != "itl_s"] + ["mbu"]
    frame.loc[hit, measured] = np.nan
    frame.loc[hit, ["status", "reason"]] = status, reason
    frame.loc[hit, ["impl", "attention_impl", "weight_format"]] = None
    return frame


def flag(frame: pd.DataFrame, name: str, count: int) -> pd.DataFrame:
    """`frame` with the flag `name` on its first `count` rows."""
    flags = [(*f, name) if i < count else f for i, f in enumerate(frame["flags"])]
    return frame.assign(flags=pd.Series(flags, index=frame.index, dtype=object))


def environment(fingerprint: str = "f00dcafe", roof: float | None = 40e9) -> dict:
    """Circumstances as `hardware.environment` describes them."""
    described = hardware.environment({"fingerprint": fingerprint})
    described["machine"]["cpu_model"] = "Example CPU 3000"
    if roof:
        described["roofs"] = {"bytes_per_s": roof, "source": "measured"}
    return described


def write_run(folder: Path, frame: pd.DataFrame, **status: object) -> Path:
    """A run's folder whose records say what `frame` says."""
    for part in ("records", "notebooks", "figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    known = {
        f: store.add_environment(folder, environment(f)) for f in frame["fingerprint"].unique()
    }
    with store.Journal(folder) as journal:
        lines = [journal_line(row, known[row.fingerprint]) for row in frame.itertuples()]
        journal.append(lines[0])
        rest = b"".join(encode(record) for record in lines[1:])
        with (folder / "records" / journal.name).open("ab") as file:  # without an fsync a record
            file.write(rest)
    store.write_status(folder, status)
    return folder


def journal_line(row: tuple, environment: str) -> Record:
    """The record behind one row of a frame."""
    point = Point(
        study=row.study, model=row.model, model_sha256=row.model_sha256, engine=row.engine,
        engine_options={}, batch_size=row.batch_size, prompt=row.prompt,
        prompt_tokens=row.prompt_tokens, output_tokens=row.output_tokens, device=row.device,
        threads=row.threads, seed=row.seed, memory_limit_bytes=0, window=row.window,
    )  # fmt: skip
    repeat = Repeat(point=point, process_run=row.process_run, block=row.block, repeat=row.repeat)
    return Record(
        key=repeat.key, point=point, process_run=row.process_run, block=row.block,
        repeat=row.repeat, status=row.status, reason=row.reason, measured_at=row.measured_at,
        flags=[f for f in row.flags if f != "preview"], sequence=row.sequence,
        environment=environment, **(_measured(row) if row.status == "ok" else {}),
    )  # fmt: skip


def _measured(row: tuple) -> dict:
    steps = [round(1e9 * (row.ttft_s + i * row.tpot_s)) for i in range(row.output_tokens)]
    return {
        "served": Served(
            engine=row.engine, impl=row.impl, attention_impl=row.attention_impl,
            weight_format=row.weight_format, weight_bytes=int(row.weight_bytes),
            kv_bytes_per_token=KV, threads=row.threads, device=row.device,
            load_s=row.load_s,
        ),
        "raw": Raw(submit_ns=row.sequence, prefill_ns=round(1e9 * row.prefill_s), step_ns=steps,
                   end_ns=steps[-1], warmup_s=[row.warmup_s]),
        "memory": Memory(rss_before_load_bytes=int(row.rss_before_load_bytes),
                         rss_after_load_bytes=int(row.rss_after_load_bytes),
                         rss_peak_bytes=int(row.rss_peak_bytes)),
        "witness": Witness(output_sha256="cd" * 32, output_tokens=row.output_tokens,
                           end_reason="length"),
    }  # fmt: skip
