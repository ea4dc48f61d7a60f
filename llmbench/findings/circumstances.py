"""What stands beside the numbers of a run: its machine, what failed, what is left out, cautions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llmbench import stats, store
from llmbench.findings.numbers import ASKED, CELL, METRICS, MOST, clip, count, shown
from llmbench.units import nbytes, per_second, significant

FLAGS = {
    "preview": "too few blocks for a claim",
    "cold": "not warmed up",
    "reloaded": "the model was loaded again in between",
    "cached": "part of the prompt was already cached",
    "short": "fewer tokens than asked",
    "merged": "the server sent several tokens as the first piece: when the first came is not known",
    "impossible": "faster than the machine can be",
    "incorrect": "the output differs from the other repeats or the reference",
    "drift": "its times became longer or shorter over a process run",
    "unsteady": "its process changed its speed by 1 % or more and stayed there; a label only",
    "beyond_context": "beyond the trained context: cost only",
    "throttled": "the clock was lowered by heat or power",
    "contaminated": "other programs used the machine",
    "duplicate": "the same repeat is stored more than once",
}
STATUSES = {
    "oom": "ran out of memory",
    "timeout": "passed the deadline",
    "unsupported": "is not supported",
    "refused": "was refused",
    "engine_lost": "lost its engine",
    "interrupted": "was interrupted",
    "failed": "failed",
}
MOST_JUDGED = 100  # cells whose steadiness is judged; of more, every n-th


@dataclass(frozen=True)
class About:
    """What a run's folder tells beside its rows."""

    name: str
    params_text: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)
    environments: Mapping[str, Any] = field(default_factory=dict)


def about(folder: str | Path) -> About:
    """What the folder of a run tells beside its rows; an absent file is an absent text."""
    folder = Path(folder)
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8") if params.is_file() else ""
    return About(folder.resolve().name, text, store.status(folder), store.environments(folder))


def lost_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells of which no repeat may be shown although some were tried: with status and count."""
    asked = [*ASKED, "batch_size", "context_len"]
    lost = frame[frame["status"] != "ok"].groupby([*asked, "status"], as_index=False).size()
    lost = lost.rename(columns={"size": "repeats"})
    if lost.empty:
        return lost
    kept = shown(frame)[asked].drop_duplicates().assign(kept=True)
    lost = lost.merge(kept, on=asked, how="left")
    return lost[lost["kept"].isna()].drop(columns="kept").reset_index(drop=True)


def failures(frame: pd.DataFrame) -> tuple[str, ...]:
    """One sentence a kind of failure: how many repeats, of what, why."""
    bad = frame[frame["status"] != "ok"].copy()
    bad["reason"] = bad["reason"].astype(object).where(bad["reason"].notna(), "no reason recorded")
    kinds = bad.groupby(["run", "fingerprint", "engine", "model", "status", "reason"], sort=True)
    ordered = sorted(kinds, key=lambda kind: -len(kind[1]))
    lines = [_failure(key, rows) for key, rows in ordered[:MOST]]
    rest = sum(len(rows) for _, rows in ordered[MOST:])
    return (*lines, f"{rest:,} further repeats failed for other reasons.") if rest else tuple(lines)


def _failure(key: tuple, rows: pd.DataFrame) -> str:
    run, _, engine, model, status, reason = key
    sizes = rows[["batch_size", "context_len"]].drop_duplicates().sort_values(["context_len"])
    named = [f"batch {b:,} at {n:,} tokens" for b, n in sizes.itertuples(index=False)]
    where = ", ".join(named[:4]) + (f" and {len(named) - 4} more sizes" if len(named) > 4 else "")
    return (f"{count(len(rows), 'repeat')} of {clip(model, 60)} with {engine} "
            f"{STATUSES[status]} ({where}; run {run}): {clip(reason, 300)}")  # fmt: skip


def excluded(frame: pd.DataFrame) -> tuple[str, ...]:
    """One sentence a flag that keeps rows out: how many measured repeats carry it, and why."""
    ok = frame[frame["status"] == "ok"]
    counts = ok["flags"].explode().dropna().value_counts()
    counts = counts.drop(list(stats.LABELS), errors="ignore")
    return tuple(f"{count(number, 'repeat')} of {len(ok):,} flagged {flag}: "
                 f"{FLAGS.get(flag, 'see the records')}; kept, and in no claim of speed."
                 for flag, number in counts.sort_index().items())  # fmt: skip


def machines(abouts: Iterable[About]) -> tuple[str, ...]:
    """One sentence a fingerprint, from the environments stored beside the rows."""
    told = {}
    for environment in (e for about in abouts for e in about.environments.values()):
        told.setdefault(environment["fingerprint"], describe(environment))
    return tuple(f"{fingerprint}: {text}." for fingerprint, text in told.items())


def describe(environment: Mapping[str, Any]) -> str:
    """The machine in one line: processor, cores, memory, GPUs, system, versions, roofs."""
    machine = environment["machine"]
    cores = f"{machine['physical_cores'] or '?'} cores ({machine['logical_cores']} threads)"
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    versions = ", ".join(f"{n} {v}" for n, v in sorted(machine["packages"].items()))
    parts = [machine["cpu_model"], cores, f"{nbytes(machine['memory_bytes'])} memory", gpus,
             machine["os"], f"Python {machine['python']}", versions]  # fmt: skip
    roofs = environment.get("roofs") or {}
    if roofs.get("bytes_per_s"):
        parts.append(f"memory roof {per_second(roofs['bytes_per_s'], 'B')} ({roofs['source']})")
    return ", ".join(part for part in parts if part)


def machine_sentences(environment: Mapping[str, Any]) -> list[str]:
    """What the measured roofs of one machine mean for a model on it."""
    roofs = environment.get("roofs")
    if not roofs:
        return ["No roof of this machine is known, so nothing can be set beside one."]
    read, flops = roofs["bytes_per_s"], roofs["flops_per_s"]
    readings = roofs.get("raw", {}).get("read_bytes_per_s") or [read]
    return [
        f"Memory is read at up to {per_second(read, 'B')} (the lowest of {len(readings)} readings: "
        f"{per_second(min(readings), 'B')}), so a model whose weights take 1 GB cannot decode "
        f"faster than {significant(read / 1e9)} tokens a second, one row at a time, unless a "
        "cache holds them.",
        f"Matrices are multiplied at up to {per_second(flops, 'FLOP')}; an operation of fewer "
        f"than {significant(flops / read)} FLOPs for each byte it reads is bound by memory here.",
        f"How they were measured: {roofs['source']}.",
    ]


def deferred(abouts: Iterable[About]) -> tuple[str, ...]:
    """A sentence for each study of which a part was left for lack of time or of disk."""
    lines = []
    for about in abouts:
        for study, counted in about.status.get("studies", {}).items():
            if counted.get("deferred"):
                of = f"{counted['deferred']:,} of {counted['planned']:,} repeats of {study}"
                lines.append(f"{of} in {about.name} were deferred for lack of time.")
            lines += [f"{model} was left out of {study} in {about.name}: {why}."
                      for model, why in counted.get("left_out", {}).items()]  # fmt: skip
    return tuple(lines)


def cautions(frame: pd.DataFrame, usable: pd.DataFrame) -> tuple[str, ...]:
    """What a reader must know before he believes the rest."""
    lines = []
    if frame["fingerprint"].nunique() > 1:
        lines.append(f"{frame['fingerprint'].nunique()} machines took part; they are shown apart "
                     "and never pooled.")  # fmt: skip
    preview = int(usable["preview"].sum())
    if preview:
        part = "" if preview == len(usable) else f"{preview:,} of {len(usable):,} repeats have "
        lines.append(f"Preview: {part}too few process runs or blocks for a claim.")
    return (*lines, *_beyond(usable), *_levels(usable), *_unstable(usable))


def _beyond(usable: pd.DataFrame) -> list[str]:
    """How many repeats are longer than their model was trained for."""
    rows = usable[usable["flags"].map(lambda flags: "beyond_context" in flags).astype(bool)]
    if rows.empty:
        return []
    models = ", ".join(sorted(rows["model"].unique()))
    return [f"Beyond the trained context: {len(rows):,} of {len(usable):,} repeats, of {models}, "
            "are longer than their model was trained for; they tell costs only, nothing of quality "
            "or agreement."]  # fmt: skip


def _levels(usable: pd.DataFrame) -> list[str]:
    """How many processes changed their speed for good, of those with enough repeats to tell."""
    process = ["run", "fingerprint", "process_run", "child"]
    unsteady = usable["flags"].map(lambda flags: "unsteady" in flags).astype(bool)
    lost, repeats = usable[unsteady].groupby(process).ngroups, usable.groupby(process).size()
    judged = int((repeats >= stats.STEADY_REPEATS).sum())
    return [f"No steady state: {lost:,} of the {judged:,} processes that could be judged (of "
            f"{len(repeats):,}) changed their speed by 1 % or more and stayed there; their rows "
            "are labelled and enter claims."] if lost else []  # fmt: skip


def _unstable(usable: pd.DataFrame) -> list[str]:
    """How many cells are not steady, by metric, and a warning; nothing where all are."""
    keys = usable[CELL].drop_duplicates()
    judged = keys.iloc[:: -(-len(keys) // MOST_JUDGED) or 1]
    metrics = ["prefill_s", "tpot_s"]
    told = usable[[*CELL, "process_run", "sequence", "status", "flags", *metrics]]
    rows = told.merge(judged, on=CELL)
    counts, worst = [], []
    for metric in metrics:
        cells = stats.stability(rows, metric, CELL)
        warned = cells[cells["warnings"].map(len) > 0]
        if len(warned):
            name = METRICS[metric].label.lower()
            counts.append(f"{name} in {len(warned):,} of {len(cells):,} cells")
            worst.append(_worst(warned.loc[warned["iqr"].idxmax()]))
    return [f"Not steady: {', '.join(counts)}. {' '.join(worst)}"] if counts else []


def _worst(cell: pd.Series) -> str:
    """The most scattered cell of a metric and its first warning."""
    who = cell["attention_impl"] or cell["engine"]
    said = cell["warnings"][0].partition(": ")[2]
    return (f"Worst in {METRICS[cell['metric']].label.lower()} is {who} at "
            f"{cell['context_len']:,} tokens, batch {cell['batch_size']}: {said}.")  # fmt: skip
