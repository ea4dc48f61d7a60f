"""How one engine's time per token grows with the size of its model, and how evenly it uses memory.

A few sizes tell an exponent with an interval, and no law.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from llmbench import stats
from llmbench.findings.numbers import EN, SERVED, count, fixed, model_names
from llmbench.findings.protocol import Side, label, sides
from llmbench.stats import Interval
from llmbench.units import nbytes, per_second

NEAR = (0.9, 1.1)  # exponents that count as near 1
LEAST_SIZES = 3  # two sizes lie on every power law
LINE = ["run", "fingerprint", "study", "engine", "output_tokens", "device", "threads", "seed",
        "options", "weights", *SERVED, "batch_size"]  # what sizes of a line share  # fmt: skip
COLUMNS = ["Engine", "Batch (rows)", "Prompt", "Model", "Weights", "Time per token (ms)",
           "95 % interval", "Weights per second", "Of the best", "Interval of that",
           "Of the memory roof", "Process runs", "Label"]  # fmt: skip


class Size(NamedTuple):
    """One model of a line."""

    model: str
    weight_bytes: float
    tpot_s: Interval  # geometric mean of process runs, Student's interval of its logarithm
    efficiency: Interval  # weight bytes per second as a share of the best size's
    roof_s: float  # the least time by the memory roof; NaN where none was measured

    @property
    def bytes_per_s(self) -> float:
        """Weight bytes that are read in a second."""
        return self.weight_bytes / self.tpot_s.value


class Line(NamedTuple):
    """One engine over models of several sizes, asked the same."""

    run: str
    engine: str
    name: str  # the engine with what else tells it apart
    batch_size: int
    asked: str  # kind of prompt
    prompt_tokens: int  # its length; 0 for named texts
    sizes: tuple[Size, ...]  # from the smallest
    exponent: Interval  # of time over weight bytes: Student's over process runs
    over_sizes: Interval  # the same of the mean times: what other sizes might give; n - 2 degrees
    preview: bool

    @property
    def near_linear(self) -> bool | None:
        """Whether the exponent is near 1, by both intervals; None: they cannot say."""
        ends = [self.exponent.low, self.exponent.high, self.over_sizes.low, self.over_sizes.high]
        if len(self.sizes) < LEAST_SIZES or not np.isfinite(ends).all():
            return None
        low, high = min(ends), max(ends)
        if NEAR[0] <= low and high <= NEAR[1]:
            return True
        return False if high < NEAR[0] or low > NEAR[1] else None

    @property
    def sentence(self) -> str:
        """The exponent with its intervals, whether that is near-linear, and the efficiency."""
        preview = "Preview, not a claim: " if self.preview else ""
        ends = self.sizes[0].weight_bytes, self.sizes[-1].weight_bytes
        worst = min(self.sizes, key=lambda size: size.efficiency.value)
        best = max(self.sizes, key=lambda size: size.efficiency.value)
        power = f"{fixed(self.exponent.value, 2)} ({_runs(self.exponent)}{self._other_sizes})"
        return (
            f"{preview}{self.name}, {self.asked}: over {count(len(self.sizes), 'model')} of "
            f"{nbytes(ends[0])} to {nbytes(ends[1])} the time per token grows as the weight bytes "
            f"to the power of {power}, which is no law; near-linear, {NEAR[0]:g} to {NEAR[1]:g}: "
            f"{self._judged}. Scaling efficiency is least on {worst.model}, "
            f"{fixed(worst.efficiency.value, 2)} of the {per_second(best.bytes_per_s, 'B')} of "
            f"weights that {best.model} reaches."
        )

    @property
    def _other_sizes(self) -> str:
        if not self.over_sizes.estimable:
            return "; two sizes tell nothing of others"
        return (
            f"; of other sizes {_ends(self.over_sizes)}, {self.over_sizes.n - 2} degrees of freedom"
        )

    @property
    def _judged(self) -> str:
        few = len(self.sizes) < LEAST_SIZES
        why = f"needs {LEAST_SIZES} sizes" if few else "the intervals reach across a bound"
        return {True: "yes", False: "no", None: f"cannot be said, {why}"}[self.near_linear]


def lines(frame: pd.DataFrame) -> list[Line]:
    """Each engine that was measured with several sizes of models, asked the same."""
    return [line for some in _alike(frame) if (line := _line(some)) is not None]


def _alike(frame: pd.DataFrame) -> Iterator[list[Side]]:
    """The sides that differ in nothing but the model."""
    groups: dict[tuple, list[Side]] = {}
    for side in sides(frame):
        first = side.rows.iloc[0]
        groups.setdefault((*(first[name] for name in LINE), side.asked), []).append(side)
    yield from groups.values()


def _line(some: list[Side]) -> Line | None:
    """The line of these sides; None where they are of fewer than two sizes."""
    weights = {side.model: float(side.rows["weight_bytes"].median()) for side in some}
    models = sorted((m for m in weights if weights[m] > 0), key=lambda model: weights[model])
    x = np.log([weights[model] for model in models])
    if len(models) < 2 or np.ptp(x) == 0:
        return None
    logs = _mean_logs([side.rows for side in some if side.model in models])[models]
    if logs.empty:
        return None
    slopes = np.polyfit(x, logs.to_numpy().T, 1)[0]
    speeds = x - logs  # ln of weight bytes per second
    shares = speeds.sub(speeds[speeds.mean().idxmax()], axis=0)
    roofs = {side.model: _roof_s(side.rows) for side in some}
    short = model_names(models)
    sizes = tuple(Size(short[m], weights[m], _exp(stats.mean_interval(logs[m])),
                       _exp(stats.mean_interval(shares[m])), roofs[m]) for m in models)  # fmt: skip
    first = some[0].rows.iloc[0]
    return Line(
        first["run"], first["engine"], some[0].engine, some[0].batch_size, some[0].asked,
        0 if first["prompt"] != "exact" else int(first["prompt_tokens"]), sizes,
        stats.mean_interval(slopes), _over_sizes(x, logs.mean().to_numpy()),
        any(side.preview for side in some),
    )  # fmt: skip


def _mean_logs(sides: list[pd.DataFrame]) -> pd.DataFrame:
    """ln of the time per token in s: a row a process run that has them all, a column a model.

    Blocks are averaged first, then the prompts that every model was asked.
    """
    rows = pd.concat(sides)
    rows = rows[rows["tpot_s"] > 0].assign(log=lambda r: np.log(r["tpot_s"]))
    every = rows.groupby("prompt")["model"].nunique()
    rows = rows[rows["prompt"].isin(every.index[every == rows["model"].nunique()])]
    table = rows.pivot_table(index="process_run", columns=["model", "prompt"], values="log")
    return table.dropna().T.groupby(level="model").mean().T


def _over_sizes(x: np.ndarray, y: np.ndarray) -> Interval:
    """The slope of y over x with the interval of an ordinary regression; n is that of sizes."""
    n = len(x)
    if n < LEAST_SIZES:
        return Interval(math.nan, math.nan, math.nan, n, 0.95, False)
    found = scipy.stats.linregress(x, y)
    reach = float(scipy.stats.t.ppf(0.975, n - 2)) * found.stderr
    return Interval(found.slope, found.slope - reach, found.slope + reach, n, 0.95, True)


def _exp(found: Interval) -> Interval:
    """The interval of a logarithm as that of the value."""
    ends = (math.exp(end) for end in (found.value, found.low, found.high))
    return Interval(*ends, found.n, found.confidence, found.estimable, found.note)


def _roof_s(rows: pd.DataFrame) -> float:
    """The least time per token by the measured memory roof; NaN without one."""
    return float((rows["tpot_s"] * rows["mbu"]).median())


def _ends(found: Interval, places: int = 2) -> str:
    return f"{fixed(found.low, places)}{EN}{fixed(found.high, places)}" if found.estimable else EN


def _runs(found: Interval) -> str:
    sure = f"95 % interval {_ends(found)}" if found.estimable else "no interval"
    return f"{sure}, {count(found.n, 'process run')}"


def sizes_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a size of each engine's line, `COLUMNS`."""
    rows = []
    for line in lines(frame):
        for size in line.sizes:
            roof = size.roof_s / size.tpot_s.value
            ms = [1e3 * getattr(size.tpot_s, name) for name in ("value", "low", "high")]
            ends = f"{fixed(ms[1], 2)}{EN}{fixed(ms[2], 2)}" if size.tpot_s.estimable else EN
            rows.append((line.name, line.batch_size, line.asked, size.model,
                         nbytes(size.weight_bytes), fixed(ms[0], 2), ends,
                         per_second(size.bytes_per_s, "B"), fixed(size.efficiency.value, 2),
                         _ends(size.efficiency), fixed(roof, 2) if roof == roof else EN,
                         size.tpot_s.n, label(line.preview)))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def shortest(found: Sequence[Line]) -> list[Line]:
    """One line an engine: with the named texts, else the shortest prompts; longer ones add more."""
    chosen: dict[tuple, Line] = {}
    for line in sorted(found, key=lambda line: line.prompt_tokens):
        chosen.setdefault((line.run, line.name, line.batch_size), line)
    return [line for line in found if any(line is kept for kept in chosen.values())]


def size_sentences(frame: pd.DataFrame) -> list[str]:
    """A sentence an engine that was measured with several sizes, by its shortest prompts."""
    return [line.sentence for line in shortest(lines(frame))]
