"""Frame → tables for people, written as CSV, Markdown and LaTeX (booktabs)."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from llmbench import findings, pairs, store
from llmbench.findings import Fit, Told, engines, next_tokens
from llmbench.findings.circumstances import FLAGS, STATUSES, lost_sizes
from llmbench.findings.numbers import (
    CELL,
    EN,
    METRICS,
    SERIES,
    SERVED,
    count,
    engine_names,
    fixed,
    quantity,
    shown,
    summaries,
)
from llmbench.findings.windows import doublings
from llmbench.pairs import Claim
from llmbench.units import nbytes, per_second

SHOWN = ("prefill_s", "tpot_s", "decode_tok_per_s", "peak_bytes")
GATE = f"Below {100 * pairs.STEADY_CV:g} %"
STATES = {True: "yes", False: "no", None: "cannot be said"}
PREVIEW = "preview"  # what the cell of a row that is no more than that says
BEYOND = "beyond_context"  # a flag that is told beside a cell's outcome
OUTCOMES = STATUSES | {"ok": "measured", PREVIEW: f"measured ({PREVIEW})"}
NOT_ESTIMABLE = EN  # in place of an interval
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$])")


def scaling_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: median [95 % interval] of each metric; a failed cell says how it failed."""
    cells = _cells(frame)
    names = engine_names(cells) if len(cells) else []
    table = pd.DataFrame({"Engine": names, "Model": cells["model"],
                          "Batch (rows)": cells["batch_size"],
                          "Prompt (tokens)": cells["context_len"],
                          "Outcome": cells["status"].map(lambda s: OUTCOMES.get(s, s))
                          + _beyond(cells, frame)}
                         )  # fmt: skip
    for metric, summary in summaries(frame, SHOWN).items():
        known = cells[CELL].merge(summary, on=CELL, how="left")
        if metric == SHOWN[0]:
            table["Process runs"] = known["process_runs"].fillna(0).astype(int).to_numpy()
        values = [_value(cell, metric) for cell in known.itertuples(index=False)]
        table[f"{METRICS[metric].label} ({METRICS[metric].unit})"] = values
    return table.sort_values(list(table.columns[:4]), ignore_index=True)


def checks_table(told: Iterable[Told]) -> pd.DataFrame:
    """A row a pair, check and what was seen: whether it holds, and of which claims that is said."""
    states = {True: "holds", False: "FAILS", None: "not recorded"}
    claims = [(one, claim) for one in told if one.comparison for claim in one.comparison.claims]
    seen: dict[tuple, list[str]] = {}
    for one, claim in claims:
        for check in claim.checks:
            row = (one.target, one.baseline, check.name, states[check.passed], check.detail)
            seen.setdefault(row, []).append(f"{METRICS[one.metric].label}, {_asked(claim)}")
    of = Counter((one.target, one.baseline) for one, _ in claims)
    order = {name: place for place, name in enumerate(dict.fromkeys(row[2] for row in seen))}
    rows = [(*row[:3], "all" if len(which) == of[row[:2]] else "; ".join(which), *row[3:])
            for row, which in seen.items()]  # fmt: skip
    rows.sort(key=lambda row: (row[:2], order[row[2]]))
    columns = ["Target", "Baseline", "Check", "Claims", "Outcome", "Seen"]
    return pd.DataFrame(rows, columns=columns)


def _asked(claim: Claim) -> str:
    """'named texts', or the length of the prompts."""
    if claim.once:
        return "once a process"
    length = dict(claim.group).get("prompt_tokens")
    return f"{length:,} tokens" if length else "named texts"


def ratios_table(told: Iterable[Told]) -> pd.DataFrame:
    """A row a claim: ratio, interval, noise floor, verdict; or why it cannot be compared."""
    columns = ["Target", "Baseline", "Metric", "Model", "Prompt", "Ratio", "95 % interval",
               "Noise floor", "At least", "Verdict", GATE, "Success", "CV of ratios",
               "CV of target, baseline", "Process runs", "Blocks"]  # fmt: skip
    rows = []
    for one in told:
        named = dict.fromkeys(columns, "") | {
            "Target": one.target, "Baseline": one.baseline, "Metric": METRICS[one.metric].label,
        }  # fmt: skip
        claims = one.comparison.claims if one.comparison else ()
        rows += [named | _claim(claim) for claim in claims]
        rows += [] if one.comparison else [named | {"Verdict": f"cannot say: {one.why_not}"}]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _claim(claim: Claim) -> dict[str, Any]:
    """One claim as a row for people; one that has no ratio says why, and no numbers."""
    about = {"Model": claim.model, "Prompt": _asked(claim),
             "At least": f"{claim.at_least:g}"}  # fmt: skip
    if math.isnan(claim.ratio):
        why = "; ".join(check.detail for check in claim.checks if check.passed is False)
        return about | {"Verdict": f"cannot say: {why}"}
    floor = claim.noise_floor
    known = floor is not None and math.isfinite(floor)
    verdict = claim.verdict or "none: not comparable"
    return about | {
        "Ratio": fixed(claim.ratio, 3),
        "95 % interval": f"{fixed(claim.low, 3)}{EN}{fixed(claim.high, 3)}",
        "Noise floor": f"{100 * floor:.1f} %" if known else "not known",
        "Process runs": claim.process_runs, "Blocks": claim.blocks,
        "Verdict": f"{verdict} (preview)" if claim.preview else verdict,
        "CV of ratios": _percent(claim.cv),
        "CV of target, baseline": ", ".join(map(_percent, claim.cv_sides)),
        GATE: STATES[claim.steady], "Success": STATES[claim.met],
    }  # fmt: skip


def _percent(share: float) -> str:
    return f"{fixed(100 * share, 1)} %"


def engines_table(frame: pd.DataFrame, told: Iterable[Told]) -> pd.DataFrame:
    """The engines beside each other, as `findings.engines`: rates, ratios, bars, bandwidth."""
    return engines.engines_table(frame, told)


def tails_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row an engine, model and kind of prompt: how long whole answers take in the worst case."""
    return findings.protocol.tails_table(frame)


def protocol_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row an engine, model and kind of prompt: every metric that the protocol asks for."""
    return findings.protocol.protocol_table(frame)


def growth_table(told: Iterable[Told]) -> pd.DataFrame:
    """A row a ratio that was asked at several lengths: whether it grows with them."""
    return findings.growth.growth_table(told)


def sizes_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a size of an engine's models: time per token, bytes per second, share of the best."""
    return findings.sizes.sizes_table(frame)


def next_tokens_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What each engine says comes next after the same prefixes, as `findings.next_tokens`."""
    return next_tokens.next_tokens_table(frame)


def devices_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a model and engine: whether it suits an edge device by the rule, and why not."""
    return findings.devices.devices_table(frame)


def validation_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a model and quantization: what loaded, in what bytes, and whether it passed."""
    return findings.validation.validation_table(frame)


def windows_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a doubling of the window: how many times longer it takes to fill it."""
    return doublings(frame)


def laws_table(fits: Iterable[Fit]) -> pd.DataFrame:
    """A row a series: the law of its growth with prompt length, or why none is claimed."""
    rows = [{"Engine": fit.engine, "Model": fit.series[SERIES.index("model")],
             "Batch (rows)": fit.batch_size, "Law": fit.law.law,
             "Formula": fit.law.model if fit.claimed else "",
             "Sizes": len(fit.law.sizes), "Why not": "" if fit.claimed else fit.law.reasons[0]}
            for fit in fits]  # fmt: skip
    columns = ["Engine", "Model", "Batch (rows)", "Law", "Formula", "Sizes", "Why not"]
    return pd.DataFrame(rows, columns=columns)


def roofs_table(environment: Mapping[str, Any]) -> pd.DataFrame:
    """A row a measured roof: the best reading, which counts, and the others; empty without any."""
    roofs = environment.get("roofs") or {}
    kinds = [("bytes_per_s", "read_bytes_per_s", "memory read", "B"),
             ("flops_per_s", "matmul_flops_per_s", "float32 matmul", "FLOP")]  # fmt: skip
    rows = [{"Roof": name, "Best": per_second(roofs[key], unit),
             "Median": per_second(statistics.median(roofs["raw"][raw]), unit),
             "Lowest": per_second(min(roofs["raw"][raw]), unit),
             "Readings": len(roofs["raw"][raw])}
            for key, raw, name, unit in kinds if roofs]  # fmt: skip
    return pd.DataFrame(rows, columns=["Roof", "Best", "Median", "Lowest", "Readings"])


def readings_table(environment: Mapping[str, Any]) -> pd.DataFrame:
    """A row a working set or dtype, a column a number of threads: best [lowest] of the readings.

    Empty without measured roofs, and for those of a version that measured one size and one dtype.
    """
    raw = (environment.get("roofs") or {}).get("raw") or {}
    told: dict[tuple[str, str], dict[str, str]] = {}
    for one in raw.get("readings", []):
        unit = "B" if one["what"] != "matmul" else "FLOP" if one["of"] != "int8" else "op"
        of = one["of"] if one["what"] == "matmul" else nbytes(one["of"])
        best, lowest = (per_second(pick(one["per_s"]), unit) for pick in (max, min))
        column = f"{one['threads']} thread{'s' * (one['threads'] > 1)}"
        told.setdefault((one["what"], of), {})[column] = f"{best} [{lowest}]"
    rows = [{"What": what, "Of": of} | by for (what, of), by in told.items()]
    return pd.DataFrame(rows, columns=None if rows else ["What", "Of"])


def failures_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a cell and kind of failure: how many repeats, and the reason."""
    bad = frame[frame["status"] != "ok"]
    bad = bad.assign(reason=bad["reason"].astype(object).where(bad["reason"].notna(), ""))
    by = ["run", "engine", "model", "batch_size", "context_len", "status", "reason"]
    table = bad.groupby(by, as_index=False).size()
    return table.set_axis(["Run", "Engine", "Model", "Batch (rows)", "Prompt (tokens)", "Status",
                           "Reason", "Repeats"], axis=1)  # fmt: skip


def flags_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run, engine and flag: how many repeats carry it, and what it means."""
    flagged = frame[frame["status"] == "ok"].explode("flags").dropna(subset="flags")
    table = flagged.groupby(["run", "engine", "flags"], as_index=False).size()
    table["meaning"] = table["flags"].map(lambda flag: FLAGS.get(flag, "see the records"))
    return table.set_axis(["Run", "Engine", "Flag", "Repeats", "Meaning"], axis=1)


def write(table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write NAME.csv, NAME.md and NAME.tex (needs booktabs, T1 fonts); values escaped for each.

    The last is for a paper: rows that are no more than a preview stay out of it, and are counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paper = published(table)
    out = len(table) - len(paper)
    note = f"% left out, as no more than a preview: {count(out, 'row')}\n" if out else ""
    texts = {"csv": csv(table), "md": markdown(table), "tex": note + latex(paper)}
    paths = [folder / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        store.snapshot(path, text.encode())
    return paths


def published(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a paper may show: those of which no cell of words says that it is a preview."""
    told = [name for name in ("Outcome", "Verdict", "Label") if name in table]
    marked = table[told].map(lambda value: PREVIEW in str(value)).any(axis=1)
    return table[~marked.astype(bool)].reset_index(drop=True)


def csv(table: pd.DataFrame) -> str:
    """Comma-separated; texts that a spreadsheet would run as a formula begin with an apostrophe."""
    guarded = table.map(lambda v: f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v)
    return guarded.to_csv(index=False, lineterminator="\n")


def markdown(table: pd.DataFrame) -> str:
    """A pipe table; whatever has a meaning in Markdown or HTML is escaped."""
    right = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rule = ["---:" if numeric else "---" for numeric in right]
    rows = [table.columns, *table.itertuples(index=False)]
    lines = [[MARKDOWN.sub(r"\\\1", _line(value)) for value in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in [lines[0], rule, *lines[1:]])


def latex(table: pd.DataFrame) -> str:
    """A booktabs tabular; every special character is escaped."""
    right = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    columns = "".join("r" if numeric else "l" for numeric in right)
    text = table.map(_line).to_latex(index=False, escape=True, column_format=columns)
    return re.sub(r"(\\\\\n)([\[*])", r"\1{}\2", text)  # else an argument of the line break


def _line(value: Any) -> str:
    return "; ".join(" ".join(line.split()) for line in str(value).splitlines() if line.strip())


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell that was tried: `status` is `ok`, `preview`, or why no repeat is counted."""
    measured = shown(frame)[[*CELL, "preview"]].drop_duplicates().sort_values("preview")
    measured = measured.drop_duplicates(CELL, keep="last")
    early = measured.pop("preview").astype(bool)
    measured["status"] = early.map({False: "ok", True: PREVIEW})
    done = frame[frame["status"] == "ok"].fillna(dict.fromkeys(SERVED, ""))
    flags = done.groupby(CELL, sort=False)["flags"].agg(
        lambda of: sorted({f for s in of for f in s})
    )
    flagged = flags.map(lambda names: f"all flagged: {', '.join(names)}").rename("status")
    known = pd.MultiIndex.from_frame(measured[CELL].fillna(dict.fromkeys(SERVED, "")))
    flagged = flagged[~flagged.index.isin(known)].reset_index()
    return pd.concat([measured, lost_sizes(frame), flagged], ignore_index=True).fillna(
        dict.fromkeys(SERVED, "")
    )


def _beyond(cells: pd.DataFrame, frame: pd.DataFrame) -> pd.Series:
    """'; beyond the trained context: cost only' a cell of which a row says so, else ''."""
    flagged = frame[frame["flags"].map(lambda flags: BEYOND in flags).astype(bool)]
    keys = [pd.MultiIndex.from_frame(rows[CELL].fillna(dict.fromkeys(SERVED, "")))
            for rows in (cells, flagged)]  # fmt: skip
    return pd.Series(keys[0].isin(keys[1]), cells.index).map(
        {True: f"; {FLAGS[BEYOND]}", False: ""}
    )


def _value(cell: Any, metric: str) -> str:
    """'101.3 [100.7-104.4]' without the unit, which stands in the header."""
    if not math.isfinite(cell.median):
        return ""
    value, interval = quantity(cell.median, cell.low, cell.high, metric)
    unit = f" {METRICS[metric].unit}"
    return f"{value.removesuffix(unit)} [{interval.removesuffix(unit) or NOT_ESTIMABLE}]"
