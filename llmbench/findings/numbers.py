"""Which rows may be shown, which may be summarised together, and numbers as people read them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import pandas as pd

from llmbench import stats

ASKED = ["run", "fingerprint", "study", "engine", "model", "model_sha256", "prompt",
         "output_tokens", "device", "threads", "seed", "options", "weights"]  # fmt: skip
SERVED = ["impl", "attention_impl", "weight_format"]
SERIES = ASKED + SERVED  # one line of a figure, before batch and length
SUMMARY = ["metric", "median", "low", "high", "estimable", "process_runs", "repeats", "cv"]
CELL = [*SERIES, "batch_size", "context_len"]  # rows that may be summarised together
OTHERS = [name for name in SERIES if name not in ("engine", "model")]
EN = "\N{EN DASH}"
MOST = 12  # sentences or fits of one kind before the rest is only counted
TOLD_BY = {"model_sha256": ["model"], "fingerprint": ["run"], "impl": ["engine"],
           "attention_impl": ["engine"],
           "options": ["engine", "attention_impl", "weight_format"],
           "weights": ["engine", "weight_format"]}  # fmt: skip
AFFIXES = {"threads": ("", " threads"), "output_tokens": ("", " tokens out"), "seed": ("seed ", ""),
           "fingerprint": ("machine ", ""), "model_sha256": ("sha256 ", "")}  # fmt: skip


class Metric(NamedTuple):
    """How a column of the frame is shown to people."""

    label: str
    unit: str
    factor: float  # SI value times factor = value in `unit`


METRICS = {
    "prefill_s": Metric("Prefill time", "ms", 1e3),
    "ttft_s": Metric("Time to first token", "ms", 1e3),
    "e2e_s": Metric("Time of the whole answer", "ms", 1e3),
    "tpot_s": Metric("Decode time per token", "ms", 1e3),
    "decode_tok_per_s": Metric("Decode rate", "tok/s", 1.0),
    "prefill_tok_per_s": Metric("Prefill rate", "tok/s", 1.0),
    "peak_bytes": Metric("Peak resident memory", "MiB", 2.0**-20),
    "load_s": Metric("Load time", "ms", 1e3),
    "held_bytes": Metric("Memory after load", "MiB", 2.0**-20),
}


# -- which rows, and their summaries ---------------------------------------------------------------


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that may be drawn: `ok` and unflagged but for `preview`, which is said where shown."""
    rows = stats.claimable(frame)
    rows = rows[~rows["twin"].astype(bool)].copy() if "twin" in rows else rows.copy()
    for name in SERVED:
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "")
    return rows


def summary(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row a cell: median and interval over process runs of `metric`, of the rows shown."""
    return summaries(frame, [metric])[metric]


def summaries(frame: pd.DataFrame, metrics: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The `summary` of each of `metrics`; the cells of the rows are looked for once."""
    needed = [*CELL, "process_run", "child", "twin", "status", "flags", *metrics]
    rows = shown(frame[[name for name in dict.fromkeys(needed) if name in frame]])
    rows["cell"] = rows.groupby(CELL, dropna=False).ngroup()  # numbered in the cells' order
    cells = rows.drop_duplicates("cell").set_index("cell")[CELL]
    used = ["cell", *stats.UNIT, "status", "flags"]
    tables = {}
    for metric in metrics:
        known = rows.loc[rows[metric].notna(), [*used, metric]]
        table = stats.summarise(known, metric, ["cell"])
        tables[metric] = cells.loc[table["cell"]].reset_index(drop=True).join(table[SUMMARY])
    return tables


def series_names(rows: pd.DataFrame) -> pd.Series:
    """A short name of each row's series: what differs between them, or the engine."""
    names = _differences(rows, ["engine", "model", *OTHERS]).str.removeprefix(", ")
    return names.where(names != "", rows["engine"].astype(str))


def engine_names(rows: pd.DataFrame) -> pd.Series:
    """The engine of each row, and what else differs but the model, which stands beside it."""
    return rows["engine"].astype(str) + _differences(rows, OTHERS)


def _differences(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """', 2 threads, seed 17' of each row: the values that differ and that no other column tells."""
    texts = pd.Series("", index=rows.index)
    for column in columns:
        known = rows.loc[rows[column] != ""]
        other = TOLD_BY.get(column)
        told = other and (known.groupby(other)[column].nunique() <= 1).all()
        if known[column].nunique() > 1 and not told:
            before, after = AFFIXES.get(column, ("", ""))
            values = rows[column].astype(str)
            short = (model_names if column == "model" else shortened)(values.unique())
            texts = texts + (", " + before + values.map(short) + after).where(values != "", "")
    return texts


def model_names(models: Iterable[str]) -> dict[str, str]:
    """A short name of each model: without its owner or folder where they still differ."""
    models = sorted(set(models))
    tails = [model.rstrip("/").rpartition("/")[2] or model for model in models]
    told = tails if len(set(tails)) == len(models) else models
    short = shortened(told)
    return {model: short[name] for model, name in zip(models, told, strict=True)}


def shortened(names: Iterable[str], most: int = 28) -> dict[str, str]:
    """Each name clipped to `most` characters; what makes them equal is left out or numbered."""
    names = sorted(set(names))
    short = [clip(name, most) for name in names]
    if len(set(short)) < len(names):  # then the part that all share says nothing
        same = next(i for i, letters in enumerate(zip_longest(*names)) if len(set(letters)) > 1)
        short = [clip(f"…{name[same:]}", most) for name in names]
    used = [Counter(short[: i + 1])[name] for i, name in enumerate(short)]
    numbered = [name if n == 1 else f"{name} ({n})" for name, n in zip(short, used, strict=True)]
    return dict(zip(names, numbered, strict=True))


def clip(text: object, most: int = 28) -> str:
    """`text`, its middle cut out when it is longer than `most` characters."""
    text = str(text)
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    before, cut, after = text.partition("…")
    if cut and len(after) >= half:  # cut more where it is cut already
        after = after[3 - most :]
        return f"{before[: most - 1 - len(after)]}…{after}"
    return f"{text[:half]}…{text[-half:]}"


# -- numbers for people ----------------------------------------------------------------------------


def decimals(median: float, low: float, high: float) -> int:
    """Decimal places so that the interval's half-width has two digits; 2 to 4 digits in all."""
    if median == 0 or not math.isfinite(median):
        return 0
    magnitude = math.floor(math.log10(abs(median)))
    half = (high - low) / 2
    digits = 3
    if math.isfinite(half):
        digits = magnitude + 2 - math.floor(math.log10(half)) if half > 0 else 4
    return min(4, max(2, digits)) - 1 - magnitude


def quantity(median: float, low: float, high: float, metric: str) -> tuple[str, str]:
    """('41.2 ms', '39.8-43.0 ms'); the second is '' where no interval is estimable."""
    _, unit, factor = METRICS[metric]
    places = decimals(median * factor, low * factor, high * factor)
    value, bottom, top = (fixed(v * factor, places) for v in (median, low, high))
    interval = f"{bottom}{EN}{top} {unit}" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{value} {unit}", interval


def fixed(value: float, places: int) -> str:
    """`value` with so many decimals (negative: rounded to tens, hundreds); a dash for NaN."""
    return f"{round(value, places):,.{max(0, places)}f}" if math.isfinite(value) else "—"


def said(cell: Any) -> str:
    """'41.2 ms (95 % interval 39.8-43.0 ms, 6 process runs)' of a row of `summary`."""
    value, interval = quantity(cell.median, cell.low, cell.high, cell.metric)
    return f"{value} ({sure(interval)}, {count(cell.process_runs, 'process run')})"


def sure(interval: str) -> str:
    """The words for an interval, or for its absence."""
    return f"95 % interval {interval}" if interval else "no interval"


def count(number: int, noun: str) -> str:
    """'1 row', '2 rows'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
