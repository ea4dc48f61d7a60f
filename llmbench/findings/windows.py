"""What a context window costs: time per doubling, memory per token beside the KV arithmetic."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from llmbench import stats
from llmbench.findings.numbers import EN, SERIES, count, engine_names, fixed, shown
from llmbench.stats import Interval
from llmbench.units import nbytes

LINE = [*SERIES, "batch_size"]  # windows of one line differ in nothing but their size
COLUMNS = ["Engine", "Model", "Batch (rows)", "Window (tokens)", "Doubling", "Time",
           "95 % interval", "Process runs"]  # fmt: skip
COST_ONLY = " (cost only)"  # beside a window that the model was not trained for


class Line(NamedTuple):
    """Who filled the windows, as people read it, and its rows."""

    engine: str
    model: str
    batch_size: int
    rows: pd.DataFrame


class Doubling(NamedTuple):
    """What a window has beside one of half its size: a ratio or a difference."""

    window: int  # the larger one, in tokens
    found: Interval


class Buffer(NamedTuple):
    """Memory of a filled window as a straight line: bytes at none, bytes a token of the window."""

    base: Interval
    per_token: Interval  # of all rows of the batch
    windows: int
    kv_bytes_per_token: float  # keys and values of all rows, from the architecture; NaN: not known


# -- numbers ---------------------------------------------------------------------------------------


def lines(frame: pd.DataFrame) -> Iterator[Line]:
    """Each series and batch size of the filled windows: no two runs or machines are mixed."""
    rows = shown(frame)
    rows = rows[(rows["study"] == "context_windows") & (rows["prompt"] == "exact")]
    names = engine_names(rows)
    for _, line in rows.groupby(LINE, sort=True, dropna=False):
        first = line.iloc[0]
        yield Line(names[line.index[0]], first["model"], int(first["batch_size"]), line)


def filling(rows: pd.DataFrame) -> pd.Series:
    """Seconds that filling the window took: to the first token where no prefill is told apart."""
    return rows["prefill_s"].fillna(rows["ttft_s"])


def held(rows: pd.DataFrame) -> pd.Series:
    """Resident bytes of an engine's processes, its servers too, at their peak."""
    return rows["peak_bytes"]


def time_factors(line: Line) -> list[Doubling]:
    """How many times longer each doubled window takes to fill."""
    return _doubled(line, filling, lambda larger, smaller: larger / smaller)


def memory_steps(line: Line) -> list[Doubling]:
    """How many more bytes each doubled window holds."""
    return _doubled(line, held, lambda larger, smaller: larger - smaller)


def _doubled(
    line: Line, value: Callable[[pd.DataFrame], pd.Series],
    beside: Callable[[pd.Series, pd.Series], pd.Series],
) -> list[Doubling]:  # fmt: skip
    """Taken within each process run; median and exact interval over process runs."""
    taken = _of_process_runs(line.rows, value)
    found = [Doubling(int(window), stats.median_interval(
                 beside(taken[window], taken[window / 2]).dropna()))
             for window in taken if window / 2 in taken]  # fmt: skip
    return [doubling for doubling in found if doubling.found.n]


def buffer(line: Line) -> Buffer | None:
    """The straight line through each process run's windows; None with fewer than two windows."""
    peaks = _of_process_runs(line.rows, held).dropna()
    if len(peaks.columns) < 2 or peaks.empty:
        return None
    fitted = np.polyfit(peaks.columns.to_numpy(float), peaks.to_numpy(float).T, 1)
    slope, base = (stats.median_interval(values) for values in fitted)
    kv = line.rows["kv_bytes_per_token"].median() * line.batch_size
    return Buffer(base, slope, len(peaks.columns), float(kv))


def _of_process_runs(
    rows: pd.DataFrame, value: Callable[[pd.DataFrame], pd.Series]
) -> pd.DataFrame:
    """Medians of `value`: a row a process run, a column a window."""
    return rows.assign(_value=value(rows)).pivot_table(
        index="process_run", columns="window", values="_value", aggfunc="median"
    )


# -- for people ------------------------------------------------------------------------------------


def doublings(frame: pd.DataFrame) -> pd.DataFrame:
    """How many times longer each doubled window takes: a row a pair of windows, `COLUMNS`."""
    made = []
    for line in lines(frame):
        flagged = line.rows["flags"].map(lambda flags: "beyond_context" in flags).astype(bool)
        beyond = set(line.rows["window"][flagged])
        for window, ratio in time_factors(line):
            ends = f"{fixed(ratio.low, 2)}{EN}{fixed(ratio.high, 2)}" if ratio.estimable else EN
            pair = f"{window // 2:,} → {window:,}{COST_ONLY * (window in beyond)}"
            made.append((line.engine, line.model, line.batch_size, window, pair,
                         f"x {fixed(ratio.value, 2)}", ends, ratio.n))  # fmt: skip
    return pd.DataFrame(made, columns=COLUMNS)


def window_sentences(frame: pd.DataFrame) -> list[str]:
    """Time a doubling and memory a token, in words."""
    told = []
    for row in doublings(frame).itertuples(index=False):
        sizes = row[4].removesuffix(COST_ONLY)
        label = row[4][len(sizes) :]
        told.append(f"{row[1]} with {row[0]}: filling a window of twice the size, {sizes} tokens"
                    f"{label}, takes {row[5].removeprefix('x ')} times as long ({_sure(row[6])}, "
                    f"{count(row[7], 'process run')}).")  # fmt: skip
    return [*told, *_memory(frame)]


def _sure(interval: str) -> str:
    return "no interval" if interval == EN else f"95 % interval {interval}"


def _memory(frame: pd.DataFrame) -> list[str]:
    """Bytes that each further token of a window adds to the peak, beside its keys and values."""
    told = []
    for line in lines(frame):
        found = buffer(line)
        if found is None:
            continue
        kv = 1000 * found.kv_bytes_per_token
        beside = f"; keys and values of 1,000 tokens are {nbytes(kv)}" if np.isfinite(kv) else ""
        told.append(f"{line.model} with {line.engine}: the peak of resident memory "
                    f"{_each_thousand(found.per_token)}, from "
                    f"{nbytes(max(0.0, found.base.value))} (a straight line through "
                    f"{found.windows} windows, {count(found.per_token.n, 'process run')})"
                    f"{beside}.")  # fmt: skip
    return told


def _each_thousand(slope: Interval) -> str:
    """'grows by 28.6 MiB (95 % interval 28.1-29.0 MiB) for each …', from bytes a token."""
    ends = (slope.low, slope.high) if slope.estimable else (slope.value, slope.value)
    if ends[0] <= 0:
        return f"does not {'surely ' * (ends[1] > 0)}grow with the window"
    value, low, high = (nbytes(1000 * bound) for bound in (slope.value, *ends))
    sure = f"95 % interval {low}{EN}{high}" if slope.estimable else "no interval"
    return f"grows by {value} ({sure}) for each 1,000 tokens of a window"
