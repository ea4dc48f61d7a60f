"""What the protocol of a comparison of engines asks to be told of each, and whether it succeeded.

Throughput mean, deviation, least and most; latency P50, P95, P99; jitter; time to the first token;
memory; power. Success: so many times as good as the baseline on every model, and steady.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llmbench import pairs, stats
from llmbench.findings.comparisons import Told
from llmbench.findings.numbers import (
    EN,
    METRICS,
    SERIES,
    count,
    engine_names,
    fixed,
    model_names,
    quantity,
    shown,
)
from llmbench.pairs import Claim

TAILS = (0.5, 0.95, 0.99)
ALL = "all its processes (RSS)"  # what `peak_bytes` is the memory of
LINE = [name for name in SERIES if name != "prompt"]


class Side(NamedTuple):
    """The rows of one engine, model and kind of prompt, as people read them."""

    engine: str
    model: str
    batch_size: int
    asked: str  # 'named texts' or '512 tokens'
    rows: pd.DataFrame

    @property
    def preview(self) -> bool:
        """Whether there are too few blocks for a claim."""
        return bool(self.rows["preview"].any())


class Peak(NamedTuple):
    """The most memory of any repeat, and which view of memory that is; NaN: not known."""

    bytes: float
    view: str


def sides(frame: pd.DataFrame) -> Iterator[Side]:
    """Each engine, model and kind of prompt of the study `ollama_comparison`, never pooled."""
    rows = shown(frame)
    rows = rows[rows["study"] == "ollama_comparison"]
    exact = rows["context_len"].map("{:,} tokens".format)
    rows = rows.assign(who=engine_names(rows.assign(prompt="")),
                       asked=exact.where(rows["prompt"] == "exact", "named texts"))  # fmt: skip
    for _, some in rows.groupby([*LINE, "batch_size", "asked"], sort=True, dropna=False):
        first = some.iloc[0]
        yield Side(first["who"], first["model"], int(first["batch_size"]), first["asked"], some)


def protocol_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row an engine, model and kind of prompt: the protocol's metrics, or why one is not known.

    The median's interval is exact and over process runs; the rest is of the repeats at hand.
    """
    return pd.DataFrame([_row(side) for side in sides(frame)])


def _row(side: Side) -> dict[str, Any]:
    rows = side.rows
    rates = rows["decode_tok_per_s"].dropna()
    told = {name: fixed(getattr(rates, name)(), 2) for name in ("mean", "std", "min", "max")}
    peak = peak_memory(rows)
    return {
        "Engine": side.engine, "Model": side.model, "Batch (rows)": side.batch_size,
        "Prompt": side.asked, "Process runs": rows["process_run"].nunique(), "Repeats": len(rows),
        **{f"Decode rate, {name} (tok/s)": value for name, value in told.items()},
        "Decode rate, median (tok/s)": _median(rows, "decode_tok_per_s"),
        **{f"Answer, P{100 * q:.0f} (ms)": observed(rows["e2e_s"].dropna(), q) for q in TAILS},
        "Jitter (ms)": jitter(rows), "First token, median (ms)": _median(rows, "ttft_s"),
        "Peak memory (MiB)": fixed(peak.bytes / 2**20, 0) if peak.bytes == peak.bytes else EN,
        "Memory of": peak.view, "Power (W)": power(rows), "Label": label(side.preview),
    }  # fmt: skip


def tails_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row an engine, model and kind of prompt: how long whole answers take in the worst case.

    Percentiles are those of the repeats at hand, and say nothing of others: repeats of one process
    resemble each other. `within` is a limit that all repeats of so many of all process runs keep,
    with 99 % confidence. Jitter is the standard deviation of the gaps between tokens.
    """
    made = []
    for side in sides(frame):
        times = side.rows["e2e_s"].dropna()
        worst = side.rows.groupby("process_run")["e2e_s"].max().dropna()
        row = {"Engine": side.engine, "Model": side.model, "Batch (rows)": side.batch_size,
               "Prompt": side.asked, "Process runs": len(worst), "Repeats": len(times)}  # fmt: skip
        row |= {f"P{100 * q:.0f} (ms)": observed(times, q) for q in TAILS}
        row |= {f"{100 * q:.0f} % of process runs within (ms)": _limit(worst, q) for q in TAILS[1:]}
        made.append(row | {"Jitter (ms)": jitter(side.rows), "Label": label(side.preview)})
    return pd.DataFrame(made)


def _limit(worst: pd.Series, quantile: float) -> str:
    bound = stats.tail_bound(worst, quantile)
    return f"≤ {fixed(1e3 * bound.value, 1)}" if bound.estimable else bound.note


def label(preview: bool) -> str:
    """What stands beside a row of a table: that it is no more than a preview."""
    return "preview" if preview else ""


def _median(rows: pd.DataFrame, metric: str) -> str:
    """'101.3 [100.7-104.4]': the median of process runs, its interval or a dash."""
    runs = stats.process_run_medians(rows, metric, ["model"])[metric]
    if runs.empty:
        return EN
    found = stats.median_interval(runs)
    ends = (found.low, found.high) if found.estimable else (np.nan, np.nan)
    unit = f" {METRICS[metric].unit}"
    value, interval = (text.removesuffix(unit) for text in quantity(found.value, *ends, metric))
    return f"{value} [{interval or EN}]"


def observed(times: pd.Series, quantile: float) -> str:
    """The percentile of these times in ms, where even independent ones would bound it."""
    found = stats.quantile_interval(times, quantile)
    return fixed(1e3 * found.value, 1) if found.estimable else found.note


def jitter(rows: pd.DataFrame) -> str:
    """Standard deviation of the gaps between tokens, in ms; a dash where none are known."""
    gaps = np.concatenate([np.empty(0), *rows["itl_s"]])
    return fixed(1e3 * gaps.std(ddof=1), 2) if len(gaps) > 1 else EN


def peak_memory(rows: pd.DataFrame) -> Peak:
    """The most that any repeat held; not known where it is less than the weights.

    So little was seen of processes that do not hold the model.
    """
    if rows["peak_bytes"].isna().any():
        return Peak(np.nan, "not recorded")
    if (rows["peak_bytes"] < rows["weight_bytes"]).any():
        return Peak(np.nan, "not known: what was seen holds less than the weights")
    return Peak(float(rows["peak_bytes"].max()), ALL)


def power(rows: pd.DataFrame) -> str:
    """Mean power of the repeats in W; 'null: ' and the reason where it was not measured."""
    known = rows[["energy_j", "energy_window_s"]].dropna() if "energy_j" in rows else rows.iloc[:0]
    if len(known):
        return fixed(known["energy_j"].sum() / known["energy_window_s"].sum(), 1)
    reasons = sorted(rows["energy_reason"].dropna().unique()) if "energy_reason" in rows else []
    return f"null: {'; '.join(reasons) or 'not recorded'}"


# -- success ---------------------------------------------------------------------------------------


def success_sentences(told: Iterable[Told]) -> list[str]:
    """Whether the success asked for is met on every model, a sentence a pair and metric."""
    groups: dict[tuple, list[Claim]] = {}
    for one in told:
        for claim in one.comparison.claims if one.comparison else ():
            run = dict(claim.group).get("run", "")
            key = (run, one.target, one.baseline, one.metric, claim.at_least)
            groups.setdefault(key, []).append(claim)
    return [_success(*key[1:], claims) for key, claims in groups.items()]


def _success(
    target: str, baseline: str, metric: str, at_least: float, claims: list[Claim]
) -> str:  # fmt: skip
    models: dict[str, list[Claim]] = {}
    for claim in claims:
        models.setdefault(claim.model or "the model", []).append(claim)
    met = {name: _all_met(its) for name, its in models.items()}
    short = model_names(models)
    parts = {True: "met on", False: "not met on", None: "cannot be said of"}
    of = {state: [_said(short[n], models[n], state) for n in met if met[n] is state]
          for state in parts}  # fmt: skip
    told = [f"{words} {', '.join(of[state])}" for state, words in parts.items() if of[state]]
    preview = "Preview, not a claim: " if any(claim.preview for claim in claims) else ""
    gate = f"ratios of blocks that vary by less than {100 * pairs.STEADY_CV:g} %"
    what = f"{target} against {baseline} in {METRICS[metric].label.lower()}"
    return (f"{preview}Success of {what} (at least {at_least:g} times as good, and {gate}), of "
            f"{count(len(met), 'model')}: {'; '.join(told)}.")  # fmt: skip


def _all_met(claims: list[Claim]) -> bool | None:
    states = {claim.met for claim in claims}
    return False if False in states else None if None in states else True


def _said(name: str, claims: list[Claim], state: bool | None) -> str:
    """The model, and of the claims that keep it from success why they do."""
    if state:
        return name
    why = dict.fromkeys(_why(claim) for claim in claims if claim.met is state)
    return f"{name} ({', '.join(why)})"


def _why(claim: Claim) -> str:
    """'ratio 1.2, to 1.3 at most', 'they vary by 7.1 %' …, of one claim that is not met."""
    length = dict(claim.group).get("prompt_tokens")
    where = f" at {length:,} tokens" if length else ""
    if claim.met is None:
        return f"{'preview' if claim.preview else claim.verdict or 'not comparable'}{where}"
    if claim.verdict == "no":
        return f"{fixed(claim.ratio, 2)} times, at most {fixed(claim.high, 2)}{where}"
    return f"the ratios vary by {fixed(100 * claim.cv, 1)} %{where}"
