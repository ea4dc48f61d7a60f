"""The engines beside each other, a row a model, format and length: rates, ratios, bars, bandwidth.

Where the target's own decode reads at `LIMIT` or more of the bandwidth that was probed beside its
turns, it is at the machine's limit: its bar counts as reached, and the table says so.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from llmbench import stats
from llmbench.findings.comparisons import Told
from llmbench.findings.numbers import EN, METRICS, decimals, fixed, shown
from llmbench.pairs import Claim
from llmbench.params import WEIGHTS
from llmbench.stats import Interval

STUDY, DECODE = "ollama_comparison", "decode_tok_per_s"
LIMIT = 0.85  # share of the bandwidth beside it from which decode is at the machine's limit
PROBED, ROOF = "probed beside each turn", "roof of the run"
FORMATS = {name: number for number, name in enumerate(WEIGHTS)}  # the widest first
FIXED = ["Metric", "Model", "Weights", "Prompt"]  # columns; those of engines and baselines follow


@dataclass(frozen=True)
class Side:
    """One engine: median of process runs with its interval, and what a decode step reads."""

    value: Interval  # SI units
    step_bytes: float  # weights that it reads and the keys and values of the context; NaN: not told
    bytes_per_s: float  # that its decode implies


@dataclass(frozen=True)
class Beside:
    """Engines in one metric on one model in one format, asked the same."""

    run: str
    model: str
    weights: str  # '' where none was asked of all
    asked: str  # '512 tokens', 'named texts', or 'once a process'
    metric: str
    target: str
    sides: Mapping[str, Side]  # the target first
    claims: tuple[Claim, ...]  # the target against each baseline
    bandwidth: float  # bytes/s that memory gives; NaN: not known
    share: float  # of it that the target's decode reads; NaN: not known
    source: str  # PROBED, ROOF or ''

    @property
    def preview(self) -> bool:
        """Whether a claim of it is no more."""
        return any(claim.preview for claim in self.claims)

    @property
    def at_limit(self) -> bool:
        """Whether decode is at the machine's limit, by what was probed beside it."""
        return self.metric == DECODE and self.source == PROBED and self.share >= LIMIT

    def verdict(self, claim: Claim) -> str:
        """'yes', 'no' …; where the bar is not reached at the machine's limit, that it counts."""
        if claim.verdict in ("no", "inconclusive") and self.at_limit and not claim.preview:
            return (f"counts as reached: {fixed(100 * self.share, 0)} % of the bandwidth "
                    f"beside it ({claim.verdict} by the ratio)")  # fmt: skip
        said = claim.verdict or "cannot be said"
        return f"{said} (preview)" if claim.preview else said


def beside(frame: pd.DataFrame, told: Iterable[Told]) -> list[Beside]:
    """Every model, format and length of the comparisons `told`, in each metric of theirs."""
    groups: dict[tuple, list[Claim]] = {}
    for one in told:
        for claim in one.comparison.claims if one.comparison else ():
            if dict(claim.group).get("study") == STUDY:
                groups.setdefault((one.metric, claim.target, claim.group), []).append(claim)
    rows = shown(frame[frame["study"] == STUDY])
    found = [_beside(rows, claims) for claims in groups.values()]
    return sorted(found, key=lambda one: (one.run, one.model, FORMATS.get(one.weights, -1)))


def _beside(rows: pd.DataFrame, claims: list[Claim]) -> Beside:
    first = claims[0]
    about = dict(first.group)
    length = about.pop("prompt_tokens", None)
    for name, value in about.items():
        rows = rows[rows[name].fillna("") == value]
    if not first.once:
        exact = rows["prompt"] == "exact"
        rows = rows[exact & (rows["prompt_tokens"] == length) if length else ~exact]
    asked = "once a process" if first.once else f"{length:,} tokens" if length else "named texts"
    names = [first.target, *(claim.baseline for claim in claims)]
    sides = {name: _side(rows[rows["engine"] == name], first.metric) for name in names}
    bandwidth, share, source = _share(rows[rows["engine"] == first.target])
    return Beside(about.get("run", ""), about.get("model", ""), about.get("weights", ""), asked,
                  first.metric, first.target, sides, tuple(claims),
                  bandwidth, share, source)  # fmt: skip


def _side(rows: pd.DataFrame, metric: str) -> Side:
    runs = stats.process_run_medians(rows[rows[metric].notna()], metric, ["model"])[metric]
    nothing = Interval(math.nan, math.nan, math.nan, 0, 0.95, False)
    step = _step_bytes(rows)
    return Side(stats.median_interval(runs) if len(runs) else nothing, _middle(rows, step),
                _middle(rows, step / rows["tpot_s"]))  # fmt: skip


def _step_bytes(rows: pd.DataFrame) -> pd.Series:
    """Bytes that a decode step reads; where an engine does not tell its cache, of the weights."""
    weights = rows["step_weight_bytes"].where(rows["step_weight_bytes"] > 0)
    return weights + rows["batch_size"] * rows["kv_read_bytes"].fillna(0)


def _share(rows: pd.DataFrame) -> tuple[float, float, str]:
    """Bytes/s of memory, the share of them that decode reads, and where they are from.

    Turn by turn where memory was probed beside each; else by the roof that was measured once.
    """
    implied = _step_bytes(rows) / rows["tpot_s"]
    probed = rows["read_bytes_per_s"]
    if probed.notna().any():
        return _middle(rows, probed), _middle(rows, implied / probed), PROBED
    roof = _middle(rows, implied / rows["mbu"])
    return roof, _middle(rows, rows["mbu"]), ROOF if roof == roof else ""


def _middle(rows: pd.DataFrame, values: pd.Series) -> float:
    """The median of process runs of `values`; NaN without any."""
    known = rows.assign(_value=values)[values.notna()]
    runs = stats.process_run_medians(known, "_value", ["model"])["_value"]
    return float(runs.median()) if len(runs) else math.nan


# -- the table -------------------------------------------------------------------------------------


def engines_table(frame: pd.DataFrame, told: Iterable[Told]) -> pd.DataFrame:
    """A row a metric, model, format and length: each engine, then each baseline's ratio and bar.

    Of decode rates also the bytes/s that the target's implies, what memory gives, and the share.
    """
    found = beside(frame, told)
    order = {name: number for number, name in enumerate(METRICS)}
    found.sort(key=lambda one: (one.metric != DECODE, order[one.metric]))
    engines = list(dict.fromkeys(name for one in found for name in one.sides))
    baselines = list(dict.fromkeys(claim.baseline for one in found for claim in one.claims))
    against = [f"{what} {name}" for name in baselines for what in ("Against", "Bar:", "Verdict:")]
    columns = [*FIXED, *engines, *against, "Noise floor", "Decode reads (GB/s)",
               "Memory gives (GB/s)", "Share", "By", "Label"]  # fmt: skip
    several = len({one.run for one in found}) > 1
    rows = [dict.fromkeys(columns, "") | _row(one, several) for one in found]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _row(one: Beside, several: bool) -> dict[str, Any]:
    metric = METRICS[one.metric]
    floors = {_percent(c.noise_floor) for c in one.claims if c.noise_floor is not None}
    row = {"Metric": f"{metric.label} ({metric.unit})",
           "Model": f"{one.model} ({one.run})" if several else one.model,
           "Weights": one.weights, "Prompt": one.asked,
           "Noise floor": ", ".join(sorted(floors)) or "not known",
           "Label": "preview" if one.preview else ""}  # fmt: skip
    row |= {name: _value(side.value, metric.factor) for name, side in one.sides.items()}
    for claim in one.claims:
        ends = f"{fixed(claim.low, 2)}{EN}{fixed(claim.high, 2)}"
        known = math.isfinite(claim.ratio)
        row[f"Against {claim.baseline}"] = f"{fixed(claim.ratio, 2)} [{ends}]" if known else EN
        row[f"Bar: {claim.baseline}"] = f"{claim.at_least:g}"
        row[f"Verdict: {claim.baseline}"] = one.verdict(claim)
    return row | (_bandwidth(one) if one.metric == DECODE else {})


def _bandwidth(one: Beside) -> dict[str, str]:
    reads = one.sides[one.target].bytes_per_s
    return {"Decode reads (GB/s)": fixed(reads / 1e9, 1), "By": one.source,
            "Memory gives (GB/s)": fixed(one.bandwidth / 1e9, 1),
            "Share": _percent(one.share) if one.share == one.share else EN}  # fmt: skip


def _value(found: Interval, factor: float) -> str:
    """'101.3 [100.7-104.4]', a dash for an interval that cannot be estimated."""
    value, low, high = (factor * end for end in (found.value, found.low, found.high))
    if not math.isfinite(value):
        return EN
    places = decimals(value, low, high) if found.estimable else decimals(value, math.nan, math.nan)
    ends = f"{fixed(low, places)}{EN}{fixed(high, places)}" if found.estimable else EN
    return f"{fixed(value, places)} [{ends}]"


def _percent(share: float) -> str:
    return f"{fixed(100 * share, 1)} %"
