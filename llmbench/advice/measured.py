"""Rows of one contender in one study → the sizes it was measured at, their times and memory."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from llmbench import stats
from llmbench.stats import Interval
from llmbench.units import nbytes

STUDIES = ("context_windows", "scaling")  # whole windows; prompts of exact length
UNFIT = {"preview", "beyond_context"}  # labels of rows that recommend nothing
CONTENDER = ["model", "model_sha256", "engine", "device", "threads", "options", "weights"]
SERIES = ["run", *CONTENDER, "impl", "attention_impl", "weight_format", "study", "prompt", "seed",
          "output_tokens"]  # fmt: skip


class Evidence(NamedTuple):
    """One measured size behind a sentence. Times in s; null: the sample cannot bound it."""

    run: str
    study: str
    model: str
    engine: str
    options: str
    threads: int
    window: int  # tokens: a whole window, or a prompt and its output together
    prompt_tokens: int
    output_tokens: int
    metric: str
    median: float | None
    low: float | None
    high: float | None
    process_runs: int
    labels: tuple[str, ...]  # of these rows: `unsteady`


class Need(NamedTuple):
    """Bytes that a window needs. Measured: the largest peak seen; else a sum of three parts."""

    bytes: int | None
    source: str  # "measured", "predicted" or "unknown"
    why: str


@dataclass(frozen=True)
class Span:
    """Seconds of a request: measured with its interval, or only between two bounds."""

    value: float | None
    low: float | None
    high: float | None
    process_runs: int
    kind: str  # "measured": median and 95 % interval; "bounds": beyond what was measured


@dataclass(frozen=True)
class Measured:
    """One contender in one study of one run; `rows` may all enter a claim."""

    run: str
    study: str
    model: str
    engine: str
    options: str
    device: str
    threads: int
    output_tokens: int
    measured_at: str
    rows: pd.DataFrame
    oom_tokens: int | None  # the smallest size at which its memory ran out

    @property
    def who(self) -> tuple:
        """What makes it the same contender in another study or run."""
        first = self.rows.iloc[0]
        return tuple(first[name] for name in CONTENDER)

    @property
    def name(self) -> str:
        """'builtin:tiny with edge, 2 threads', and what else was asked of the engine."""
        asked = [str(v) for v in json.loads(self.options).values()] if self.options else []
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        place = threads if self.device == "cpu" else self.device
        return f"{self.model} with {', '.join([self.engine, *asked, place])}"

    @cached_property
    def prompts(self) -> dict[int, int]:
        """Each measured size in tokens, ascending → its prompt's tokens."""
        sizes = self.rows.drop_duplicates("reach").sort_values("reach")
        return {int(r): int(p) for r, p in zip(sizes["reach"], sizes["prompt_tokens"], strict=True)}

    def reaching(self, tokens: int) -> int | None:
        """The smallest measured size that holds so many tokens."""
        return next((size for size in self.prompts if size >= tokens), None)

    def evidence(self, size: int) -> Evidence:
        """The rows of one size: the time of a whole answer."""
        rows = self.rows[self.rows["reach"] == size]
        found = stats.median_interval(_of_process_runs(rows, "e2e_s").iloc[:, 0].dropna())
        labels = sorted({name for flags in rows["flags"] for name in flags})
        return Evidence(
            self.run, self.study, self.model, self.engine, self.options, self.threads, size,
            self.prompts[size], self.output_tokens, "e2e_s", *_ends(found), found.n, tuple(labels),
        )  # fmt: skip

    # -- time --------------------------------------------------------------------------------------

    def seconds_in_runs(self, tokens: int, output_tokens: int) -> pd.Series:
        """Seconds to read `tokens` and answer, a value a process run, for what was reached.

        A straight line between the two measured prompts around; below the smallest its own time.
        Decoding counts as slow as at the request's end, and what the largest prompt lacks is read
        as slowly as decoding: all three err on the side of more time.
        """
        steps = output_tokens - 1 + max(0, tokens - max(self.prompts.values()))
        first = _between(_of_process_runs(self.rows, "ttft_s"), tokens)
        if not steps:
            return first.dropna()
        step = _between(_of_process_runs(self.rows, "tpot_s"), tokens + output_tokens)
        return (first + steps * step).dropna()

    def sizes_behind(self, tokens: int, output_tokens: int) -> list[int]:
        """The measured sizes that `seconds_in_runs` and the window of the request lean on."""
        prompts = np.array([*self.prompts.values()])
        used = {p for n in (tokens, tokens + output_tokens) for p in _around(prompts, n)}
        window = self.reaching(tokens + output_tokens)
        return [size for size, prompt in self.prompts.items() if size == window or prompt in used]

    def seconds(self, tokens: int, output_tokens: int) -> Span:
        """Median and interval of `seconds_in_runs`."""
        return span(self.seconds_in_runs(tokens, output_tokens))

    def seconds_beyond(self, tokens: int, output_tokens: int) -> Span:
        """Bounds for more than was measured.

        At least: the first token's time grows on as between the two largest sizes, a step's not at
        all. At most: the one with the square of the length, the other in proportion to it.
        """
        ttft, tpot = (_of_process_runs(self.rows, name) for name in ("ttft_s", "tpot_s"))
        below, _ = _around(ttft.columns.to_numpy(int), tokens)
        last, steps = int(ttft.columns[-1]), output_tokens - 1
        longer, slope = max(1.0, tokens / last), 0.0
        if len(ttft.columns) > 1:
            before = ttft.columns[-2]
            slope = max(0.0, (ttft[last] - ttft[before]).median() / (last - before))
        step = tpot.median() if steps else dict.fromkeys((below, last), 0.0)
        low = ttft[below].median() + slope * max(0, tokens - last) + steps * step[below]
        growth = max(1.0, (tokens + output_tokens) / last)
        high = ttft[last].median() * longer**2 + steps * step[last] * growth
        ends = [None if math.isnan(end) else float(end) for end in (low, high)]
        return Span(None, *ends, len(ttft[last].dropna()), "bounds")

    # -- memory ------------------------------------------------------------------------------------

    def need(self, window: int) -> Need:
        """Bytes of a process that serves `window` tokens.

        Measured where that size was; else weights, keys and values of the window, and the most
        that any measured size took besides.
        """
        if self.device != "cpu":
            return Need(None, "unknown", "the rows do not tell the memory of a GPU")
        peaks = self.rows.groupby("reach")["peak_bytes"].max()
        if peaks.get(window, math.nan) > 0:
            peak = int(peaks[window])
            return Need(peak, "measured", f"{nbytes(peak)} was the peak measured at {window:,}")
        weights = self.rows["weight_bytes"].median()
        kv = self.rows["kv_bytes_per_token"].median()
        base = (peaks - weights - kv * peaks.index.to_numpy(float)).max()
        if not math.isfinite(weights + kv + base):
            return Need(None, "unknown", "the rows do not tell weights, KV cache and peak memory")
        base = max(0.0, base)  # below 0: pages of mapped weights were not resident
        total = int(weights + kv * window + base)
        why = (f"{nbytes(weights)} of weights + {nbytes(kv * window)} of KV cache + "
               f"{nbytes(base)} measured besides = {nbytes(total)}")  # fmt: skip
        return Need(total, "predicted", why)


def series(frame: pd.DataFrame) -> list[Measured]:
    """The contenders of the studies of length in `frame`, a text at a time; one machine's rows.

    Only rows with status `ok` and no flag but `unsteady`, which is shown: others fire nothing.
    """
    rows = lengths(frame)
    tried = rows[rows["status"].isin(["ok", "oom"])]
    return [made for _, part in tried.groupby(["run", *CONTENDER, "study", "output_tokens"],
                                              dropna=False, sort=True)
            for made in _measured(part)]  # fmt: skip


def lengths(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that tell what a text's length costs, flagged ones too; `reach`: tokens in all."""
    rows = frame[frame["study"].isin(STUDIES) & (frame["batch_size"] == 1)]
    rows = rows[~rows["twin"].astype(bool)]
    whole = rows["prompt_tokens"] + rows["output_tokens"]
    return rows.assign(reach=rows["window"].where(rows["window"] > 0, whole).astype(int))


def sound(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of `rows` that may fire a rule."""
    rows = stats.claimable(rows)
    return rows[np.array([not UNFIT.intersection(flags) for flags in rows["flags"]], bool)]


def span(values: pd.Series) -> Span:
    """The measured seconds of `values`, one a process run."""
    found = stats.median_interval(values)
    return Span(*_ends(found), found.n, "measured")


def _measured(part: pd.DataFrame) -> Iterator[Measured]:
    oom = part.loc[part["status"] == "oom", "reach"]
    served = ["impl", "attention_impl", "weight_format", "prompt", "seed"]
    for _, rows in sound(part).groupby(served, dropna=False, sort=True):
        first = rows.iloc[0]
        yield Measured(
            first["run"], first["study"], first["model"], first["engine"], first["options"],
            first["device"], int(first["threads"]), int(first["output_tokens"]),
            str(rows["measured_at"].max()), rows, int(oom.min()) if len(oom) else None,
        )  # fmt: skip


def _of_process_runs(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Medians of `metric`: a row a process run, a column a prompt length, ascending."""
    return rows.pivot_table(
        index="process_run", columns="prompt_tokens", values=metric, aggfunc="median", dropna=False
    )


def _between(table: pd.DataFrame, tokens: int) -> pd.Series:
    """Each process run's value at `tokens`, on the line between the columns around it."""
    sizes = table.columns.to_numpy(int)
    below, above = _around(sizes, tokens)
    at = min(max(tokens, below), above)
    share = (at - below) / (above - below) if above > below else 0.0
    return table[below] + share * (table[above] - table[below])


def _around(sizes: np.ndarray, tokens: int) -> tuple[int, int]:
    """The measured sizes below and above `tokens`; one of them twice where there is no other."""
    at = min(max(tokens, sizes.min()), sizes.max())
    return int(sizes[sizes <= at].max()), int(sizes[sizes >= at].min())


def _ends(found: Interval) -> tuple[float | None, float | None, float | None]:
    """Median and ends, None where there is none."""
    ends = (found.value, found.low, found.high)
    return tuple(float(end) if np.isfinite(end) else None for end in ends)
